"""Read labels and splits from the folders that images lie in: one set of rules for folders, archives and shards.

Only folders that hold images count, and all of them are seen before anything is decided. What could be read in two
ways is refused with both ways out, because either guess would train on other labels than people meant. docs/data.md
has the rules in a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.specs.data import (
    SPLIT_NAMES,
    ClassFolders,
    EmptyClass,
    FolderFile,
    Skipped,
    SourceImage,
    SourceListing,
    Split,
    is_image_name,
    is_system_name,
    not_an_image,
    passed_over,
    split_named,
)
from zoo.text import composed, some

Parts = tuple[str, ...]
"""The names of the folders that a file lies in, outermost first."""
Tops = dict[str, set[str]]
"""Top folder -> names of the folders in it that hold images; an empty name for images in the top folder itself."""

_DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
"""A year, month or day. Folders of dates inside class folders say when the images were taken."""
_TABLE = "list the images with their labels in a table (docs/data.md)"


class LayoutError(ValueError):
    """Folders that could be read in two ways, or in none. The text continues a sentence that begins with the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How labels and splits follow from folders."""

    around: Parts = ()
    """Folders around everything else, which are looked through."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """The folders that are splits; empty if there are none."""
    inside: bool = False
    """Whether the folders of splits lie in the class folders, and not around them."""
    inner: Mapping[str, Parts] = field(default_factory=dict)
    """Split folder -> folders directly in it that are looked through."""
    notes: tuple[str, ...] = ()

    def place(self, folders: Parts) -> tuple[str | None, str] | None:
        """(word for the split or None, label) of a file that lies in these folders; None outside the class folders."""
        below = _below(folders, self.around)
        if not below:
            return None
        if self.inside:
            split = self.splits.get(below[1]) if len(below) > 1 else None
            return (split, below[0]) if split else None
        if not self.splits:
            return None, below[0]
        top, *_ = below
        if top not in self.splits:
            return None
        of_class = _below(below[1:], self.inner.get(top, ()))
        return (top, of_class[0]) if of_class else None


def read_class_folders(found: ClassFolders, *, classes: Collection[str] = ()) -> SourceListing:
    """Label every image by its folders.

    Args:
        found: The files.
        classes: Names of classes that are known already, as for evaluation: a folder of such a name is a class.

    Raises:
        LayoutError: The folders can be read in two ways.
    """
    placed = [(file, tuple((file.place or file.name).split("/"))) for file in found.files]
    used = [(file, parts) for file, parts in placed if passed_over(parts) is None]
    with_images = {parts[:-1] for file, parts in used if is_image_name(file.name)}
    others = {parts[:-1] for _, parts in used} | {
        parts for parts in (tuple(name.split("/")) for name in found.folders if name) if passed_over(parts) is None
    }
    layout = find_layout(with_images, others, classes=classes)
    images: list[SourceImage] = []
    skipped = [*found.skipped]
    for file, parts in placed:
        entry = _entry(file, parts, layout)
        images.append(entry) if isinstance(entry, SourceImage) else skipped.append(entry)
    return SourceListing(
        images=images,
        skipped=skipped,
        notes=(*found.notes, *layout.notes, *_note_hidden(placed)),
        empty=_empty(layout, with_images, others),
    )


def list_class_folders(files: Iterable[tuple[str, Path | Callable[[], bytes]]]) -> SourceListing:
    """List the files of an archive by the rules of class folders, for any source that knows names and contents.

    Files lie in `CLASS/...`, or in `train/CLASS/...` with `val/` (and `test/`), or in `CLASS/train/...`. Folders around
    all of it are looked through. A source that returns `ClassFolders` leaves this to zoo, which then knows the classes
    of the classifier that is evaluated.

    Args:
        files: (name with forward slashes, content as in `SourceImage`), for every file.

    Raises:
        ValueError: The folders can be read in two ways, such as with `val/` and `valid/`.
    """
    try:
        return read_class_folders(ClassFolders(files=[FolderFile(name, content) for name, content in files]))
    except LayoutError as error:
        raise ValueError(f"it {error}") from None


def find_layout(with_images: Collection[Parts], others: Collection[Parts], *, classes: Collection[str] = ()) -> Layout:
    """Decide what the folders mean: `with_images` hold images, `others` anything or nothing.

    Raises LayoutError for folders that can be read in two ways.
    """
    known = {composed(name) for name in classes}
    around = _folders_around(with_images, known, splits=True)
    folders = {below for parts in with_images if (below := _below(parts, around))}
    tops = _tops(folders)
    notes: tuple[str, ...] = ()
    if around:
        notes = (f"the folder {'/'.join(around)}/ around everything is looked through",)
    if splits := _splits_at_top(tops):
        notes += _notes_on_splits(tops, splits)
        splits |= _splits_without_images(others, around, splits)
        inner = _inner_folders(folders, splits, known)
        return Layout(around=around, splits=splits, inner=inner, notes=notes)
    if inside := _splits_inside(tops):
        notes += (f"splits are the folders {_listed(inside)} in each class folder",)
        return Layout(around=around, splits=inside, inside=True, notes=notes)
    _refuse_alike(tops, known)
    return Layout(around=around, notes=notes)


def _entry(file: FolderFile, parts: Parts, layout: Layout) -> SourceImage | Skipped:
    if reason := passed_over(parts):
        return Skipped(file.name, reason)
    place = layout.place(parts[:-1])
    if place is None:
        return Skipped(file.name, "not in a class folder")
    if not is_image_name(file.name):
        return not_an_image(file.name)
    return SourceImage(name=file.name, label=place[1], content=file.content, split=place[0])


def _below(folders: Parts, above: Parts) -> Parts | None:
    return folders[len(above) :] if folders[: len(above)] == above else None


def _tops(folders: Iterable[Parts]) -> Tops:
    tops: Tops = {}
    for parts in folders:
        if parts:
            tops.setdefault(parts[0], set()).add(parts[1] if len(parts) > 1 else "")
    return tops


def _folders_around(folders: Collection[Parts], classes: Collection[str], *, splits: bool) -> Parts:
    """Return the folders, one in another, that hold everything, where at least two folders come below them.

    With `splits`, a folder with the name of a split is none of them, unless it holds split folders itself.
    """
    around: Parts = ()
    while True:
        below = [folders[len(around) :] for folders in folders]
        tops = _tops(below)
        # Images beside folders: what holds them is a class, or they are strays. Neither is looked through.
        if () in below or not tops:
            return ()
        if len(tops) > 1:
            return around
        ((only, inside),) = tops.items()
        is_split = splits and only.lower() in SPLIT_NAMES and "train" not in {split_named(name) for name in inside}
        if is_split or composed(only) in classes:
            return around
        around = (*around, only)


def _splits_at_top(tops: Tops) -> dict[str, Split]:
    """Return the top folders that are splits. Without folders in it, `valid/` beside `invalid/` is a class."""
    named = {top: split for top in sorted(tops) if (split := split_named(top)) is not None}
    deep = {top: split for top, split in named.items() if any(tops[top])}
    flat = [top for top in named if top not in deep]
    others = sorted(tops.keys() - named.keys())
    if not deep:
        _refuse_flat_splits(flat, others)
        return {}
    whole = [top for top in deep if top.lower() in SPLIT_NAMES]
    if not whole and len(set(deep.values())) == 1 and (others or flat):
        return {}  # `bullet_train/` beside `car/` is a class.
    for top in flat:
        if named[top] != "test":
            raise LayoutError(
                f"has images directly in {top}/, not in class folders, beside {_listed(deep)}.\n"
                f"Next: move them to class folders, as in {top}/CLASS/, or move {top}/ elsewhere."
            )
    _refuse_two_folders(deep)
    _refuse_unknown_splits(tops, deep, others)
    return deep


def _refuse_flat_splits(flat: list[str], others: list[str]) -> None:
    whole = [top for top in flat if top.lower() in SPLIT_NAMES]
    if not others and len({split_named(top) for top in flat}) > 1:
        raise LayoutError(
            f"has images directly in {_listed(flat)}, and no class folders there.\n"
            f"Next: move the images to class folders, as in {flat[0]}/CLASS/, or {_TABLE}."
        )
    if len({split_named(top) for top in whole}) > 1:
        raise LayoutError(
            f"has {_listed(whole)} beside {_listed(others)}: these may be splits without class folders, or classes.\n"
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
                f"has {other}/ beside {_listed(splits)}. It holds the same folders ({some(shared)}), but its name is "
                "not that of a split.\nNext: rename it to train, val or test, or move it elsewhere."
            )
    if others and set(splits.values()) == {"train"}:
        (train,) = splits
        inside = sorted(tops[train] - {""})
        raise LayoutError(
            f"has {train}/, which holds the folders {some(inside)}, beside {_listed(others)}: {train}/ may be the "
            f"split to train on, or a class.\nNext: if it is the split, move {_listed(others)} elsewhere; if it is a "
            f"class, rename it, such as to {train}s/."
        )


def _notes_on_splits(tops: Tops, splits: Mapping[str, Split]) -> tuple[str, ...]:
    usual = {"train", "val", "valid", "validation", "test"}
    read = [f"{top}/ is {split}" for top, split in splits.items() if top.lower() not in usual]
    unused = [top for top in sorted(tops) if top not in splits]
    return (
        *([", ".join(read)] if read else []),
        *([f"not used, because they hold no class folders of a split: {_listed(unused)}"] if unused else []),
    )


def _splits_without_images(others: Collection[Parts], around: Parts, found: Mapping[str, Split]) -> dict[str, Split]:
    """Return folders of splits that hold no image: an empty `val/` must not be taken for no `val/`."""
    below = [parts for folders in others if (parts := _below(folders, around))]
    tops = {parts[0] for parts in below if parts[0].lower() in SPLIT_NAMES}
    return {top: split for top in sorted(tops) if (split := SPLIT_NAMES[top.lower()]) not in found.values()}


def _inner_folders(folders: Collection[Parts], splits: Mapping[str, Split], known: set[str]) -> dict[str, Parts]:
    """Return the folders between each split and its classes, as in `train/images/cat/`."""
    inner: dict[str, Parts] = {}
    classes = set(known)
    for top, split in sorted(splits.items(), key=lambda item: item[1] != "train"):
        of_split = {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1}
        inner[top] = _folders_around(of_split, classes, splits=False)
        tops = _tops(parts for folders in of_split if (parts := _below(folders, inner[top])))
        if split == "train":
            classes |= {composed(name) for name in tops}
            _refuse_alike(tops, known)
    return inner


def _splits_inside(tops: Tops) -> dict[str, Split]:
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
    for top, inside in sorted(tops.items()):
        here = {name: splits[name] for name in sorted(inside) if name in splits}
        if len(set(here.values())) > 1:
            others = sorted(other for other in tops if not tops[other] <= splits.keys())
            raise LayoutError(
                f"has the folders {_listed(here)} in {top}/, but images outside such folders in {_listed(others)}: "
                f"they may be splits, or not.\nNext: if they are splits, give every class folder the same; if not, "
                f"rename them, such as {top}/{next(iter(here))}/ to {top}/{next(iter(here))}s/."
            )
    return {}


def _refuse_alike(tops: Tops, known: Collection[str]) -> None:
    """Refuse top folders that all hold the same folders: classes may be the outer or the inner ones."""
    if len(tops) < 2 or any("" in inside for inside in tops.values()) or {composed(top) for top in tops} <= set(known):
        return
    common, every = set.intersection(*tops.values()), set.union(*tops.values())
    if len(common) < 2 or any(2 * len(inside) < len(every) for inside in tops.values()):
        return
    if all(_DATE.fullmatch(name) for name in every):
        return
    outer, inner = sorted(tops), sorted(common)
    raise LayoutError(
        f"has {_listed(outer)}, and {'both' if len(outer) == 2 else 'all'} hold the same folders ({some(inner)}): "
        f"either may be the classes.\nNext: if {some(inner)} are the classes, rename the outer folders to train, val "
        f"or test, or move all images to one folder for each class; if {some(outer)} are the classes, move the images "
        f"directly to them, or {_TABLE}."
    )


def _empty(layout: Layout, with_images: Collection[Parts], others: Collection[Parts]) -> list[EmptyClass]:
    """Return the classes that have a folder but no image, and the splits that have neither."""
    if layout.inside:
        filled = {below[0] for folders in with_images if (below := _below(folders, layout.around))}
        every = {below[0] for folders in others if (below := _below(folders, layout.around))}
        return [EmptyClass(label, "train") for label in sorted(every - filled)]
    places = {place for folders in with_images if (place := layout.place(folders)) is not None}
    empty = {place for folders in others if (place := layout.place(folders)) is not None} - places
    bare = layout.splits.keys() - {word for word, _ in places | empty}
    return [EmptyClass(label, word) for word, label in sorted(empty, key=str)] + [
        EmptyClass("", word) for word in sorted(bare)
    ]


def _note_hidden(placed: Iterable[tuple[FolderFile, Parts]]) -> tuple[str, ...]:
    """Say that images are passed over whose name, or whose folder's name, a person may have given."""
    hidden = [
        file.name
        for file, parts in placed
        if is_image_name(file.name) and passed_over(parts) == "hidden" and not any(map(is_system_name, parts))
    ]
    if not hidden:
        return ()
    count = "1 image is" if len(hidden) == 1 else f"{len(hidden):,} images are"
    return (f"{count} hidden by a dot at the beginning of a name and not used, such as {hidden[0]}",)


def _listed(folders: Iterable[str]) -> str:
    """Folders as people write them: `train/`, `train/ and val/`, or the first of many and their number."""
    names = [f"{name}/" for name in folders]
    return " and ".join(names) if len(names) < 3 else some(names)
