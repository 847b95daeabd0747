"""Every check of the proof can fail: each test injects one fault and sees that very check go red."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from PIL import Image
from torch import nn
from zoo.data.dataset import Dataset, ImageFile
from zoo.errors import CheckFailed
from zoo.model.model import ZooModel
from zoo.planning.resolved_model import ResolvedModel
from zoo.registry.registry import default_registry
from zoo.reporting.page import write_report
from zoo.specs.data import Split
from zoo.training import run, trainer
from zoo.training.objective import Objective
from zoo.training.proof import check_better_than_guessing, check_classes, check_copies, check_preprocessing, check_saved
from zoo.training.run_files import read_predictions


def failed_checks(shapes: Path, out: Path, **arguments: Any) -> dict[str, str]:
    """Run, expect exit code 3 -> the failed checks with their summaries."""
    defaults: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "epochs": 1, "batch_size": 12}
    with pytest.raises(CheckFailed) as caught:
        zoo.finetune(data=shapes, out=out, **{**defaults, **arguments})
    assert caught.value.exit_code == 3
    proof = json.loads((out / "proof.json").read_text())
    assert proof["verdict"] == "failed"
    failed = {check["name"]: check["summary"] for check in proof["checks"] if check["verdict"] == "failed"}
    for name in failed:
        assert name in str(caught.value)
    return failed


@pytest.mark.long
def test_a_batch_norm_left_in_training_mode(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ZooModel.train

    def careless(self: ZooModel, mode: bool = True) -> ZooModel:
        original(self, mode)
        for name, module in self.named_modules():
            if (isinstance(module, nn.BatchNorm2d) and "layer1" in name) or name.endswith("bn1"):
                module.training = mode
        return self

    monkeypatch.setattr(ZooModel, "train", careless)
    failed = failed_checks(shapes, tmp_path / "run", set=["last.train=head,last:1", "last.abandon=false"])
    assert "running_mean" in failed["frozen_unchanged"]
    assert "bn" in failed["frozen_in_evaluation_mode"] and "training mode" in failed["frozen_in_evaluation_mode"]


def test_a_step_on_a_frozen_weight(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.train_step

    def tampering(work: trainer.StageSetup, *arguments: Any) -> list[float]:
        with torch.no_grad():
            next(work.model.backbone.parameters()).add_(1e-3)
        return original(work, *arguments)

    monkeypatch.setattr(trainer, "train_step", tampering)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    # The features were computed before the fault, so the kept stage's logits are not those of the saved file either.
    assert (
        set(failed) == {"frozen_unchanged", "saved_file"}
        and "weight changed while frozen" in failed["frozen_unchanged"]
    )


def test_a_parameter_forgotten_by_the_optimizer(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.make_optimizer

    def forgetful(*arguments: Any) -> Any:
        optimizer = original(*arguments)
        optimizer.param_groups[-1]["params"].pop()
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", forgetful)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    assert failed["optimizer_groups"] == "forgotten: head.fc.bias"


def test_a_parameter_twice_in_the_optimizer(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.make_optimizer

    def doubled(*arguments: Any) -> Any:
        optimizer = original(*arguments)
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": optimizer.param_groups[0]["params"][:1]})
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", doubled)
    assert "twice: head.fc.weight" in failed_checks(shapes, tmp_path / "run", recipe="head_only")["optimizer_groups"]


def test_a_frozen_parameter_in_the_optimizer(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = trainer.make_optimizer

    def greedy(model: ZooModel, *arguments: Any) -> Any:
        optimizer = original(model, *arguments)
        optimizer.add_param_group({"params": [next(model.backbone.parameters())], "name": "stem"})
        return optimizer

    monkeypatch.setattr(trainer, "make_optimizer", greedy)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    assert failed["optimizer_groups"].startswith("not to be trained: backbone.")


def test_a_trainable_tensor_without_a_gradient(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResolvedModel.build

    def with_idle_parameter(*arguments: Any, **named: Any) -> ZooModel:
        model = original(*arguments, **named)
        model.head.idle = nn.Parameter(torch.zeros(3))
        return model

    monkeypatch.setattr(ResolvedModel, "build", with_idle_parameter)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    assert failed["gradients"] == "head.idle never got a gradient"


def test_a_gradient_that_is_not_finite(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.micro_batch_loss

    def poisoned(self: Objective, model: ZooModel, *arguments: Any) -> torch.Tensor:
        return original(self, model, *arguments) * (float("inf") if model.head.fc.bias.abs().sum() > 0 else 1)  # type: ignore[union-attr, operator]

    monkeypatch.setattr(Objective, "micro_batch_loss", poisoned)
    out = tmp_path / "run"
    failed = failed_checks(shapes, out, recipe="head_only")
    assert "was not finite" in failed["gradients"]
    assert not (out / "model").exists() and not (out / "result.json").exists()


def test_a_wrong_mean(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = zoo.Registry().backbone("timm/test_resnet").spec
    reference = spec.reference
    assert reference is not None
    wrong = zoo.Preprocessing.from_dict({**spec.preprocessing.to_dict(), "mean": [0.0, 0.0, 0.0]})
    files = [ImageFile(path, path.name, 0) for path in sorted((shapes / "train" / "red").iterdir())]
    right = check_preprocessing(files, spec.preprocessing, reference(None), weights="x")
    assert right.verdict == "passed"
    check = check_preprocessing(files, wrong, reference(None), weights="x")
    assert check.verdict == "failed" and "0.jpg comes out differently" in check.summary


def test_a_provider_without_a_reference_is_a_warning(shapes: Path) -> None:
    preprocessing = zoo.Registry().backbone("timm/test_resnet").spec.preprocessing
    assert check_preprocessing([], preprocessing, None, weights="x").verdict == "warning"


def test_a_file_under_another_label_than_its_folder() -> None:
    right = ImageFile(Path("train/a/1.jpg"), "train/a/1.jpg", 0, named="a")
    files = (right, ImageFile(Path("train/b/1.jpg"), "train/b/1.jpg", 0, named="b"))
    check = check_classes(Dataset(source="x", classes=("a", "b"), splits={"train": files}), ("a", "b"))
    assert check.verdict == "failed" and check.evidence["mislabelled"] == ["train/b/1.jpg"]
    # The label that was read must be a folder on the path, too.
    moved = ImageFile(Path("train/b/1.jpg"), "train/b/1.jpg", 0, named="a")
    check = check_classes(Dataset(source="x", classes=("a", "b"), splits={"train": (right, moved)}), ("a", "b"))
    assert check.verdict == "failed" and check.evidence["mislabelled"] == ["train/b/1.jpg"]


def test_classes_in_another_order_in_the_model() -> None:
    dataset = Dataset(source="x", classes=("a", "b"), splits={"train": ()})
    assert check_classes(dataset, ("b", "a")).verdict == "failed"
    lexical = Dataset(source="x", classes=("c10", "c2"), splits={"train": ()})
    assert check_classes(lexical, ("c10", "c2")).verdict == "failed"


def test_shuffled_labels_stay_at_chance_and_are_a_warning(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every label of the 36 training images is shifted by one: what is learned from them is wrong on validation.
    original = run.inference.targets_of
    monkeypatch.setattr(run.inference, "targets_of", lambda files: (original(files) + (len(files) == 36)) % 3)
    result = zoo.finetune(
        backbone="timm/test_vit", weights="random", data=shapes, out=tmp_path / "run", recipe="head_only"
    )
    checks = {check["name"]: check for check in json.loads((result.path / "proof.json").read_text())["checks"]}
    assert checks["better_than_guessing"]["verdict"] == "warning"
    assert result.proof == "passed"


def test_accuracy_at_the_share_of_the_largest_class_is_no_success() -> None:
    targets = torch.tensor([0, 0, 0, 1])
    assert check_better_than_guessing(0.75, targets, ("a", "b")).verdict == "warning"
    assert check_better_than_guessing(0.76, targets, ("a", "b")).verdict == "passed"


@pytest.mark.long
def test_copies_of_training_images_among_those_that_judge_are_a_warning(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "twice"
    for image in sorted((shapes / "train").glob("*/*"))[::3]:
        for name in ("one", "two"):
            (data / image.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, data / image.parent.name / f"{name}-{image.name}")
    usual: dict[str, Any] = {
        "backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False, "report": False,
    }  # fmt: skip

    def checks_of(**arguments: Any) -> tuple[Path, dict[str, Any]]:
        path = zoo.finetune(**{**usual, **arguments}).path
        return path, {check["name"]: check for check in json.loads((path / "proof.json").read_text())["checks"]}

    path, checks = checks_of(data=data, out=tmp_path / "drawn")
    judged = [Path(each.file) for each in read_predictions(path)]
    pictures = Counter(file.with_name(file.name[4:]) for file in judged)
    # Of these the other copy was trained on.
    leaked = sum(times == 1 for times in pictures.values())
    assert leaked and checks["copies"]["verdict"] == "warning"
    assert checks["copies"]["evidence"] == {"val": {"copies": leaked, "images": len(judged)}}
    assert f"{leaked} of {len(judged)} val images" in checks["copies"]["summary"]
    # Both of the steps that it names lead out of it.
    assert f"zoo data check {data} lists; or --folds 5" in checks["copies"]["summary"]
    assert "copies" not in checks_of(data=data, out=tmp_path / "folds", folds=3)[1]
    for image in data.glob("*/two-*"):
        image.unlink()
    assert "copies" not in checks_of(data=data, out=tmp_path / "once")[1]


def test_copies_in_a_val_folder_of_ones_own_are_counted_beside_those_in_test() -> None:
    def file(split: Split, name: str) -> ImageFile:
        return ImageFile(Path(f"/{split}/a/{name}"), f"{split}/a/{name}", 0, named="a")

    splits: dict[Split, Any] = {
        "train": (file("train", "1"), file("train", "2")),
        "val": (file("val", "1"), file("val", "3")),
        "test": (file("test", "2"), file("test", "1"), file("test", "3")),
    }
    dataset = Dataset(source="x", classes=("a", "b"), splits=splits)
    contents = {each.relative: each.relative[-1] for files in splits.values() for each in files}
    (check,) = check_copies(dataset, contents)
    assert check.summary.startswith("1 of 2 val images and 2 of 3 test images are copies of training images")
    assert "but for those in test" in check.summary
    assert not check_copies(dataset, {name: name for name in contents})


def test_a_loss_that_does_not_fall_is_a_warning(shapes: Path, tmp_path: Path) -> None:
    result = zoo.finetune(
        backbone="timm/test_resnet",
        weights="random",
        data=shapes,
        out=tmp_path / "run",
        recipe="head_only",
        epochs=2,
        set=["head.lr=1e-30"],
        head="linear",
    )
    checks = {check["name"]: check for check in json.loads((result.path / "proof.json").read_text())["checks"]}
    assert checks["loss_movement"]["verdict"] == "warning"
    assert checks["gradients"]["verdict"] == "passed" and checks["gradients"]["evidence"]["not_moved"]


def test_a_saved_file_with_other_logits() -> None:
    logits = torch.randn(4, 3)
    assert check_saved(logits, logits.clone()).verdict == "passed"
    assert check_saved(logits, logits.nextafter(logits + 1)).verdict == "failed"
    assert check_saved(logits, logits.nextafter(logits + 1), same_batch_size=False).verdict == "warning"


def test_an_artefact_of_another_state_than_the_kept_one(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.write_artefact

    def zeroed(path: Path, state: Any, *rest: Any) -> Any:
        return original(path, {**state, "head.fc.weight": torch.zeros_like(state["head.fc.weight"])}, *rest)

    monkeypatch.setattr(run, "write_artefact", zeroed)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    assert set(failed) == {"saved_file"}
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["proof"] == "failed"


def test_an_artefact_that_names_its_classes_in_another_order(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.write_artefact

    def reversed_classes(path: Path, state: Any, plan: Any, *rest: Any) -> Any:
        return original(path, state, plan.model_copy(update={"classes": plan.classes[::-1]}), *rest)

    monkeypatch.setattr(run, "write_artefact", reversed_classes)
    assert "other classes" in failed_checks(shapes, tmp_path / "run", recipe="head_only")["saved_file"]


def test_weights_that_are_not_finite_after_the_last_step(shapes: Path, tmp_path: Path) -> None:
    failed = failed_checks(shapes, tmp_path / "run", recipe="full", set=["all.lr=1e30"], batch_size=36)
    assert "finite_result" in failed
    assert not (tmp_path / "run" / "model").exists()
    assert "NaN" not in (tmp_path / "run" / "history.jsonl").read_text()


class _OwnSpread(nn.Module):
    """Divides each image by its own spread, which an image of one colour has none of."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / images.std(dim=(1, 2, 3), keepdim=True)


