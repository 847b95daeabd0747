"""Make the splits of a data set: order the classes, map train, val and test by name or draw val, refuse faults.

The rules are the same for class folders, tables and archives, so that they do not depend on what contains the images.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

from zoo.data.dataset import Dataset, ImageFile, class_counts, labels_of, natural_key
from zoo.errors import DataError, nearest
from zoo.specs.data import FOLDER, IMAGE_SUFFIXES, Skipped, Split, is_image_name
from zoo.text import composed, counted, exact, folded, some

if TYPE_CHECKING:
    from zoo.data.manifest import ImageManifest, ImageRows, SourceRows

VAL_SHARE = 0.2
"""Share of every class that is drawn from train for val."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
JOINED_NOTE = "val joins train: with folds every image is trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class UncheckedData:
    """Everything that a data source contains, before classes and splits are checked."""

    source: str
    """The data as people call them."""
    path: Path
    reader: str = FOLDER
    """What read the data: `folder`, or `plugin/name` of a data source."""
    split_names: Mapping[Split, str]
    """The data's own names of their splits; empty if they have none."""
    manifest: ImageManifest
    """All images by row."""
    splits: Mapping[Split, Mapping[str, SourceRows]]
    """The files of every class by its name, per split; data without splits are all in `train`."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def to_dataset(data: UncheckedData, *, seed: int, folds: bool = False, val_needed: bool = True) -> Dataset:
    """Make the data set to train on. If there is no val, it is drawn from train with `seed`.

    Args:
        data: What the source holds.
        seed: Draws val.
        folds: Whether every image of train and val is to be trained on: then both are `train`, and there is no val.
        val_needed: Whether val must have every class, as it must to choose among stages. If not, a class of a single
            image stays in train.

    Raises:
        DataError: There is no train, there are no images, fewer than two classes, an empty class, or a class that only
            train or only another split has (test may lack classes; so may val, where it joins train or is not needed).
    """
    classes = _train_classes(data)
    _refuse_different_classes(data, classes, complete=() if folds or not val_needed else ("val",))
    splits = {split: image_files(data, split, classes) for split in data.splits}
    notes = list(data.notes)
    if folds:
        if "val" in splits:
            from zoo.data.manifest import by_label

            notes.append(JOINED_NOTE)
            splits["train"] = by_label(splits["train"], splits.pop("val"))
    elif "val" not in splits:
        if val_needed:
            _refuse_single_images(data, splits["train"], classes)
        splits["train"], splits["val"] = split_stratified(splits["train"], classes, seed)
        notes.append(split_note(seed))
    return Dataset(
        source=data.source,
        folder=data.path,
        reader=data.reader,
        classes=classes,
        splits={split: splits[split] for split in SPLITS if split in splits},
        skipped=data.skipped,
        notes=tuple(notes),
    )


def evaluation_split(data: UncheckedData, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The data set of the split to evaluate a trained classifier on, and the split's name, or `all` if there is none.

    The split is test, else val. Labels are mapped by name to `classes`.

    Raises:
        DataError: There are other classes, no images, or only a split to train on.
    """
    has_splits = bool(data.split_names)
    split: Split = next((split for split in ("test", "val") if split in data.splits), "train")
    if has_splits and split == "train":
        # Scores on the training images would look far better than they are, so they are used only if asked for.
        train = data.split_names["train"]
        folder = data.path / train.rstrip("/")
        step = f"give {str(folder)!r}" if data.reader == FOLDER and os.path.isdir(folder) else f"rename {train} to test"
        raise DataError(
            f"{data.source} has {train} but neither test nor val to evaluate a classifier on.\n"
            f"Next: to evaluate it on the images of {train}, {step}."
        )
    # Names are compared as people see them: a classifier may have been trained before on names written otherwise.
    own = {composed(name): name for name in classes}
    by_class = {own.get(name, name): files for name, files in data.splits[split].items()}
    names = set(classes)
    unknown = sorted((name for name, files in by_class.items() if files and name not in names), key=natural_key)
    if unknown:
        kind = "class folders" if data.reader == FOLDER else "classes"
        raise DataError(
            f"{data.source} has {kind} that this classifier does not know: {some(unknown)}."
            f"{_hint(unknown[0], classes)}\nIts classes: {some(classes)}.\n"
            f"Next: name the classes as the classifier does, or remove {some(unknown)} from the data."
        )
    data = replace(data, splits={split: by_class})
    files = image_files(data, split, classes)
    if not files:
        raise DataError(no_images_message(data))
    dataset = Dataset(
        source=data.source,
        folder=data.path,
        reader=data.reader,
        classes=classes,
        splits={split if has_splits else "val": files},
        skipped=data.skipped,
        notes=data.notes,
    )
    return split if has_splits else "all", dataset


