"""The provider torchvision: its index, every architecture on the meta device, and some with values."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

import zoo_torchvision
from zoo_torchvision import build_index, catalogue, index, upstream

(PROVIDER,) = zoo_torchvision.zoo_backbones()
ARCHITECTURES = sorted(PROVIDER.architectures())

# Small enough to run -> the last Linear of the original.
CLASSIFIERS = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_x_400mf": "fc",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
    "swin_t": "head",
}

# One of each family, and those that differ within it.
FAMILIES = (
    *CLASSIFIERS,
    *("efficientnet_v2_s", "maxvit_t", "regnet_y_400mf", "resnext50_32x4d", "squeezenet1_0", "swin_v2_t"),
    *("vgg11_bn", "vit_b_32", "vit_l_16", "wide_resnet50_2"),
)


def on_meta(architecture: str, tag: str | None = None) -> zoo.Backbone:
    with torch.device("meta"):
        return PROVIDER.resolve(architecture).build(tag=tag, state=None)


def whole_model(architecture: str, **arguments: Any) -> nn.Module:
    """Return torchvision's own model with random weights and running means other than the initial ones."""
    torch.manual_seed(0)
    module: nn.Module = models.get_model(architecture, weights=None, **arguments)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return module.eval()


def holders(backbone: zoo.Backbone) -> dict[str, list[str]]:
    """Parameter or buffer -> the groups that hold it, once per member that does."""
    tensors = [name for name, _ in [*backbone.module.named_parameters(), *backbone.module.named_buffers()]]
    members = [(group.name, member) for group in backbone.groups for member in group.members]
    return {
        tensor: [group for group, member in members if tensor == member or tensor.startswith(f"{member}.")]
        for tensor in tensors
    }


def order_of_use(backbone: zoo.Backbone, images: Tensor) -> list[str]:
    """Groups in the order in which the forward pass first comes to a module of theirs that has parameters."""
    held, order = holders(backbone), []
    for name, module in backbone.module.named_modules():
        own = [f"{name}.{parameter}".lstrip(".") for parameter, _ in module.named_parameters(recurse=False)]
        if own:
            module.register_forward_pre_hook(lambda *_, group=held[own[0]][0]: order.append(group))
    with torch.inference_mode():
        backbone.pool(backbone.module, images)
    return list(dict.fromkeys(order))


def test_the_index_has_every_architecture_and_weights_entry() -> None:
    catalogue = PROVIDER.architectures()
    assert len(catalogue) == 80
    assert sum(len(tags) for tags in catalogue.values()) == 115
    assert catalogue["resnet50"] == ("IMAGENET1K_V2", "IMAGENET1K_V1")
    assert catalogue["vgg16"] == ("IMAGENET1K_V1", "IMAGENET1K_FEATURES")


def test_every_entry_resolves() -> None:
    for architecture in ARCHITECTURES:
        spec = PROVIDER.resolve(architecture)
        assert spec.name == f"torchvision/{architecture}"
        assert spec.tags == PROVIDER.architectures()[architecture]
        assert spec.summary and spec.facts
        assert spec.preprocessing == spec.weights[0].preprocessing
        for weights in spec.weights:
            assert isinstance(weights.source, zoo.UrlFile)
            # torch's own pattern for the digest in a file's name, which its download checks.
            assert f"-{weights.source.sha256_prefix}.pth" in weights.source.url
            assert ("SWAG" in weights.tag) == (weights.licence is not None)
            assert (weights.top1 is None) == (weights.tag == "IMAGENET1K_FEATURES")


@pytest.mark.skipif(
    index.installed_version() != catalogue.index()["torchvision"],
    reason="the shipped index describes another torchvision",
)
@pytest.mark.long
def test_a_rebuilt_sample_equals_the_shipped_index() -> None:
    shipped = catalogue.index()["architectures"]
    assert upstream.names() == sorted(shipped)
    for architecture in ARCHITECTURES:
        assert {**upstream.entry(architecture), "facts": shipped[architecture]["facts"]} == shipped[architecture]
    for architecture in ("inception_v3", "maxvit_t", "squeezenet1_1", "vit_b_32"):
        assert build_index.measured(architecture) == shipped[architecture]
    assert catalogue.INDEX.read_text("utf-8") == index.index_text(catalogue.index())


