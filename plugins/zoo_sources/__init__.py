"""Data sources besides class folders: tables, tar shards, zip archives and saved Hugging Face data sets.

The module that reads a source is imported only when one is read. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import zoo

from zoo_sources.disk import is_file


def _recognises_table(path: Path) -> bool:
    if path.suffix.lower() in (".csv", ".tsv", ".parquet") and is_file(path):
        return True
    from zoo_sources.parquet_files import is_parquet_folder

    return is_parquet_folder(path)


def _read_table(path: Path) -> zoo.SourceListing:
    from zoo_sources.table import read_table

    return read_table(path)


def _recognises_tar(path: Path) -> bool:
    from zoo_sources.shards import are_shards

    return are_shards(path)


def _read_tar(path: Path) -> zoo.SourceListing | zoo.ClassFolders:
    from zoo_sources.tar import read_shards

    return read_shards(path)


def _recognises_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and is_file(path)


def _read_zip(path: Path) -> zoo.ClassFolders:
    from zoo_sources.zip import read_zip

    return read_zip(path)


def _recognises_saved(path: Path) -> bool:
    alone = is_file(path / "state.json") and is_file(path / "dataset_info.json")
    return alone or is_file(path / "dataset_dict.json")


def _read_saved(path: Path) -> zoo.SourceListing:
    from zoo_sources.hf import read_saved

    return read_saved(path)


@zoo.hookimpl
def zoo_data_sources() -> Iterable[zoo.DataSourceSpec]:
    return [
        zoo.DataSourceSpec(
            name="table",
            summary="CSV, TSV or Parquet with the columns path, label and split; Parquet that holds the images.",
            recognises=_recognises_table,
            read=_read_table,
        ),
        zoo.DataSourceSpec(
            name="tar",
            summary="Tar shards, of webdataset or of class folders: a file, a folder of them, or train-{000..003}.tar.",
            recognises=_recognises_tar,
            read=_read_tar,
        ),
        zoo.DataSourceSpec(
            name="zip",
            summary="A zip archive of class folders, with or without folders around them.",
            recognises=_recognises_zip,
            read=_read_zip,
        ),
        zoo.DataSourceSpec(
            name="hf",
            summary="A folder written by save_to_disk of Hugging Face datasets (extra hf).",
            recognises=_recognises_saved,
            read=_read_saved,
        ),
    ]
