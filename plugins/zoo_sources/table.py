"""Tables: CSV with paths and labels, and Parquet with paths or with the images themselves."""

from __future__ import annotations

from pathlib import Path

import zoo

from zoo_sources.csv_table import csv_rows
from zoo_sources.disk import is_folder
from zoo_sources.other_formats import refuse_other_formats
from zoo_sources.parquet_files import SUFFIX
from zoo_sources.paths import PathListing


def read_table(path: Path) -> zoo.SourceListing:
    """List the images of a table: by paths relative to the table's folder or absolute ones, or those in the table.

    Raises:
        DataError: The table cannot be read, lacks a column or a cell, has no rows, or names files that do not exist.
        ImportError: The table is a Parquet file, and pyarrow is not installed.
    """
    if is_folder(path) or path.suffix.lower() == SUFFIX:
        from zoo_sources.parquet import read_parquet

        return read_parquet(path)
    refuse_other_formats(path)
    notes: list[str] = []
    listing = PathListing(path)
    for row in csv_rows(path, notes):
        listing.add(row)
    return listing.listing(notes)