def test_unknown_names_are_lookup_errors() -> None:
    for name in ("resnet19", "ResNet18", "fasterrcnn_resnet50_fpn", ""):
        with pytest.raises(LookupError):
            PROVIDER.resolve(name)
    with pytest.raises(LookupError, match="IMAGENET1K_V1"):
        on_meta("resnet18", "IMAGENET1K_V9")


def test_a_newer_torchvision_is_asked_once_and_its_answer_cached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(metadata, "version", lambda name: "99.1.0")
    shipped = catalogue.index()
    catalogue.index.cache_clear()
    try:
        assert catalogue.index() == {**shipped, "torchvision": "99.1.0"}
        assert capsys.readouterr().err.startswith("torchvision 99.1.0 is newer than")
        catalogue.index.cache_clear()
        monkeypatch.setattr(upstream, "entry", None)  # not asked again
        assert PROVIDER.resolve("resnet18").tags == ("IMAGENET1K_V1",)
        assert capsys.readouterr().err == ""
    finally:
        monkeypatch.undo()
        catalogue.index.cache_clear()
    # An architecture that the shipped index lacks has no facts until it is shown.
    lacking = copy.deepcopy(shipped)
    del lacking["architectures"]["resnet18"]
    queried = catalogue.query_upstream(lacking)["architectures"]
    assert queried["resnet18"] == {**shipped["architectures"]["resnet18"], "facts": None}
    assert queried["resnet34"] == shipped["architectures"]["resnet34"]


def test_an_architecture_of_an_unknown_family_has_its_children_as_groups() -> None:
    from zoo_torchvision.groups import find_groups

    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert [group.members for group in find_groups("novelty", module)] == [("0",), ("2",)]


