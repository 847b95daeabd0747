"""Read class folders: `PATH/train/CLASS/...` with `val/` (and `test/`), or one `PATH/CLASS/...` that is split here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from zoo.data.dataset import Dataset
from zoo.data.splits import SourceFile, UncheckedData, choose_evaluation_split, evaluation_split, to_dataset
from zoo.errors import DataError, nearest
from zoo.specs.data import SPLIT_NAMES, Skipped, Split, is_image_name, not_an_image
from zoo.text import printable


def read_folder(path: Path, *, seed: int) -> Dataset:
    """Read the data set in a folder; every file below `path` is either used or listed as skipped with the reason.

    If there is no `val/`, a fifth of every class in train is drawn for it (stratified, with `seed`).

    Raises:
        DataError: The folder does not exist or has no images, fewer than two classes, an empty class, or a class that
            only train or only another split has (test may lack classes).
    """
    return to_dataset(read_tree(path), seed=seed)


def read_tree(path: Path) -> UncheckedData:
    """List every file below `path`. Classes and splits are not checked yet.

    Raises DataError if the folder does not exist or a folder cannot be listed, for split folders without `train/`, and
    for two folders of one split.
    """
    with _clear_errors(path):
        return _read_tree(path)


def read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The images to evaluate a trained classifier on: (name of the split, data set with that one split).

    The split is `test/`, else `val/`, else the whole folder (`all`). Labels are mapped by name to `classes`. Raises
    DataError for a class that the classifier does not know.
    """
    with _clear_errors(path):
        return _read_labelled(path, classes)


def holds_class_folders(path: Path) -> bool:
    """Whether the folder contains folders that are not hidden and so may be classes or splits."""
    try:
        return path.is_dir() and any(_is_class(entry) for entry in path.iterdir())
    except OSError:
        return path.is_dir()


def _read_tree(path: Path) -> UncheckedData:
    folders = _split_folders(path)
    skipped: list[Skipped] = []
    if "train" in folders:
        splits = {split: _by_class(folder, path, skipped) for split, folder in folders.items()}
        skipped += _beside(path, set(folders.values()))
    elif folders:
        names = " and ".join(f"{folder.name}/" for folder in folders.values())
        raise DataError(f"{path} has {names} but no train/. Rename the folder to train on to 'train'.")
    else:
        splits = {"train": _by_class(path, path, skipped)}
    return _unchecked(path, folders, splits, skipped)


def _read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    folders = _split_folders(path)
    chosen = choose_evaluation_split(folders)
    # Scores on the training images would look far better than they are, so train/ is used only if it is asked for.
    if chosen is None and "train" in folders:
        raise DataError(
            f"{path} has train/ but neither test/ nor val/ to evaluate a classifier on.\n"
            f"Next: to evaluate it on the images of train/, give {str(folders['train'])!r}."
        )
    skipped: list[Skipped] = []
    by_class = _by_class(folders[chosen] if chosen else path, path, skipped)
    return evaluation_split(_unchecked(path, folders, {chosen or "train": by_class}, skipped), classes)


def _unchecked(
    path: Path,
    folders: dict[Split, Path],
    splits: dict[Split, dict[str, list[SourceFile]]],
    skipped: list[Skipped],
) -> UncheckedData:
    names = {split: f"{folder.name}/" for split, folder in folders.items()}
    return UncheckedData(source=str(path), path=path, split_names=names, splits=splits, skipped=tuple(skipped))


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turn a missing folder, and the system's errors about files and folders below it, into DataError."""
    try:
        if not path.is_dir():
            raise DataError(no_folder_message(path))
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from None


def no_folder_message(path: Path) -> str:
    """The message for a path that is not a folder: it is a file, or does not exist; with the nearest existing name."""
    if path.is_file():
        return f"The data {str(path)!r} is a file; give the folder that holds one folder per class."
    parent = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    named_file = bool(path.suffix) and missing == path.name
    names = [entry.name for entry in parent.iterdir() if _is_class(entry) or (named_file and entry.is_file())]
    close = nearest(missing, names)
    hint = f" Did you mean {str(parent / close[0])!r}?" if close else ""
    return f"There is no {'file or ' if named_file else ''}folder {str(path)!r}.{hint}"


def _split_folders(path: Path) -> dict[Split, Path]:
    folders: dict[Split, Path] = {}
    for folder in sorted(path.iterdir()):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None or not folder.is_dir():
            continue
        if split in folders:
            raise DataError(f"{path} has two {split} folders: {folders[split].name} and {folder.name}. Keep one.")
        folders[split] = folder
    if "train" in folders:
        return folders
    # Without train/, `valid/` and `invalid/` may be classes: only a folder that contains folders is a split.
    return {split: folder for split, folder in folders.items() if any(_is_class(entry) for entry in folder.iterdir())}


def _by_class(folder: Path, root: Path, skipped: list[Skipped]) -> dict[str, list[SourceFile]]:
    by_class: dict[str, list[SourceFile]] = {}
    for entry in sorted(folder.iterdir()):
        if not _is_class(entry):
            skipped += _outside(entry, root)
            continue
        images = by_class.setdefault(printable(entry.name), [])
        for file in _files(entry):
            relative = _relative(file, root)
            if _hidden(file, entry):
                skipped.append(Skipped(relative, "hidden"))
            elif not is_image_name(file.suffix):
                skipped.append(not_an_image(relative))
            elif file.exists() and not file.is_file():  # reading a pipe would block forever
                skipped.append(Skipped(relative, "not an image", "no regular file"))
            else:
                images.append(SourceFile(file, relative))
    return by_class


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield every file below in order. Links are followed, except to a folder above, which would be a loop."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            yield from _files(Path(entry.path), (*above, real))
        else:
            yield Path(entry.path)


def _beside(path: Path, split_folders: set[Path]) -> list[Skipped]:
    entries = [entry for entry in sorted(path.iterdir()) if entry not in split_folders]
    return [skipped for entry in entries for skipped in _outside(entry, path)]


def _outside(path: Path, root: Path) -> list[Skipped]:
    """List as skipped what lies where a class folder should be: a file, or a folder with everything below it."""
    return [
        Skipped(_relative(file, root), "hidden" if _hidden(file, path.parent) else "not in a class folder")
        for file in (_files(path) if path.is_dir() else [path])
    ]


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _relative(file: Path, root: Path) -> str:
    # The name goes into JSON, digests and messages, so bytes that are not UTF-8 are escaped.
    return printable(file.relative_to(root).as_posix())
