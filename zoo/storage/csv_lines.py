"""CSV that every program reads as it was written, whatever is in a name.

A file name may hold commas, quotes and line ends. Python's writer puts a cell with a carriage return in quotes only
where that is part of the line end, and without quotes readers take it for the end of the row. Lines end in a line feed
alone, as they always did in zoo's files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from zoo.errors import Refused, RunError


class Output(Protocol):
    """A text file, opened so that line ends are written as they are."""

    def write(self, text: str, /) -> object: ...


class CsvLines:
    """Writes rows to a text file."""

    def __init__(self, file: Output, *, delimiter: str = ",") -> None:
        self._file = file
        # With both characters in the line end, a cell that holds either is put in quotes.
        self._writer = csv.writer(self, delimiter=delimiter, lineterminator="\r\n")

    def write(self, line: str) -> object:
        """What the writer of the standard library calls, once for each row."""
        return self._file.write(line.removesuffix("\r\n") + "\n")

    def row(self, cells: Sequence[Any]) -> None:
        """Write a row."""
        self._writer.writerow(cells)

    def rows(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows, one after the other."""
        self._writer.writerows(rows)


def csv_text(rows: Iterable[Sequence[Any]], *, delimiter: str = ",") -> str:
    """The text of a CSV file with these rows, the header among them."""
    text = io.StringIO(newline="")
    CsvLines(text, delimiter=delimiter).rows(rows)
    return text.getvalue()


def refuse_foreign(path: Path, *headers: Sequence[str]) -> None:
    """Before a CSV file is written: refuse to replace one that zoo has not written, such as a photograph.

    Args:
        path: Where it is to be.
        headers: The first columns of lists that zoo writes. A file that begins with such, or is empty, may be replaced.

    Raises Refused; RunError where the file cannot be read.
    """
    begins = [",".join(header).encode() for header in headers]
    try:
        with path.open("rb") as file:
            found = file.read(max(map(len, begins)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.\nNext: name another path.") from None
    if found and not any(found.startswith(begin) for begin in begins):
        raise Refused(
            f"{path} exists and is no list of predictions that zoo wrote, and zoo overwrites nothing else.\n"
            "Next: name another path, or remove it."
        )


def read_as_written(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file with its line ends as they are: they may belong to a cell. Raises OSError, ValueError."""
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        return file.read()


def csv_rows(text: str, *, delimiter: str = ",") -> Iterable[list[str]]:
    """The rows of such a text, the header among them, as text alone.

    Raises csv.Error while they are read.
    """
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
