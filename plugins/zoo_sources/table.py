"""Tables of paths and labels: CSV (with commas, semicolons or tabs) and Parquet."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import zoo

REQUIRED, SPLIT = ("path", "label"), "split"
_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SHOWN = 3
_BATCH = 10_000
"""Rows of a Parquet file in memory at a time."""
NO_PYARROW = (
    "a Parquet table needs the package pyarrow, which is not installed here.\n"
    "Next: pip install 'zoo-registry[hf]', or save the table as CSV."
)


@dataclass(slots=True)
class _Listing:
    """The images, skipped files and missing files of the rows read so far."""

    images: list[zoo.SourceImage] = field(default_factory=list)
    skipped: list[zoo.Skipped] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of one row as text, and its position in the table, such as `Line 3`."""

    where: str
    path: str
    label: str
    split: str


def read_table(path: Path) -> zoo.SourceListing:
    """List the images that a table names, by paths relative to the table's folder or absolute ones.

    Raises:
        DataError: The table cannot be read, lacks a column or a cell, has no rows, or names files that do not exist.
        ImportError: The table is a Parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise zoo.DataError(f"There is no file {str(path)!r}.")
    if not path.stat().st_size:
        raise zoo.DataError(
            f"{path} is empty: it has 0 bytes.\nNext: write the header path,label and one row per image."
        )
    notes: list[str] = []
    listing = _Listing()
    rows = _parquet_rows(path, notes) if path.suffix.lower() == ".parquet" else _csv_rows(path, notes)
    total = 0
    for total, row in enumerate(rows, start=1):  # noqa: B007 - counted
        _add(row, path, listing)
    if not total:
        raise zoo.DataError(f"{path} has a header and no rows.\nNext: add a row for every image.")
    if listing.missing:
        raise zoo.DataError(_missing(path, listing.missing, total))
    return zoo.SourceListing(images=listing.images, skipped=listing.skipped, notes=tuple(notes))


def _add(row: _Row, table: Path, listing: _Listing) -> None:
    for column in REQUIRED:
        if not getattr(row, column):
            raise zoo.DataError(f"{row.where} of {table} has no {column}.\nNext: fill it in, or remove the row.")
    file = table.parent / Path(row.path).expanduser()
    # Normalised, so that a file listed as a.jpg and as ./a.jpg is recognised as a duplicate.
    name = Path(os.path.normpath(row.path)).as_posix()
    if file.suffix and not zoo.is_image_name(file.name):
        listing.skipped.append(zoo.Skipped(name, "not an image", f"{file.suffix} extension"))
    elif not file.exists():
        listing.missing.append(row.path)
    elif not file.is_file():
        listing.skipped.append(zoo.Skipped(name, "not an image", "no regular file"))
    else:
        split = sys.intern(row.split.lower()) or None
        listing.images.append(zoo.SourceImage(name=name, label=sys.intern(row.label), content=file, split=split))


def _csv_rows(path: Path, notes: list[str]) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sign = _separator(file.readline(), prefers="\t" if path.suffix.lower() == ".tsv" else ",")
            if sign != ",":
                notes.append(f"columns separated by {_SIGNS[sign]}")
            file.seek(0)
            reader = csv.reader(file, delimiter=sign, strict=True)
            columns = [cell.strip() for cell in next(reader)]
            places = _places(path, columns, notes)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(columns):
                    raise zoo.DataError(
                        f"Line {reader.line_num} of {path} has {len(cells)} cells, the header has {len(columns)}.\n"
                        "Next: put cells that hold a separator in double quotes."
                    )
                values = [cells[place].strip() if place is not None else "" for place in places]
                yield _Row(f"Line {reader.line_num}", *values)
    except UnicodeDecodeError as error:
        raise zoo.DataError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start:,}.\n"
            "Next: save it as UTF-8, for example: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv"
        ) from None
    except csv.Error as error:
        raise zoo.DataError(f"{path} cannot be read as CSV: {error}.\nNext: correct the table.") from None


def _separator(header: str, *, prefers: str) -> str:
    """Return the separator that gives the required columns, or else the one that splits the header most."""
    signs = sorted(_SIGNS, key=lambda sign: sign != prefers)
    fields = {sign: [cell.strip(' "\r\n') for cell in header.split(sign)] for sign in signs}
    fitting = next((sign for sign in signs if set(REQUIRED) <= set(fields[sign])), None)
    return fitting or max(signs, key=lambda sign: len(fields[sign]))


def _places(path: Path, columns: Sequence[str], notes: list[str]) -> list[int | None]:
    """Return the column indices of path, label and split; None for split if the table has none."""
    repeated = [name for name in (*REQUIRED, SPLIT) if list(columns).count(name) > 1]
    if repeated:
        raise zoo.DataError(f"{path} has the column {repeated[0]!r} more than once.\nNext: keep one.")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        close = get_close_matches(missing[0], columns, n=1, cutoff=0.6)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise zoo.DataError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; it has: {', '.join(columns)}.{hint}\n"
            "Next: name the columns path, label and, if the data are split already, split."
        )
    unused = [name for name in columns if name not in (*REQUIRED, SPLIT)]
    if unused:
        notes.append(f"columns not used: {', '.join(unused)}")
    return [columns.index(name) if name in columns else None for name in (*REQUIRED, SPLIT)]


def _parquet_rows(path: Path, notes: list[str]) -> Iterator[_Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(NO_PYARROW) from None
    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            _places(path, columns, notes)
            wanted = [name for name in (*REQUIRED, SPLIT) if name in columns]
            number = 0
            for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    cells = [_cell(path, number, name, values.get(name)) for name in (*REQUIRED, SPLIT)]
                    yield _Row(f"Row {number}", *cells)
    except (pyarrow.ArrowException, OSError) as error:
        raise zoo.DataError(f"{path} cannot be read as Parquet: {error}.\nNext: download or save it again.") from None


def _cell(path: Path, number: int, column: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or (column == "label" and isinstance(value, int) and not isinstance(value, bool)):
        return str(value).strip()
    raise zoo.DataError(
        f"Row {number} of {path} has {type(value).__name__} {value!r} as its {column}.\n"
        "Next: path and split must be texts, label a text or a whole number."
    )


def _missing(table: Path, missing: Sequence[str], total: int) -> str:
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    return (
        f"{len(missing):,} of the {total:,} files listed in {table} do not exist: "
        f"{', '.join(missing[:_SHOWN])}{more}.{_nearest(table, missing[0])}\n"
        f"Next: correct the paths, which are relative to the table's folder {table.parent}, or remove these rows."
    )


def _nearest(table: Path, missing: str) -> str:
    folder = (table.parent / missing).parent
    try:
        close = get_close_matches(Path(missing).name, os.listdir(folder), n=1, cutoff=0.6)  # noqa: PTH208 - names
    except OSError:
        return f" There is no folder {folder}."
    return f" Did you mean {str(Path(missing).parent / close[0])!r}?" if close else ""
