"""Read labels and splits from the folders of a disk, folder by folder: the rules of `class_folders` for columns.

Which label and split an image has follows from its folder alone, so that each rule is asked once for each folder, and a
record is made only of files that are not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.class_folders import Layout, empty_classes, find_layout, left_out, note_hidden, visible
from zoo.data.folder_tree import FolderTree
from zoo.data.listed_images import ListedImages
from zoo.data.manifest import ImageManifest
from zoo.data.split_folders import Parts
from zoo.data.text_column import TextBuilder, TextColumn, column_of, plain_column
from zoo.specs.data import Skipped, is_image_name, is_system_name, passed_over
from zoo.text import printable

_LEAD = 0xED
"""The byte with which the escapes of names begin that are not UTF-8; Korean letters begin with it, too."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder and what the rules say about the files in it."""

    parts: Parts
    """The names on the way to it, as they are shown."""
    passed_over: bool
    place: tuple[str | None, str] | None
    """(word for the split, label) of its images; None if it is no class folder."""

    @property
    def used(self) -> bool:
        return not self.passed_over and self.place is not None


def read_tree(tree: FolderTree, root: Path, *, classes: Collection[str] = ()) -> ListedImages:
    """Label every image by its folders.

    Args:
        tree: The files.
        root: The folder that they are in.
        classes: Names of classes that are known already: a folder of such a name is a class.

    Raises:
        LayoutError: The folders can be read in two ways.
    """
    # Bytes that are not UTF-8 are compared as they are shown: the classes of a classifier are stored so.
    shown = [tuple(printable(name).split("/")) if name else () for name in tree.folders]
    with_images = {shown[number] for number in set(tree.run_folders.tolist()) if passed_over(shown[number]) is None}
    others = {visible(parts) for parts in shown[1:]}
    layout = find_layout(with_images, others, classes=classes)
    folders = [_meant(parts, layout) for parts in shown]
    codes = _Codes(folders)
    manifest, of_row = _manifest(tree, folders, root, codes)
    return ListedImages(
        manifest=manifest,
        splits=codes.splits,
        split=codes.split[of_row],
        # The disk keeps names apart, but not how they are shown.
        unique=not manifest.others,
        skipped=tuple(_skipped(tree, folders)),
        notes=(*layout.notes, *_notes(tree, folders)),
        empty=empty_classes(layout, with_images, others),
    )


def _meant(parts: Parts, layout: Layout) -> _Folder:
    passed = passed_over(parts) is not None
    return _Folder(parts, passed, None if passed else layout.place(parts))


class _Codes:
    """Splits and labels of the folders as numbers: `split[F]` and `label[F]`, -1 where a folder is not used."""

    def __init__(self, folders: Sequence[_Folder]) -> None:
        splits: dict[str | None, int] = {}
        labels: dict[str, int] = {}
        self.split, self.label = (np.full(len(folders), -1, np.int32) for _ in range(2))
        for number, folder in enumerate(folders):
            if folder.place is not None:
                word, label = folder.place
                self.split[number] = splits.setdefault(word, len(splits))
                self.label[number] = labels.setdefault(label, len(labels))
        self.splits, self.labels = tuple(splits), tuple(labels)


def _manifest(
    tree: FolderTree, folders: Sequence[_Folder], root: Path, codes: _Codes
) -> tuple[ImageManifest, NDArray[np.int32]]:
    """Return (the images that are used, `folder[N]` of each)."""
    used = np.array([folder.used for folder in folders], np.bool_)[tree.run_folders]
    of_row = np.repeat(tree.run_folders[used], tree.runs[used])
    images = tree.images
    if not used.all():
        kept = TextBuilder()
        for begin, end in _bounds(tree, used):
            kept.extend_from(images, begin, end)
        images = kept.build()
    heads = plain_column([f"{name}/" if name else "" for name in tree.folders])
    names = TextColumn(images.blob, images.starts, heads, of_row)
    others: dict[int, Path] = {}
    # One look at all bytes spares asking `printable` for each of a million names.
    if (images.blob == _LEAD).any() or (heads.blob == _LEAD).any():
        others = {row: root / name for row, name in enumerate(names) if printable(name) != name}
    if others:
        names = column_of(map(printable, names))
    given = codes.label[of_row]
    return ImageManifest(names, root, others=others, given=given, given_names=codes.labels), of_row


def _skipped(tree: FolderTree, folders: Sequence[_Folder]) -> Iterator[Skipped]:
    """Yield every file that is not used: what is no plain image, and the images of folders that are not used."""
    for number, _, (_, kind, name) in tree.rest:
        if kind == "folder":
            continue
        parts = (*folders[number].parts, printable(name))
        relative = "/".join(parts)
        if kind == "special" and is_image_name(name) and passed_over(parts) is None:
            yield Skipped(relative, "not an image", "no regular file")
        elif skipped := left_out(relative, parts, folders[number].place):
            yield skipped
    for folder, begin, end in _unused(tree, folders):
        for name in tree.images.pick(np.arange(begin, end)):
            parts = (*folder.parts, printable(name))
            if skipped := left_out("/".join(parts), parts, folder.place):
                yield skipped


def _notes(tree: FolderTree, folders: Sequence[_Folder]) -> tuple[str, ...]:
    """Say that images are passed over whose name, or whose folder's name, a person may have given."""
    hidden = [
        (found.before, 0, 1, (*folders[found.folder].parts, printable(found.entry.name)))
        for found in tree.rest
        if found.entry.kind != "folder"
        and is_image_name(found.entry.name)
        and _is_hidden((*folders[found.folder].parts, found.entry.name))
    ]
    hidden += [
        (begin, 1, end - begin, (*folder.parts, printable(tree.images[begin])))
        for folder, begin, end in _unused(tree, folders)
        if _is_hidden(folder.parts)
    ]
    if not hidden:
        return ()
    # What is no plain image comes before the run of images that begins at the same place.
    *_, first = min(hidden, key=lambda found: found[:2])
    return note_hidden(sum(count for _, _, count, _ in hidden), "/".join(first))


def _is_hidden(parts: Parts) -> bool:
    return passed_over(parts) == "hidden" and not any(map(is_system_name, parts))


def _unused(tree: FolderTree, folders: Sequence[_Folder]) -> Iterator[tuple[_Folder, int, int]]:
    """Yield (folder, begin, end) of every run of images that is not used."""
    unused = np.array([not folder.used for folder in folders], np.bool_)[tree.run_folders]
    runs = zip(tree.run_folders[unused].tolist(), _bounds(tree, unused), strict=True)
    return ((folders[number], begin, end) for number, (begin, end) in runs)


def _bounds(tree: FolderTree, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) among the images of the tree, of the runs that are chosen."""
    ends = np.cumsum(tree.runs)
    return zip((ends - tree.runs)[chosen].tolist(), ends[chosen].tolist(), strict=True)