def image_files(data: UncheckedData, split: Split, classes: Sequence[str]) -> ImageRows:
    """The files of one split in the order of `classes`, with their labels."""
    from zoo.data.manifest import labelled

    return labelled(data.manifest, [data.splits[split].get(name) for name in classes], tuple(classes))


@overload
def split_stratified(files: ImageRows, classes: Sequence[str], seed: int) -> tuple[ImageRows, ImageRows]: ...
@overload
def split_stratified(
    files: Sequence[ImageFile], classes: Sequence[str], seed: int
) -> tuple[Sequence[ImageFile], Sequence[ImageFile]]: ...
def split_stratified(
    files: Sequence[ImageFile], classes: Sequence[str], seed: int
) -> tuple[Sequence[ImageFile], Sequence[ImageFile]]:
    """Draw a fifth of every class, rounded, but at least one image: (train, val). A class of one image stays in train.

    The draw depends on `seed`, the class name and how many files the class has; it is of places in their order.
    """
    from zoo.data.manifest import chosen, drawn

    held_out = drawn(labels_of(files), len(files), [partial(_held_out, name, seed) for name in classes])
    return chosen(files, ~held_out), chosen(files, held_out)


def _held_out(name: str, seed: int, images: int) -> list[int]:
    """The places of a class's images that are drawn for val."""
    if images < 2:
        return []
    # Keyed by class name, so that adding a class does not change the split of the others.
    # All places are drawn and then cut: `sample` of fewer would draw other ones for the same seed.
    order = random.Random(f"split/{seed}/{name}").sample(range(images), images)
    return order[: max(1, round(VAL_SHARE * images))]


def split_note(seed: int) -> str:
    """The sentence in the plan and in the data report that says how val was drawn."""
    return f"val: {VAL_SHARE:.0%} of every class, drawn from train with seed {seed}"