def test_test_images_whose_logits_are_not_finite(few: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(few, tmp_path / "data"))
    for name in sorted(path.name for path in (few / "train").iterdir()):
        (data / "test" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(data / "test" / name / "black.png")
    first = nn.Sequential(_OwnSpread(), nn.Conv2d(3, 8, 3, 2), nn.ReLU())
    module = nn.Sequential(first, nn.Conv2d(8, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    size = zoo.Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = zoo.module_backbone(module, preprocessing=size)
    failed = failed_checks(data, tmp_path / "run", backbone=backbone, weights="default", recipe="head_only")
    assert list(failed) == ["finite_test"] and "2 of 2 test images" in failed["finite_test"]
    # The run has all its files, and they can be read.
    assert zoo.load(tmp_path / "run", backbone=backbone).config.proof == "failed"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["test"]["loss"] is None
    assert write_report(tmp_path / "run", default_registry()).path.is_file()


def test_a_tensor_of_another_dtype(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResolvedModel.build

    def widened(*arguments: Any, **named: Any) -> ZooModel:
        model = original(*arguments, **named)
        model.head.double()
        model.features = lambda images: ZooModel.features(model, images).double()  # type: ignore[method-assign]
        return model

    monkeypatch.setattr(ResolvedModel, "build", widened)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only", head="linear")
    assert failed["dtype_and_device"].startswith("head.fc.weight is torch.float64")


def test_a_head_that_seeds_torchs_generator(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.micro_batch_loss

    def seeding(self: Objective, *arguments: Any) -> torch.Tensor:
        torch.manual_seed(0)
        return original(self, *arguments)

    monkeypatch.setattr(Objective, "micro_batch_loss", seeding)
    failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    assert failed == {"seeds": "something else seeded torch's generator in epoch 1, so draws repeat"}


@pytest.mark.long
def test_another_number_of_threads_than_planned(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResolvedModel.build
    threads = torch.get_num_threads()

    def careless(*arguments: Any, **named: Any) -> ZooModel:
        torch.set_num_threads(threads + 1)
        return original(*arguments, **named)

    monkeypatch.setattr(ResolvedModel, "build", careless)
    try:
        failed = failed_checks(shapes, tmp_path / "run", recipe="head_only")
    finally:
        torch.set_num_threads(threads)
    assert failed == {"environment": f"threads is {threads + 1}, but the plan says {threads}"}
