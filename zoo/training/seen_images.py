"""Which images a saved classifier was trained on, so that it is not judged on them without a word.

Only the run behind it knows, by its plan: an artefact without its run says nothing of images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zoo.artefact.config import FOLDER as MODEL
from zoo.artefact.evaluate import TrainedOn
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import DataLocation, read_dataset
from zoo.errors import RunError, ZooError
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER
from zoo.specs.plan import Plan
from zoo.training.run_folder import PLAN
from zoo.training.stored_plan import read_plan


def trained_on(artefact: Path, files: Sequence[ImageFile], registry: Registry) -> TrainedOn | None:
    """How many of these files the run behind a classifier trained on; None where nobody knows, or it is none.

    Files are known by their place on this machine, not by their content: a copy elsewhere is not found.

    Args:
        artefact: A run folder, or the folder `model` in it; anything else has no run.
        files: The images to be judged.
        registry: The data sources.
    """
    run = _run_of(artefact)
    if run is None:
        return None
    try:
        plan = read_plan(run)
    except RunError:
        return None
    # Of an object in memory, files have no place that could be compared.
    if plan.data.sample or of_session(plan.data.reader):
        return None
    root = os.path.realpath(plan.data.path)
    places = [_place(file) for file in files]
    # Listing what the run was trained on may take minutes, and other data are the usual case.
    if plan.data.reader == FOLDER and not any(path.startswith(root + os.sep) for path, _ in places):
        return None
    try:
        dataset = _dataset_of(plan, registry)
    except (ZooError, OSError):
        return None
    known = {_place(file) for file in dataset.splits["train"]}
    count = sum(place in known for place in places)
    certain = {str(split): counts for split, counts in dataset.counts().items()} == plan.data.images
    return TrainedOn(run, count, certain=certain) if count else None


def _run_of(artefact: Path) -> Path | None:
    # Absolute, because `.` inside of the artefact's folder has no name.
    whole = artefact.absolute()
    for folder in (artefact, artefact.parent if whole.name == MODEL else None):
        if folder is not None and os.path.isfile(folder / PLAN):
            return folder
    return None


def _dataset_of(plan: Plan, registry: Registry) -> Dataset:
    path, reader = Path(plan.data.path), plan.data.reader
    source = None if reader == FOLDER else registry.data_source(reader)
    # Split as the run split them.
    dataset = read_dataset(DataLocation(str(path), path, source), seed=plan.seed, folds=plan.folds is not None)
    return dataset.without({file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"})


def _place(file: ImageFile) -> tuple[str, str]:
    # Files in an archive or a table share its path, and differ only by their names in it.
    return os.path.realpath(file.path), file.relative if file.reader else ""
