"""A classifier made quick for use: batch norms folded, the backbone compiled, and still the same classifier."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from zoo.errors import DeviceError
from zoo.model.fold_and_compile import fold_batch_norms
from zoo.model.model import ZooModel
from zoo.specs.plan import Compute


def _trained(backbone: str) -> ZooModel:
    """With statistics as training leaves them: fresh ones fold into nothing that could be seen."""
    torch.manual_seed(0)
    model = zoo.create_model(backbone, classes=3, weights="random").eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def _batch_norms(model: ZooModel) -> int:
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "left"),
    [("resnet18", 0), ("mobilenet_v3_small", 0), ("timm/test_resnet", 0), ("timm/test_efficientnet", 0)],
)
def test_every_batch_norm_behind_a_convolution_is_folded_and_the_logits_stay(backbone: str, left: int) -> None:
    model = _trained(backbone)
    images = torch.rand(2, *model.preprocessing.input_size)
    with torch.inference_mode():
        before = model(images)
        assert fold_batch_norms(model, images, tolerance=1e-4) > 0
        torch.testing.assert_close(model(images), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    assert _batch_norms(model) == left


def test_what_has_no_batch_norm_is_left_alone() -> None:
    model = _trained("timm/test_vit")
    assert fold_batch_norms(model, torch.rand(2, *model.preprocessing.input_size), tolerance=1e-4) == 0


def test_a_convolution_whose_output_is_used_elsewhere_too_is_noticed_and_nothing_folded() -> None:
    model = _trained("timm/test_resnet")
    images = torch.rand(2, *model.preprocessing.input_size)
    convolution = next(module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    seen: list[torch.Tensor] = []
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.replace_features(lambda features: lambda backbone, x: features(backbone, x) + seen.pop().mean())
    state = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        before = model(images)
        assert fold_batch_norms(model, images, tolerance=1e-4) == 0
        assert torch.equal(model(images), before)
    assert model.state_dict().keys() == state.keys() and _batch_norms(model) > 0


@pytest.fixture
def classifier(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    tiny = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 1, "tune": False}
    return zoo.finetune(data=few, out=tmp_path / "run", **tiny).path


def test_auto_folds_and_what_was_judged_is_computed_otherwise(classifier: Path, few: Path) -> None:
    assert _batch_norms(zoo.load(classifier).model) > 0
    assert _batch_norms(zoo.load(classifier, precision="float32").model) > 0
    quick = zoo.load(classifier, precision="auto")
    assert _batch_norms(quick.model) == 0
    files = sorted((few / "val").rglob("*.*"))
    quick.model.compute_as(Compute())
    for found, stored in zip(quick.predict(files), zoo.load(classifier).predict(files), strict=True):
        assert found.label == stored.label and found.probability == pytest.approx(stored.probability, abs=1e-4)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_classifier_says_the_same_of_any_number_of_images(classifier: Path, zoo_inside: Zoo) -> None:
    stored, compiled = zoo.load(classifier), zoo.load(classifier, compile=True)
    for count in (1, 5, 32, 70):
        images = torch.rand(count, *stored.model.preprocessing.input_size)
        expected = stored.logits(images)
        torch.testing.assert_close(compiled.logits(images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_where_nothing_can_be_compiled_the_error_says_what_is_missing(
    classifier: Path, few: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **named: object) -> object:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr("torch.compile", broken)
    for words in (("predict", classifier, few / "val"), ("evaluate", classifier, "--data", few / "val")):
        done = zoo_inside(*words, "--compile")
        assert done.returncode == DeviceError.exit_code
        assert "torch.compile failed on timm/test_resnet" in done.stderr
        assert "No working C++ compiler found" in done.stderr and "Next: leave compiling out" in done.stderr
