"""A listing as columns: which images there are, with the split and the label of each as a number.

Class folders on a disk are read into it as they are walked through; what a plugin lists is turned into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from zoo.data.manifest import ImageManifest, Reader, SourceRows
from zoo.data.text_column import column_of
from zoo.specs.data import EmptyClass, Skipped, SourceImage, SourceListing
from zoo.text import printable

_Value = TypeVar("_Value")
_OWN_PATH = type(Path())


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ListedImages:
    """What `SourceListing` holds, as columns: `split[N]` belongs to the rows of the manifest."""

    manifest: ImageManifest
    """The images, with the labels that the data gave them."""
    splits: tuple[str | None, ...]
    """The words for splits."""
    split: NDArray[np.int32]
    """`split[N]`: which of `splits` each image is in."""
    order: NDArray[np.integer] | None = None
    """`order[N]`: the rows in the order in which a split has them. None: as they are."""
    unique: bool = False
    """Whether no two names can be equal, for the disk keeps them apart."""
    skipped: Sequence[Skipped] = ()
    notes: tuple[str, ...] = ()
    empty: Sequence[EmptyClass] = ()

    def examples(self) -> dict[str | None, str]:
        """Each word for a split, and the first image in it, in the order of these images."""
        return {self.splits[code]: self.manifest.names[row] for code, row in _first_rows(self.split)}

    def ordered(self) -> NDArray[np.integer]:
        """`rows[N]` in the order in which a split has them."""
        return np.arange(len(self.manifest), dtype=np.int32) if self.order is None else self.order

    def written(self) -> Iterator[str]:
        """Yield each label once, as the data write it, in the order of the images."""
        names = self.manifest.given_names
        return (names[code] for code, _ in _first_rows(self.given[self.ordered()]))

    @property
    def given(self) -> NDArray[np.int32]:
        """`given[N]`: which of the manifest's `given_names` each image has."""
        assert self.manifest.given is not None, "what is listed has labels"
        return self.manifest.given

    def groups(self, names: Sequence[str]) -> Iterator[tuple[str | None, str, SourceRows]]:
        """Yield (word for the split, name of the class, images), in the order of each one's first image.

        `names` are the classes that the manifest's `given_names` mean; several may mean one.
        """
        classes = list(dict.fromkeys(names))
        place = {name: at for at, name in enumerate(classes)}
        of_label = np.array([place[name] for name in names], np.int64)
        rows = self.ordered()
        # One number for split and class, so that one sort gathers all groups.
        group = self.split[rows].astype(np.int64) * max(1, len(classes)) + of_label[self.given[rows]]
        # Stable: within a group the images keep their order, on which the draw of val depends.
        by_group = np.argsort(group, kind="stable")
        codes, begins = np.unique(group[by_group], return_index=True)
        ends = [*begins[1:].tolist(), len(rows)]
        members = [by_group[begin:end] for begin, end in zip(begins.tolist(), ends, strict=True)] if len(rows) else []
        for code, positions in sorted(zip(codes.tolist(), members, strict=True), key=lambda item: int(item[1][0])):
            split, of_class = divmod(code, max(1, len(classes)))
            yield self.splits[split], classes[of_class], SourceRows(self.manifest, rows[positions])


def listed_images(
    listing: SourceListing, place: Path, reading: Callable[[Callable[[], object]], Reader], *, sort: bool
) -> ListedImages:
    """Turn what a data source lists into columns.

    Args:
        listing: What was found.
        place: Where the data are: the file of images that have none of their own.
        reading: Makes a reader of the function that an image comes with.
        sort: Whether images are to be ordered by name.
    """
    images = cast("tuple[SourceImage, ...]", listing.images)
    splits, split = _coded(image.split for image in images)
    names = [image.name for image in images]
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int32) if sort else None
    return ListedImages(
        manifest=_manifest(images, place, reading),
        splits=tuple(splits),
        split=split,
        order=order,
        skipped=cast("tuple[Skipped, ...]", listing.skipped),
        notes=listing.notes,
        empty=cast("tuple[EmptyClass, ...]", listing.empty),
    )


def _manifest(
    images: Sequence[SourceImage], place: Path, reading: Callable[[Callable[[], object]], Reader]
) -> ImageManifest:
    contents = [image.content for image in images]
    readers = [None if isinstance(content, Path) else reading(content) for content in contents]
    given_names, given = _coded(image.label for image in images)
    plain = (str(content) if type(content) is _OWN_PATH else "" for content in contents)
    return ImageManifest(
        names=column_of(printable(image.name) for image in images),
        place=place,
        paths=column_of(plain),
        # A path of another library's kind may lead to another machine, and stays what it is.
        others={
            row: content
            for row, content in enumerate(contents)
            if isinstance(content, Path) and type(content) is not _OWN_PATH
        },
        readers=readers if any(reader is not None for reader in readers) else None,
        given=given,
        given_names=tuple(given_names),
    )


def _coded(values: Iterable[_Value]) -> tuple[list[_Value], NDArray[np.int32]]:
    """Return (the different values in their order, `codes[N]` of all)."""
    codes: dict[_Value, int] = {}
    coded = np.fromiter((codes.setdefault(value, len(codes)) for value in values), np.int32)
    return list(codes), coded


def _first_rows(codes: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Return (code, the first place where it stands), in the order of these places."""
    found, first = np.unique(codes, return_index=True)
    return sorted(zip(found.tolist(), first.tolist(), strict=True), key=lambda pair: pair[1])
