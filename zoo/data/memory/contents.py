"""What an image in a table, a list or a data set may be, and how its bytes are read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.memory.pictures import described, encode, fault_of, is_picture
from zoo.data.paths import hindrance, names_in
from zoo.errors import DataError, nearest
from zoo.specs.data import is_image_name
from zoo.text import counted

KINDS = "a path, the bytes of an image file, a PIL image, or an array uint8[H, W, 3]"
"""What an image may be, in words."""
Content = Path | Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the data, which is opened later, with its label."""

    content: Content
    label: str
    position: str
    """Its name where it has no path, the same every time: its place in the data."""
    split: str | None = None
    key: str | None = None
    """The split that all of its table, list or data set is."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Reads an image from where it is held, and gives the bytes of an image file. Nothing is kept."""

    read: Callable[[int], Any]
    index: int

    def __call__(self) -> bytes:
        value = self.read(self.index)
        if isinstance(value, Mapping):
            value = value.get("bytes")
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        return encode(value)


def content_of(value: Any, read: Callable[[int], Any], index: int, *, data: str, where: str) -> Content:
    """The file of an image that is a path; else a function that reads it again from where it is held.

    Args:
        value: The image as it is held: see `KINDS`, or `{"bytes": ..., "path": ...}` as Hugging Face stores it.
        read: Gives the same image again by its index.
        index: Its index.
        data: The data as people call them, for messages.
        where: Names the row.

    Raises:
        DataError: It is nothing that can be an image.
    """
    if isinstance(value, Mapping) and "bytes" in value:
        held = value["bytes"] if value["bytes"] is not None else value.get("path")
        return content_of(held, read, index, data=data, where=where)
    if isinstance(value, (str, os.PathLike)):
        # Relative paths mean the working directory of this call, wherever the process goes later.
        return Path(os.path.abspath(Path(os.fspath(value)).expanduser()))  # noqa: PTH100 - resolves no links
    if isinstance(value, (bytes, bytearray, memoryview)):
        if not len(value):
            raise DataError(
                f"{data}: the image of {where} has no bytes.\nNext: read its file again, which may be empty."
            )
        return Cell(read, index)
    if is_picture(value):
        if fault := fault_of(value):
            raise DataError(f"{data}: the image of {where} {fault}")
        return Cell(read, index)
    raise DataError(f"{data}: the image of {where} is {described(value)}.\nNext: an image is {KINDS}.")


def refuse_missing_files(items: Sequence[Item], where: Callable[[int], str], data: str) -> None:
    """Raise DataError, naming the first and what is near it, if paths lead to no file."""
    missing = [(index, item.content) for index, item in enumerate(items) if isinstance(item.content, Path)]
    missing = [(index, path) for index, path in missing if not os.path.isfile(path)]
    if not missing:
        return
    index, path = missing[0]
    if os.path.isdir(path):
        raise DataError(
            f"{data}: the image of {where(index)} is a folder, {str(path)!r}.\n"
            "Next: name the images in it one by one, or give the folder of class folders itself as the data."
        )
    if why := hindrance(path):
        raise DataError(
            f"{data}: the file {str(path)!r} ({where(index)}) cannot be looked at: {why}.\n"
            "Next: make it readable, with every folder above it."
        )
    others = f", and {counted(len(missing) - 1, 'other path')} that lead to none" if len(missing) > 1 else ""
    raise DataError(
        f"{data}: there is no file {str(path)!r} ({where(index)}){others}.{_hint(path)}\n"
        f"Next: correct the paths; those that are relative begin at the working directory, {Path.cwd()}."
    )


def looks_like_path(value: Any) -> bool:
    """Whether a value names an image: a path object, or a text with the extension of an image."""
    return isinstance(value, os.PathLike) or (isinstance(value, str) and is_image_name(value))


def shared_folder(items: Iterable[Item]) -> Path | None:
    """The deepest folder that holds all files of the items; None where there is no file, or no such folder."""
    folders = {item.content.parent for item in items if isinstance(item.content, Path)}
    try:
        return Path(os.path.commonpath(folders)) if folders else None
    except ValueError:  # on several drives
        return None


def _hint(path: Path) -> str:
    """Ask whether the nearest name was meant; the rest of the path is kept where it exists below that."""
    there = next(folder for folder in path.parents if os.path.isdir(folder))
    missing, *below = path.relative_to(there).parts
    for name in nearest(missing, names_in(there)):
        if os.path.isfile(found := there.joinpath(name, *below)):
            return f" Did you mean {str(found)!r}?"
    return ""
