"""The order in which the bytes of images lie in shards: archives, tables, saved data sets.

Images of a split are sorted by class and name, shards are mostly shuffled: read class by class, a shard is walked
through as often as there are classes. A tar file can jump to a member; Parquet has to unpack the rows before it. So
whatever may go through images in any order goes through them as they are stored.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from zoo.data.dataset import ImageFile


class Placed(Protocol):
    """A function that reads an image's bytes and says where they lie, as the readers of the bundled sources do."""

    @property
    def place(self) -> tuple[str, int, int]:
        """The file, and numbers that grow in it as the bytes do, such as an offset, or a row group and a row."""

    def __call__(self) -> bytes: ...


def stored_order(files: Iterable[ImageFile]) -> Sequence[int] | None:
    """The numbers of the files in the order in which their bytes are stored. They are gone through once.

    None where that is the order that they have, and where it is not known of all of them: files of a folder, say.
    """
    places: list[Any] = []
    for file in files:
        place = _place(file.reader)
        if not isinstance(place, tuple):
            return None
        places.append(place)
    try:
        if all(one <= other for one, other in pairwise(places)):
            return None
        return array("q", sorted(range(len(places)), key=places.__getitem__))
    except TypeError:  # places of a plugin that cannot be compared
        return None


def _place(reader: object) -> object:
    """Where a reader's bytes lie, or those of the reader that it calls, as that of a data source is called by zoo's."""
    return getattr(reader, "place", getattr(getattr(reader, "read", None), "place", None))


def as_stored(files: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """The same files in the order in which their bytes are stored, or as they are where that is not known."""
    order = stored_order(files)
    return files if order is None else [files[number] for number in order]


def digest_of_order(order: Iterable[int] | None) -> str:
    """SHA-256 of an order, by which a resumed run knows that it is still the same; empty for None."""
    return "" if order is None else hashlib.sha256(array("q", order).tobytes()).hexdigest()
