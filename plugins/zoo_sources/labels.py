"""Labels of a table as class names: what would become two classes, or several in one, is refused."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

import zoo

_NUMBER = re.compile(r"([+-]?\d+)(\.0*)?")


class Labels:
    """Checks the labels of one table, one row after the other."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._seen: set[str] = set()
        self._numbers: dict[str, tuple[str, str]] = {}

    def check(self, where: str, label: str) -> None:
        """Raise DataError for a list of labels, and for a number that is written as `0` here and as `0.0` there."""
        if label in self._seen:
            return
        self._seen.add(label)
        if label[0] in "[{(" and (several := _several(label)):
            raise zoo.DataError(
                f"{where} of {self._table} has {several} as its label: {label}. An image has one class here.\n"
                "Next: write one class in each row, or remove the rows that have several."
            )
        match = _NUMBER.fullmatch(label)
        if match is None:
            return
        written, earlier = self._numbers.setdefault(match[1], (label, where))
        if written != label:
            raise zoo.DataError(
                f"{where} of {self._table} has the label {label}, {earlier.lower()} has {written}: "
                "they would be two classes.\n"
                f"Next: write {match[1]} in both, and every other label without decimals too."
            )


def refuse_one_name_twice(names: Sequence[str], place: str) -> None:
    """Raise DataError if two numbers have one name: their images would become one class."""
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        if (first := places.setdefault(name, number)) != number:
            raise zoo.DataError(
                f"{place}: the classes {first} and {number} (counted from 0) have one name, {name!r}, and would become "
                "one class.\nNext: name them apart."
            )


def class_of_number(number: int, classes: Sequence[str], place: str, where: str) -> str | None:
    """The name of a number of a list of classes; None for -1, Hugging Face's label of what is kept secret.

    Raises DataError for any other number that no name is for, with the words that data in memory get.
    """
    if number == -1:
        return None
    if not 0 <= number < len(classes):
        raise zoo.DataError(
            f"{place}: the label of {where} is {number}, and the data name {len(classes)} classes, 0 to "
            f"{len(classes) - 1}.\nNext: correct the label, or the list of classes."
        )
    return classes[number]


def whole(value: float) -> str | None:
    """The text of a whole number that was stored as a decimal one, as pandas does if a cell is empty; else None."""
    return str(int(value)) if isinstance(value, int) or value.is_integer() else None


def _several(label: str) -> str | None:
    """`a list`, `a dictionary` or the like if a cell is one in JSON or Python; None for a text such as `[other]`."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(label)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, (list, tuple, set, dict)):
            return "a dictionary" if isinstance(value, dict) else "a list"
    return None