def similar(classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of class names that people could take for one another, such as `Cat` and `cat`."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(folded(name), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def no_images_message(data: UncheckedData) -> str:
    """The message for data in which no image has a class."""
    if data.reader != FOLDER:
        return _nothing_usable_message(data)
    loose = [
        skipped.relative
        for skipped in data.skipped
        if skipped.reason == "not in a class folder" and is_image_name(skipped.relative)
    ]
    if loose:
        problem = f"No class folders with images found below {data.source}, only loose images such as {loose[0]!r}."
    else:
        problem = f"There are no images below {data.source}."
    return (
        f"{problem}\nNext: have them as {data.path}/CLASS/IMAGE, or as {data.path}/train/CLASS/IMAGE with "
        f"val/CLASS/IMAGE; images end in {', '.join(IMAGE_SUFFIXES)}."
    )


def one_class_message(data: UncheckedData, name: str) -> str:
    """The message for data that have a single class, `name`."""
    kinds = "class folders" if data.reader == FOLDER else "classes"
    step = "put the images of each class into a folder of its own" if data.reader == FOLDER else "add those of another"
    return f"{data.source} has only the class {name!r}; a classifier needs at least two {kinds}.\nNext: {step}."


def no_train_message(data: UncheckedData) -> str:
    """The message for data that have splits, and none to train on."""
    names, slash = " and ".join(sorted(data.split_names.values())), "/" if data.reader == FOLDER else ""
    example = next(iter(data.split_names.values())).rstrip("/")
    return (
        f"{data.source} has {names} but no train{slash}.\n"
        f"Next: rename what is to be trained on to train{slash}; if these are classes and no splits, rename them, such "
        f"as {example} to {example}s."
    )


def _nothing_usable_message(data: UncheckedData) -> str:
    first = next(iter(data.skipped), None)
    if first is None:
        return (
            f"There are no images in {data.source}.\nNext: give data that have some; images end in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    detail = f", {first.detail}" if first.detail else ""
    others = f", and {len(data.skipped) - 1:,} more" if len(data.skipped) > 1 else ""
    return (
        f"No image in {data.source} can be used: {first.relative} ({first.reason}{detail}){others}.\n"
        f"Next: see docs/data.md for how this kind of data names its labels; images end in {', '.join(IMAGE_SUFFIXES)}."
    )


def _train_classes(data: UncheckedData) -> tuple[str, ...]:
    train = data.splits.get("train", {})
    classes = tuple(sorted(train, key=natural_key))
    if "train" not in data.splits and any(data.splits.values()):
        raise DataError(no_train_message(data))
    if not any(train.values()):
        raise DataError(no_images_message(data))
    empty = [name for name in classes if not train[name]]
    if empty:
        raise DataError(
            f"{counted(len(empty), 'class folder')} without images: {some(empty)} (in {data.source}).\n"
            "Next: put images there, or remove the folder."
        )
    if len(classes) < 2:
        raise DataError(one_class_message(data, classes[0]))
    return classes


def _refuse_different_classes(data: UncheckedData, classes: Sequence[str], *, complete: Sequence[Split]) -> None:
    """Refuse unknown classes in any split, and splits in `complete` that lack one."""
    path, names, known = data.source, data.split_names, set(classes)
    for split, by_class in data.splits.items():
        unknown = sorted((name for name, files in by_class.items() if name not in known and files), key=natural_key)
        if unknown:
            raise DataError(
                f"{names[split]} of {path} has classes that {names['train']} lacks: {some(unknown)}."
                f"{_hint(unknown[0], classes)}\nThe classes of {names['train']}: {some(classes)}.\n"
                f"Next: name the classes alike in both, or remove {unknown[0]!r} from {names[split]}."
            )
        # Stages are chosen by their scores on val, so val must have every class; test only reports.
        missing = [name for name in classes if not by_class.get(name)]
        if missing and split in complete:
            train, val = names["train"], names["val"]
            count = counted(len(missing), "class", "classes")
            raise DataError(
                f"{val} of {path} has no images of {count}: {some(missing)}.\n"
                f"Next: move some of its images from {train} to {val}, or remove {val} and let zoo draw it."
            )


def _hint(unknown: str, classes: Sequence[str]) -> str:
    """Name the nearest class; of one that looks the same, show in what it differs."""
    alike = next((name for name in classes if folded(name) == folded(unknown)), None)
    if alike is not None:
        return f" {exact(unknown)} looks like {exact(alike)}: rename one to the other."
    close = nearest(unknown, classes)
    return f" Did you mean {close[0]!r}?" if close else ""


def _refuse_single_images(data: UncheckedData, files: Sequence[ImageFile], classes: Sequence[str]) -> None:
    own_val = "a val/ folder" if data.reader == FOLDER else "the split val"
    counts = class_counts(files, len(classes))
    single = [repr(name) for name, count in zip(classes, counts, strict=True) if count < 2]
    if single:
        # All at once: of a thousand classes, whoever mends one at a time starts again a hundred times.
        have = f"The class {single[0]} has" if len(single) == 1 else f"{len(single):,} classes have"
        which = f": {some(single)}" if len(single) > 1 else ""
        raise DataError(
            f"{have} 1 image; drawing val from train needs at least 2 of every class{which}.\n"
            f"Next: add images, or make {own_val} yourself."
        )
