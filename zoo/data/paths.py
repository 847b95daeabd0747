"""Expand the paths that a command is given (files, folders, patterns such as `*.jpg`) to image files."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.errors import DataError
from zoo.specs.data import IMAGE_SUFFIXES


def count_images(arguments: Sequence[Path]) -> int:
    """Count the images that `images_of` yields, in constant memory. Raises DataError for an argument without images."""
    return sum(_count(argument) for argument in arguments)


def images_of(arguments: Sequence[Path]) -> Iterator[Path]:
    """Yield the image files that the arguments mean, argument by argument.

    A file is yielded as it is. A folder stands for all images below it, a pattern (`*`, `?`, `[a-z]`, `**`) for
    everything that it matches, both sorted. Only the names of one folder are in memory at a time.
    """
    for argument in arguments:
        yield from _images(argument)


def _count(argument: Path) -> int:
    count = sum(1 for _ in _images(argument))
    if not count and argument.is_dir():
        raise DataError(f"There are no images in {argument}; they end in {', '.join(IMAGE_SUFFIXES)}.")
    if not count:
        raise DataError(f"No file matches {str(argument)!r}.")
    return count


def _images(argument: Path) -> Iterator[Path]:
    if argument.is_dir():
        yield from map(Path, _below(str(argument)))
    # A file may have a name that looks like a pattern, such as `[1].jpg`.
    elif glob.has_magic(str(argument)) and not os.path.lexists(argument):
        for match in sorted(map(Path, glob.iglob(str(argument), recursive=True))):  # noqa: PTH207 - absolute too
            yield from _images(match) if match.is_dir() else [match]
    else:
        yield argument


def _below(folder: str) -> Iterator[str]:
    """Yield the images below a folder in the order of sorted paths; a folder that cannot be read counts as empty."""
    folders: set[str] = set()
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.add(entry.name)
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES) or not entry.is_file():
                continue
            names.append(entry.name)
    for name in sorted(names):
        path = os.path.join(folder, name)  # noqa: PTH118 - for every file of many
        if name in folders:
            yield from _below(path)
        else:
            yield path
