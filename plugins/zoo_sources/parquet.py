"""Data sets in Parquet: files with the images themselves, as the Hugging Face hub has them, or tables of paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import zoo

from zoo_sources.columns import GENERAL_STEP, REQUIRED, SPLIT, Columns, Row
from zoo_sources.labels import class_of_number, refuse_one_name_twice, whole
from zoo_sources.parquet_columns import class_names, image_columns
from zoo_sources.parquet_files import SUFFIX, ParquetPart, find_parts, opened
from zoo_sources.parquet_images import list_stored, refuse_splits_elsewhere
from zoo_sources.paths import PathListing
from zoo_sources.programs import command

_BATCH = 10_000
"""Rows of a Parquet file in memory at a time."""


def read_parquet(path: Path) -> zoo.SourceListing:
    """List the images of a Parquet file, or of a folder of them.

    Raises:
        DataError: A file cannot be read, it is not clear which columns count, or the files do not go together.
        ImportError: pyarrow is not installed.
    """
    notes: list[str] = []
    parts, beside = find_parts(path, notes)
    with opened(parts[0].path) as table:
        columns = image_columns(parts[0].path, table.schema_arrow)
    if columns is not None:
        listing = list_stored(path, parts, columns, notes)
        return zoo.SourceListing(
            images=listing.images, skipped=[*listing.skipped, *beside], notes=tuple(dict.fromkeys(notes))
        )
    home = parts[0].path.parent
    if any(part.path.parent != home for part in parts):
        raise zoo.DataError(
            f"{path} has Parquet tables of paths in several folders, {home.name} and others.\n"
            "Next: put them into one folder, with paths relative to it, or give one file."
        )
    alone = len(parts) == 1
    paths = PathListing(parts[0].path if alone else home / f"*{SUFFIX}")
    for part in parts:
        for row in _rows(part, "" if alone else f" in {part.path.name}", notes):
            paths.add(row)
    found = paths.listing(notes)
    return zoo.SourceListing(images=found.images, skipped=[*found.skipped, *beside], notes=found.notes)


def _rows(part: ParquetPart, where: str, notes: list[str]) -> Iterator[Row]:
    """The rows of a file that names images. `where` says in which one of several, for messages."""
    with opened(part.path) as table:
        names = table.schema_arrow.names
        columns = Columns(part.path, names, lambda renamed: _rename_step(part.path, renamed))
        notes.extend(columns.notes)
        if columns.places[SPLIT] is None and part.split is None:
            refuse_splits_elsewhere(part.path, table, [names[index] for index in columns.unused])
        wanted = {key: names[place] for key, place in columns.places.items() if place is not None}
        classes = class_names(table.schema_arrow, wanted["label"])
        refuse_one_name_twice(classes or (), str(part.path))
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH, columns=list(wanted.values())):
            for values in batch.to_pylist():
                number += 1
                cells = {key: _cell(part.path, number, key, values[name], classes) for key, name in wanted.items()}
                yield Row(
                    f"Row {number}{where}", cells["path"], cells["label"], cells.get(SPLIT, "") or part.split or ""
                )


def _cell(path: Path, number: int, column: str, value: Any, classes: Sequence[str] | None) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if column == "label" and isinstance(value, (int, float)) and not isinstance(value, bool):
        text = whole(value)
        if text is not None and classes is not None:
            return class_of_number(int(text), classes, str(path), f"row {number}") or ""
        if text is not None:
            return text
    raise zoo.DataError(
        f"Row {number} of {path} has {type(value).__name__} {value!r} as its {column}.\n"
        "Next: path and split must be texts, label a text or a whole number."
    )


def _rename_step(path: Path, renamed: Mapping[str, str]) -> str:
    """How to rename columns, where it is clear which is which."""
    if not renamed or not set(renamed.values()) <= set(REQUIRED):
        return GENERAL_STEP
    program = (
        "import sys, pyarrow.parquet as pq; a, b = sys.argv[1:]; "
        f"pq.write_table(pq.read_table(a).rename_columns({dict(renamed)!r}), b)"
    )
    copy = path.with_name(f"{path.stem}-zoo{path.suffix}")
    return f"Next: name them path and label in a copy of the table:\n{command(program, path, copy)}"
