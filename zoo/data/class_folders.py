"""Read labels and splits from the folders that images lie in: one set of rules for folders, archives and shards.

Only folders that hold images count, and all of them are seen before anything is decided. What could be read in two
ways is refused with both ways out, because either guess would train on other labels than people meant. docs/data.md
has the rules in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.split_folders import (
    DATE,
    TABLE,
    LayoutError,
    Parts,
    Tops,
    below_folders,
    listed,
    notes_on_splits,
    splits_at_top,
    splits_inside,
    splits_without_images,
    tops_of,
    unlabelled_tests,
)
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
from zoo.text import composed, printable, some

_MOST_PAIRS = 200
"""Sets of names that are compared each with each. Among more of them, only equal ones are looked for."""


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
        below = below_folders(folders, self.around)
        if not below:
            return None
        if self.inside:
            split = self.splits.get(below[1]) if len(below) > 1 else None
            return (split, below[0]) if split else None
        if not self.splits:
            return None, below[0]
        top, *_ = below
        # Beside folders of splits nothing is a class.
        if top not in self.splits:
            return None
        of_class = below_folders(below[1:], self.inner.get(top, ()))
        return (top, of_class[0]) if of_class else None


def read_class_folders(found: ClassFolders, *, classes: Collection[str] = ()) -> SourceListing:
    """Label every image by its folders.

    Args:
        found: The files.
        classes: Names of classes that are known already, as for evaluation: a folder of such a name is a class.

    Raises:
        LayoutError: The folders can be read in two ways.
    """
    # Bytes that are not UTF-8 are compared as they are shown: the classes of a classifier are stored so.
    placed = [(file, tuple(printable(file.place or file.name).split("/"))) for file in found.files]
    used = [(file, parts) for file, parts in placed if passed_over(parts) is None]
    with_images = {parts[:-1] for file, parts in used if is_image_name(file.name)}
    others = {visible(parts[:-1]) for _, parts in placed}
    others |= {visible(tuple(printable(name).split("/"))) for name in found.folders if name}
    layout = find_layout(with_images, others, classes=classes)
    images: list[SourceImage] = []
    skipped = [*found.skipped]
    for file, parts in placed:
        place = layout.place(parts[:-1])
        if out := left_out(file.name, parts, place):
            skipped.append(out)
        elif place is not None:
            images.append(SourceImage(name=file.name, label=place[1], content=file.content, split=place[0]))
    return SourceListing(
        images=images,
        skipped=skipped,
        notes=(*found.notes, *layout.notes, *_note_hidden(placed)),
        empty=empty_classes(layout, with_images, others),
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
    around = _folders_around(with_images, known, splits={parts[0] for parts in others if parts})
    folders = {below for parts in with_images if (below := below_folders(parts, around))}
    tops = tops_of(folders)
    notes: tuple[str, ...] = ()
    if around:
        notes = (f"the folder {'/'.join(around)}/ around everything is looked through",)
    if splits := splits_at_top(tops, known):
        unlabelled = unlabelled_tests(folders, splits)
        splits = {top: split for top, split in splits.items() if top not in unlabelled}
        notes += notes_on_splits(tops, splits)
        splits |= splits_without_images(others, around, splits, tops)
        inner = _inner_folders(folders, splits, known)
        through = [f"{top}/{'/'.join(names)}/" for top, names in inner.items() if names]
        if through:
            notes += (f"folders in splits are looked through: {some(through)}",)
        layout = Layout(around=around, splits=splits, inner=inner, notes=notes)
    elif inside := splits_inside(tops):
        notes += (f"splits are the folders {listed(inside)} in each class folder",)
        _refuse_alike(tops_of((parts[0], *parts[2:]) for parts in folders), known)
        layout = Layout(around=around, splits=inside, inside=True, notes=notes)
    else:
        _refuse_alike(tops, known)
        layout = Layout(around=around, notes=notes)
    _refuse_deeper_splits(folders, layout)
    return layout


def visible(folders: Parts) -> Parts:
    """The folders before the first one that is passed over, which hold it whatever is in it."""
    seen = next((at for at, name in enumerate(folders) if passed_over([name]) is not None), len(folders))
    return folders[:seen]


def left_out(name: str, parts: Parts, place: tuple[str | None, str] | None) -> Skipped | None:
    """The record of a file that is not used; None if it is.

    `name` is the file's own, `parts` the names of its folders and of the file, `place` what `Layout.place` says of the
    folders.
    """
    if reason := passed_over(parts):
        return Skipped(name, reason)
    if place is None:
        return Skipped(name, "not in a class folder")
    return None if is_image_name(name) else not_an_image(name)


def _folders_around(folders: Collection[Parts], classes: Collection[str], *, splits: Collection[str] | None) -> Parts:
    """Return the folders, one in another, that hold everything, where at least two folders come below them.

    `splits` are all folders at the top, with images or not; None: no folder here may be a split. A folder with the name
    of a split is looked through only if it holds split folders itself, or has a delimited name and stands alone.
    """
    around: Parts = ()
    while True:
        below = [folders[len(around) :] for folders in folders]
        tops = tops_of(below)
        # Images beside folders: what holds them is a class, or they are strays. Neither is looked through.
        if () in below or not tops:
            return ()
        if len(tops) > 1:
            # Folders of dates are no classes, so what is above them is one, and not a folder around classes.
            return () if all(DATE.fullmatch(name) for name in tops) else around
        ((only, inside),) = tops.items()
        is_split = splits is not None and "train" not in {split_named(name) for name in inside}
        alone = len({split for name in splits or () if (split := split_named(name))}) < 2 or bool(around)
        if is_split and (only.lower() in SPLIT_NAMES or (split_named(only) and not alone)):
            return around
        if composed(only) in classes:
            return around
        around = (*around, only)


def _inner_folders(folders: Collection[Parts], splits: Mapping[str, Split], known: set[str]) -> dict[str, Parts]:
    """Return the folders between each split and its classes, as in `train/images/cat/`."""
    inner: dict[str, Parts] = {}
    classes = set(known)
    # Train first: a folder with the name of one of its classes is a class in the other splits, even where it stands
    # alone and could be a folder around classes.
    for top, split in sorted(splits.items(), key=lambda item: item[1] != "train"):
        of_split = {parts[1:] for parts in folders if parts[0] == top and len(parts) > 1}
        inner[top] = _folders_around(of_split, classes, splits=None)
        tops = tops_of(parts for folders in of_split if (parts := below_folders(folders, inner[top])))
        if split == "train":
            classes |= {composed(name) for name in tops}
            _refuse_alike(tops, known)
    return inner


def _refuse_alike(tops: Tops, known: Collection[str]) -> None:
    """Refuse top folders that all hold the same folders: classes may be the outer or the inner ones."""
    if {composed(top) for top in tops} <= set(known):
        return
    held = {top: frozenset(map(composed, inside - {""})) for top, inside in tops.items()}
    outer, inner = _alike(held)
    if not inner or all(DATE.fullmatch(name) for name in inner):
        return
    raise LayoutError(
        f"has {listed(outer)}, and {'both' if len(outer) == 2 else 'all'} hold the same folders ({some(inner)}): "
        f"either may be the classes.\nNext: if {some(inner)} are the classes, rename the outer folders to train, val "
        f"or test, or move all images to one folder for each class; if {some(outer)} are the classes, move the images "
        f"directly to them, or {TABLE}."
    )


def _alike(held: Mapping[str, frozenset[str]]) -> tuple[list[str], list[str]]:
    """Return (folders that hold the same, what they hold): at least two names, and half of what either holds."""
    same: dict[frozenset[str], list[str]] = {}
    for top, names in held.items():
        if len(names) > 1:
            same.setdefault(names, []).append(top)
    # Dictionaries find equal sets in linear time. Near ones need a comparison of each with each.
    sets = [names for names, tops in same.items() if len(tops) > 1] or list(same)[:_MOST_PAIRS]
    for at, names in enumerate(sets):
        near = [other for other in sets[at:] if 2 * len(names & other) >= max(2, len(names), len(other))]
        tops = sorted(top for other in near for top in same[other])
        common = frozenset.intersection(*near) if near else names
        if len(tops) > 1 and len(common) > 1:
            return tops, sorted(common)
    return [], []


def _refuse_deeper_splits(folders: Collection[Parts], layout: Layout) -> None:
    """Refuse folders with the names of splits below where splits were looked for, as in `cat/images/test/`."""
    words: dict[str, Parts] = {}
    for parts in sorted(folders):
        if layout.place((*layout.around, *parts)) is None:
            continue
        top = parts[0]
        depth = 2 if layout.inside else 2 + len(layout.inner.get(top, ())) if top in layout.splits else 1
        for name in parts[depth:]:
            # `train/cat/train/` says the same twice. `train/cat/test/` contradicts itself.
            if name.lower() in SPLIT_NAMES and SPLIT_NAMES[name.lower()] != layout.splits.get(top):
                words.setdefault(SPLIT_NAMES[name.lower()], parts)
    if len(words) > 1 or (words and layout.splits):
        example = "/".join(next(iter(words.values())))
        raise LayoutError(
            f"has folders with the names of splits inside of class folders, such as {example}/.\n"
            f"Next: if they are splits, move them to the top, as in train/CLASS/; if not, rename them, or {TABLE}."
        )


def empty_classes(layout: Layout, with_images: Collection[Parts], others: Collection[Parts]) -> list[EmptyClass]:
    """Return the classes that have a folder but no image, and the splits that have neither."""
    if layout.inside:
        filled = {below[0] for folders in with_images if (below := below_folders(folders, layout.around))}
        every = {below[0] for folders in others if (below := below_folders(folders, layout.around))}
        return [EmptyClass(label, "train") for label in sorted(every - filled)]
    places = {place for folders in with_images if (place := layout.place(folders)) is not None}
    empty = {place for folders in others if (place := layout.place(folders)) is not None} - places
    # A folder such as `val/` with nothing in it must be refused as empty. Else val would be drawn from train unasked.
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
    return note_hidden(len(hidden), hidden[0]) if hidden else ()


def note_hidden(images: int, example: str) -> tuple[str, ...]:
    """The note that so many images are hidden, of which one is the example."""
    count = "1 image is" if images == 1 else f"{images:,} images are"
    return (f"{count} hidden by a dot at the beginning of a name and not used, such as {example}",)
