"""Class-per-folder trees: `PATH/train/CLASS/...` with `val/` (and `test/`), or one `PATH/CLASS/...`, split here."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile, Skipped, Split, class_counts, natural_key
from zoo.errors import DataError, nearest
from zoo.printable import printable

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""torchvision's list; animations (.gif) are not single images."""
VAL_SHARE = 0.2

SPLIT_NAMES: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """What lies below a data folder, before anything is asked of it."""

    path: Path
    folders: Mapping[Split, str]
    """Names of the split folders; empty where the class folders lie in `path` itself."""
    found: Mapping[Split, Mapping[str, Sequence[Path]]]
    """Per split, the files of every class folder, by its name; `train` where there are no split folders."""
    skipped: tuple[Skipped, ...]


def read_folder(path: Path, *, seed: int) -> Dataset:
    """Find the images below `path` and account for every file.

    `val` is drawn from train (stratified, seeded, a fifth of every class) where there is none.

    Raises:
        DataError: No such folder, no images, fewer than two classes, an empty class, a class that a split lacks, or
            that only another split has.
    """
    with _clear_errors(path):
        return _read_folder(path, seed)


def read_tree(path: Path) -> Tree:
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


def _read_folder(path: Path, seed: int) -> Dataset:
    tree = _read_tree(path)
    found = tree.found
    classes = _classes(path, found["train"], tree.skipped)
    _refuse_other_classes(path, classes, found, tree.folders)
    splits = {split: labelled(by_class, classes, path) for split, by_class in found.items()}
    notes: list[str] = []
    if "val" not in splits:
        _refuse_single_images(splits["train"], classes)
        splits["train"], splits["val"] = stratified(splits["train"], classes, seed)
        notes.append(drawn_note(seed))
    ordered: dict[Split, tuple[ImageFile, ...]] = {
        split: splits[split] for split in ("train", "val", "test") if split in splits
    }
    return Dataset(
        source=str(path), folder=path, classes=classes, splits=ordered, skipped=tree.skipped, notes=tuple(notes)
    )


def _read_tree(path: Path) -> Tree:
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
    names_of = {split: folder.name for split, folder in folders.items()}
    return Tree(path=path, folders=names_of, found=found, skipped=tuple(skipped))


