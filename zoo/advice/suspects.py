"""`suspects.csv`: labels that are likely wrong, best suspects first, for people to decide on in a text or spreadsheet
program."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import DataError, nearest
from zoo.specs.data import Split
from zoo.storage.csv_lines import csv_text, read_as_written
from zoo.text import printable, some

COLUMNS = (
    *("file", "split", "given", "suggested", "probability_given", "probability_suggested", "margin", "issue"),
    *("accept", "sha256"),
)
"""Of the file that is written. `accept` is empty there: it is the user's column."""
NEEDED = ("file", "given", "suggested", "accept", "sha256")
"""Columns that must still be there when the file is applied."""
Said = Literal["yes", "no", "drop"]
WORDS: dict[str, Said] = {
    **dict.fromkeys(("yes", "y", "true", "1", "x"), "yes"),
    **dict.fromkeys(("", "no", "n", "false", "0"), "no"),
    "drop": "drop",
}
"""What `accept` may hold, in any case. `drop` leaves the image out of the new table: it shows none of the classes."""
_SIGNS = (",", ";", "\t")
"""What may separate the cells of a file that comes back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An image whose given label disagrees with probabilities that never saw it."""

    file: str
    """Its name in the data, with forward slashes."""
    split: Split
    given: str
    suggested: str
    """The most probable other class."""
    probability_given: float
    probability_suggested: float
    margin: float
    """ln(probability_given / probability_suggested): the lower, the likelier the label is wrong."""
    issue: bool
    """Whether confident learning counts the label as wrong: the image is confidently of another class."""
    sha256: str
    """Of the image file."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """A row of `suspects.csv` as it came back."""

    where: str
    """`Line 3`."""
    file: str
    given: str
    suggested: str
    said: Said
    sha256: str


def suspects_csv(suspects: Sequence[Suspect]) -> str:
    """The text of `suspects.csv`, in the order given."""
    rows = [
        [
            *(printable(each.file), each.split, each.given, each.suggested),
            *(f"{each.probability_given:.4f}", f"{each.probability_suggested:.4f}", f"{each.margin:.3f}"),
            # `accept` is left to the user. A suggestion that was taken unseen would turn doubt into a label.
            *("yes" if each.issue else "no", "", each.sha256),
        ]
        for each in suspects
    ]
    return csv_text([COLUMNS, *rows])


def read_decisions(path: Path) -> list[Decision]:
    """Read a `suspects.csv` that a user may have edited.

    Raises DataError for what is no such file, lacks a column, names a file twice, or holds another word than those
    of `WORDS` in `accept`.
    """
    try:
        # Spreadsheet programs put a byte order mark before UTF-8.
        text = read_as_written(path, "utf-8-sig")
    except UnicodeError:
        raise DataError(f"{path} is not UTF-8 text.\nNext: save it as CSV in UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.\nNext: check the path.") from None
    # Where a comma is the decimal sign, spreadsheet programs write semicolons between the cells. An empty file has no
    # first line.
    header, *_ = [*text.splitlines(), ""]
    sign = max(_SIGNS, key=lambda each: len(header.split(each)))
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
        missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path} has no column {' and no column '.join(map(repr, missing))}, so it is not a suspects.csv of "
                f"`zoo data labels`; it has: {some(list(reader.fieldnames or ())) or 'nothing'}.\n"
                "Next: give the suspects.csv that the check wrote; edit only its column accept, or suggested."
            )
        decisions = [_decision(path, f"Line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.\nNext: save it as CSV again.") from None
    _refuse_twice(path, decisions)
    return decisions


def _decision(path: Path, where: str, row: dict[str | None, Any]) -> Decision:
    # DictReader puts cells beyond the header under None, and None where a row ends early.
    if None in row:
        raise DataError(f"{where} of {path} has more cells than the header.\nNext: put names with commas in quotes.")
    if None in row.values():
        missing = some([str(name) for name, value in row.items() if value is None])
        raise DataError(
            f"{where} of {path} ends before the last columns of the header: {missing}.\n"
            "Next: put their cells back, empty ones too, or remove the line."
        )
    cells = {str(name): str(value) for name, value in row.items()}
    said = cells["accept"].strip().casefold()
    if said not in WORDS:
        close = nearest(said, ["yes", "no", "drop"], count=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{where} of {path} has {cells['accept']!r} in the column accept, none of yes, no and drop.{hint}\n"
            "Next: write yes to take the suggested class, drop to leave the image out, no or nothing to keep the given "
            "class; for a third class, write that class into the column suggested, and yes."
        )
    return Decision(where, cells["file"], cells["given"], cells["suggested"], WORDS[said], cells["sha256"])


def _refuse_twice(path: Path, decisions: Sequence[Decision]) -> None:
    seen: dict[str, str] = {}
    for each in decisions:
        if each.file in seen:
            raise DataError(
                f"{each.where} of {path} names {each.file} again, after {seen[each.file].lower()}.\nNext: keep one row."
            )
        seen[each.file] = each.where
