"""Expand the paths that a command is given (files, folders, patterns such as `*.jpg`) to image files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.unused import UnusedFiles
from zoo.data.walk import Walked, walk
from zoo.errors import DataError
from zoo.specs.data import IMAGE_SUFFIXES, Skipped, is_image_name, is_system_name, not_an_image, passed_over
from zoo.text import counted, printable


@dataclass(frozen=True, slots=True)
class ImageCount:
    """How many images the arguments of a command stand for."""

    images: int
    hidden: int
    """Images in folders that were given, which are passed over because a name begins with a dot."""
    again: int = 0
    """Images that were named more than once, such as by a pattern and by their folder; they count once."""
    unused: UnusedFiles = field(default_factory=UnusedFiles)
    """Other files in folders that were given."""

    def passed_over(self) -> Iterator[str]:
        """Sentences about what is not used, each with the next step."""
        if self.hidden:
            hidden = counted(self.hidden, "hidden image")
            yield f"{hidden} not used: a name begins with a dot. Next: to use them, give their own paths."
        if sentence := self.unused.sentence():
            yield f"{sentence} Next: if they are pictures, give their own paths."


def count_images(
    arguments: Sequence[Path], *, name_all: bool = False, given: frozenset[str] = frozenset()
) -> ImageCount:
    """Count the images that `images_of` yields, in constant memory unless all files that are not used are to be named.

    `given` are absolute paths that are used as well.

    Raises DataError for an argument without images, and for a folder that cannot be listed.
    """
    unused = UnusedFiles(most=None) if name_all else UnusedFiles()
    unused.used = files_among(arguments) | given
    named = _Named()
    counts = [_count(argument, unused, named) for argument in arguments]
    images, hidden, again = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    return ImageCount(images, hidden, again, unused)


def images_of(arguments: Sequence[Path], *, unused: Callable[[Skipped], None] = lambda file: None) -> Iterator[Path]:
    """Yield the image files that the arguments mean, argument by argument.

    A file is yielded as it is. A folder stands for all images below it but for those that are passed over in training,
    too. A pattern (`*`, `?`, `[a-z]`, `**`) stands for everything that it matches. Both come sorted. A file that is
    meant several times is yielded once, in the first place.
    `unused` is called with the files of folders that are no images by their names, as they are passed.
    """
    named = _Named()
    for argument in arguments:
        for given in _expanded(argument):
            if os.path.isdir(given):
                found = _below(given, named.new_to(unused), everything=False)
                yield from (Path(path) for path in found if not named.again(path))
            elif not named.again(given):
                yield given
            named.add(given)


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


class _Named:
    """What was named so far. It grows with the files and folders that were named, and not with what lies in these."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, given: Path) -> None:
        """Note a file or a folder, of which all was taken."""
        (self._folders if os.path.isdir(given) else self._files).add(os.path.abspath(given))  # noqa: PTH100

    def again(self, path: Path | str) -> bool:
        """Whether a file was named, or a folder that stands for it."""
        if not self._files and not self._folders:
            return False
        whole = os.path.abspath(path)  # noqa: PTH100 - links stay what they are
        return whole in self._files or (is_image_name(whole) and self._passed(whole))

    def new_to(self, unused: Callable[[Skipped], None]) -> Callable[[Skipped], None]:
        """Return `unused` without the files below folders that were named: it was called with these already."""

        def add(file: Skipped) -> None:
            if not self._folders or not self._passed(os.path.abspath(file.relative)):  # noqa: PTH100
                unused(file)

        return add

    def _passed(self, path: str) -> bool:
        """Whether a file lies below a folder that was named, and is not passed over there."""
        folder = path
        while self._folders and (above := os.path.dirname(folder)) != folder:  # noqa: PTH120
            folder = above
            if folder in self._folders and passed_over(Path(path).relative_to(folder).parts) is None:
                return True
        return False


def _count(argument: Path, unused: UnusedFiles, named: _Named) -> tuple[int, int, int]:
    """(images, hidden ones, images that were named before) of an argument."""
    images = hidden = again = 0
    for given in _expanded(argument):
        if os.path.isdir(given):
            root = len(given.parts)
            for path in _below(given, named.new_to(unused.add), everything=True):
                parts = Path(path).parts[root:]
                if passed_over(parts) is not None:
                    hidden += passed_over(parts) == "hidden" and not any(map(is_system_name, parts))
                elif named.again(path):
                    again += 1
                else:
                    images += 1
        elif named.again(given):
            again += 1
        else:
            images += 1
        named.add(given)
    if images or again:
        return images, hidden, again
    if os.path.isdir(argument):
        but = f" but {hidden:,} hidden by a dot at the beginning of a name" if hidden else ""
        step = "give their own paths" if hidden else "give a folder or a file with images"
        raise DataError(
            f"There are no images in {argument}{but}; they end in {', '.join(IMAGE_SUFFIXES)}.\nNext: {step}."
        )
    if why := hindrance(argument):
        raise DataError(
            f"{str(argument)!r} cannot be looked at: {why}.\nNext: make it readable, with every folder above it."
        )
    # Only a pattern: of a path it shows when its image is read.
    raise DataError(
        f"No file matches {str(argument)!r}.\nNext: correct the pattern, or give a folder, for all images in it."
    )


def files_among(arguments: Sequence[Path]) -> frozenset[str]:
    """The absolute paths, as text, of what the arguments name or match beside folders, such as `photos/one.gif`.

    It may have any name. Patterns that match names of images alone are left out, for these may match millions.
    """
    asked = (each for each in arguments if not (glob.has_magic(str(each)) and is_image_name(each.name)))
    given = (each for argument in asked for each in _expanded(argument))
    return frozenset(printable(os.path.abspath(each)) for each in given if not os.path.isdir(each))  # noqa: PTH100


def _skipped(found: Walked, *, below: Path) -> Skipped | None:
    """The record of a file or pipe that is no image, under the path as given; None for what is passed over."""
    if passed_over(Path(found.path).relative_to(below).parts) is not None:
        return None
    name = printable(Path(found.path).as_posix())
    return Skipped(name, "not an image", "no regular file") if is_image_name(name) else not_an_image(name)


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


def _below(folder: Path, unused: Callable[[Skipped], None], *, everything: bool) -> Iterator[str]:
    """Yield the images below a folder in the order of sorted paths; call `unused` with each other file."""
    try:
        for found in walk(str(folder), everything=everything):
            if found.kind == "file" and is_image_name(found.path):
                yield found.path
            elif found.kind != "folder" and (skipped := _skipped(found, below=folder)) is not None:
                unused(skipped)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror or error}.\n"
            "Next: make the folder readable, or name the images themselves."
        ) from None
