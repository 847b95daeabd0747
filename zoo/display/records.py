"""A table of records: a list of dictionaries with the same keys, which a notebook shows as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zoo.display.blocks import TextTable, blocks_html

_DIGITS = 4
"""Significant digits of numbers, where people read them."""


class Records(list[dict[str, Any]]):
    """Rows as dictionaries. `pandas.DataFrame(records)` and `polars.DataFrame(records)` take them as they are."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take the rows; a column that one of them lacks is None there."""
        several = [dict(row) for row in rows]
        columns = list(dict.fromkeys(name for row in several for name in row))
        super().__init__({name: row.get(name) for name in columns} for row in several)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; none where there are no rows."""
        return tuple(self[0]) if self else ()

    def table(self) -> TextTable:
        """The rows as people read them: numbers with four significant digits, nothing for None."""
        right = [
            name
            for name in self.columns
            if any(isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in self)
        ]
        rows = [[_text(row[name]) for name in self.columns] for row in self]
        return TextTable(columns=self.columns, rows=rows, right=right)

    def _repr_html_(self) -> str:
        return blocks_html([self.table()])


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        # `g` writes numbers of more digits than asked for with an exponent.
        whole = f"{value:.0f}"
        return f"{int(whole):,}" if len(whole.lstrip("-")) > _DIGITS else f"{value:.{_DIGITS}g}"
    return str(value)
