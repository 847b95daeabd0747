"""Which images a saved classifier was trained on, so that it is not judged on them without a word.

Only the run behind it knows, by its plan: an artefact without its run says nothing of images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zoo.artefact.config import FOLDER as MODEL
from zoo.artefact.evaluate import TrainedOn
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import DataLocation, read_dataset
from zoo.errors import RunError, ZooError
from zoo.events import Progress, Report
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER
from zoo.specs.plan import Plan
from zoo.storage.atomic import parse_json
from zoo.training.run_folder import PLAN, RESULT, SOUP
from zoo.training.stored_plan import read_plan

_COPIES_AMONG = 50_000
"""Most training images among which copies are looked for. Their sizes must be asked for one by one."""


def trained_on(artefact: Path, files: Sequence[ImageFile], registry: Registry, report: Report) -> TrainedOn | None:
    """How many of these files the run behind a classifier trained on; None where nobody knows, or it is none.

    Files are known by their place on this machine, and copies elsewhere by their bytes. Of images in archives and
    tables, copies are not found, nor among more than 50,000 training images.

    Args:
        artefact: A run folder or that of a soup, or the folder `model` in one; anything else has no run.
        files: The images to be judged.
        registry: The data sources.
        report: Called with Progress.
    """
    folder, runs = _runs_of(artefact)
    trained, certain = [], True
    for run in runs:
        found = _training_images(run, registry)
        if found is not None:
            trained.append(found[0])
            certain &= found[1]
    count = len(_among(files, trained, report))
    where = folder / (RESULT if os.path.isfile(folder / RESULT) else SOUP)
    return TrainedOn(count, where, certain=certain) if count else None


def _runs_of(artefact: Path) -> tuple[Path, list[Path]]:
    """The folder around a classifier, and the runs that made it; none for an artefact alone."""
    # Absolute, because `.` inside of the artefact's folder has no name.
    for folder in (artefact, *([artefact.parent] if artefact.absolute().name == MODEL else [])):
        if os.path.isfile(folder / PLAN):
            return folder, [folder]
        if os.path.isfile(folder / SOUP):
            try:
                content = parse_json((folder / SOUP).read_text("utf-8"))
                return folder, [Path(each["run"]) for each in content["ingredients"] if each["added"]]
            except (OSError, ValueError, KeyError, TypeError):
                return folder, []
    return artefact, []


def _training_images(run: Path, registry: Registry) -> tuple[Sequence[ImageFile], bool] | None:
    """The images that a run trained on, and whether its data have as many now as then; None where nobody knows."""
    try:
        plan = read_plan(run)
        # Of an object in memory, files have no place that could be compared.
        if plan.data.sample or of_session(plan.data.reader):
            return None
        dataset = _dataset_of(plan, registry)
    except (ZooError, RunError, OSError):
        return None
    certain = {str(split): counts for split, counts in dataset.counts().items()} == plan.data.images
    return dataset.splits["train"], certain


def _dataset_of(plan: Plan, registry: Registry) -> Dataset:
    path, reader = Path(plan.data.path), plan.data.reader
    source = None if reader == FOLDER else registry.data_source(reader)
    # Split as the run split them.
    dataset = read_dataset(DataLocation(str(path), path, source), seed=plan.seed, folds=plan.folds is not None)
    return dataset.without({file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"})


def _among(files: Sequence[ImageFile], trained: Sequence[Sequence[ImageFile]], report: Report) -> set[str]:
    """Relative paths of the files that are among those of some run."""
    every = {_place(file): file for of_run in trained for file in of_run}
    seen = {file.relative for file in files if _place(file) in every}
    if len(every) <= _COPIES_AMONG:
        others = [file for file in files if file.relative not in seen]
        seen |= set(_copies(others, every.values(), report))
    return seen


def _copies(files: Sequence[ImageFile], trained: Iterable[ImageFile], report: Report) -> Iterator[str]:
    """Relative paths of the files that have the bytes of one that was trained on."""
    by_size: dict[int, list[ImageFile]] = {}
    for file in trained:
        if (size := _size(file)) is not None:
            by_size.setdefault(size, []).append(file)
    digests: dict[int, set[str]] = {}
    # Most images have a size of their own, so that few are read.
    for done, file in enumerate(files, start=1):
        size = _size(file)
        if size is not None and size in by_size:
            if size not in digests:
                digests[size] = {_digest(each) for each in by_size[size]} - {""}
            if _digest(file) in digests[size]:
                yield file.relative
        report(Progress(task="look for training images", done=done, total=len(files)))


def _size(file: ImageFile) -> int | None:
    """Bytes of an image's own file; None where it has none."""
    try:
        return None if file.reader else os.stat(file.path).st_size  # noqa: PTH116 - for every file of many
    except OSError:
        return None


def _digest(file: ImageFile) -> str:
    """SHA-256 of the bytes; empty where they cannot be read."""
    try:
        return hashlib.sha256(file.content()).hexdigest()
    except (ZooError, OSError):
        return ""


def _place(file: ImageFile) -> tuple[str, str]:
    # Files in an archive or a table share its path, and differ only by their names in it.
    return os.path.realpath(file.path), file.relative if file.reader else ""
