"""What is known of images that were opened, by name: in columns, where the images are rows of a manifest.

A dictionary of texts would take some hundred bytes an image for each thing that is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.data.dataset import Dataset, ImageFile, names_of
from zoo.data.digests import DigestColumn, manifest_of
from zoo.data.lost_values import Loss
from zoo.data.manifest import ImageRows
from zoo.data.readings import PLAIN, Reading, Readings
from zoo.data.spool import SpoolPlace

_PLACE = np.dtype([("offset", np.int64), ("height", np.int32), ("width", np.int32)])


class OpenedImages:
    """Digests of images, what decoding found of them, and where their pixels are in a spool.

    A row of the manifest takes 49 bytes. Dictionaries hold what is known of images that are no rows, of the few that
    cannot be read, and of the few of which there is more to say than that they can.
    """

    def __init__(self) -> None:
        """Nothing is known, and no manifest."""
        self._column: DigestColumn | None = None
        """Digests of the rows that can be decoded."""
        self._special: dict[str, Reading] = {}
        """Of those rows, what is not `PLAIN`."""
        self._others: dict[str, tuple[str, Reading | None]] = {}
        """All other images. None: it cannot be decoded, and its digest is empty where it cannot even be read."""
        self._places: NDArray[np.void] = np.zeros(0, _PLACE)
        """Of each row; a height of 0 is none."""
        self._other_places: dict[str, SpoolPlace] = {}

    def expect(self, dataset: Dataset) -> None:
        """Keep what will be found of a data set's images in columns, if they are rows of a manifest.

        That holds for the first such data set. What is found of other images stands in dictionaries.
        """
        manifest = manifest_of(dataset)
        if self._column is None and manifest is not None:
            self._column = DigestColumn(manifest)
            # The system gives memory to those parts alone that are written to.
            self._places = np.zeros(len(manifest), _PLACE)

    def put(self, name: str, digest: str, reading: Reading | None) -> None:
        """Take what was found of an image; no `reading`: it cannot be decoded."""
        row = self._row(name)
        self._special.pop(name, None)
        if self._column is None or row is None or reading is None:
            self._others[name] = digest, reading
            if self._column is not None and row is not None:
                self._column.known[row] = False
            return
        self._column.put(np.array([row]), np.frombuffer(bytes.fromhex(digest), np.uint8)[None])
        self._others.pop(name, None)
        if reading != PLAIN:
            self._special[name] = reading

    def digest(self, name: str) -> str | None:
        """The SHA-256 of an image; None: it was not opened."""
        if name in self._others:
            return self._others[name][0]
        return None if self._column is None else self._column.get(name)

    def reading(self, name: str) -> Reading | None:
        """What is known of an image; None: it was not opened, or cannot be decoded."""
        if name in self._others:
            return self._others[name][1]
        if name in self._special:
            return self._special[name]
        return None if self._column is None or name not in self._column else PLAIN

    def losses(self) -> dict[str, Loss]:
        """What decoding destroyed, by name, where little is left."""
        of_others = {name: reading for name, (_, reading) in self._others.items() if reading is not None}
        found = of_others | self._special
        return {name: reading.loss for name, reading in found.items() if reading.loss is not None}

    def readings(self) -> Readings:
        """What is known of those that can be decoded, by digest."""
        others = Readings.of({digest: reading for digest, reading in self._others.values() if reading is not None})
        if self._column is None:
            return others
        special = {self._column[name]: reading for name, reading in self._special.items()}
        return others | Readings(self._column.bytes[self._column.known].tobytes(), special)

    def contents(self, splits: Collection[Sequence[ImageFile]]) -> Mapping[str, str]:
        """The SHA-256 of each of these images, by name. Raises KeyError where one was not opened."""
        views = [files for files in splits if isinstance(files, ImageRows)]
        if self._column is not None and all(files.manifest is self._column.manifest for files in views):
            rows = np.concatenate([np.zeros(0, np.int32), *(files.rows for files in views)])
            if len(views) == len(splits) and self._column.known[rows].all():
                return self._column.only(rows)
        found = {name: self.digest(name) for files in splits for name in names_of(files)}
        return {name: _known(name, digest) for name, digest in found.items()}

    def put_place(self, name: str, place: SpoolPlace) -> None:
        """Take where the pixels of an image are."""
        row = self._row(name)
        if row is None:
            self._other_places[name] = place
        else:
            self._places[row] = (place.offset, place.height, place.width)

    def place(self, name: str) -> SpoolPlace | None:
        """Where the pixels of an image are; None: in no spool."""
        row = self._row(name)
        if row is None:
            return self._other_places.get(name)
        offset, height, width = self._places[row].tolist()
        return SpoolPlace(offset, height, width) if height else None

    def _row(self, name: str) -> int | None:
        return None if self._column is None else self._column.manifest.index.row(name)


def _known(name: str, digest: str | None) -> str:
    if digest is None:
        raise KeyError(name)
    return digest
