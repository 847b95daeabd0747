"""The images of the run that a classifier comes from: what an export is calibrated on and judged by."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.errors import DataError, Refused
from zoo.evaluation.copies import Copies, copies_among
from zoo.events import Note, Report
from zoo.planning.images_of_plan import images_of_plan
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan

FEWEST = 16
"""Training images below which nothing is calibrated."""
CALIBRATED = 128
"""Training images that ranges are calibrated on, or all where there are fewer."""
JUDGED = 5_000
"""Validation images that an export is judged by, evenly through all classes where there are more."""
_WITHOUT = "\nNext: export without --int8."


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOrigin:
    """The run that a classifier comes from."""

    path: Path
    """The run folder."""
    plan: Plan
    registry: Registry
    """Finds its data source."""
    data: Path | None = None
    """Where its images are now. None: where the plan says."""

    def images(self, report: Report) -> Dataset:
        """Read which images it used. Raises DataError where they are gone or others by now."""
        call = "zoo.export(RUN, to=..., data=...)"
        return images_of_plan(self.plan, self.path, self.registry, report, data=self.data, call=call)

    def images_if_there(self, report: Report) -> Dataset | None:
        """The same; None, and a note, where they are gone. Raises DataError for other images where `data` is given."""
        try:
            return self.images(report)
        except DataError as error:
            if self.data is not None:
                raise
            report(Note(text=f"Compared on generated pictures alone. {error}"))
            return None


def refuse_too_few(origin: RunOrigin | None) -> RunOrigin:
    """Return the run that an int8 export is calibrated on.

    Raises Refused where there is none, it has too few training images, or none that it did not train on. The plan tells
    all of that, so no image is read.
    """
    if origin is None:
        raise Refused(
            "8 bits are calibrated on the training images of the run and judged on its validation images, and this is "
            "a saved classifier without its run.\nNext: give the run folder, or export without --int8."
        )
    counts = {split: sum(images) for split, images in origin.plan.data.images.items()}
    if (there := counts.get("train", 0)) < FEWEST:
        raise Refused(
            f"8 bits are calibrated on at least {FEWEST} training images, and {origin.path} has {there}.{_WITHOUT}"
        )
    # Never on training images: these have chosen the ranges, and the classifier knows them.
    if not counts.get("val") and not counts.get("test"):
        raise Refused(
            f"{origin.path} was trained in folds, on all of its images, so none is left to judge 8 bits by.{_WITHOUT}"
        )
    return origin


def to_calibrate(dataset: Dataset, seed: int) -> list[ImageFile]:
    """The training images to calibrate on, drawn by the seed of the run."""
    # By name: the same seed draws the same images, whatever order they were listed in.
    files = sorted(dataset.splits["train"], key=lambda file: file.relative)
    return random.Random(f"int8/{seed}").sample(files, min(CALIBRATED, len(files)))


def to_judge(dataset: Dataset, most: int = JUDGED) -> tuple[str, list[ImageFile]]:
    """(name of the split, its images): those of `val`, or of a run in folds of `test`; none where it has neither."""
    split = "val" if dataset.splits.get("val") else "test"
    files = dataset.splits.get("val") or dataset.splits.get("test", ())
    # Files are in the order of their classes, so every n-th one is an even part of each.
    step = -(-len(files) // most) if files else 1
    return split, list(files[::step])


def copies_of(files: Sequence[ImageFile]) -> Copies | None:
    """Which of some images are copies of one another, byte for byte; None where all differ. Every file is read."""
    return copies_among(hashlib.sha256(file.content()).hexdigest() for file in files)