def _read_labelled(path: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    folders = _split_folders(path)
    wanted: Split | None = "test" if "test" in folders else "val" if "val" in folders else None
    if wanted is None and "train" in folders:
        raise DataError(
            f"{path} has train/ but neither test/ nor val/ to judge a classifier on.\n"
            f"Next: to judge it on the images of train/, give {str(folders['train'])!r}."
        )
    skipped: list[Skipped] = []
    by_class = _by_class(folders[wanted] if wanted else path, path, skipped)
    unknown = sorted((name for name, files in by_class.items() if files and name not in classes), key=natural_key)
    if unknown:
        raise DataError(
            f"{path} has class folders that this classifier does not know: {', '.join(unknown)}.\n"
            f"Its classes: {', '.join(classes)}."
        )
    files = labelled(by_class, classes, path)
    if not files:
        raise DataError(no_images(path, skipped))
    dataset = Dataset(source=str(path), classes=classes, splits={wanted or "val": files}, skipped=tuple(skipped))
    return wanted or "all", dataset


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with the folder itself, and what the system says of those below."""
    try:
        if not path.is_dir():
            raise DataError(_no_folder(path))
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from None


def _no_folder(path: Path) -> str:
    if path.is_file():
        return f"The data {str(path)!r} is a file; give the folder that holds one folder per class."
    parent = next((each for each in path.parents if each.is_dir()), Path())
    here = [each.name for each in parent.iterdir() if _is_class(each)]
    missing = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    close = nearest(missing, here)
    hint = f" Did you mean {str(parent / close[0])!r}?" if close else ""
    return f"There is no folder {str(path)!r}.{hint}"


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


def _by_class(folder: Path, root: Path, skipped: list[Skipped]) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    for each in sorted(folder.iterdir()):
        if not _is_class(each):
            skipped += _outside(each, root)
            continue
        images = by_class.setdefault(printable(each.name), [])
        for file in _files(each):
            relative = _relative(file, root)
            if _hidden(file, each):
                skipped.append(Skipped(relative, "hidden"))
            elif file.suffix.lower() not in IMAGE_SUFFIXES:
                skipped.append(Skipped(relative, "not an image", f"{file.suffix or 'no'} extension"))
            elif file.exists() and not file.is_file():  # a pipe would be waited for without end
                skipped.append(Skipped(relative, "not an image", "no regular file"))
            else:
                images.append(file)
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


def _classes(path: Path, train: Mapping[str, Sequence[Path]], skipped: Sequence[Skipped]) -> tuple[str, ...]:
    classes = tuple(sorted(train, key=natural_key))
    if not any(train.values()):
        raise DataError(no_images(path, skipped))
    empty = [name for name in classes if not train[name]]
    if empty:
        raise DataError(
            f"{_plural(len(empty), 'class folder')} without images: {', '.join(empty)} (in {path}).\n"
            "Next: put images there, or remove the folder."
        )
    if len(classes) < 2:
        raise DataError(f"{path} has only the class {classes[0]!r}; a classifier needs at least two class folders.")
    return classes


def no_images(path: Path, skipped: Sequence[Skipped]) -> str:
    """What to say where no image is in a class folder."""
    outside = [
        each.relative
        for each in skipped
        if each.reason == "not in a class folder" and each.relative.lower().endswith(IMAGE_SUFFIXES)
    ]
    if outside:
        found = f"No image below {path} is in a class folder: {outside[0]!r} is not."
    else:
        found = f"There are no images below {path}."
    return (
        f"{found}\nExpected {path}/CLASS/IMAGE or {path}/train/CLASS/IMAGE with val/CLASS/IMAGE; "
        f"images end in {', '.join(IMAGE_SUFFIXES)}."
    )


def _refuse_other_classes(
    path: Path, classes: Sequence[str], found: Mapping[Split, Mapping[str, Sequence[Path]]], names: Mapping[Split, str]
) -> None:
    for split, by_class in found.items():
        unknown = sorted((name for name, files in by_class.items() if name not in classes and files), key=natural_key)
        if unknown:
            close = nearest(unknown[0], classes)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{names[split]}/ of {path} has classes that {names['train']}/ lacks: {', '.join(unknown)}.{hint}\n"
                f"The classes of {names['train']}/: {', '.join(classes)}."
            )
        missing = [name for name in classes if not by_class.get(name)]
        if missing and split == "val":
            train, val = names["train"], names["val"]
            count = _plural(len(missing), "class", "classes")
            raise DataError(
                f"{val}/ of {path} has no images of {count}: {', '.join(missing)}.\n"
                f"Next: move some of its images from {train}/ to {val}/, or remove {val}/ and let zoo draw it."
            )


def labelled(by_class: Mapping[str, Sequence[Path]], classes: Sequence[str], root: Path) -> tuple[ImageFile, ...]:
    """The files of one split in the order of `classes`, with their labels."""
    return tuple(
        ImageFile(file, _relative(file, root), label)
        for label, name in enumerate(classes)
        for file in by_class.get(name, [])
    )


def stratified(
    files: Sequence[ImageFile], classes: Sequence[str], seed: int
) -> tuple[tuple[ImageFile, ...], tuple[ImageFile, ...]]:
    """Draw a fifth of every class -> (the rest, what was drawn): at least one image, but none of a class of one."""
    by_class: list[list[str]] = [[] for _ in classes]
    for file in files:
        by_class[file.label].append(file.relative)
    held_out: set[str] = set()
    for name, of_class in zip(classes, by_class, strict=True):
        if len(of_class) < 2:
            continue
        # Keyed by class name, so that adding a class leaves the others' split as it was.
        order = random.Random(f"split/{seed}/{name}").sample(of_class, len(of_class))
        held_out.update(order[: max(1, round(VAL_SHARE * len(order)))])
    train = tuple(file for file in files if file.relative not in held_out)
    return train, tuple(file for file in files if file.relative in held_out)


def drawn_note(seed: int) -> str:
    """What people are told of a split that was drawn."""
    return f"val: {VAL_SHARE:.0%} of every class, drawn from train with seed {seed}"


def _refuse_single_images(files: Sequence[ImageFile], classes: Sequence[str]) -> None:
    for name, count in zip(classes, class_counts(files, len(classes)), strict=True):
        if count < 2:
            raise DataError(
                f"The class {name!r} has 1 image; drawing val from train needs at least 2 of every class.\n"
                "Next: add images, or make a val/ folder yourself."
            )


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
