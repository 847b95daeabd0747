"""Read class folders from the disk: `PATH/train/CLASS/...` with `val/` (and `test/`), or `PATH/CLASS/...`.

What the folders mean is decided in `zoo.data.class_folders`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.dataset import Dataset
from zoo.data.listing import to_unchecked
from zoo.data.paths import hindrance, names_in
from zoo.data.split_folders import LayoutError
from zoo.data.splits import to_dataset
from zoo.errors import DataError, nearest
from zoo.events import Progress, Report, silent
from zoo.specs.data import FOLDER, passed_over

if TYPE_CHECKING:
    from zoo.data.listed_images import ListedImages

_MOMENT = 1.0
"""Seconds of listing after which progress is reported."""
_OFTEN = 0.2
"""Seconds between two reports."""


def read_folder(path: Path, *, seed: int, folds: bool = False) -> Dataset:
    """Read the data set in a folder; every file below `path` is either used or listed as skipped with the reason.

    If there is no `val/`, a fifth of every class in train is drawn for it (stratified, with `seed`). With `folds`
    nothing is drawn, and images in `val/` join those of train.

    Raises:
        DataError: The folder does not exist or has no images, fewer than two classes, an empty class, or a class that
            only train or only another split has (test may lack classes); or its folders can be read in two ways.
    """
    try:
        listing = list_folder(path)
    except LayoutError as error:
        raise DataError(f"{path} {error}") from None
    return to_dataset(to_unchecked(listing, source=str(path), path=path, reader=FOLDER), seed=seed, folds=folds)


def list_folder(path: Path, *, classes: Collection[str] = (), report: Report = silent) -> ListedImages:
    """List the images below a folder with their labels, and every file that is not used.

    Args:
        path: The folder.
        classes: Names of classes that are known already: a folder of such a name is a class.
        report: Called with Progress, where it takes longer than a moment.

    Raises:
        DataError: It does not exist, or a folder in it cannot be listed.
        LayoutError: The folders can be read in two ways.
    """
    # Here and not above, because these import numpy, which telling what a path is does without.
    from zoo.data.folder_columns import read_tree
    from zoo.data.folder_tree import list_tree
    from zoo.data.listing_cache import ListingCache

    if not os.path.isdir(path):
        raise DataError(no_folder_message(path))
    progress = _ListingProgress(report)
    cache = ListingCache(path, progress.inside)
    try:
        tree = list_tree(str(path), cache.entries, progress.so_far)
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: {error.strerror or error}.\nNext: make it readable, or move it elsewhere."
        ) from None
    progress.finish(len(tree.images))
    cache.keep(tree)
    return read_tree(tree, path, classes=classes)


class _ListingProgress:
    """Reports how many images were listed, where that takes longer than a moment."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._due = time.monotonic() + _MOMENT
        self._before = 0
        self._reported = False

    def so_far(self, images: int) -> None:
        """Say how many images were found in all."""
        self._before = images
        self.inside(0)

    def inside(self, images: int) -> None:
        """Say how many images were found in the folder that is being listed."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _OFTEN
            self._reported = True
            self._report(Progress(task="list", done=self._before + images, total=None))

    def finish(self, images: int) -> None:
        """Say that these are all."""
        if self._reported:
            self._report(Progress(task="list", done=images, total=images))


def holds_class_folders(path: Path) -> bool:
    """Whether the folder contains folders that may be classes or splits."""
    try:
        return os.path.isdir(path) and any(_is_class(entry) for entry in path.iterdir())
    except OSError:
        # It may hold some. What cannot be listed is said by the one who lists it.
        return os.path.isdir(path)


def no_folder_message(path: Path, *, reads: Callable[[Path], bool] = os.path.isdir) -> str:
    """The message for a path that is not a folder: a file, behind a closed folder, or nothing; with the nearest name.

    `reads` says whether data at a path could be read, so that what is suggested is accepted.
    """
    if os.path.isfile(path):
        return f"The data {str(path)!r} is a file.\nNext: give the folder that holds one folder per class."
    if why := hindrance(path):
        return (
            f"The data {str(path)!r} cannot be looked at: {why}.\n"
            "Next: check how the path is spelt, and that you may read every folder in it."
        )
    parent = next((folder for folder in path.parents if os.path.isdir(folder)), Path())
    missing, *below = path.relative_to(parent).parts if path.is_relative_to(parent) else (path.name,)
    named_file = bool(path.suffix) and not below
    # The rest of the path is kept where it exists below the nearest name.
    found = {name: parent.joinpath(name, *below) for name in names_in(parent) if passed_over([name]) is None}
    close = nearest(missing, [name for name, whole in found.items() if reads(whole)])
    hint = f" Did you mean {str(found[close[0]])!r}?" if close else ""
    what = "file or folder" if named_file else "folder"
    return f"There is no {what} {str(path)!r}.{hint}\nNext: correct the path; zoo list sources says what can be read."


def _is_class(path: Path) -> bool:
    return os.path.isdir(path) and passed_over([path.name]) is None
