"""Weights that an earlier run trained are known for it: by what a run says of the images that judge it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from tests.numeric import draw_few
from zoo.data.sample import sample_image

NAME = "timm/test_resnet"
USUAL: dict[str, Any] = {"tune": False, "report": False}


@pytest.fixture(scope="module")
def trained(few: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    """A run that trained its backbone on the 8 images of `few/train`, and chose by the 4 of `few/val`."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return zoo.finetune(NAME, data=few, weights="random", recipe="full", epochs=1, out=out, **USUAL)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that no run has seen: 8 to train on, 4 to validate."""
    root = tmp_path_factory.mktemp("other")
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, f"other {split}", number).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def second(trained: zoo.Result, other: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    """A run on other images that kept the backbone of the first frozen, so that it is in this file as well."""
    out = tmp_path_factory.mktemp("second") / "run"
    return zoo.finetune(NAME, data=other, weights=tensors(trained), recipe="head_only", out=out, **USUAL)


def tensors(run: zoo.Result | Path) -> Path:
    folder = run if isinstance(run, Path) else run.artefact
    return folder / "model.safetensors"


def planned(weights: Path, data: Path, **options: Any) -> tuple[dict[str, int], str]:
    """What a plan knows of earlier training: numbers of images by split, and the sentences on it."""
    plan = zoo.plan(NAME, data=data, weights=weights, recipe="head_only", tune=False, **options)
    said = [each for each in plan.warnings if "trained before" in each or "not there" in each]
    assert ("trained_on" in plan.model_dump()["weights"]) == bool(plan.weights.trained_on)
    return plan.weights.trained_on, " ".join(said)


def changed(run: Path, **of_part: dict[str, Any]) -> Path:
    """A run whose plan says something else."""
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    for part, values in of_part.items():
        plan[part] |= values
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")
    return run


def test_a_run_judged_by_images_that_trained_its_weights_says_so_everywhere(
    trained: zoo.Result, few: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    words = ["--backbone", NAME, "--weights", str(tensors(trained)), "--recipe", "head_only", "--folds", "2"]
    done = zoo_inside("finetune", *words, "--data", str(few / "train"), "--out", "run", "--no-report")
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    assert f"The backbone was trained before, in the run {trained.folder}, stage 'all', on 8 of the 8 images" in flat
    assert "The backbone was trained before, on 8 out-of-fold images, so their scores are too good." in flat
    run = tmp_path / "run"
    assert json.loads((run / "result.json").read_text())["weights_trained_on"] == {"out_of_fold": 8}
    assert json.loads((run / "plan.json").read_text())["weights"]["trained_on"] == {"out_of_fold": 8}
    assert "**The backbone was trained before" in (run / "model" / "README.md").read_text("utf-8")
    # The images that it was judged by are also those that `zoo evaluate` warns of.
    found = zoo.evaluate(run, data=few / "train")
    assert found.trained_on == 8


def test_a_val_that_is_drawn_anew_holds_images_that_trained_the_weights(trained: zoo.Result, few: Path) -> None:
    numbers, said = planned(tensors(trained), few / "train", seed=5)
    assert numbers == {"val": 2} and "on 2 of the 2 images of val" in said
    # The run's own val trained nothing, and going on from a run on the same splits is no fault.
    assert planned(tensors(trained), few) == ({}, "")


def test_weights_that_know_no_label_are_taken_without_a_word(
    trained: zoo.Result, few: Path, other: Path, tmp_path: Path
) -> None:
    assert planned(tensors(trained), other, folds=2) == ({}, "")
    model = zoo.create_model(NAME, classes=2, weights="random")
    torch.save(model.backbone.state_dict(), tmp_path / "plain.pt")
    assert planned(tmp_path / "plain.pt", few / "train", folds=2) == ({}, "")
    # Beside files of other tools with the same names.
    for name in ("config.json", "plan.json"):
        (tmp_path / name).write_text('{"format": 1, "architectures": ["ResNet"]}')
    assert planned(tmp_path / "plain.pt", few / "train", folds=2) == ({}, "")


def test_a_backbone_that_stayed_frozen_knows_no_labels(few: Path, tmp_path: Path) -> None:
    run = zoo.finetune(NAME, data=few, weights="random", recipe="head_only", out=tmp_path / "run", **USUAL)
    assert planned(tensors(run), few / "train", folds=2) == ({}, "")
    assert planned(tensors(shutil.copytree(run.artefact, tmp_path / "alone")), few / "train", folds=2)[0] == {}


def test_weights_are_followed_from_run_to_run(
    trained: zoo.Result, second: zoo.Result, few: Path, tmp_path: Path
) -> None:
    numbers, said = planned(tensors(second), few / "train", folds=2)
    assert numbers == {"out_of_fold": 8} and str(trained.folder) in said and str(second.folder) not in said
    # The second run itself never saw these images, but its backbone did.
    for classifier in (second.path, second.artefact):
        events: list[Any] = []
        found = zoo.evaluate(classifier, data=few / "train", on_event=events.append)
        assert found.trained_on == 8
        (told,) = [event.text for event in events if getattr(event, "loud", False)]
        assert f"8 of them trained its backbone in {trained.folder}, whose weights its run began with" in told
    # A circle has an end.
    run = changed(shutil.copytree(trained.path, tmp_path / "run"))
    digest = json.loads((run / "model" / "config.json").read_text())["digest"]
    changed(run, weights={"kind": "file", "label": "file:m", "path": str(tensors(run / "model")), "digest": digest})
    assert planned(tensors(run / "model"), few / "train", folds=2)[0] == {"out_of_fold": 8}


def test_a_copy_or_a_link_is_known_for_the_run_that_wrote_it(
    trained: zoo.Result, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.safetensors").symlink_to(tensors(trained))
    assert planned(tmp_path / "link.safetensors", few / "train", folds=2)[0] == {"out_of_fold": 8}
    copy = Path(shutil.copy(tensors(trained), tmp_path / "best.safetensors"))
    shutil.copytree(trained.path, tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    numbers, said = planned(copy, few / "train", folds=2)
    assert numbers == {"out_of_fold": 8} and "runs/one" in said


def test_where_nobody_knows_the_images_any_more_it_is_said(
    trained: zoo.Result, second: zoo.Result, few: Path, other: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(trained.artefact, tmp_path / "alone")
    numbers, said = planned(tensors(alone), few / "train", folds=2)
    assert numbers == {} and f"comes from {alone}, a saved classifier whose run is not there" in said
    run = changed(shutil.copytree(trained.path, tmp_path / "run"), data={"path": str(tmp_path / "gone")})
    numbers, said = planned(tensors(run / "model"), few / "train", folds=2)
    assert numbers == {} and f"in the run {run}, stage 'all', on images that are not there any more" in said
    # The run that a classifier began with was moved.
    gone = str(tmp_path / "moved" / "model" / "model.safetensors")
    later = changed(shutil.copytree(second.path, tmp_path / "later"), weights={"path": gone})
    events: list[Any] = []
    found = zoo.evaluate(later, data=few / "train", on_event=events.append)
    assert found.trained_on == 0 and found.perhaps_trained_on == (gone,)
    (told,) = [event.text for event in events if getattr(event, "loud", False)]
    assert f"trained before, in {gone}, on images that are not known any more" in told


@pytest.mark.long
def test_a_learning_curve_of_images_that_trained_the_weights_is_named(tmp_path: Path) -> None:
    """Going on from a run on the same splits is no fault; only its curve is judged by images of train."""
    data = draw_few(tmp_path / "data", train=50, val=2)
    run = zoo.finetune(NAME, data=data, weights="random", recipe="full", epochs=1, out=tmp_path / "run", **USUAL)
    numbers, said = planned(tensors(run), data)
    assert numbers == {} and "on 100 of the 100 images of train, by which the learning curve is judged" in said
