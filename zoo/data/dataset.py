"""A data set: image files with labels, in splits, and every file that is not used with the reason.

Also the thresholds from which on the data are called faulty: the plan, its warnings and `zoo data check` share them.
"""

from __future__ import annotations

import hashlib
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from zoo.errors import DataError, NoAnswer, with_step, without_step
from zoo.specs.data import FOLDER, Skipped, Split
from zoo.storage.passing_faults import cause_of, patiently

UNREADABLE_SHARE = 0.01
"""Share of unreadable images above which a run refuses to start."""
FEW_IMAGES = 5
"""A class with fewer images than this in a split is warned about."""
IMBALANCE_RATIO = 10
"""Classes are imbalanced if the largest has more than this many times the training images of the smallest."""
_TOGETHER = 1000
"""Lines that go into a digest at a time."""


_CHECK = "check that the file is there, whole, and that you may read it; then start again."
_NO_ANSWER = "once it can be read, the same command again. If a broken disk has lost it, take it out of the data first."


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a split, with its label."""

    path: Path
    """The image file, or the file that contains the image: an archive, a table."""
    relative: str
    """Path below the data folder, with forward slashes: the image's name in digests, messages and the proof."""
    label: int
    """Index into the data set's `classes`."""
    reader: Callable[[], bytes] | None = None
    """Reads the bytes of an image that has no file of its own; None: `path` is read."""
    named: str = ""
    """The name of the label as the data gave it; empty for an image whose label does not matter."""

    def content(self) -> bytes:
        """Read the bytes of the encoded image. May be called in any thread.

        Raises:
            NoAnswer: They cannot be read now, and that may pass. It was waited for.
            DataError: They cannot be read.
        """
        begin = time.monotonic()
        try:
            return patiently(self._bytes)
        except OSError as error:
            if cause_of(error) == "passing":
                raise NoAnswer(
                    f"{self.relative} cannot be read now: {error.strerror}. This may pass, so the image is not "
                    f"left out; it was tried for {time.monotonic() - begin:.0f} s.\nNext: {_NO_ANSWER}"
                ) from None
            raise DataError(with_step(f"{self.relative}: {error.strerror}", _CHECK)) from None
        except DataError as error:
            raise DataError(with_step(f"{self.relative}: {error}", _CHECK)) from None

    def fault(self, error: DataError) -> str:
        """What is wrong with the image, for a list of several. Raises NoAnswer where the error says nothing of it."""
        if isinstance(error, NoAnswer):
            raise error
        # Without what to do next: that is said once, of all such images.
        return without_step(str(error)).removeprefix(f"{self.relative}: ")

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes() if self.reader is None else self.reader()
        except OSError as error:
            if error.errno is None:  # not of the system, but of a reader, which knows its file
                raise DataError(with_step(str(error), _CHECK)) from None
            raise


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An image as its data source names it, before its class has an index."""

    path: Path
    relative: str
    reader: Callable[[], bytes] | None = None
    """Reads the bytes of an image that has no file of its own."""


class ImageFiles(Sequence[ImageFile]):
    """Images of a split as columns: an `ImageFile` is made when it is asked for; what concerns all is asked at once.

    `zoo.data.manifest.ImageRows` is the only kind. Apart from it a split may be any sequence of `ImageFile`; `names_of`
    and `class_counts` take either.
    """

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Yield `relative` of each image."""

    @abstractmethod
    def labels(self) -> Iterator[int]:
        """Yield `label` of each image."""

    @abstractmethod
    def counts(self, classes: int) -> list[int]:
        """Number of images of each class, by class index."""

    @abstractmethod
    def without(self, names: Collection[str]) -> ImageFiles:
        """The images whose names are not among these."""


class FileDigests(Mapping[str, str]):
    """Digests of files by relative path, which also come in the order of a split at once."""

    @abstractmethod
    def of(self, files: Sequence[ImageFile]) -> Iterator[str]:
        """Yield the digests of these images in their order. Raises KeyError for the first that is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Labelled images in splits. The order of the classes is the natural order of the training split's class names."""

    source: str
    """The data as people call them: the folder as given, or `sample`."""
    folder: Path = Path()
    """The folder that the files lie in, or the file, or pattern of files, that contains them."""
    reader: str = FOLDER
    """What read the data: `folder`, or `plugin/name` of a data source."""
    classes: tuple[str, ...]
    splits: Mapping[Split, Sequence[ImageFile]]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """Sentences for people on how the splits were made; they are stored in the plan."""

    def counts(self) -> dict[Split, list[int]]:
        """Number of images of each class, per split."""
        return {split: class_counts(files, len(self.classes)) for split, files in self.splits.items()}

    def without(self, unreadable: Mapping[str, str]) -> Dataset:
        """The same data set without the files named in `unreadable` (relative path -> fault); they become `skipped`."""
        splits = {split: _without(files, unreadable) for split, files in self.splits.items()}
        # Sorted, for faults come in the order in which files were read, which shards decide.
        left_out = tuple(Skipped(relative, "unreadable", fault) for relative, fault in sorted(unreadable.items()))
        return replace(self, splits=splits, skipped=self.skipped + left_out)

    def digest(self, contents: Mapping[str, str]) -> str:
        """SHA-256 over classes, splits, file names and `contents`: the files' own SHA-256 digests by relative path."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split, files in sorted(self.splits.items()):
            # The form of these lines is fixed: stored plans name their data by this digest.
            lines = (f"\n{split}\0{name}\0{label}\0{content}" for name, label, content in _described(files, contents))
            while together := "".join(islice(lines, _TOGETHER)):
                digest.update(together.encode())
        return digest.hexdigest()


def class_counts(files: Iterable[ImageFile], classes: int) -> list[int]:
    """Number of images of each class, by class index."""
    if isinstance(files, ImageFiles):
        return files.counts(classes)
    counts = [0] * classes
    for file in files:
        counts[file.label] += 1
    return counts


def names_of(files: Sequence[ImageFile]) -> Iterator[str]:
    """Yield the relative path of each image, without making records where there are none."""
    return files.names() if isinstance(files, ImageFiles) else (file.relative for file in files)


def labels_of(files: Sequence[ImageFile]) -> Iterator[int]:
    """Yield the label of each image, without making records where there are none."""
    return files.labels() if isinstance(files, ImageFiles) else (file.label for file in files)


def _without(files: Sequence[ImageFile], names: Collection[str]) -> Sequence[ImageFile]:
    if isinstance(files, ImageFiles):
        return files.without(names)
    return tuple(file for file in files if file.relative not in names)


def _described(files: Sequence[ImageFile], contents: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """Yield (relative path, label, digest) of each image."""
    if isinstance(contents, FileDigests):
        return zip(names_of(files), labels_of(files), contents.of(files), strict=True)
    return ((name, label, contents[name]) for name, label in zip(names_of(files), labels_of(files), strict=True))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `class2` before `class10`."""
    # `\d` finds the digits of all scripts, and so do `isdecimal` and `int`.
    parts = re.split(r"(\d+)", name)
    # The leading number keeps apart what cannot be compared, numbers and texts. The name itself breaks ties, so that
    # names that differ only in case have one order everywhere.
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts] + [(2, 0, name)]
