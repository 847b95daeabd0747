"""List the images that the rows of a table name by their paths."""

from __future__ import annotations

import sys
from pathlib import Path, PurePath

import zoo

from zoo_sources.columns import REQUIRED, Row
from zoo_sources.disk import Disk, is_file
from zoo_sources.labels import Labels
from zoo_sources.missing import missing_message


class PathListing:
    """The images, skipped files and missing files of the rows added so far."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._disk, self._labels = Disk(table.parent), Labels(table)
        self._images: list[zoo.SourceImage] = []
        self._skipped: list[zoo.Skipped] = []
        self._missing: list[str] = []
        self._rows = 0

    def add(self, row: Row) -> None:
        """Add the image of one row, or the reason why it is none. Raises DataError for a row without path or label."""
        self._rows += 1
        for column in REQUIRED:
            if not getattr(row, column):
                raise zoo.DataError(
                    f"{row.where} of {self._table} has no {column}.\nNext: fill it in, or remove the row."
                )
        self._labels.check(row.where, row.label)
        found = self._disk.find(row.path)
        suffix = PurePath(row.path).suffix
        if suffix and not zoo.is_image_name(row.path):
            name = found.name if found else PurePath(row.path).as_posix()
            self._skipped.append(zoo.Skipped(name, "not an image", f"{suffix} extension"))
        elif found is None:
            self._missing.append(row.path)
        elif not is_file(found.path):
            self._skipped.append(zoo.Skipped(found.name, "not an image", "no regular file"))
        else:
            split = sys.intern(row.split.lower()) or None
            self._images.append(
                zoo.SourceImage(name=found.name, label=sys.intern(row.label), content=found.path, split=split)
            )

    def listing(self, notes: list[str]) -> zoo.SourceListing:
        """Everything that was added. Raises DataError if there was no row, or a file does not exist."""
        if not self._rows:
            raise zoo.DataError(f"{self._table} has a header and no rows.\nNext: add a row for every image.")
        if self._missing:
            raise zoo.DataError(missing_message(self._table, self._missing, self._rows))
        return zoo.SourceListing(
            images=self._images,
            skipped=self._skipped,
            notes=tuple(dict.fromkeys([*notes, *self._disk.notes()])),
        )
