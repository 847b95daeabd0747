"""Class-per-folder trees: `PATH/train/CLASS/...` with `val/` (and `test/`), or one `PATH/CLASS/...`, split here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from zoo.data.dataset import Dataset
from zoo.data.found import Found, FoundFile, dataset_of, judged_of, preferred
from zoo.errors import DataError, nearest
from zoo.printable import printable
from zoo.source_listing import SPLIT_NAMES, Skipped, Split, is_image_name, not_an_image


def read_folder(path: Path, *, seed: int) -> Dataset:
    """Find the images below `path` and account for every file.

    `val` is drawn from train (stratified, seeded, a fifth of every class) where there is none.

    Raises:
        DataError: No such folder, no images, fewer than two classes, an empty class, a class that a split lacks, or
            that only another split has.
    """
    return dataset_of(read_tree(path), seed=seed)


def read_tree(path: Path) -> Found:
    """Find every file below `path`, whatever is wrong with classes and splits.

    Raises DataError: no such folder, split folders without `train`, a split twice, a folder that cannot be listed.
    """
    with _clear_errors(path):
        return _read_tree(path)


def read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The images to judge a finished classifier on -> (which split, data set with that one split).

    `test/` where there is one, else `val/`, else the whole folder (`all`). Labels are mapped by name to `classes`.
    Raises DataError for a class that the classifier does not know.
    """
    with _clear_errors(path):
        return _read_labelled(path, classes)


def holds_class_folders(path: Path) -> bool:
    """Whether a folder holds folders that are not hidden, as class folders or splits do."""
    try:
        return path.is_dir() and any(_is_class(each) for each in path.iterdir())
    except OSError:
        return path.is_dir()


def _read_tree(path: Path) -> Found:
    folders = _split_folders(path)
    skipped: list[Skipped] = []
    if "train" in folders:
        found = {split: _by_class(folder, path, skipped) for split, folder in folders.items()}
        skipped += _beside(path, set(folders.values()))
    elif folders:
        names = " and ".join(f"{folder.name}/" for folder in folders.values())
        raise DataError(f"{path} has {names} but no train/. Rename the folder to train on to 'train'.")
    else:
        found = {"train": _by_class(path, path, skipped)}
    return _found(path, folders, found, skipped)


def _read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    folders = _split_folders(path)
    wanted = preferred(folders)
    if wanted is None and "train" in folders:
        raise DataError(
            f"{path} has train/ but neither test/ nor val/ to judge a classifier on.\n"
            f"Next: to judge it on the images of train/, give {str(folders['train'])!r}."
        )
    skipped: list[Skipped] = []
    by_class = _by_class(folders[wanted] if wanted else path, path, skipped)
    return judged_of(_found(path, folders, {wanted or "train": by_class}, skipped), classes)


def _found(
    path: Path,
    folders: dict[Split, Path],
    found: dict[Split, dict[str, list[FoundFile]]],
    skipped: list[Skipped],
) -> Found:
    names = {split: f"{folder.name}/" for split, folder in folders.items()}
    return Found(source=str(path), path=path, names=names, found=found, skipped=tuple(skipped))


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with the folder itself, and what the system says of those below."""
    try:
        if not path.is_dir():
            raise DataError(no_folder(path))
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from None


def no_folder(path: Path) -> str:
    """What to say where a path is no folder: a file, or nothing, with the nearest name that is there."""
    if path.is_file():
        return f"The data {str(path)!r} is a file; give the folder that holds one folder per class."
    parent = next((each for each in path.parents if each.is_dir()), Path())
    missing = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    named_file = bool(path.suffix) and missing == path.name
    here = [each.name for each in parent.iterdir() if _is_class(each) or (named_file and each.is_file())]
    close = nearest(missing, here)
    hint = f" Did you mean {str(parent / close[0])!r}?" if close else ""
    return f"There is no {'file or ' if named_file else ''}folder {str(path)!r}.{hint}"


def _split_folders(path: Path) -> dict[Split, Path]:
    """Without `train/`, only what holds folders is a split: `valid/` and `invalid/` may be classes."""
    folders: dict[Split, Path] = {}
    for each in sorted(path.iterdir()):
        split = SPLIT_NAMES.get(each.name.lower())
        if split is None or not each.is_dir():
            continue
        if split in folders:
            raise DataError(f"{path} has two {split} folders: {folders[split].name} and {each.name}. Keep one.")
        folders[split] = each
    if "train" in folders:
        return folders
    return {split: folder for split, folder in folders.items() if any(_is_class(each) for each in folder.iterdir())}


def _by_class(folder: Path, root: Path, skipped: list[Skipped]) -> dict[str, list[FoundFile]]:
    by_class: dict[str, list[FoundFile]] = {}
    for each in sorted(folder.iterdir()):
        if not _is_class(each):
            skipped += _outside(each, root)
            continue
        images = by_class.setdefault(printable(each.name), [])
        for file in _files(each):
            relative = _relative(file, root)
            if _hidden(file, each):
                skipped.append(Skipped(relative, "hidden"))
            elif not is_image_name(file.suffix):
                skipped.append(not_an_image(relative))
            elif file.exists() and not file.is_file():  # a pipe would be waited for without end
                skipped.append(Skipped(relative, "not an image", "no regular file"))
            else:
                images.append(FoundFile(file, relative))
    return by_class


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file below, in order, links followed; a link to a folder above leads to nothing new."""
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
    return [skipped for each in sorted(path.iterdir()) if each not in split_folders for skipped in _outside(each, path)]


def _outside(path: Path, root: Path) -> list[Skipped]:
    """What lies where a class folder should be: a file, or a folder with all that is in it."""
    return [
        Skipped(_relative(file, root), "hidden" if _hidden(file, path.parent) else "not in a class folder")
        for file in (_files(path) if path.is_dir() else [path])
    ]


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _relative(file: Path, root: Path) -> str:
    # The name goes into JSON, digests and messages.
    return printable(file.relative_to(root).as_posix())
