"""Rows of a CSV file, as programs write it: separator, encoding and lines above the header are found out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import zoo

from zoo_sources.columns import GENERAL_STEP, REQUIRED, SPLIT, Columns, Row
from zoo_sources.disk import Disk
from zoo_sources.encoding import encoding_of, not_text_message

_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_STATED = re.compile(r'"?sep=(\\t|.)"?\s*', re.IGNORECASE)
"""The first line by which Excel says what separates the columns."""
_TRIED = 200
"""Rows with other than ASCII paths that are looked up on disk to tell encodings apart."""


def csv_rows(path: Path, notes: list[str]) -> Iterator[Row]:
    """The rows of a CSV file in UTF-8, UTF-16 or UTF-32. Raises DataError for what cannot be read as one."""
    encoding = encoding_of(path)
    if not encoding.startswith("utf-8"):
        notes.append(f"read as {encoding.upper()}")
    try:
        yield from _rows(path, encoding, notes)
    except UnicodeError:
        raise zoo.DataError(not_text_message(path, encoding, lambda other: _files_found(path, other))) from None


def _rows(path: Path, encoding: str, notes: list[str]) -> Iterator[Row]:
    with path.open(encoding=encoding, newline="") as file:
        sign, above = _separator(file, prefers="\t" if path.suffix.lower() == ".tsv" else ",")
        if sign != ",":
            notes.append(f"columns separated by {_SIGNS.get(sign, repr(sign))}")
        reader = csv.reader(file, delimiter=sign, strict=True)
        line = above
        try:
            header = _header(path, next(reader, []))
            columns = Columns(path, header, lambda renamed: _header_step(header, renamed, sign))
            notes.extend(columns.notes)
            line = above + reader.line_num
            for cells in reader:
                line = above + reader.line_num
                if any(cell.strip() for cell in cells):
                    yield Row(f"Line {line}", *columns.cells(_of_width(path, line, cells, header)))
        except csv.Error as error:
            raise zoo.DataError(
                f"{path} cannot be read as CSV: {error}, from line {line + 1} on.\n"
                f"Next: correct the quotes in line {line + 1}; a quote inside a quoted cell is written twice."
            ) from None
        columns.refuse_splits_under_another_name()


def _separator(file: TextIO, *, prefers: str) -> tuple[str, int]:
    """Return the separator and the number of lines above the header, and leave the file at the header."""
    above, place = 0, 0
    line = file.readline()
    while line and not line.strip():
        above, place = above + 1, file.tell()
        line = file.readline()
    stated = _STATED.fullmatch(line)
    if stated:
        return stated[1].replace("\\t", "\t"), above + 1
    file.seek(place)
    return _guess_separator(line, prefers=prefers), above


def _guess_separator(header: str, *, prefers: str) -> str:
    """Return the separator that gives the required columns, or else the one that splits the header most."""
    signs = sorted(_SIGNS, key=lambda sign: sign != prefers)
    fields = {sign: [cell.strip(' "\r\n').casefold() for cell in header.split(sign)] for sign in signs}
    fitting = next((sign for sign in signs if set(REQUIRED) <= set(fields[sign])), None)
    return fitting or max(signs, key=lambda sign: len(fields[sign]))


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    """The names of the columns; spreadsheets leave empty ones behind the last, which are dropped."""
    header = [cell.strip() for cell in cells]
    while header and not header[-1]:
        header.pop()
    if not header:
        raise zoo.DataError(f"{path} has no header.\nNext: write the header path,label and one row per image.")
    return header


def _of_width(path: Path, line: int, cells: list[str], header: Sequence[str]) -> list[str]:
    """The cells of a row without the empty ones that a spreadsheet left behind the last column."""
    width = len(header)
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != width:
        count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        step = (
            "put cells that hold a separator in double quotes"
            if len(cells) > width
            else f"give the line a cell for every column ({', '.join(header)}), or remove it"
        )
        raise zoo.DataError(f"Line {line} of {path} has {count}, the header has {width}.\nNext: {step}.")
    if [cell.strip() for cell in cells] == list(header):
        raise zoo.DataError(f"Line {line} of {path} repeats the header.\nNext: remove that line.")
    return cells


def _header_step(header: Sequence[str], renamed: Mapping[str, str], sign: str) -> str:
    """How to change a header that lacks columns: the line to write, where it is clear which column is which."""
    if any(map(zoo.is_image_name, header)):
        above = _line(_names_of_row(header), sign)
        return f"Next: the first line seems to be a row of the table; put a header above it: {above}"
    if renamed:
        return (
            f"Next: name these columns as zoo does, with the header {_line([renamed.get(c, c) for c in header], sign)}"
        )
    return GENERAL_STEP


def _names_of_row(cells: Sequence[str]) -> list[str]:
    """Names for the cells of a row: an image is a path, a word for a split a split, the first other cell a label."""
    names: list[str] = []
    for cell in cells:
        wanted = "path" if zoo.is_image_name(cell) else SPLIT if zoo.split_named(cell) else "label"
        names.append(wanted if wanted not in names else f"column{len(names) + 1}")
    return names


def _line(cells: Sequence[str], sign: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=sign, lineterminator="").writerow(cells)
    return text.getvalue()


def _files_found(path: Path, encoding: str) -> int:
    """How many of the paths with other than ASCII letters are there, if the table is read in this encoding."""
    disk = Disk(path.parent)
    try:
        foreign = (row.path for row in _rows(path, encoding, []) if not row.path.isascii())
        return sum(disk.find(each) is not None for each in islice(foreign, _TRIED))
    except (zoo.DataError, UnicodeError):
        return 0
