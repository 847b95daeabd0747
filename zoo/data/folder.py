"""Class-per-folder trees: `PATH/train/CLASS/...` with `val/` (and `test/`), or one `PATH/CLASS/...` that is split here."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile, Reason, Skipped, Split, natural_key
from zoo.errors import DataError, nearest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""torchvision's list; animations (.gif) are not single images."""
VAL_SHARE = 0.2

_SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_folder(path: Path, *, seed: int) -> Dataset:
    """Find the images below `path` and account for every file.

    `val` is drawn from train (stratified, seeded, a fifth of every class) where there is none.

    Raises:
        DataError: No such folder, no images, fewer than two classes, an empty class, a class that a split lacks, or
            that only another split has.
    """
    if not path.is_dir():
        raise DataError(_no_folder(path))
    skipped: list[Skipped] = []
    split_folders = _split_folders(path)
    if "train" in split_folders:
        found = {split: _by_class(folder, path, skipped) for split, folder in split_folders.items()}
        skipped += _beside(path, set(split_folders.values()))
    else:
        found = {"train": _by_class(path, path, skipped)}
    classes = _classes(path, found["train"])
    _refuse_other_classes(path, classes, found)
    splits = {split: _labelled(by_class, classes, path) for split, by_class in found.items()}
    notes: list[str] = []
    if "val" not in splits:
        splits["train"], splits["val"] = _stratified(splits["train"], classes, seed)
        notes.append(f"val: {VAL_SHARE:.0%} of every class, drawn from train with seed {seed}")
    ordered: dict[Split, tuple[ImageFile, ...]] = {
        split: splits[split] for split in ("train", "val", "test") if split in splits
    }
    return Dataset(source=str(path), classes=classes, splits=ordered, skipped=tuple(skipped), notes=tuple(notes))


