"""The learning curve of a run: made where features are there anyway, the same again, and no part of what is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo.errors import RunError
from zoo.events import Event, Note
from zoo.reporting.record import read_run
from zoo.training import curve
from zoo.training.curve import IMAGES_OF_LEAST_WORK, kept_images

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}


@pytest.mark.long
def test_a_run_that_begins_with_a_head_keeps_its_curve_and_shows_it(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = zoo.finetune(**USUAL, data=shapes, out=tmp_path / "few", report=False)
    assert not (few.path / "curve.json").exists(), "of 36 images nothing could be said"
    monkeypatch.setattr(curve, "FEWEST", 36)
    runs = [zoo.finetune(**USUAL, data=shapes, out=tmp_path / name) for name in ("one", "two")]
    first, second = ((run.path / "curve.json").read_bytes() for run in runs)
    assert first == second
    record = json.loads(first)
    assert record["images"] == record["of"] == 36 and record["points"][-1]["images"] == 36
    report = zoo.report(runs[0].path)
    assert "Would more images help?" in report.read_text("utf-8")
    (runs[0].path / "curve.json").write_text('{"points": []}', "utf-8")
    with pytest.raises(RunError, match=r"curve\.json cannot be read"):
        zoo.report(runs[0].path)
    # A run of an older zoo has none.
    (runs[0].path / "curve.json").unlink()
    assert read_run(runs[0].path).curve is None
    assert "Would more images help?" not in zoo.report(runs[0].path).read_text("utf-8")


def test_a_curve_that_cannot_be_made_does_not_stop_the_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **rest: Any) -> Any:
        raise RuntimeError("no numbers\nat all")

    monkeypatch.setattr(curve, "FEWEST", 36)
    monkeypatch.setattr(curve, "learning_curve", fails)
    events: list[Event] = []
    run = zoo.finetune(**USUAL, data=shapes, out=tmp_path / "run", on_event=events.append)
    assert run.proof == "passed" and not (run.path / "curve.json").exists()
    assert "No learning curve was made: no numbers" in [event.text for event in events if isinstance(event, Note)]


def test_a_run_whose_head_sees_augmented_views_or_images_has_none(few: Path, tmp_path: Path) -> None:
    run = zoo.finetune(**USUAL, data=few, out=tmp_path / "views", epochs=1, set=("head.augment=flip", "head.views=2"))
    assert not (run.path / "curve.json").exists()


@pytest.mark.parametrize(("images", "classes"), [(200, 10), (3_000, 10), (40_000, 5)])
def test_of_many_images_a_stratified_part_is_taken_within_its_budget(images: int, classes: int) -> None:
    labels = [index % classes for index in range(images)]
    kept = kept_images(labels, list(range(images)), width=1280, classes=classes)
    assert kept == sorted(set(kept)) and len(kept) <= images
    counts = [sum(labels[index] == label for index in kept) for label in range(classes)]
    assert max(counts) - min(counts) <= 1
    assert (len(kept) == images) == (images <= IMAGES_OF_LEAST_WORK)


def test_too_many_classes_for_the_budget_leave_the_part_out() -> None:
    labels = [index % 500 for index in range(5_000)]
    assert kept_images(labels, list(range(5_000)), width=1280, classes=500) == []
