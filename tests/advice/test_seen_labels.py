"""Probes are not judged on features that know the labels, however the backbone was named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo.data.sample import sample_image
from zoo.errors import OptionError, Refused

NAME = "timm/test_resnet"
KNOWS = r"trained its backbone in the stage 'all' on 10 of these 10 images: its features know their labels"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: five images of each to train on, to choose by, and to test with."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val", "test"):
        for index, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for number in range(5):
                sample_image(index, 2, split, number).save(root / split / name / f"{number}.jpg")
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    """A run that trained its backbone, and chose between two stages."""
    return zoo.finetune(
        NAME,
        data=data,
        weights="random",
        recipe="lp_ft",
        epochs=1,
        tune=False,
        report=False,
        set=["all.lr=0.001"],
        out=tmp_path_factory.mktemp("run") / "run",
    )


@pytest.fixture(scope="module")
def trained(run: zoo.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, which kept the stage that trained the backbone, whatever four images said."""
    folder = shutil.copytree(run.path, tmp_path_factory.mktemp("kept") / "run")
    result = json.loads((folder / "result.json").read_text("utf-8"))
    result["selection"]["kept"] = "all"
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    return folder


def loud(events: list[Any]) -> list[str]:
    return [event.text for event in events if getattr(event, "loud", False)]


def test_a_file_of_weights_that_a_run_trained_on_these_images_is_refused(trained: Path, data: Path) -> None:
    file = trained / "model" / "model.safetensors"
    for ask, images in ((zoo.check_labels, data / "train"), (zoo.learning_curve, data)):
        with pytest.raises(Refused, match=KNOWS) as refused:
            ask(images, NAME, weights=str(file))
        assert "Next: leave --weights out" in str(refused.value)


def test_a_shortlist_leaves_it_out_and_says_why(trained: Path, data: Path) -> None:
    file = trained / "model" / "model.safetensors"
    found = zoo.shortlist(data, backbones=f"{NAME}={file},{NAME}=random", tune=False)
    assert [each.name for each in found.ranked] == [f"{NAME}=random"]
    (left,) = found.left_out
    assert left.name == f"{NAME}={file}" and "on 10 of these 10 images: its features know their labels" in left.reason
    with pytest.raises(OptionError, match="its features know their labels"):
        zoo.shortlist(data, backbones=f"{NAME}={file}", tune=False)


def test_images_that_the_run_was_tested_with_may_be_judged_and_those_it_chose_by_with_a_word(
    trained: Path, data: Path
) -> None:
    events: list[Any] = []
    assert zoo.check_labels(data / "test", str(trained), on_event=events.append).notes == () == tuple(loud(events))
    checked = zoo.check_labels(data / "val", str(trained), on_event=events.append)
    (note,) = checked.notes
    assert "chose which stage it keeps by 10 of these 10 images" in note and loud(events) == [note]
    assert checked.to_dict()["notes"] == [note]
    with pytest.raises(Refused, match=KNOWS):
        zoo.check_labels(data / "train", str(trained))


def test_a_file_whose_run_is_gone_is_used_with_a_warning(trained: Path, data: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(trained / "model", tmp_path / "alone")
    events: list[Any] = []
    curve = zoo.learning_curve(data, NAME, weights=alone / "model.safetensors", on_event=events.append)
    assert f"The backbone comes from {alone}" in curve.notes[0] and loud(events) == [curve.notes[0]]
    found = zoo.shortlist(data, backbones=f"{NAME}={alone / 'model.safetensors'}", tune=False)
    assert any(str(alone) in note for note in found.to_dict()["notes"])


def test_a_run_that_froze_the_backbone_of_another_knows_what_that_one_saw(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    later = zoo.finetune(
        NAME,
        data=data / "test",
        weights=trained / "model" / "model.safetensors",
        recipe="head_only",
        tune=False,
        report=False,
        out=tmp_path / "later",
    )
    with pytest.raises(Refused, match=KNOWS):
        zoo.check_labels(data / "train", later)
    assert zoo.check_labels(data / "test", later).images == 10
