"""A manifest: all images of a data set as columns, and views of them that make an `ImageFile` when one is asked for.

An image costs its name and about 30 bytes, instead of several objects. A manifest needs no disk: of names alone,

    manifest = ImageManifest.of_names(f"class_{n % 100}/{n}.jpg" for n in range(1_000_000))
    files = ImageRows(manifest, np.arange(len(manifest)), labels=np.arange(len(manifest)) % 100, classes=classes)
    train, val = split_stratified(files, classes, seed=0)
    dataset = Dataset(source="made up", classes=classes, splits={"train": train, "val": val})

Every step is linear in the number of images. What goes over all images should use `names()`, `labels` and `rows` of the
view: a loop over the view itself makes an object with a `Path` for each image, which takes some microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from zoo.data.dataset import ImageFile, ImageFiles, SourceFile
from zoo.data.text_column import CHUNK, TextColumn, TextIndex, column_of

Reader = Callable[[], bytes]
_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class ImageManifest:
    """The images of a data set by row, in the order in which they were found: their names and where their bytes are."""

    names: TextColumn
    """The names: paths below the data folder, with forward slashes, as digests and messages have them."""
    place: Path = Path()
    """The folder that the names are below, or the file that contains the images."""
    paths: TextColumn | None = None
    """The file of each image; an empty text is `place`. None: the file is `place`/name."""
    others: Mapping[int, Path] = field(default_factory=dict)
    """Row -> the file of an image for which neither holds, such as one whose name on the disk is not UTF-8."""
    readers: Sequence[Reader | None] | None = None
    """What reads each image that has no file of its own; None: every image is a file."""
    given: NDArray[np.int32] | None = None
    """`given[N]`: which of `given_names` is the label that the data gave each image; None: no label is known."""
    given_names: tuple[str, ...] = ()
    """The labels as the data write them."""

    @classmethod
    def of_names(cls, names: Iterable[str], place: Path = Path()) -> Self:
        """The manifest of files `place`/name, or of images that are never opened. `names` is gone through once."""
        return cls(column_of(names), place)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> TextIndex:
        """Finds the row of a name. Made when it is first asked."""
        return TextIndex(self.names)

    def at(self, row: int) -> SourceFile:
        """The image of a row."""
        name = self.names[row]
        return self._file(row, self._folder() + name if self.paths is None else self.paths[row], name)

    def located(self, rows: NDArray[np.integer]) -> Iterator[SourceFile]:
        """Yield the images of `rows[n]`, in their order."""
        names, folder = self.names.pick(rows), self._folder()
        paths = self.paths.pick(rows) if self.paths is not None else (folder + name for name in self.names.pick(rows))
        return (self._file(row, path, name) for row, path, name in zip(integers(rows), paths, names, strict=True))

    def _folder(self) -> str:
        # Texts are joined, which is quicker than paths, for there is one for every file of many.
        return os.path.join(self.place, "") if self.place != Path() else ""  # noqa: PTH118

    def _file(self, row: int, path: str, name: str) -> SourceFile:
        file = self.others.get(row) or (Path(path) if path else self.place)
        return SourceFile(file, name, self.readers[row] if self.readers is not None else None)

    def __getstate__(self) -> dict[str, Any]:
        # The index holds for the process that made it.
        return {key: value for key, value in self.__dict__.items() if key != "index"}


class SourceRows(Sequence[SourceFile]):
    """Rows of a manifest: the images of one class of a split, before classes are checked."""

    __slots__ = ("manifest", "rows")

    def __init__(self, manifest: ImageManifest, rows: NDArray[np.integer]) -> None:
        """Show `rows[n]` of the manifest, in their order."""
        self.manifest = manifest
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> SourceFile: ...
    @overload
    def __getitem__(self, index: slice) -> SourceRows: ...
    def __getitem__(self, index: int | slice) -> SourceFile | SourceRows:
        if isinstance(index, slice):
            return SourceRows(self.manifest, self.rows[index])
        return self.manifest.at(int(self.rows[index]))

    def __iter__(self) -> Iterator[SourceFile]:
        return self.manifest.located(self.rows)


class ImageRows(ImageFiles):
    """Rows of a manifest with their labels: a split, or a part of one. Slices are views, too."""

    __slots__ = ("classes", "label_of", "manifest", "rows")

    def __init__(
        self,
        manifest: ImageManifest,
        rows: NDArray[np.integer],
        labels: NDArray[np.integer],
        classes: tuple[str, ...] = (),
    ) -> None:
        """Args:
        manifest: The images.
        rows: `rows[n]` of the manifest, in the order of this view.
        labels: `labels[n]`: the index of each image's class.
        classes: The class that each of the manifest's `given_names` means, or, where no label was given, the names of
            the classes by their index. Empty: the images have no name of a label.
        """
        self.manifest = manifest
        self.rows: NDArray[np.integer] = rows.astype(np.int32 if len(manifest) <= _INT32 else np.int64, copy=False)
        """`rows[n]` of the manifest."""
        self.label_of: NDArray[np.int32] = labels.astype(np.int32, copy=False)
        """`label_of[n]`: the index of each image's class."""
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> ImageRows: ...
    def __getitem__(self, index: int | slice) -> ImageFile | ImageRows:
        if isinstance(index, slice):
            return self.at(index)
        row, label = int(self.rows[index]), int(self.label_of[index])
        file = self.manifest.at(row)
        given = label if self.manifest.given is None else self.manifest.given[row]
        return ImageFile(file.path, file.relative, label, file.reader, self.classes[given] if self.classes else "")

    def __iter__(self) -> Iterator[ImageFile]:
        return self._made(self.rows, self.label_of)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # Also equal to a tuple of the same images, which is what a split is where there is no manifest.
        if not isinstance(other, (ImageRows, tuple)) or len(other) != len(self):
            return NotImplemented if not isinstance(other, (ImageRows, tuple)) else False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} images of {self.manifest.place}>"

    def at(self, chosen: slice | NDArray[Any]) -> ImageRows:
        """The images at these positions of this view: a slice, `positions[m]`, or `mask[n]`."""
        return ImageRows(self.manifest, self.rows[chosen], self.label_of[chosen], self.classes)

    def names(self) -> Iterator[str]:
        """Yield the names, without making records."""
        return self.manifest.names.pick(self.rows)

    def labels(self) -> Iterator[int]:
        """Yield the labels, without making records."""
        return integers(self.label_of)

    def counts(self, classes: int) -> list[int]:
        """Number of images of each class, by class index."""
        counts: list[int] = np.bincount(self.label_of, minlength=classes).tolist()
        return counts

    def without(self, names: Collection[str]) -> ImageRows:
        """The images whose names are not among these."""
        if not names:
            return self
        return self.at(np.fromiter((name not in names for name in self.names()), np.bool_, len(self)))

    def _made(self, rows: NDArray[np.integer], labels: NDArray[np.integer]) -> Iterator[ImageFile]:
        # Not by its label: that every image has the label that was given is what the proof looks at.
        given = labels if self.manifest.given is None else self.manifest.given[rows]
        files = zip(self.manifest.located(rows), integers(labels), integers(given), strict=True)
        for file, label, code in files:
            yield ImageFile(file.path, file.relative, label, file.reader, self.classes[code] if self.classes else "")


