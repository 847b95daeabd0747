"""Files that are no table for zoo though they hold one, such as Excel's: each is refused with the way to CSV."""

from __future__ import annotations

import re
from pathlib import Path

import zoo

from zoo_sources.disk import is_file
from zoo_sources.programs import command

_ZIP, _OLE, _PARQUET = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PAR1"
_POINTER = b"version https://git-lfs"
_JSON = (".json", ".jsonl", ".ndjson")
_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_OBJECT = re.compile(rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*\"")
_CONVERT = (
    "import csv, json, sys; a, b = sys.argv[1:]; t = open(a, encoding='utf-8').read(); "
    "r = json.loads(t) if t.lstrip()[:1] == '[' else [json.loads(x) for x in t.splitlines() if x.strip()]; "
    "w = csv.DictWriter(open(b, 'w', encoding='utf-8', newline=''), r[0], extrasaction='ignore'); "
    "w.writeheader(); w.writerows(r)"
)
"""Turns a JSON list of objects, or one object a line, into CSV."""


def refuse_other_formats(path: Path) -> None:
    """Raise DataError for a file that is missing, empty, or of a format that is neither CSV nor Parquet."""
    refuse_empty(path)
    refuse_pointer(path)
    start = _start(path)
    if path.suffix.lower() in _SHEETS or start.startswith((_ZIP, _OLE)):
        raise zoo.DataError(
            f"{path} is a spreadsheet (Excel or the like), not CSV.\n"
            "Next: open it and save it as CSV UTF-8, with the columns path and label in the first line."
        )
    if start.startswith(_PARQUET):
        raise zoo.DataError(f"{path} is a Parquet file.\nNext: give it the extension .parquet.")
    if path.suffix.lower() in _JSON or _OBJECT.match(start):
        new = path.with_suffix(".csv") if path.suffix.lower() in _JSON else path.with_name(f"{path.stem}-table.csv")
        raise zoo.DataError(f"{path} is JSON, not CSV.\nNext: make it CSV:\n{command(_CONVERT, path, new)}")


def refuse_empty(path: Path, step: str = "write the header path,label and one row per image") -> None:
    """Raise DataError for a file that is missing, or has no bytes."""
    if not is_file(path):
        raise zoo.DataError(f"There is no file {str(path)!r}.")
    if not path.stat().st_size:
        raise zoo.DataError(f"{path} is empty: it has 0 bytes.\nNext: {step}.")


def refuse_pointer(path: Path) -> None:
    """Raise DataError for the small text that git leaves where Git LFS is not installed."""
    if _start(path).startswith(_POINTER):
        raise zoo.DataError(
            f"{path} is only a pointer of Git LFS: the file itself has not been downloaded.\n"
            "Next: install Git LFS and run git lfs pull in that folder, or download the file from its website."
        )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)
