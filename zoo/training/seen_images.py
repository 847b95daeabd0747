"""Which images trained a saved classifier, or the backbone of one, so that these are not judged without a word.

Only the runs behind it know, by their plans: an artefact without its run says nothing of images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from zoo.specs.plan import Plan
from zoo.storage.atomic import parse_json
from zoo.training.run_folder import PLAN, RESULT, SOUP
from zoo.training.stored_plan import read_plan
from zoo.training.trained_backbone import Training, trainings_before

_COPIES_AMONG = 50_000
"""Most training images among which copies are looked for. Their sizes must be asked for one by one."""
_BYTES_READ = 1 << 30
"""Most bytes of training images that are read for it, beside those that were read before and have not changed."""
_OF_FILES = (FOLDER, "sources/table")
"""Data sources whose images are files of their own."""


def trained_on(artefact: Path, files: Sequence[ImageFile], registry: Registry, report: Report) -> TrainedOn | None:
    """How many of these files the runs behind a classifier trained on; None where nobody knows, or it is none.

    The run that made it counts, and those before it that trained the backbone it began with. Files are known by their
    place on this machine, and copies elsewhere by their bytes. Of images in archives, copies are not found, nor among
    more than 50,000 training images.

    Args:
        artefact: A run folder or that of a soup, or the folder `model` in one; anything else has no run.
        files: The images to be judged.
        registry: The data sources.
        report: Called with Progress.
    """
    folder, runs = _runs_of(artefact)
    plans = [plan for run in runs if (plan := _plan_of(run)) is not None]
    if not plans:
        return None
    judged = _Judged(files, registry, report)
    own = [seen for plan in plans if (seen := judged.seen_by(plan)) is not None]
    # The runs of a soup may all have begun with one.
    before = {training.place: training for plan in plans for training in trainings_before(plan)}
    of_backbone = _seen_by_backbone(tuple(before.values()), judged)
    images = of_backbone.images.union(*(seen.images for seen in own))
    if not images and not of_backbone.unknown:
        return None
    return TrainedOn(
        len(images),
        next((folder / name for name in (RESULT, SOUP) if os.path.isfile(folder / name)), None),
        certain=of_backbone.certain and all(seen.certain for seen in own),
        backbone={str(training.place): count for training, count in of_backbone.counts},
        unknown=tuple(str(training.place) for training in of_backbone.unknown),
    )


@dataclass(frozen=True, slots=True)
class SeenByBackbone:
    """Images to be judged whose labels the features of a backbone know."""

    images: frozenset[str]
    """Relative paths."""
    certain: bool
    """Whether the training data have as many images now as then, so that none was drawn otherwise."""
    counts: tuple[tuple[Training, int], ...]
    """How many of the images each training saw; those that saw none are left out."""
    unknown: tuple[Training, ...]
    """Trainings of which nobody knows any more what they saw."""


def seen_by_backbone(
    trainings: Sequence[Training], files: Sequence[ImageFile], registry: Registry, report: Report
) -> SeenByBackbone:
    """Which of these files trained a backbone. Files and their copies are known as in `trained_on`."""
    return _seen_by_backbone(trainings, _Judged(files, registry, report))


def _seen_by_backbone(trainings: Sequence[Training], judged: _Judged) -> SeenByBackbone:
    counts, unknown, certain = list[tuple[Training, int]](), list[Training](), True
    images = set[str]()
    for training in trainings:
        seen = None if training.plan is None else judged.seen_by(training.plan)
        if seen is None:
            unknown.append(training)
        elif seen.images:
            counts.append((training, len(seen.images)))
            images |= seen.images
            certain &= seen.certain
    return SeenByBackbone(frozenset(images), certain, tuple(counts), tuple(unknown))


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


def _plan_of(run: Path) -> Plan | None:
    try:
        return read_plan(run)
    except ZooError:
        return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """Images to be judged that a run trained on."""

    images: set[str]
    certain: bool
    """Whether the run's data have as many images now as then."""


class _Judged:
    """Images to be judged, looked for among those that runs trained on."""

    def __init__(self, files: Sequence[ImageFile], registry: Registry, report: Report) -> None:
        self._files, self._registry, self._report = files, registry, report
        self._places = _Places()
        self._by_place: dict[tuple[str, str, str], str] | None = None

    def seen_by(self, plan: Plan) -> _Seen | None:
        """Those that the run of this plan trained on; None where nobody knows."""
        # Of an object in memory, files have no place that could be compared.
        if of_session(plan.data.reader):
            return None
        # An archive is read from its beginning to its end to list it: only where images of one are judged.
        of_archive = plan.data.reader not in _OF_FILES and all(file.reader is None for file in self._files)
        if plan.data.sample or of_archive:
            return _Seen(set(), certain=True)
        try:
            dataset = listed_as_then(plan, self._registry, self._report)
        except (ZooError, OSError):
            return None
        as_then = {str(split): counts for split, counts in dataset.counts().items()} == plan.data.images
        return _Seen(self._among(dataset.splits["train"]), certain=as_then)

    def _among(self, trained: Sequence[ImageFile]) -> set[str]:
        if self._by_place is None:
            self._by_place = {self._places.of(file): file.relative for file in self._files}
        # One by one: of a million images, no object each is kept.
        seen = {self._by_place[place] for file in trained if (place := self._places.of(file)) in self._by_place}
        if len(trained) <= _COPIES_AMONG:
            others = [file for file in self._files if file.relative not in seen]
            seen |= set(_copies(others, trained, self._report))
        return seen


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
