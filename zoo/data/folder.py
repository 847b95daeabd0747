"""Read class folders from the disk: `PATH/train/CLASS/...` with `val/` (and `test/`), or `PATH/CLASS/...`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.data.class_folders import read_class_folders
from zoo.data.dataset import Dataset
from zoo.data.listing import to_unchecked
from zoo.data.split_folders import LayoutError
from zoo.data.splits import to_dataset
from zoo.data.walk import walk
from zoo.errors import DataError, nearest
from zoo.specs.data import FOLDER, ClassFolders, FolderFile, Skipped, is_image_name, passed_over
from zoo.text import printable


def read_folder(path: Path, *, seed: int, folds: bool = False) -> Dataset:
    """Read the data set in a folder; every file below `path` is either used or listed as skipped with the reason.

    If there is no `val/`, a fifth of every class in train is drawn for it (stratified, with `seed`). With `folds`
    nothing is drawn, and images in `val/` join those of train.

    Raises:
        DataError: The folder does not exist or has no images, fewer than two classes, an empty class, or a class that
            only train or only another split has (test may lack classes); or its folders can be read in two ways.
    """
    try:
        listing = read_class_folders(list_folder(path))
    except LayoutError as error:
        raise DataError(f"{path} {error}") from None
    return to_dataset(to_unchecked(listing, source=str(path), path=path, reader=FOLDER), seed=seed, folds=folds)


def list_folder(path: Path) -> ClassFolders:
    """List every file below a folder. Raises DataError if it does not exist, or a folder in it cannot be listed."""
    if not path.is_dir():
        raise DataError(no_folder_message(path))
    files: list[FolderFile] = []
    folders: list[str] = []
    special: list[Skipped] = []
    root = len(path.parts)
    try:
        for found in walk(str(path)):
            file = Path(found.path)
            # The name goes into JSON, digests and messages, so bytes that are not UTF-8 are escaped.
            name = printable("/".join(file.parts[root:]))
            if found.kind == "folder":
                folders.append(name)
            elif found.kind == "special" and is_image_name(name) and passed_over(name.split("/")) is None:
                special.append(Skipped(name, "not an image", "no regular file"))
            else:
                files.append(FolderFile(name, file))
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from None
    return ClassFolders(files=files, folders=folders, skipped=special)


def holds_class_folders(path: Path) -> bool:
    """Whether the folder contains folders that may be classes or splits."""
    try:
        return path.is_dir() and any(_is_class(entry) for entry in path.iterdir())
    except OSError:
        return path.is_dir()


def no_folder_message(path: Path, *, reads: Callable[[Path], bool] = Path.is_dir) -> str:
    """The message for a path that is not a folder: it is a file, or does not exist; with the nearest one that does.

    `reads` says whether data at a path could be read, so that what is suggested is accepted.
    """
    if path.is_file():
        return f"The data {str(path)!r} is a file; give the folder that holds one folder per class."
    parent = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing, *below = path.relative_to(parent).parts if path.is_relative_to(parent) else (path.name,)
    named_file = bool(path.suffix) and not below
    # The rest of the path is kept where it exists below the nearest name.
    found = {entry.name: entry.joinpath(*below) for entry in parent.iterdir() if passed_over([entry.name]) is None}
    close = nearest(missing, [name for name, whole in found.items() if reads(whole)])
    hint = f" Did you mean {str(found[close[0]])!r}?" if close else ""
    return f"There is no {'file or ' if named_file else ''}folder {str(path)!r}.{hint}"


def _is_class(path: Path) -> bool:
    return path.is_dir() and passed_over([path.name]) is None
