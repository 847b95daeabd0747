"""Where labelled images come from: what a data source is, and what it lists. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, get_args

from zoo.specs.validation import NAME, check_callables, check_name

Split = Literal["train", "val", "test"]
FOLDER = "folder"
"""The name of the reader of class folders, which is zoo itself and no data source."""
Reason = Literal["hidden", "system file", "not an image", "unreadable", "not in a class folder", "no label"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""The extensions that torchvision knows. Animations (.gif) are not single images."""
SPLIT_WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words for each split: those of ImageFolder in Hugging Face datasets."""
SPLIT_NAMES: dict[str, Split] = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_BETWEEN_WORDS = re.compile(r"[-._ 0-9]+|(?<=[a-z])(?=[A-Z])")
_SYSTEM_NAMES = frozenset(
    name.casefold()
    for name in (
        "__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information",
        "lost+found", "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "__pycache__", ".DS_Store",
        ".Trashes", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".AppleDouble", ".ipynb_checkpoints",
        ".@__thumb", ".git",
    )
)  # fmt: skip
"""What Windows, macOS, Linux, Synology, QNAP, Jupyter and Python put beside people's files."""


def is_image_name(name: str) -> bool:
    """Whether a file name counts as an image: `.jpg`, `.jpeg`, `.png`, `.webp`, `.bmp`, `.tif`, `.tiff`, `.ppm` or
    `.pgm`, in any case."""
    # By the name alone: listing a million files must not open any, and what is no image shows when it is opened.
    return name.lower().endswith(IMAGE_SUFFIXES)


def split_named(name: str) -> Split | None:
    """The split that a folder name or a table cell means: `train`, `val` or `test`; None for any other name.

    The words are `train`, `training`; `val`, `valid`, `validation`, `dev`; `test`, `testing`, `eval`, `evaluation`, in
    any case, also between `-`, `_`, `.`, spaces, digits and capitals (`seg_train`, `Valid-Set`, `TrainData`). A name
    with words of two splits, such as `train_val`, means none.
    """
    splits = {SPLIT_NAMES[word] for word in map(str.lower, _BETWEEN_WORDS.split(name)) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name was made by an operating system, a NAS or a tool, not by a person."""
    # `._name`: what macOS writes beside a file on the disk of another system.
    return name.casefold() in _SYSTEM_NAMES or name.startswith("._")


def passed_over(parts: Iterable[str]) -> Reason | None:
    """Why zoo passes over a file with this path, given as its folders and its name; None if it does not.

    A name that begins with a dot is `hidden`, one of the list of system files is a `system file`.
    """
    names = tuple(parts)
    if any(name.startswith(".") for name in names):
        return "hidden"
    return "system file" if any(is_system_name(name) for name in names) else None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used, with the reason."""

    relative: str
    """The file's name in the data, with forward slashes."""
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        # `zoo data check` has words for each of these reasons, and none for another.
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
    threads at once. An exception that it raises makes this one image unreadable. Where it has an attribute `place`, a
    tuple that grows as the bytes lie (a file, an offset, 0), images are read in that order where any order will do."""
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


@dataclass(frozen=True, slots=True)
class EmptyClass:
    """A class that exists but has no image, or a split without any."""

    label: str
    """Name of the class; empty for a split that has no class."""
    split: str | None = None
    """A word that `split_named` knows; None if the data have no splits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceListing:
    """Everything that a data source found, used or not. The order does not matter: zoo sorts classes and names."""

    images: Iterable[SourceImage]
    skipped: Iterable[Skipped] = ()
    notes: tuple[str, ...] = ()
    """What people should know about how the data were read, a few words each. `zoo plan` prints them."""
    empty: Iterable[EmptyClass] = ()
    """Classes and splits without images, which zoo refuses where they would be needed."""

    def __post_init__(self) -> None:
        for field, kind in (("images", SourceImage), ("skipped", Skipped), ("empty", EmptyClass)):
            given = tuple(getattr(self, field))
            for each in given:
                if not isinstance(each, kind):
                    raise TypeError(f"{field} must be {kind.__name__} objects, one of them is {type(each).__name__}")
            # Kept as a tuple, as a generator could be read only once; by this call, as the record is frozen.
            object.__setattr__(self, field, given)
        if not isinstance(self.notes, tuple) or not all(isinstance(note, str) for note in self.notes):
            raise TypeError(f"notes must be a tuple of strings, got {self.notes!r}")


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file in class folders, an image or not."""

    name: str
    """A name that no other file has, with forward slashes. Reports and digests use it."""
    content: Path | Callable[[], bytes]
    """As in `SourceImage`."""
    place: str = ""
    """The path that says label and split, where the name says more, such as the shard it is in. Empty: the name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders:
    """Files in class folders, with or without folders for splits. zoo reads labels and splits from the folders.

    The rules are those of docs/data.md, and are applied once, to all files together.
    """

    files: Iterable[FolderFile]
    folders: Iterable[str] = ()
    """Paths of folders that hold no file, if the source knows them."""
    skipped: Iterable[Skipped] = ()
    """Further files, which are in no class folder by their kind."""
    notes: tuple[str, ...] = ()
    """As in `SourceListing`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        for file in self.files:
            if not isinstance(file, FolderFile):
                raise TypeError(f"files must be FolderFile objects, one of them is {type(file).__name__}")


@dataclass(frozen=True, kw_only=True)
class DataSourceSpec:
    """A way to store labelled images: archives, tables, data sets of another library."""

    name: str
    """The NAME in `--data NAME:PATH`."""
    summary: str
    recognises: Callable[[Path], bool]
    """Whether a path is of this kind. It may be a pattern such as `train-{000..003}.tar`. The answer should be quick,
    and False for what does not exist. A path that zoo reads by itself cannot be taken over."""
    read: Callable[[Path], SourceListing | ClassFolders]
    """Lists everything at a path without opening the images: images with labels, or files in class folders. The text
    of a ValueError or `zoo.DataError` says what is wrong with the data, that of an ImportError what is missing; both
    are shown to the user."""

    def __post_init__(self) -> None:
        check_name("data source", self.name, NAME)
        check_callables(self, "recognises", "read")


@dataclass(frozen=True, slots=True)
class TableData:
    """A table of pandas, polars or Hugging Face datasets, and which of its columns hold what."""

    frame: ItemsByIndex
    """The table."""
    image: str | None = None
    """The column of images: paths, bytes, PIL images or arrays. Default: `image`, else `path` or `file_name`; of a
    Hugging Face data set, the one of type Image."""
    label: str | None = None
    """The column of labels: texts or whole numbers. Default: `label`; of a Hugging Face data set, the ClassLabel."""
    split: str | None = None
    """The column of splits: `train`, `val`, `test`. Default: `split`, where there is one."""


class ItemsByIndex(Protocol):
    """An object with a length and items: a table, a list, a data set, a dictionary of them by split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


DataLike = str | Path | TableData | ItemsByIndex
"""What `data` may be: a path, or an object in memory (docs/data.md)."""


def not_an_image(name: str) -> Skipped:
    """The record of a file whose extension is not that of an image."""
    return Skipped(name, "not an image", f"{PurePosixPath(name).suffix or 'no'} extension")
