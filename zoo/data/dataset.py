"""A data set as zoo sees it: files with labels in splits, and every file that is not used with the reason."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo.errors import DataError
from zoo.source_listing import Skipped, Split

FOLDER = "folder"
"""What reads class folders: zoo itself."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a split."""

    path: Path
    """Its file, or what it is in: an archive, a table."""
    relative: str
    """Below the data folder, with forward slashes: what digests, messages and the proof use."""
    label: int
    """Index into the data set's `classes`."""
    reader: Callable[[], bytes] | None = None
    """What reads its bytes where it is in no file of its own."""
    named: str = ""
    """The label as the data source gave it; empty where a folder's name tells it."""

    def content(self) -> bytes:
        """The bytes of the encoded image, read now; from any thread. Raises DataError."""
        try:
            return self.path.read_bytes() if self.reader is None else self.reader()
        except OSError as error:
            raise DataError(f"{self.relative}: {error.strerror or error}") from None
        except DataError as error:
            raise DataError(f"{self.relative}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images with labels. Class names are ordered once, naturally, from the training split."""

    source: str
    """What people call it: the folder as given, or `sample`."""
    folder: Path = Path()
    """Below which its files lie, or what holds them: a file, a pattern of files."""
    reader: str = FOLDER
    """What read it: `folder`, or `plugin/name` of a data source."""
    classes: tuple[str, ...]
    splits: Mapping[Split, tuple[ImageFile, ...]]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = field(default=())
    """What was decided about the splits, for people."""

    def counts(self) -> dict[Split, list[int]]:
        """Images per class, per split."""
        return {split: class_counts(files, len(self.classes)) for split, files in self.splits.items()}

    def without(self, unreadable: Mapping[str, str]) -> Dataset:
        """The same data set without the files named (relative path -> what is wrong with them)."""
        splits: dict[Split, tuple[ImageFile, ...]] = {
            split: tuple(file for file in files if file.relative not in unreadable)
            for split, files in self.splits.items()
        }
        more = tuple(Skipped(relative, "unreadable", detail) for relative, detail in sorted(unreadable.items()))
        return replace(self, splits=splits, skipped=self.skipped + more)

    def digest(self, contents: Mapping[str, str]) -> str:
        """SHA-256 over classes, splits, file names and the files' own digests (relative path -> hexadecimal)."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split, files in sorted(self.splits.items()):
            for file in files:
                digest.update(f"\n{split}\0{file.relative}\0{file.label}\0{contents[file.relative]}".encode())
        return digest.hexdigest()


def class_counts(files: Iterable[ImageFile], classes: int) -> list[int]:
    """Images per class index."""
    counts = [0] * classes
    for file in files:
        counts[file.label] += 1
    return counts


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `class2` comes before `class10`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts] + [(2, 0, name)]
