"""Labels in memory as class names: text as it is, numbers by the names that the data have for them, or as text.

What could mean several things is refused: booleans, floats, missing labels, and texts beside numbers.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zoo.data.memory.pictures import described, is_array, is_tensor
from zoo.errors import DataError
from zoo.text import counted, some

_SHOWN = 5
"""Rows that a message names."""
Where = Callable[[int], str]
"""The name of a row in messages by its index: `row 3`."""


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, or what pandas has for them."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    # Who has a value of pandas has imported it.
    pandas = sys.modules.get("pandas")
    # By identity: `value == pandas.NA` is again NA, which is neither true nor false.
    return pandas is not None and any(value is empty for empty in (getattr(pandas, "NA", None), pandas.NaT))


def refuse_missing(values: Iterable[Any], what: str, where: Where, data: str, step: str) -> None:
    """Raise DataError, naming rows, if a cell is empty. `what` is there instead of it: `label`, `image`."""
    empty = [index for index, value in enumerate(values) if is_missing(value) or (isinstance(value, str) and not value)]
    if empty:
        shown = some([where(index) for index in empty[:_SHOWN]])
        more = f" and {len(empty) - _SHOWN:,} more" if len(empty) > _SHOWN else ""
        rows_have = "row has" if len(empty) == 1 else "rows have"
        raise DataError(
            f"{data}: {counted(len(empty), rows_have, rows_have)} no {what}: {shown}{more} (counted from 0).\n"
            f"Next: {step}"
        )


class ClassNames:
    """Makes class names of the labels of all parts of the data, so that texts here and numbers there are noticed."""

    def __init__(self) -> None:
        self._first: tuple[str, str] | None = None

    def of(
        self, labels: Sequence[Any], *, data: str, where: Where, names: Sequence[str] | None = None, step: str = ""
    ) -> list[str]:
        """The class name of every row.

        Args:
            labels: Texts, or whole numbers.
            data: The data as people call them, for messages.
            where: Names a row.
            names: The names that the data have for numbers, from 0 on. None: a number is its own name.
            step: What to do about missing labels.

        Raises:
            DataError: A label is missing, of a type that is no label, of another type than the first one, or a number
                that no name is for; or two numbers have one name.
        """
        refuse_missing(labels, "label", where, data, step or "give every image its label, or leave these out.")
        _refuse_one_name_twice(names or (), data)
        return [self._name(value, data, where(index), names) for index, value in enumerate(labels)]

    def _name(self, value: Any, data: str, where: str, names: Sequence[str] | None) -> str:
        if (is_tensor(value) or is_array(value)) and value.shape == ():
            value = value.item()
        fault = _fault(value)
        if fault:
            raise DataError(f"{data}: the label of {where} is {fault}\nNext: {_step(value)}")
        number = not isinstance(value, str)
        kind = "a number" if number and names is None else "a text"
        if self._first is None:
            self._first = kind, f"{_with_name(value, names)} of {where} of {data}"
        elif self._first[0] != kind:
            raise DataError(
                f"{data}: the label of {where} is {kind}, {_with_name(value, names)}, and others are "
                f"{self._first[0]}, such as {self._first[1]}.\nNext: make all labels texts, or all whole numbers."
            )
        if not number:
            return str(value).strip()  # as in tables of files
        if names is None:
            return str(int(value))
        # What Hugging Face writes for a label that is kept secret.
        if int(value) == -1:
            raise DataError(
                f"{data}: {where} has no label (it is -1).\n"
                "Next: leave out what is not labelled, such as a test split of a competition."
            )
        if not 0 <= int(value) < len(names):
            raise DataError(
                f"{data}: the label of {where} is {int(value)}, and the data name {len(names)} classes, 0 to "
                f"{len(names) - 1}.\nNext: correct the label, or the list of classes."
            )
        return str(names[int(value)])


def _with_name(value: Any, names: Sequence[str] | None) -> str:
    """`'cat'`, `3`, or of a number that the data have a name for, `3 ('cat')`."""
    if isinstance(value, str) or names is None or not 0 <= int(value) < len(names):
        return described(value)
    return f"{described(value)} ({names[int(value)]!r})"


def _refuse_one_name_twice(names: Sequence[str], data: str) -> None:
    """Refuse two numbers of one name: their images would become one class."""
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        if (first := places.setdefault(str(name), number)) != number:
            raise DataError(
                f"{data}: the classes {first} and {number} have one name, {name!r}, and would become one class.\n"
                "Next: name them apart, or give a list of pairs (image, class name)."
            )


def _fault(value: Any) -> str:
    if isinstance(value, str):
        return "" if value.strip() else f"{value!r}, which is blank."
    # Before numbers, for True is an integer in Python. By name for those of numpy and torch.
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return f"the boolean {value}."
    if isinstance(value, numbers.Integral):
        return ""
    if isinstance(value, numbers.Real):
        return f"{value}, a number with decimals."
    if is_tensor(value) or is_array(value):
        return f"an array of shape {[int(side) for side in value.shape]}."
    return f"{described(value)}."


def _step(value: Any) -> str:
    if isinstance(value, str):
        return "name the class."
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return "say what True and False mean with two texts, such as 'defect' and 'good'."
    if isinstance(value, numbers.Real):
        return "make labels whole numbers, astype(int), or texts."
    return "a label is one class: a text or a whole number, such as the index of the largest entry."