def test_listing_imports_no_torch() -> None:
    program = (
        "import sys, zoo_torchvision\n"
        "(provider,) = zoo_torchvision.zoo_backbones()\n"
        "assert len(provider.architectures()) >= 80\n"
        "spec = provider.resolve('vgg16')\n"
        "assert spec.preprocessing_for('IMAGENET1K_FEATURES').std[0] < 0.01\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'timm', 'numpy'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_all_build_on_meta_and_their_groups_are_a_partition() -> None:
    for architecture in ARCHITECTURES:
        backbone = on_meta(architecture)
        assert all(tensor.is_meta for tensor in backbone.module.state_dict().values()), architecture
        several = {tensor: groups for tensor, groups in holders(backbone).items() if len(groups) != 1}
        assert not several, architecture
        assert 4 <= len(backbone.groups) <= 13, architecture
        assert len({group.name for group in backbone.groups}) == len(backbone.groups), architecture
        parameters = sum(parameter.numel() for parameter in backbone.module.parameters())
        facts = PROVIDER.resolve(architecture).facts
        assert facts is not None and parameters == facts.parameters, architecture
        held = holders(backbone)
        kernels = {held[name][0] for name, parameter in backbone.module.named_parameters() if parameter.ndim > 1}
        assert backbone.groups[-1].name in kernels, f"the last group of {architecture} is a lone norm"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_forward_gives_the_promised_width_and_goes_through_the_groups_in_order(architecture: str) -> None:
    backbone = on_meta(architecture)
    backbone.module.eval()
    images = torch.empty(2, *PROVIDER.resolve(architecture).preprocessing.input_size, device="meta")
    with torch.inference_mode():
        assert backbone.pool(backbone.module, images).shape == (2, backbone.shape.pooled)
    assert order_of_use(backbone, images) == [group.name for group in backbone.groups]


@pytest.mark.parametrize("architecture", ["googlenet", "inception_v3"])
def test_training_mode_gives_a_tensor_too(architecture: str) -> None:
    backbone = on_meta(architecture)
    images = torch.empty(2, *PROVIDER.resolve(architecture).preprocessing.input_size, device="meta")
    features = backbone.pool(backbone.module.train(), images)
    assert features.shape == (2, backbone.shape.pooled)
    assert backbone.module.transform_input is True


@pytest.mark.parametrize(
    ("architecture", "tag", "size"),
    [("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 384), ("vit_b_16", "IMAGENET1K_V1", 224), ("vit_h_14", None, 518)],
)
def test_the_tag_sets_the_input_size_of_a_vit(architecture: str, tag: str | None, size: int) -> None:
    backbone = on_meta(architecture, tag)
    assert backbone.module.image_size == size
    assert PROVIDER.resolve(architecture).preprocessing_for(tag).input_size == (3, size, size)


def test_only_the_dropout_right_before_the_classifier_went_with_it() -> None:
    for architecture, gone in {
        "googlenet": "dropout",
        "mobilenet_v3_small": "classifier.2",
        "vgg11": "classifier.5",
    }.items():
        assert isinstance(on_meta(architecture).module.get_submodule(gone), nn.Identity)
    for architecture, kept in {"alexnet": "classifier.3", "vgg11": "classifier.2"}.items():
        assert isinstance(on_meta(architecture).module.get_submodule(kept), nn.Dropout)


def test_the_vgg16_features_file_builds_features_alone() -> None:
    backbone = on_meta("vgg16", "IMAGENET1K_FEATURES")
    assert backbone.shape.pooled == 512 * 7 * 7
    assert {name.split(".")[0] for name in backbone.module.state_dict()} == {"features"}
    assert [group.name for group in backbone.groups] == ["stage1", "stage2", "stage3", "stage4", "stage5"]
    assert all(len(groups) == 1 for groups in holders(backbone).values())
    assert on_meta("vgg16", "IMAGENET1K_V1").groups[-1].name == "classifier"


def test_a_state_is_refused_on_meta() -> None:
    spec = PROVIDER.resolve("squeezenet1_1")
    with torch.device("meta"), pytest.raises(ValueError, match="meta"):
        spec.build(tag="IMAGENET1K_V1", state={})


@pytest.mark.parametrize(("architecture", "classifier"), CLASSIFIERS.items())
def test_features_are_what_reaches_the_original_classifier(architecture: str, classifier: str) -> None:
    # What torchvision passes for the published weights; the auxiliary classifiers are in the file.
    auxiliary = {"aux_logits": True, "init_weights": False, "transform_input": True}
    whole = whole_model(architecture, **(auxiliary if "ception" in architecture or "google" in architecture else {}))
    size = 96 if architecture == "inception_v3" else 64
    reached: list[Tensor] = []
    whole.get_submodule(classifier).register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    images = torch.randn(2, 3, size, size)
    backbone = PROVIDER.resolve(architecture).build(tag="IMAGENET1K_V1", state=whole.state_dict())
    with torch.inference_mode():
        whole(images)
        features = backbone.pool(backbone.module.eval(), images)
    assert features.shape == (2, backbone.shape.pooled)
    assert features.std() > 0
    torch.testing.assert_close(features, reached[0].flatten(1), rtol=1e-5, atol=1e-5)
    own = backbone.module.state_dict()
    assert own.keys() <= whole.state_dict().keys()


def test_squeezenet_features_are_the_pooled_map() -> None:
    whole = whole_model("squeezenet1_1")
    images = torch.randn(2, 3, 64, 64)
    backbone = PROVIDER.resolve("squeezenet1_1").build(tag="IMAGENET1K_V1", state=whole.state_dict())
    with torch.inference_mode():
        features = backbone.pool(backbone.module.eval(), images)
        expected = whole.features(images).mean((2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


OLDER_NAMES = {
    "densenet121": {".norm1.": ".norm.1.", ".norm2.": ".norm.2.", ".conv1.": ".conv.1.", ".conv2.": ".conv.2."},
    "vit_b_32": {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."},
}


@pytest.mark.parametrize(("architecture", "parts"), OLDER_NAMES.items())
@pytest.mark.long
def test_older_names_load(architecture: str, parts: dict[str, str]) -> None:
    state = whole_model(architecture).state_dict()
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    for part, older in parts.items():
        assert any(part in name for name in old)
        old = {name.replace(part, older): tensor for name, tensor in old.items()}
    _assert_same(PROVIDER.resolve(architecture).build(tag="IMAGENET1K_V1", state=old).module, state)


def test_the_vgg16_features_file_may_hold_a_broken_classifier() -> None:
    state = on_meta("vgg16", "IMAGENET1K_FEATURES").module.state_dict()
    whole = {name: torch.full(tensor.shape, 0.5) for name, tensor in state.items()}
    broken = whole | {f"classifier.{layer}.weight": torch.full((1, 1), torch.nan) for layer in (0, 3, 6)}
    for offered in (whole, broken):
        backbone = PROVIDER.resolve("vgg16").build(tag="IMAGENET1K_FEATURES", state=offered)
        _assert_same(backbone.module, whole)


def test_another_architectures_file_is_refused_with_what_differs() -> None:
    spec = PROVIDER.resolve("resnet18")
    with pytest.raises(zoo.WeightsMismatch) as caught:
        spec.build(tag="IMAGENET1K_V1", state=whole_model("squeezenet1_1").state_dict())
    assert "conv1.weight" in caught.value.missing
    assert "features.0.weight" in caught.value.unexpected

    narrow = whole_model("resnet18").state_dict() | {
        "conv1.weight": torch.zeros(32, 3, 7, 7),
        "fc.weight": torch.zeros(2),
    }
    with pytest.raises(zoo.WeightsMismatch) as caught:
        spec.build(tag="IMAGENET1K_V1", state=narrow)
    assert caught.value.shapes == (("conv1.weight", (32, 3, 7, 7), (64, 3, 7, 7)),)
    assert not caught.value.missing and not caught.value.unexpected
    assert "torchvision/resnet18" in str(caught.value)


def test_the_state_given_is_left_as_it_was() -> None:
    state = whole_model("squeezenet1_1").state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    backbone = PROVIDER.resolve("squeezenet1_1").build(tag="IMAGENET1K_V1", state=state)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.zero_()
    assert state.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_the_reference_is_the_weights_own_transform() -> None:
    from PIL import Image

    image = Image.new("RGB", (400, 350), (255, 0, 128))
    spec = PROVIDER.resolve("efficientnet_v2_l")
    assert spec.reference is not None
    for tag in (None, "IMAGENET1K_V1"):
        tensor = spec.reference(tag)(image)
        assert tuple(tensor.shape) == spec.preprocessing_for(tag).input_size == (3, 480, 480)
        torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([1.0, -1.0, 2 * 128 / 255 - 1]))


@pytest.mark.data
@pytest.mark.skipif("ZOO_TEST_DATA" not in os.environ, reason="ZOO_TEST_DATA names no folder with the real weights")
def test_the_real_squeezenet_loads_as_float32() -> None:
    state = load_file(Path(os.environ["ZOO_TEST_DATA"]) / "weights" / "squeezenet1_1.safetensors")
    assert torch.float16 in {tensor.dtype for tensor in state.values()}
    backbone = PROVIDER.resolve("squeezenet1_1").build(tag="IMAGENET1K_V1", state=state)
    assert {tensor.dtype for tensor in backbone.module.state_dict().values()} == {torch.float32}
    _assert_same(backbone.module, {name: tensor.float() for name, tensor in state.items()})


def _assert_same(module: nn.Module, state: dict[str, Tensor]) -> None:
    own = module.state_dict()
    assert own
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items() if "num_batches" not in name)
