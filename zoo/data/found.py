"""From what lies in a data source to a data set: classes ordered, splits mapped by name or drawn, faults refused.

One set of rules, whatever keeps the images.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import FOLDER, Dataset, ImageFile, class_counts, natural_key
from zoo.errors import DataError, nearest
from zoo.source_listing import IMAGE_SUFFIXES, Skipped, Split, is_image_name

VAL_SHARE = 0.2
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image before its class has a number."""

    path: Path
    relative: str
    reader: Callable[[], bytes] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What lies in a data source, before anything is asked of it."""

    source: str
    """What people call it."""
    path: Path
    reader: str = FOLDER
    """What read it: `folder`, or `plugin/name` of a data source."""
    names: Mapping[Split, str]
    """What the data call their splits; empty where they have none."""
    found: Mapping[Split, Mapping[str, Sequence[FoundFile]]]
    """Per split, the files of every class, by its name; `train` where there are no splits."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What holds the images of one class, for people."""
        return "class folder" if self.reader == FOLDER else "class"


def dataset_of(found: Found, *, seed: int) -> Dataset:
    """The data set to train on. `val` is drawn from train where there is none.

    Raises:
        DataError: No train, no images, fewer than two classes, an empty class, a class that val lacks, or that train
            lacks.
    """
    classes = _classes(found)
    _refuse_other_classes(found, classes)
    splits = {split: labelled(found, split, classes) for split in found.found}
    notes = list(found.notes)
    if "val" not in splits:
        _refuse_single_images(found, splits["train"], classes)
        splits["train"], splits["val"] = stratified(splits["train"], classes, seed)
        notes.append(drawn_note(seed))
    return Dataset(
        source=found.source,
        folder=found.path,
        reader=found.reader,
        classes=classes,
        splits={split: splits[split] for split in SPLITS if split in splits},
        skipped=found.skipped,
        notes=tuple(notes),
    )


def judged_of(found: Found, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The one split of `found` that a finished classifier is judged on -> (its name, or `all`; the data set).

    Labels are mapped by name to `classes`. Raises DataError for a class that is none of them, and without images.
    """
    ((split, by_class),) = found.found.items()
    unknown = sorted((name for name, files in by_class.items() if files and name not in classes), key=natural_key)
    if unknown:
        kind = "class folders" if found.reader == FOLDER else "classes"
        raise DataError(
            f"{found.source} has {kind} that this classifier does not know: {', '.join(unknown)}.\n"
            f"Its classes: {', '.join(classes)}."
        )
    files = labelled(found, split, classes)
    if not files:
        raise DataError(no_images(found))
    has_splits = split in found.names
    dataset = Dataset(
        source=found.source,
        folder=found.path,
        reader=found.reader,
        classes=classes,
        splits={split if has_splits else "val": files},
        skipped=found.skipped,
    )
    return split if has_splits else "all", dataset


def preferred(splits: Collection[Split]) -> Split | None:
    """The split that a finished classifier is judged on, if there is one for it."""
    return "test" if "test" in splits else "val" if "val" in splits else None


def labelled(found: Found, split: Split, classes: Sequence[str]) -> tuple[ImageFile, ...]:
    """The files of one split in the order of `classes`, with their labels."""
    by_class = found.found[split]
    return tuple(
        ImageFile(file.path, file.relative, label, file.reader, "" if found.reader == FOLDER else name)
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


def no_images(found: Found) -> str:
    """What to say where no image has a class."""
    if found.reader != FOLDER:
        return _nothing_used(found)
    outside = [
        each.relative
        for each in found.skipped
        if each.reason == "not in a class folder" and is_image_name(each.relative)
    ]
    if outside:
        said = f"No image below {found.source} is in a class folder: {outside[0]!r} is not."
    else:
        said = f"There are no images below {found.source}."
    return (
        f"{said}\nExpected {found.path}/CLASS/IMAGE or {found.path}/train/CLASS/IMAGE with val/CLASS/IMAGE; "
        f"images end in {', '.join(IMAGE_SUFFIXES)}."
    )


def one_class(found: Found, name: str) -> str:
    """What to say where there is nothing to tell apart."""
    kinds = "class folders" if found.reader == FOLDER else "classes"
    return f"{found.source} has only the class {name!r}; a classifier needs at least two {kinds}."


def _nothing_used(found: Found) -> str:
    first = next(iter(found.skipped), None)
    if first is None:
        return f"There are no images in {found.source}."
    detail = f", {first.detail}" if first.detail else ""
    others = f", and {len(found.skipped) - 1:,} more" if len(found.skipped) > 1 else ""
    return (
        f"No image in {found.source} can be used: {first.relative} ({first.reason}{detail}){others}.\n"
        f"Next: see docs/data.md for how this kind of data names its labels; images end in {', '.join(IMAGE_SUFFIXES)}."
    )


def _classes(found: Found) -> tuple[str, ...]:
    train = found.found.get("train", {})
    classes = tuple(sorted(train, key=natural_key))
    if "train" not in found.found and any(found.found.values()):
        there = " and ".join(found.names.values())
        raise DataError(f"{found.source} has the splits {there} but no train.\nNext: name the split to train on train.")
    if not any(train.values()):
        raise DataError(no_images(found))
    empty = [name for name in classes if not train[name]]
    if empty:
        raise DataError(
            f"{_plural(len(empty), 'class folder')} without images: {', '.join(empty)} (in {found.source}).\n"
            "Next: put images there, or remove the folder."
        )
    if len(classes) < 2:
        raise DataError(one_class(found, classes[0]))
    return classes


def _refuse_other_classes(found: Found, classes: Sequence[str]) -> None:
    path, names = found.source, found.names
    for split, by_class in found.found.items():
        unknown = sorted((name for name, files in by_class.items() if name not in classes and files), key=natural_key)
        if unknown:
            close = nearest(unknown[0], classes)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{names[split]} of {path} has classes that {names['train']} lacks: {', '.join(unknown)}.{hint}\n"
                f"The classes of {names['train']}: {', '.join(classes)}."
            )
        missing = [name for name in classes if not by_class.get(name)]
        if missing and split == "val":
            train, val = names["train"], names["val"]
            count = _plural(len(missing), "class", "classes")
            raise DataError(
                f"{val} of {path} has no images of {count}: {', '.join(missing)}.\n"
                f"Next: move some of its images from {train} to {val}, or remove {val} and let zoo draw it."
            )


def _refuse_single_images(found: Found, files: Sequence[ImageFile], classes: Sequence[str]) -> None:
    yourself = "a val/ folder" if found.reader == FOLDER else "the split val"
    for name, count in zip(classes, class_counts(files, len(classes)), strict=True):
        if count < 2:
            raise DataError(
                f"The class {name!r} has 1 image; drawing val from train needs at least 2 of every class.\n"
                f"Next: add images, or make {yourself} yourself."
            )


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
