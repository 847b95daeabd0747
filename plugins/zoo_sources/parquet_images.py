"""List the images that Parquet files hold. Labels are read and images are not: memory stays flat."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import zoo

from zoo_sources.columns import refuse_splits_in
from zoo_sources.disk import Disk
from zoo_sources.labels import Labels, class_of_number, refuse_one_name_twice, whole
from zoo_sources.missing import missing_message
from zoo_sources.parquet_columns import ImageColumns, image_columns, is_text
from zoo_sources.parquet_files import ParquetPart, opened
from zoo_sources.row_groups import BytesColumn, RowGroup, StoredImage, column_of

_BATCH = 10_000
"""Rows without their images that are in memory at a time."""
_LARGE = 256 << 20
"""Bytes of images in a row group above which reading them costs memory worth a note."""


@dataclass(slots=True)
class StoredListing:
    """What the files read so far hold."""

    images: list[zoo.SourceImage] = field(default_factory=list)
    skipped: list[zoo.Skipped] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    rows: Counter[str | None] = field(default_factory=Counter)
    """Rows of each split that file names tell, by which the images are numbered."""


def list_stored(path: Path, parts: Sequence[ParquetPart], columns: ImageColumns, notes: list[str]) -> StoredListing:
    """List the images of the files. All must have the columns of the first. `notes` gets what people should know.

    Raises DataError if files differ in their columns or classes, a label cannot be a class, or there are no rows.
    """
    listing, content, labels, largest = StoredListing(), BytesColumn(columns.image, columns.inside), Labels(path), 0
    refuse_one_name_twice(columns.classes or (), str(path))
    for part in parts:
        with opened(part.path) as table:
            _refuse_other_columns(parts[0].path, columns, part.path, table)
            unused = [name for name in table.schema_arrow.names if name not in (columns.image, columns.label)]
            if columns.split is None and part.split is None:
                refuse_splits_elsewhere(part.path, table, unused)
            reader = _Part(part, columns, content, labels, Disk(part.path.parent))
            first = 1
            for number in range(table.num_row_groups):
                reader.list_group(table, number, first, listing)
                first += table.metadata.row_group(number).num_rows
                largest = max(
                    largest, column_of(table.metadata.row_group(number), columns.stored).total_uncompressed_size
                )
    if not listing.rows.total():
        raise zoo.DataError(f"{path} has a header and no rows.\nNext: download or save it again.")
    if listing.missing:
        raise zoo.DataError(missing_message(parts[0].path, listing.missing, listing.rows.total()))
    notes.append(f"image from column {columns.image}, label from column {columns.label}")
    if largest > _LARGE:
        notes.append(
            f"row groups of {largest / 1e6:,.0f} MB; row_group_size=100 when writing takes less memory and time"
        )
    return listing


def refuse_splits_elsewhere(path: Path, table: Any, unused: Sequence[str]) -> None:
    """Raise DataError if a column of texts that is not used holds splits, under another name than split."""
    from pyarrow import compute

    for name in unused:
        if not is_text(table.schema_arrow.field(name).type):
            continue
        words: set[str] = set()
        for batch in table.iter_batches(batch_size=_BATCH, columns=[name]):
            words |= {str(word or "").strip().lower() for word in compute.unique(batch.column(0)).to_pylist()}
            if not all(map(zoo.split_named, words)):
                break
        else:
            refuse_splits_in(path, name, words)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file while it is listed."""

    part: ParquetPart
    columns: ImageColumns
    content: BytesColumn
    labels: Labels
    disk: Disk

    def list_group(self, table: Any, number: int, first: int, listing: StoredListing) -> None:
        """List the rows of a row group, of which the first one is row number `first` of the file."""
        file, metadata = self.part.path, table.metadata
        group = RowGroup.of(file, number, metadata, self.columns.stored)
        statistics = column_of(metadata.row_group(number), self.columns.stored).statistics
        empty = statistics.null_count if statistics is not None and statistics.has_null_count else None
        for row, (label, split, path) in enumerate(self._cells(table, number)):
            at = listing.rows[self.part.split]
            listing.rows[self.part.split] += 1
            where = f"Row {first + row}"
            split = self._split(where, split)
            name = f"{split + '/' if split else ''}{at:07d}{_suffix(path)}"
            class_name = self._class_of(where, label)
            if class_name is None:
                listing.skipped.append(zoo.Skipped(name, "no label", f"its {self.columns.label} is {label!r}"))
                continue
            image: Path | StoredImage = StoredImage(
                self.content, group, row, file.parent / path if path and empty != 0 else None
            )
            if empty == group.rows and path:
                found = self.disk.find(path)
                if found is None:
                    listing.missing.append(path)
                    continue
                image = found.path
            listing.images.append(zoo.SourceImage(name=name, label=sys.intern(class_name), content=image, split=split))

    def _cells(self, table: Any, number: int) -> Iterator[tuple[Any, str | None, str | None]]:
        """The label, the split and the original path of every row of a row group."""
        columns = self.columns
        for batch in table.iter_batches(batch_size=_BATCH, row_groups=[number], columns=columns.listed):
            labels = batch.column(columns.label).to_pylist()
            splits = batch.column(columns.split).to_pylist() if columns.split else [None] * len(labels)
            paths = batch.column(columns.image).field("path").to_pylist() if columns.has_paths else [None] * len(labels)
            yield from zip(labels, splits, paths, strict=True)

    def _split(self, where: str, split: str | None) -> str | None:
        """The split by the row's own cell, or else by the file's name. Raises DataError if they differ."""
        own = sys.intern(str(split).strip().lower()) if split else None
        if own and self.part.split and zoo.split_named(own) != zoo.split_named(self.part.split):
            raise zoo.DataError(
                f"{where} of {self.part.path} has the split {own}, but the file's name says {self.part.split}.\n"
                "Next: rename the file, so that its name begins with no split, if the column is right."
            )
        return own or self.part.split

    def _class_of(self, where: str, label: Any) -> str | None:
        """The name of the class, or None for a row without one, as data sets have them in test."""
        classes = self.columns.classes
        if label is None or label != label:  # not a number
            return None
        if isinstance(label, str):
            text = label.strip()
            if text:
                self.labels.check(f"{where} of {self.part.path.name}", text)
                if classes is not None and text not in classes:
                    raise zoo.DataError(
                        f"{where} of {self.part.path} has the label {text!r}, and the data name {len(classes)} other "
                        f"classes, such as {classes[0]!r}.\nNext: correct the label, or the list of classes."
                    )
            return text or None
        number = whole(label)
        if number is None:
            raise zoo.DataError(
                f"{where} of {self.part.path} has float {label!r} as its {self.columns.label}.\n"
                "Next: labels must be texts or whole numbers; sort the values into classes first."
            )
        if classes is None:
            return number
        return class_of_number(int(number), classes, str(self.part.path), where.lower())


def _suffix(path: str | None) -> str:
    """The suffix of an image's original file name, or an empty text if that is unknown."""
    suffix = PurePath(path).suffix.lower() if path else ""
    return suffix if zoo.is_image_name(suffix) else ""


def _refuse_other_columns(first: Path, columns: ImageColumns, path: Path, table: Any) -> None:
    found = image_columns(path, table.schema_arrow)
    if found == columns:
        return
    if found is not None and found.classes != columns.classes:
        problem = f"{first} and {path.name} name their classes differently"
    else:
        problem = f"{first} and {path.name} have different columns"
    raise zoo.DataError(f"{problem}, so that they are not one data set.\nNext: move one of them elsewhere.")
