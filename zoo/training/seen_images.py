"""Which images a saved classifier was trained on, so that it is not judged on them without a word.

Only the run behind it knows, by its plan: an artefact without its run says nothing of images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.artefact.config import FOLDER as MODEL
from zoo.artefact.evaluate import TrainedOn
from zoo.data.dataset import ImageFile
from zoo.data.file_index import FileIndex
from zoo.errors import ZooError
from zoo.events import Progress, Report
from zoo.planning.images_of_plan import listed_as_then
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER
from zoo.storage.atomic import parse_json
from zoo.training.run_folder import PLAN, RESULT, SOUP
from zoo.training.stored_plan import read_plan

_COPIES_AMONG = 50_000
"""Most training images among which copies are looked for. Their sizes must be asked for one by one."""
_BYTES_READ = 1 << 30
"""Most bytes of training images that are read for it, beside those that were read before and have not changed."""
_OF_FILES = (FOLDER, "sources/table")
"""Data sources whose images are files of their own."""


def trained_on(artefact: Path, files: Sequence[ImageFile], registry: Registry, report: Report) -> TrainedOn | None:
    """How many of these files the run behind a classifier trained on; None where nobody knows, or it is none.

    Files are known by their place on this machine, and copies elsewhere by their bytes. Of images in archives, copies
    are not found, nor among more than 50,000 training images.

    Args:
        artefact: A run folder or that of a soup, or the folder `model` in one; anything else has no run.
        files: The images to be judged.
        registry: The data sources.
        report: Called with Progress.
    """
    folder, runs = _runs_of(artefact)
    places = _Places()
    judged = {places.of(file): file for file in files} if runs else {}
    seen: set[str] = set()
    certain = True
    for run in runs:
        found = _training_images(run, files, registry, report)
        if found is not None:
            trained, as_then = found
            certain &= as_then
            # One by one: of a million images, no object each is kept.
            seen |= {judged[place].relative for file in trained if (place := places.of(file)) in judged}
            if len(trained) <= _COPIES_AMONG:
                seen |= set(_copies([file for file in files if file.relative not in seen], trained, report))
    scores = next((folder / name for name in (RESULT, SOUP) if os.path.isfile(folder / name)), None)
    return TrainedOn(len(seen), scores, certain=certain) if seen else None


def _runs_of(artefact: Path) -> tuple[Path, list[Path]]:
    """The folder around a classifier, and the runs that made it; none for an artefact alone."""
    # Absolute, because `.` inside of the artefact's folder has no name.
    whole = artefact.absolute()
    for folder in (artefact, *([whole.parent] if whole.name == MODEL else [])):
        if os.path.isfile(folder / PLAN):
            return folder, [folder]
        if os.path.isfile(folder / SOUP):
            try:
                content = parse_json((folder / SOUP).read_text("utf-8"))
                return folder, [Path(each["run"]) for each in content["ingredients"] if each["added"]]
            except (OSError, ValueError, KeyError, TypeError):
                return folder, []
    return artefact, []


def _training_images(
    run: Path, files: Sequence[ImageFile], registry: Registry, report: Report
) -> tuple[Sequence[ImageFile], bool] | None:
    """The images that a run trained on, and whether its data have as many now as then.

    None where nobody knows, and where none of `files` can be among them.
    """
    try:
        plan = read_plan(run)
        # Of an object in memory, files have no place that could be compared.
        if plan.data.sample or of_session(plan.data.reader):
            return None
        # An archive is read from its beginning to its end to list it.
        if plan.data.reader not in _OF_FILES and all(file.reader is None for file in files):
            return None
        dataset = listed_as_then(plan, registry, report)
    except (ZooError, OSError):
        return None
    certain = {str(split): counts for split, counts in dataset.counts().items()} == plan.data.images
    return dataset.splits["train"], certain


class _Places:
    """Where files lie, whatever links lead to their folders."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, file: ImageFile) -> tuple[str, str, str]:
        """The folder without links, the name, and the name inside of an archive, which all of its images share."""
        folder, name = os.path.split(file.path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder], name, file.relative if file.reader else ""


def _copies(files: Sequence[ImageFile], trained: Sequence[ImageFile], report: Report) -> Iterator[str]:
    """Relative paths of the files that have the bytes of one that was trained on."""
    by_size: dict[int, list[ImageFile]] = {}
    for file in trained if files else []:
        if (size := _size(file)) is not None:
            by_size.setdefault(size, []).append(file)
    digests: dict[int, set[str]] = {}
    left = _BYTES_READ
    # Most images have a size of their own, so that few are read.
    for done, file in enumerate(files, start=1):
        size = _size(file)
        if size is not None and size in by_size:
            if size not in digests:
                digests[size], read = _digests(by_size[size], left // max(size, 1))
                left -= read * size
            if _digest(file) in digests[size]:
                yield file.relative
        report(Progress(task="look for training images", done=done, total=len(files)))


def _digests(files: Sequence[ImageFile], most: int) -> tuple[set[str], int]:
    """The digests of some files, of which at most so many are read -> those, and how many were."""
    known = FileIndex().digests(files)
    unknown = [file for file in files if file.relative not in known][:most]
    return {*known.values(), *map(_digest, unknown)} - {""}, len(unknown)


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
