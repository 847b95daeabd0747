"""Walk through a folder of many images without an object for each: their names as a column, folder by folder.

The order is that of `zoo.data.walk`, which yields one file at a time. What is no plain image (a folder, a file of
another kind, a hidden file) is kept one by one, for there the rules look closer.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.text_column import TextBuilder, TextColumn, plain_column
from zoo.data.walk import Kind, kind_of
from zoo.specs.data import is_image_name, is_system_name

_OFTEN = 4096
"""Entries of a folder after which progress is told."""


class FolderEntry(NamedTuple):
    """What lies in a folder beside plain images."""

    before: int
    """How many of the folder's plain images come before it, by name."""
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class FolderEntries:
    """What lies directly in one folder, sorted by name."""

    images: TextColumn
    """The names of plain images: files with the ending of an image that are not passed over for their name."""
    rest: tuple[FolderEntry, ...] = ()
    links: bool = False
    """Whether something in it is a link. What a link leads to changes without a trace in this folder."""


class TreeEntry(NamedTuple):
    """An entry of `FolderEntries.rest`, with where it is in the whole tree."""

    folder: int
    """Its folder, by number."""
    before: int
    """How many plain images of all folders come before it."""
    entry: FolderEntry


@dataclass(frozen=True, eq=False, slots=True)
class FolderTree:
    """Everything below a folder, in the order of sorted paths. Names are as the disk has them."""

    folders: tuple[str, ...]
    """The folders by number, as paths below the first, which is empty. They come before what they hold."""
    run_folders: NDArray[np.int32]
    """`run_folders[R]`: images that follow one another in one folder are a run; this is the folder of each."""
    runs: NDArray[np.int64]
    """`runs[R]`: how many images each run has."""
    images: TextColumn
    """The names of plain images in their folders, run by run."""
    rest: tuple[TreeEntry, ...]


@dataclass(slots=True)
class _Growing:
    folders: list[str] = field(default_factory=list)
    run_folders: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    images: TextBuilder = field(default_factory=TextBuilder)
    listed: int = 0
    rest: list[TreeEntry] = field(default_factory=list)

    def add(self, folder: int, images: TextColumn, begin: int, end: int) -> None:
        if begin < end:
            self.run_folders.append(folder)
            self.runs.append(end - begin)
            self.images.extend_from(images, begin, end)
            self.listed += end - begin

    def tree(self) -> FolderTree:
        runs = np.array(self.run_folders, np.int32), np.array(self.runs, np.int64)
        return FolderTree(tuple(self.folders), *runs, self.images.build(), tuple(self.rest))


@dataclass(slots=True)
class _Open:
    """A folder that is being gone through."""

    number: int
    entries: FolderEntries
    real: str
    next: int = 0
    """The next of `entries.rest`."""
    done: int = 0
    """How many images of it are in the tree."""


def list_tree(root: str, entries_of: Callable[[str], FolderEntries], progress: Callable[[int], None]) -> FolderTree:
    """List everything below a folder.

    Links are followed, except to a folder above, which would be a loop.

    Args:
        root: The folder.
        entries_of: Lists a folder, given as a path below `root`; empty for `root` itself.
        progress: Called with the number of images so far.

    Raises:
        OSError: A folder cannot be listed.
    """
    growing = _Growing(folders=[""])
    # Not by recursion: folders may be nested deeper than Python's calls.
    way = [_Open(0, entries_of(""), os.path.realpath(root))]
    while way:
        here = way[-1]
        if here.next == len(here.entries.rest):
            growing.add(here.number, here.entries.images, here.done, len(here.entries.images))
            progress(growing.listed)
            way.pop()
            continue
        entry = here.entries.rest[here.next]
        # The images whose names sort before this entry come first, as in sorted paths.
        growing.add(here.number, here.entries.images, here.done, entry.before)
        here.next, here.done = here.next + 1, entry.before
        growing.rest.append(TreeEntry(here.number, growing.listed, entry))
        if entry.kind == "folder":
            below = f"{growing.folders[here.number]}/{entry.name}".lstrip("/")
            # A link back to a folder above is in the tree too, as an empty folder: only its content would be endless.
            growing.folders.append(below)
            real = os.path.realpath(os.path.join(root, below))  # noqa: PTH118
            if all(real != above.real for above in way):
                way.append(_Open(len(growing.folders) - 1, entries_of(below), real))
    return growing.tree()


def scan(folder: str, progress: Callable[[int], None]) -> FolderEntries:
    """Read what lies directly in a folder from the disk.

    Args:
        folder: The folder.
        progress: Called now and then with the number of its images so far.

    Raises:
        OSError: It cannot be listed.
    """
    names: list[str] = []
    rest: list[tuple[str, Kind]] = []
    links = False
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries, 1):
            name, kind = entry.name, kind_of(entry)
            links = links or entry.is_symlink()
            if kind == "file" and is_image_name(name) and not name.startswith(".") and not is_system_name(name):
                names.append(name)
            else:
                rest.append((name, kind))
            if number % _OFTEN == 0:
                progress(len(names))
    names.sort()
    found = tuple(FolderEntry(bisect_left(names, name), kind, name) for name, kind in sorted(rest))
    return FolderEntries(plain_column(names), found, links)
