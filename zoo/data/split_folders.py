"""Which folders are splits: those at the top, or those in every class folder; and the two readings that are refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from zoo.specs.data import SPLIT_NAMES, Split, split_named
from zoo.text import composed, some

Parts = tuple[str, ...]
"""The names of the folders that a file lies in, outermost first."""
Tops = dict[str, set[str]]
"""Top folder -> names of the folders in it that hold images; an empty name for images in the top folder itself."""

DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
"""A year, month or day. Folders of dates inside class folders say when the images were taken."""
_SPLIT_WORD = re.compile("|".join(sorted(SPLIT_NAMES, key=len, reverse=True)))
_UNLABELLED = ("images", "image", "imgs", "img", "pictures", "photos", "data", "public", "private", "unlabeled")
"""Names of folders in `test/` that are no classes where competitions keep the labels to themselves."""
TABLE = "list the images with their labels in a table (docs/data.md)"


class LayoutError(ValueError):
    """Folders that could be read in two ways, or in none. The text continues a sentence that begins with the data."""


def below_folders(folders: Parts, above: Parts) -> Parts | None:
    """The folders that come after those `above`; None if they lie elsewhere."""
    return folders[len(above) :] if folders[: len(above)] == above else None


def tops_of(folders: Iterable[Parts]) -> Tops:
    """The top folders of these, and what each holds."""
    tops: Tops = {}
    for parts in folders:
        if parts:
            tops.setdefault(parts[0], set()).add(parts[1] if len(parts) > 1 else "")
    return tops


def listed(folders: Iterable[str]) -> str:
    """Folders as people write them: `train/`, `train/ and val/`, or the first of many and their number."""
    names = [f"{name}/" for name in folders]
    return " and ".join(names) if len(names) < 3 else some(names)


def splits_at_top(tops: Tops, known: Collection[str]) -> dict[str, Split]:
    """Return the top folders that are splits. Without folders in it, `valid/` beside `invalid/` is a class."""
    # A class may be called `test`, and the folders of an evaluation are those classes.
    if {composed(top) for top in tops} <= set(known):
        return {}  # the classes of a classifier
    named = {top: split for top in sorted(tops) if (split := split_named(top)) is not None}
    deep = {top: split for top, split in named.items() if any(tops[top])}
    flat = [top for top in named if top not in deep]
    others = sorted(tops.keys() - named.keys())
    if not deep:
        _refuse_flat_splits(flat, others)
        return {}
    whole = [top for top in deep if top.lower() in SPLIT_NAMES]
    if not whole and len(set(deep.values())) == 1 and (others or flat):
        _refuse_flat_beside_train(tops, deep)
        return {}  # `bullet_train/` beside `car/` is a class.
    for top in flat:
        if named[top] != "test":
            raise LayoutError(
                f"has images directly in {top}/, not in class folders, beside {listed(deep)}.\n"
                f"Next: move them to class folders, as in {top}/CLASS/, or move {top}/ elsewhere."
            )
    _refuse_two_folders(deep)
    _refuse_unknown_splits(tops, deep, others)
    return deep


def _refuse_flat_beside_train(tops: Tops, deep: Mapping[str, Split]) -> None:
    """Refuse `train_images/{cat,dog}` beside a folder of images: it may be the split to train on, or a class."""
    flat = sorted(top for top in tops if not any(tops[top]))
    for top, split in deep.items():
        inside = sorted(name for name in tops[top] - {""} if not DATE.fullmatch(name))
        if split == "train" and len(inside) > 1 and flat:
            raise LayoutError(
                f"has {top}/, which holds the folders {some(inside)}, beside {listed(flat)} without folders: {top}/ "
                f"may be the split to train on, or a class.\nNext: if it is the split, rename it to train/ and move "
                f"{listed(flat)} elsewhere; if it is a class, move its images directly to it."
            )


def _refuse_flat_splits(flat: list[str], others: list[str]) -> None:
    whole = [top for top in flat if top.lower() in SPLIT_NAMES]
    rests = {(split_named(top), _SPLIT_WORD.sub("", top.lower())) for top in flat}
    alike = len({rest for _, rest in rests}) < len(rests)  # `train_images/` and `test_images/`
    if (alike and not whole) or (not others and len({split_named(top) for top in flat}) > 1):
        raise LayoutError(
            f"has images directly in {listed(flat)}, and no class folders there.\n"
            f"Next: move the images to class folders, as in {flat[0]}/CLASS/, or {TABLE}."
        )
    if len({split_named(top) for top in whole}) > 1:
        raise LayoutError(
            f"has {listed(whole)} beside {listed(others)}: these may be splits without class folders, or classes.\n"
            f"Next: if they are classes, rename them, such as {whole[0]}/ to {whole[0]}s/; if they are splits, move "
            f"all images to class folders below them, as in {whole[0]}/CLASS/."
        )


def _refuse_two_folders(splits: Mapping[str, Split]) -> None:
    for split in splits.values():
        same = [top for top, of in splits.items() if of == split]
        if len(same) > 1:
            raise LayoutError(
                f"has two {split} folders: {same[0]} and {same[1]}.\n"
                f"Next: keep one, and move {same[1]}/ elsewhere or its images to {same[0]}/."
            )


def _refuse_unknown_splits(tops: Tops, splits: Mapping[str, Split], others: list[str]) -> None:
    """Refuse a folder beside splits that may be a split, too, or that makes the split look like a class."""
    classes = {name for top in splits for name in tops[top]}
    for other in others:
        shared = sorted(classes & tops[other] - {""})
        if len(shared) > 1:
            raise LayoutError(
                f"has {other}/ beside {listed(splits)}. It holds the same folders ({some(shared)}), but its name is "
                "not that of a split.\nNext: rename it to train, val or test, or move it elsewhere."
            )
    if others and set(splits.values()) == {"train"}:
        (train,) = splits
        inside = sorted(tops[train] - {""})
        raise LayoutError(
            f"has {train}/, which holds the folders {some(inside)}, beside {listed(others)}: {train}/ may be the "
            f"split to train on, or a class.\nNext: if it is the split, move {listed(others)} elsewhere; if it is a "
            f"class, rename it, such as to {train}s/."
        )


def notes_on_splits(tops: Tops, splits: Mapping[str, Split]) -> tuple[str, ...]:
    """What people should know: folders of splits with unusual names, and folders beside them that are not used."""
    usual = {"train", "val", "valid", "validation", "test"}
    read = [f"{top}/ is {split}" for top, split in splits.items() if top.lower() not in usual]
    unused = [top for top in sorted(tops) if top not in splits]
    return (
        *([", ".join(read)] if read else []),
        *([f"not used, because they hold no class folders of a split: {listed(unused)}"] if unused else []),
    )


def unlabelled_tests(folders: Collection[Parts], splits: Mapping[str, Split]) -> list[str]:
    """Return the folders of test that hold images but no classes, such as `test/images/1.jpg`."""
    found = []
    for top, split in splits.items():
        inside = {parts[1].lower() for parts in folders if parts[0] == top and len(parts) > 1}
        deep = any(len(parts) > 2 for parts in folders if parts[0] == top)
        if split == "test" and not deep and all(name in _UNLABELLED or split_named(name) for name in inside):
            found.append(top)
    return found


def splits_without_images(
    others: Collection[Parts], around: Parts, found: Mapping[str, Split], filled: Tops
) -> dict[str, Split]:
    """Return folders of splits that hold no image: an empty `val/` must not be taken for no `val/`."""
    tops = {parts[0] for folders in others if (parts := below_folders(folders, around))} - filled.keys()
    whole = any(top.lower() in SPLIT_NAMES for top in found)
    empty: dict[str, Split] = {}
    for top in sorted(tops):
        split = split_named(top)
        if split and split not in (*found.values(), *empty.values()) and (not whole or top.lower() in SPLIT_NAMES):
            empty[top] = split
    return empty


def splits_inside(tops: Tops) -> dict[str, Split]:
    """Return the folders that are splits where they lie in each class folder, as in `cat/train/` and `dog/train/`."""
    names = {name for inside in tops.values() for name in inside}
    splits = {name: split for name in sorted(names) if (split := split_named(name)) is not None}
    whole = any(name.lower() in SPLIT_NAMES for name in splits)
    if not splits or not (whole or len(set(splits.values())) > 1):
        return {}
    if len(splits) == len(names):
        for inside in tops.values():
            _refuse_two_folders({name: splits[name] for name in sorted(inside)})
        return splits
    _refuse_splits_in_some(tops, splits)
    return {}


def _refuse_splits_in_some(tops: Tops, splits: Mapping[str, Split]) -> None:
    """Refuse folders of splits in class folders that hold other things, too, or in some of them only."""
    words = {top: [name for name in inside if name.lower() in SPLIT_NAMES] for top, inside in tops.items()}
    everywhere = all(words.values()) or len({splits[name] for names in words.values() for name in names}) > 1
    other = next(top for top in sorted(tops) if not tops[top] <= splits.keys())
    beside = sorted(tops[other] - splits.keys())
    for top, inside in sorted(tops.items()):
        here = [name for name in sorted(inside) if name in splits]
        # A folder called train in one class is a folder; beside loose images, or in every class, it may be a split.
        if len({splits[name] for name in here}) > 1 or (words[top] and (everywhere or "" in inside)):
            rest = f"images without such a folder in {other}/" if "" in beside else f"{some(beside)}/ in {other}/"
            raise LayoutError(
                f"has {listed(here)} in {top}/, which may be splits, but also {rest}.\n"
                "Next: if they are splits, put every image of a class into a folder named train, val or test; if not, "
                f"rename them, such as {top}/{here[0]}/ to {top}/{here[0]}s/."
            )