def no_images(manifest: ImageManifest) -> SourceRows:
    """No row of a manifest."""
    return SourceRows(manifest, np.zeros(0, np.int32))


def labelled(manifest: ImageManifest, parts: Sequence[SourceRows | None], classes: tuple[str, ...]) -> ImageRows:
    """The images of every class, `parts[classes]`, one class after the other. None: there are none of this class."""
    rows = [part.rows if part is not None else np.zeros(0, np.int64) for part in parts]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(part) for part in rows])
    names = classes
    if manifest.given is not None:
        meant = dict.fromkeys(range(len(manifest.given_names)), "")
        for name, of_class in zip(classes, rows, strict=True):
            meant |= dict.fromkeys(np.unique(manifest.given[of_class]).tolist(), name)
        names = tuple(meant.values())
    return ImageRows(manifest, np.concatenate([*rows, np.zeros(0, np.int64)]), labels, names)


def by_label(first: ImageRows, second: ImageRows) -> ImageRows:
    """Two views of one manifest as one, in the order of the labels; within a label, the first view comes first."""
    rows, labels = (np.concatenate([getattr(part, key) for part in (first, second)]) for key in ("rows", "label_of"))
    classes = tuple(one or other for one, other in zip(first.classes, second.classes, strict=True))
    return ImageRows(first.manifest, rows, labels, classes).at(np.argsort(labels, kind="stable"))


def chosen(files: Sequence[ImageFile], mask: NDArray[np.bool_]) -> Sequence[ImageFile]:
    """The images where `mask[n]` is true: a view of a view, a tuple of anything else."""
    if isinstance(files, ImageRows):
        return files.at(mask)
    return tuple(file for file, wanted in zip(files, mask.tolist(), strict=True) if wanted)


def drawn(labels: Iterable[int], images: int, draw: Sequence[Callable[[int], Sequence[int]]]) -> NDArray[np.bool_]:
    """`mask[images]` of what is drawn of every class: `draw[label](count)` gives positions among its `count` images."""
    mask = np.zeros(images, np.bool_)
    label_of = np.fromiter(labels, np.int32, images)
    order = np.argsort(label_of, kind="stable")
    ends = np.cumsum(np.bincount(label_of, minlength=len(draw))).tolist()
    for of_class, begin, end in zip(draw, [0, *ends[:-1]], ends, strict=True):
        mask[order[begin:end][np.fromiter(of_class(end - begin), np.int64)]] = True
    return mask


def integers(values: NDArray[np.integer]) -> Iterator[int]:
    """Python's integers, a few thousand at a time: the numbers of numpy are slow, one by one."""
    for at in range(0, len(values), CHUNK):
        yield from values[at : at + CHUNK].tolist()
