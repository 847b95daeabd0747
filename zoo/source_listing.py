"""What a data source lists: images with labels, and every file that is not used with the reason. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
Reason = Literal["hidden", "not an image", "unreadable", "not in a class folder", "no label"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""torchvision's list; animations (.gif) are not single images."""
SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: `.jpg`, `.jpeg`, `.png`, `.webp`, `.bmp`, `.tif`, `.tiff`,
    `.ppm` or `.pgm`, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def split_named(name: str) -> Split | None:
    """The split that a folder or a cell of a table means: `train`, `val` (also `valid`, `validation`) or `test`, in any
    case; None for any other word."""
    return SPLIT_NAMES.get(name.lower())


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used, and why."""

    relative: str
    """Its name in the data, with forward slashes."""
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in get_args(Reason):
            raise ValueError(f"reason must be one of {get_args(Reason)}, got {self.reason!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """An image that a data source offers. It is opened later, more than once, and never written to the disk."""

    name: str
    """Tells it from all others, the same every time, with forward slashes: reports and digests use it."""
    label: str
    """Its class, by name."""
    content: Path | Callable[[], bytes]
    """Its file; or what reads the bytes of the encoded image, called in several threads at once. What that raises is
    said of this image alone, which counts as unreadable."""
    split: str | None = None
    """A word that `split_named` knows; None where the data have no splits: then val is drawn from train."""

    def __post_init__(self) -> None:
        for field in ("name", "label"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{field} must be a text that is not empty, got {value!r}")
        if not isinstance(self.content, Path) and not callable(self.content):
            raise TypeError(f"content of {self.name!r} must be a Path or callable, got {self.content!r}")
        if self.split is not None and not isinstance(self.split, str):
            raise TypeError(f"split of {self.name!r} must be a text or None, got {self.split!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceListing:
    """Everything that a data source found, used or not. Order does not matter: zoo sorts classes and names."""

    images: Iterable[SourceImage]
    skipped: Iterable[Skipped] = ()
    notes: tuple[str, ...] = ()
    """What people should know of how it was read, a few words each; `zoo plan` prints them."""

    def __post_init__(self) -> None:
        for field, kind in (("images", SourceImage), ("skipped", Skipped)):
            given = tuple(getattr(self, field))
            for each in given:
                if not isinstance(each, kind):
                    raise TypeError(f"{field} must be {kind.__name__} objects, one of them is {type(each).__name__}")
            object.__setattr__(self, field, given)
        if not isinstance(self.notes, tuple) or not all(isinstance(note, str) for note in self.notes):
            raise TypeError(f"notes must be a tuple of strings, got {self.notes!r}")


def list_class_folders(files: Iterable[tuple[str, Path | Callable[[], bytes]]]) -> SourceListing:
    """Files of an archive by the rules of class folders, for any source that knows names and contents.

    `CLASS/...`, or `train/CLASS/...` with `val/` (and `test/`); one folder around all of it is looked through.

    Args:
        files: (name with forward slashes, content as in `SourceImage`) of every file.

    Raises:
        ValueError: Two folders of one split, such as `val/` and `valid/`.
    """
    found = [(name, PurePosixPath(name).parts, content) for name, content in files]
    shown = [parts for _, parts, _ in found if not _hidden(parts)]
    above = _folder_around(shown)
    splits = _split_folders([parts[above:] for parts in shown])
    images: list[SourceImage] = []
    skipped: list[Skipped] = []
    for name, whole, content in found:
        if _hidden(whole):
            skipped.append(Skipped(name, "hidden"))
            continue
        parts = whole[above:]
        split = splits.get(parts[0]) if splits else None
        below = parts[1:] if split else parts
        if (splits and not split) or len(below) < 2:
            skipped.append(Skipped(name, "not in a class folder"))
        elif not is_image_name(name):
            skipped.append(not_an_image(name))
        else:
            images.append(SourceImage(name=name, label=below[0], content=content, split=split))
    return SourceListing(images=images, skipped=skipped)


def not_an_image(name: str) -> Skipped:
    """A file whose extension is none of an image."""
    return Skipped(name, "not an image", f"{PurePosixPath(name).suffix or 'no'} extension")


def _hidden(parts: Iterable[str]) -> bool:
    # macOS puts what a zip cannot hold into a folder of that name.
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _folder_around(names: list[tuple[str, ...]]) -> int:
    """1 where one folder holds everything and the images still lie in folders without it, else 0."""
    images = [parts for parts in names if is_image_name(parts[-1])]
    tops = {parts[0] for parts in names if len(parts) > 1} | {"" for parts in names if len(parts) == 1}
    if len(tops) != 1 or "" in tops or split_named(next(iter(tops))):
        return 0
    return 1 if images and all(len(parts) > 2 for parts in images) else 0


def _split_folders(names: list[tuple[str, ...]]) -> dict[str, Split]:
    """Folders that are splits; without `train/`, only what holds folders: `valid/` and `invalid/` may be classes."""
    folders = {parts[0] for parts in names if len(parts) > 1}
    found = {folder: split for folder in sorted(folders) if (split := split_named(folder)) is not None}
    if "train" not in found.values():
        deep = {parts[0] for parts in names if len(parts) > 2}
        found = {folder: split for folder, split in found.items() if folder in deep}
    for split in found.values():
        twice = [folder for folder, of in found.items() if of == split]
        if len(twice) > 1:
            raise ValueError(f"It has two {split} folders: {twice[0]} and {twice[1]}. Keep one.")
    return found
