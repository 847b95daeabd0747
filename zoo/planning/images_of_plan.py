"""The images of a run, found again from its plan, and known to be the same ones by the plan's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import DataLocation, read_dataset
from zoo.errors import ZooError
from zoo.registry.registry import Registry
from zoo.specs.data import FOLDER
from zoo.specs.plan import Plan


@dataclass(frozen=True, slots=True)
class PlannedImages:
    """The images that a run used, in its splits."""

    dataset: Dataset
    """Without the files that could not be read then."""
    contents: Mapping[str, str]
    """SHA-256 of each file, by relative path."""


def digest_of_file(file: ImageFile) -> str:
    """SHA-256 of the bytes of an image. Raises DataError where they cannot be read."""
    return hashlib.sha256(file.content()).hexdigest()


def images_of_plan(
    plan: Plan,
    registry: Registry,
    *,
    place: DataLocation | None = None,
    digest: Callable[[ImageFile], str] = digest_of_file,
) -> PlannedImages | None:
    """Read the images of a plan again; None if some are missing or have changed.

    Plans store one digest of all images together. So every file is read, and the images are trusted only if they give
    that digest: same files, labels and splits.

    Args:
        plan: The plan of a run.
        registry: The data sources.
        place: Where the images are now. Default: where the plan says.
        digest: Gives the SHA-256 of a file, for callers that remember some.
    """
    try:
        dataset = read_dataset(place or _planned_place(plan, registry), seed=plan.seed, folds=plan.folds is not None)
        # The plan's digest covers readable files only.
        dataset = dataset.without(
            {file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"}
        )
        contents = {file.relative: digest(file) for files in dataset.splits.values() for file in files}
    except (ZooError, OSError):
        return None
    return PlannedImages(dataset, contents) if dataset.digest(contents) == plan.data.digest else None


def _planned_place(plan: Plan, registry: Registry) -> DataLocation:
    path, reader = Path(plan.data.path), plan.data.reader
    return DataLocation(str(path), path, None if reader == FOLDER else registry.data_source(reader))