def read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The images to judge a finished classifier on -> (which split, data set with that one split).

    `test/` where there is one, else `val/`, else the whole folder (`all`). Labels are mapped by name to `classes`.
    Raises DataError for a class that the classifier does not know.
    """
    if not path.is_dir():
        raise DataError(_no_folder(path))
    folders = {_SPLIT_NAMES[each.name.lower()]: each for each in path.iterdir() if each.name.lower() in _SPLIT_NAMES}
    wanted: Split | None = next((split for split in ("test", "val") if split in folders), None)  # type: ignore[arg-type]
    skipped: list[Skipped] = []
    by_class = _by_class(folders[wanted] if wanted else path, path, skipped)
    unknown = sorted((name for name, files in by_class.items() if files and name not in classes), key=natural_key)
    if unknown:
        raise DataError(
            f"{path} has class folders that this classifier does not know: {', '.join(unknown)}.\n"
            f"Its classes: {', '.join(classes)}."
        )
    files = _labelled(by_class, classes, path)
    if not files:
        raise DataError(f"There are no images below {path}; expected {path}/CLASS/IMAGE or {path}/val/CLASS/IMAGE.")
    dataset = Dataset(source=str(path), classes=classes, splits={wanted or "val": files}, skipped=tuple(skipped))
    return wanted or "all", dataset


def _no_folder(path: Path) -> str:
    if path.is_file():
        return f"The data {str(path)!r} is a file; give the folder that holds one folder per class."
    parent = next((each for each in path.parents if each.is_dir()), Path())
    here = [each.name for each in parent.iterdir() if each.is_dir() and not _hidden(each)]
    missing = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    close = nearest(missing, here)
    hint = f" Did you mean {str(parent / close[0])!r}?" if close else ""
    return f"There is no folder {str(path)!r}.{hint}"


def _split_folders(path: Path) -> dict[Split, Path]:
    folders: dict[Split, Path] = {}
    for each in sorted(path.iterdir()):
        split = _SPLIT_NAMES.get(each.name.lower())
        if split is None or not each.is_dir():
            continue
        if split in folders:
            raise DataError(f"{path} has two {split} folders: {folders[split].name} and {each.name}. Keep one.")
        folders[split] = each
    if "train" not in folders and "val" in folders:
        raise DataError(f"{path} has {folders['val'].name}/ but no train/. Rename the folder to train on to 'train'.")
    return folders


def _by_class(folder: Path, root: Path, skipped: list[Skipped]) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    for each in sorted(folder.iterdir()):
        if _hidden(each) or each.is_file():
            skipped.append(Skipped(*_unused(each, root)))
            continue
        images = by_class.setdefault(each.name, [])
        for file in _files(each):
            if _hidden(file) or any(part.startswith(".") for part in file.relative_to(each).parts):
                skipped.append(Skipped(file.relative_to(root).as_posix(), "hidden"))
            elif file.suffix.lower() not in IMAGE_SUFFIXES:
                skipped.append(Skipped(file.relative_to(root).as_posix(), "not an image", f"{file.suffix or 'no'} extension"))
            else:
                images.append(file)
    return by_class


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def _beside(path: Path, split_folders: set[Path]) -> list[Skipped]:
    unused = []
    for each in sorted(path.iterdir()):
        if each.is_file() or _hidden(each):
            unused.append(Skipped(*_unused(each, path)))
        elif each not in split_folders:
            unused += [Skipped(file.relative_to(path).as_posix(), "not in a class folder") for file in _files(each)]
    return unused


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _unused(path: Path, root: Path) -> tuple[str, Reason]:
    return path.relative_to(root).as_posix(), "hidden" if _hidden(path) else "not in a class folder"


def _classes(path: Path, train: Mapping[str, list[Path]]) -> tuple[str, ...]:
    classes = tuple(sorted(train, key=natural_key))
    if not any(train.values()):
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise DataError(
            f"There are no images below {path}.\n"
            f"Expected {path}/CLASS/IMAGE or {path}/train/CLASS/IMAGE with val/CLASS/IMAGE; images end in {kinds}."
        )
    empty = [name for name in classes if not train[name]]
    if empty:
        raise DataError(
            f"{_plural(len(empty), 'class folder')} without images: {', '.join(empty)} (in {path}).\n"
            "Next: put images there, or remove the folder."
        )
    if len(classes) < 2:
        raise DataError(f"{path} has only the class {classes[0]!r}; a classifier needs at least two class folders.")
    return classes


def _refuse_other_classes(path: Path, classes: Sequence[str], found: Mapping[Split, Mapping[str, list[Path]]]) -> None:
    for split, by_class in found.items():
        unknown = sorted((name for name, files in by_class.items() if name not in classes and files), key=natural_key)
        if unknown:
            close = nearest(unknown[0], classes)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{split}/ of {path} has classes that train/ lacks: {', '.join(unknown)}.{hint}\n"
                f"The classes of train/: {', '.join(classes)}."
            )
        missing = [name for name in classes if not by_class.get(name)]
        if missing and split == "val":
            raise DataError(
                f"val/ of {path} has no images of {_plural(len(missing), 'class', 'classes')}: {', '.join(missing)}.\n"
                "Next: move some of its images from train/ to val/, or remove val/ and let zoo draw it from train/."
            )


def _labelled(by_class: Mapping[str, list[Path]], classes: Sequence[str], root: Path) -> tuple[ImageFile, ...]:
    return tuple(
        ImageFile(file, file.relative_to(root).as_posix(), label)
        for label, name in enumerate(classes)
        for file in by_class.get(name, [])
    )


def _stratified(
    files: Sequence[ImageFile], classes: Sequence[str], seed: int
) -> tuple[tuple[ImageFile, ...], tuple[ImageFile, ...]]:
    held_out: set[str] = set()
    for label, name in enumerate(classes):
        of_class = [file.relative for file in files if file.label == label]
        if len(of_class) < 2:
            raise DataError(
                f"The class {name!r} has 1 image; drawing val from train needs at least 2 of every class.\n"
                "Next: add images, or make a val/ folder yourself."
            )
        # Keyed by class name, so that adding a class leaves the others' split as it was.
        order = random.Random(f"split/{seed}/{name}").sample(of_class, len(of_class))
        held_out.update(order[: max(1, round(VAL_SHARE * len(order)))])
    train = tuple(file for file in files if file.relative not in held_out)
    return train, tuple(file for file in files if file.relative in held_out)


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
