"""Where labelled images come from: what a data source is, and what it lists. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from zoo.specs.validation import NAME, check_callables, check_name

Split = Literal["train", "val", "test"]
FOLDER = "folder"
"""The name of the reader of class folders, which is zoo itself and no data source."""
Reason = Literal["hidden", "not an image", "unreadable", "not in a class folder", "no label"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""The extensions that torchvision knows. Animations (.gif) are not single images."""
SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def is_image_name(name: str) -> bool:
    """Whether a file name counts as an image: `.jpg`, `.jpeg`, `.png`, `.webp`, `.bmp`, `.tif`, `.tiff`, `.ppm` or
    `.pgm`, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def split_named(name: str) -> Split | None:
    """The split that a folder name or a table cell means, in any case; None for any other word.

    The words are `train`, `val` (also `valid`, `validation`) and `test`.
    """
    return SPLIT_NAMES.get(name.lower())


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used, with the reason."""

    relative: str
    """The file's name in the data, with forward slashes."""
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in get_args(Reason):
            raise ValueError(f"reason must be one of {get_args(Reason)}, got {self.reason!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceImage:
    """An image that a data source offers. It is opened later, perhaps several times, and never written to disk."""

    name: str
    """A name that no other image has, the same every time, with forward slashes. Reports and digests use it."""
    label: str
    """Name of the image's class."""
    content: Path | Callable[[], bytes]
    """The image's file, or a function that returns the bytes of the encoded image. The function is called in several
    threads at once. An exception that it raises makes this one image unreadable."""
    split: str | None = None
    """A word that `split_named` knows. None: the data have no splits, and val is drawn from train."""

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
    """Everything that a data source found, used or not. The order does not matter: zoo sorts classes and names."""

    images: Iterable[SourceImage]
    skipped: Iterable[Skipped] = ()
    notes: tuple[str, ...] = ()
    """What people should know about how the data were read, a few words each. `zoo plan` prints them."""

    def __post_init__(self) -> None:
        for field, kind in (("images", SourceImage), ("skipped", Skipped)):
            given = tuple(getattr(self, field))
            for each in given:
                if not isinstance(each, kind):
                    raise TypeError(f"{field} must be {kind.__name__} objects, one of them is {type(each).__name__}")
            object.__setattr__(self, field, given)
        if not isinstance(self.notes, tuple) or not all(isinstance(note, str) for note in self.notes):
            raise TypeError(f"notes must be a tuple of strings, got {self.notes!r}")


@dataclass(frozen=True, kw_only=True)
class DataSourceSpec:
    """A way to store labelled images: archives, tables, data sets of another library."""

    name: str
    """The NAME in `--data NAME:PATH`."""
    summary: str
    recognises: Callable[[Path], bool]
    """Whether a path is of this kind. It may be a pattern such as `train-{000..003}.tar`. The answer should be quick,
    and False for what does not exist. A path that zoo reads by itself cannot be taken over."""
    read: Callable[[Path], SourceListing]
    """Lists everything at a path without opening the images. The text of a ValueError or `zoo.DataError` says what is
    wrong with the data, that of an ImportError what is missing; both are shown to the user."""

    def __post_init__(self) -> None:
        check_name("data source", self.name, NAME)
        check_callables(self, "recognises", "read")


def list_class_folders(files: Iterable[tuple[str, Path | Callable[[], bytes]]]) -> SourceListing:
    """List the files of an archive by the rules of class folders, for any source that knows names and contents.

    Files lie in `CLASS/...`, or in `train/CLASS/...` with `val/` (and `test/`). One folder around all of it is ignored.

    Args:
        files: (name with forward slashes, content as in `SourceImage`), for every file.

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
    """The record of a file whose extension is not that of an image."""
    return Skipped(name, "not an image", f"{PurePosixPath(name).suffix or 'no'} extension")


def _hidden(parts: Iterable[str]) -> bool:
    # macOS puts what a zip cannot hold into a folder named __MACOSX.
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _folder_around(names: list[tuple[str, ...]]) -> int:
    """1 where one folder holds everything and the images still lie in folders without it, else 0."""
    images = [parts for parts in names if is_image_name(parts[-1])]
    tops = {parts[0] for parts in names if len(parts) > 1} | {"" for parts in names if len(parts) == 1}
    if len(tops) != 1 or "" in tops or split_named(next(iter(tops))):
        return 0
    return 1 if images and all(len(parts) > 2 for parts in images) else 0


def _split_folders(names: list[tuple[str, ...]]) -> dict[str, Split]:
    """Folder -> the split that it is. Without `train/`, only folders of folders count: `valid/` may be a class."""
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
