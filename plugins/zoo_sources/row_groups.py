"""Read single images out of Parquet files, in any order and from any thread, while memory stays flat.

Parquet is packed in pages, so that one row cannot be read alone: the rows before it in its row group are unpacked too.
One reader walks through a row group; the last few megabytes that it passed stay in memory, so that threads that ask for
neighbouring rows are served by one walk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import zoo

_BATCH, _KEPT = 2 << 20, 32 << 20
"""Bytes that are unpacked at a time, and that stay in memory."""
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a file, which is walked through in batches of rows."""

    file: Path
    number: int
    rows: int
    batch: int
    """Rows of a batch."""

    @classmethod
    def of(cls, file: Path, number: int, metadata: Any, column: str) -> RowGroup:
        """The row group with this number. `column` is the column of bytes, by which a batch is measured."""
        group = metadata.row_group(number)
        size = column_of(group, column).total_uncompressed_size
        return cls(file, number, group.num_rows, max(1, _BATCH * group.num_rows // max(size, 1)))


def column_of(group: Any, column: str) -> Any:
    """What a row group's metadata say of a column, such as `image.bytes`."""
    return next(found for at in range(group.num_columns) if (found := group.column(at)).path_in_schema == column)


class BytesColumn:
    """A column of bytes in Parquet files. All its images share one open file and one lock."""

    def __init__(self, column: str, inside: str | None) -> None:
        """`inside` is the field of the bytes in a column of structs, None in a column of bytes."""
        self._column = column if inside is None else f"{column}.{inside}"
        self._name, self._inside = column, inside
        self._lock = Lock()
        self._batches: OrderedDict[tuple[RowGroup, int], Any] = OrderedDict()
        self._size = 0
        self._file: tuple[Path, Any] | None = None
        self._walk: tuple[RowGroup, Iterator[Any]] | None = None
        self._next = 0

    def read(self, group: RowGroup, row: int) -> bytes | None:
        """The bytes of one row, counted in its row group. Raises DataError if they cannot be read."""
        import pyarrow

        try:
            with self._lock:
                value = self._batch(group, row // group.batch)[row % group.batch]
        except (pyarrow.ArrowException, OSError, IndexError) as error:
            raise zoo.DataError(
                f"row {row} of row group {group.number} in {group.file} cannot be read: {error}"
            ) from None
        content: bytes | None = value.as_py()
        return content

    def _batch(self, group: RowGroup, wanted: int) -> Any:
        key = (group, wanted)
        if key in self._batches:
            self._batches.move_to_end(key)
            return self._batches[key]
        if self._walk is None or self._walk[0] is not group or self._next > wanted:
            self._walk, self._next = (group, self._batches_of(group)), 0
        try:
            for batch in self._walk[1]:
                number, self._next = self._next, self._next + 1
                self._keep((group, number), batch)
                if number == wanted:
                    return batch
        except BaseException:
            self._walk = None
            raise
        self._walk = None
        raise IndexError("the file has fewer rows than before")

    def _batches_of(self, group: RowGroup) -> Iterator[Any]:
        from pyarrow import parquet

        if self._file is None or self._file[0] != group.file:
            # Neither mapped nor read ahead: a mapped file that is cut off meanwhile would end the process.
            self._file = (group.file, parquet.ParquetFile(group.file, pre_buffer=False, buffer_size=_BUFFER))
        batches = self._file[1].iter_batches(
            batch_size=group.batch, row_groups=[group.number], columns=[self._column], use_threads=False
        )
        for batch in batches:
            column = batch.column(self._name)
            yield column if self._inside is None else column.field(self._inside)

    def _keep(self, key: tuple[RowGroup, int], batch: Any) -> None:
        earlier = self._batches.pop(key, None)
        self._batches[key] = batch
        self._size += batch.nbytes - (0 if earlier is None else earlier.nbytes)
        while self._size > _KEPT and len(self._batches) > 1:
            _, oldest = self._batches.popitem(last=False)
            self._size -= oldest.nbytes


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The image of one row. Calling it reads and returns its encoded bytes."""

    column: BytesColumn
    group: RowGroup
    row: int
    file: Path | None
    """The image's file, for a row that holds no bytes."""

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the bytes lie, so that zoo can read images in that order."""
        return str(self.group.file), self.group.number, self.row

    def __call__(self) -> bytes:
        content = self.column.read(self.group, self.row)
        if content is not None:
            return content
        if self.file is None:
            raise zoo.DataError("the row holds neither the bytes of an image nor a path")
        return self.file.read_bytes()
