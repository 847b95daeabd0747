"""Walk through a folder, in one way for training, checking and prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zoo.specs.data import passed_over
from zoo.storage.passing_faults import cause_of

Kind = Literal["file", "folder", "special"]
"""What a name stands for. `special` is a pipe, socket or device: reading it could block forever."""


@dataclass(frozen=True, slots=True)
class Walked:
    """A file or folder below the one that is walked through."""

    path: str
    kind: Kind


def walk(folder: str, *, everything: bool = True) -> Iterator[Walked]:
    """Yield what is below a folder, in the order of sorted paths. A folder comes before what it holds.

    Links are followed, except to a folder above, which would be a loop. A link to nothing is a file: it cannot be read,
    and what reads it says so. Only the names of the folders on the way are in memory.

    Args:
        folder: The folder; its own name may be anything.
        everything: Also yield what zoo passes over: hidden files and system files, see `passed_over`.

    Raises:
        OSError: A folder cannot be listed.
    """
    # Not by recursion: folders may be nested deeper than Python's calls.
    open_folders = [_entries(folder, everything=everything)]
    above = [os.path.realpath(folder)]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
            above.pop()
            continue
        yield found
        if found.kind == "folder" and (real := os.path.realpath(found.path)) not in above:
            open_folders.append(_entries(found.path, everything=everything))
            above.append(real)


def _entries(folder: str, *, everything: bool) -> Iterator[Walked]:
    with os.scandir(folder) as entries:
        kinds = {entry.name: kind_of(entry) for entry in entries if everything or passed_over([entry.name]) is None}
    for name in sorted(kinds):
        yield Walked(os.path.join(folder, name), kinds[name])  # noqa: PTH118 - for every file of many


def kind_of(entry: os.DirEntry[str]) -> Kind:
    """What an entry of a folder is; a link is what it leads to, and a link to nothing is a file.

    Raises OSError where the system cannot say it now.
    """
    try:
        if entry.is_dir():
            return "folder"
    except OSError as error:
        # It may be the folder of a class, and as a file it would be passed over.
        if cause_of(error) == "passing":
            raise
        return "file"  # a link to itself, which is a link to nothing
    return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else "special"
