"""Expand the paths that a command is given (files, folders, patterns such as `*.jpg`) to image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.walk import walk
from zoo.errors import DataError
from zoo.specs.data import IMAGE_SUFFIXES, is_image_name, is_system_name, passed_over


@dataclass(frozen=True, slots=True)
class ImageCount:
    """How many images the arguments of a command stand for."""

    images: int
    hidden: int
    """Images in folders that were given, which are passed over because a name begins with a dot."""


def count_images(arguments: Sequence[Path]) -> ImageCount:
    """Count the images that `images_of` yields, in constant memory.

    Raises DataError for an argument without images, and for a folder that cannot be listed.
    """
    counts = [_count(argument) for argument in arguments]
    return ImageCount(sum(count.images for count in counts), sum(count.hidden for count in counts))


def images_of(arguments: Sequence[Path]) -> Iterator[Path]:
    """Yield the image files that the arguments mean, argument by argument.

    A file is yielded as it is. A folder stands for all images below it but for those that are passed over in training,
    too. A pattern (`*`, `?`, `[a-z]`, `**`) stands for everything that it matches. Both come sorted.
    """
    for argument in arguments:
        for given in _expanded(argument):
            if os.path.isdir(given):
                yield from map(Path, _below(given, everything=False))
            else:
                yield given


def hindrance(path: Path) -> str | None:
    """What keeps from telling whether a path exists, such as a closed folder above it; None if nothing does."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    return None


def names_in(folder: Path) -> list[str]:
    """The names in a folder, to find the one that was meant; none where it cannot be listed."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _count(argument: Path) -> ImageCount:
    images = hidden = 0
    for given in _expanded(argument):
        if not os.path.isdir(given):
            images += 1
            continue
        root = len(given.parts)
        for path in _below(given, everything=True):
            parts = Path(path).parts[root:]
            images += passed_over(parts) is None
            hidden += passed_over(parts) == "hidden" and not any(map(is_system_name, parts))
    if images:
        return ImageCount(images, hidden)
    if os.path.isdir(argument):
        but = f" but {hidden:,} hidden by a dot at the beginning of a name" if hidden else ""
        raise DataError(f"There are no images in {argument}{but}; they end in {', '.join(IMAGE_SUFFIXES)}.")
    if why := hindrance(argument):
        raise DataError(f"{str(argument)!r} cannot be looked at: {why}.")
    raise DataError(f"No file matches {str(argument)!r}.")


def _expanded(argument: Path) -> Iterator[Path]:
    # A file may have a name that looks like a pattern, such as `[1].jpg`.
    if glob.has_magic(str(argument)) and not os.path.lexists(argument):
        fixed = next(at for at, part in enumerate(argument.parts) if glob.has_magic(part))
        for found in sorted(map(Path, glob.iglob(str(argument), recursive=True))):  # noqa: PTH207 - absolute too
            # A part that the pattern spells out is asked for, such as `.cache/*.jpg`.
            matched = [part for part in found.parts[fixed:] if part not in argument.parts]
            if passed_over(matched) is None:
                yield found
    else:
        yield argument


def _below(folder: Path, *, everything: bool) -> Iterator[str]:
    """Yield the images below a folder in the order of sorted paths."""
    try:
        for found in walk(str(folder), everything=everything):
            if found.kind == "file" and is_image_name(found.path):
                yield found.path
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror or error}.\n"
            "Next: make the folder readable, or name the images themselves."
        ) from None
