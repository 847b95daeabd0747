"""rich's console, with prose and tables that fit a narrow terminal: no broken words, no lost columns."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from zoo.display.wrapping import terminal_columns, wrapped
from zoo.text import without_commands

_WIDE = 10_000
"""Columns of output that goes to no terminal: so many that rich never wraps or cuts a line."""
_GAP = 2
"""Blanks between two columns of a table."""
_PROSE = 16
"""Columns of the terminal that a cell of several words needs at least, to be more than a pile of words."""


class Screen(Console):
    """A console that wraps plain text between words, with further lines below the text of the first.

    Nothing in plain text is obeyed by a terminal; styles are given beside it.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        objects = tuple(without_commands(each) if isinstance(each, str) else each for each in objects)
        if self.is_terminal and len(objects) == 1 and isinstance(objects[0], str):
            # Else rich would wrap once more what is wrapped already.
            options["soft_wrap"] = True
            objects = (wrapped(objects[0], self.width),)
        super().print(*objects, **options)


def screen_on(stream: TextIO | None) -> Screen:
    """A console on stdout or stderr. Where that is no terminal, nothing is wrapped, cut or coloured.

    One on a closed stream says nothing: rich would take stdout in its place.
    """
    stderr = stream is not None and stream is sys.stderr
    if terminal_columns(stream) is not None:
        return Screen(stderr=stderr, highlight=False, markup=False)
    plain: dict[str, Any] = {"width": _WIDE, "no_color": True, "force_terminal": False}
    return Screen(stderr=stderr, highlight=False, markup=False, quiet=stream is None, **plain)


def fitted(table: Table, columns: int) -> Table | None:
    """The table, told which of its columns may be narrowed, or None if it cannot be read in so many columns."""
    needed = []
    for column in table.columns:
        cells = [str(cell) for cell in column.cells]
        words = [word for cell in [str(column.header), *cells] for word in cell.split()]
        need = max(map(cell_len, words), default=0)
        if column.justify == "right":  # numbers: an interval over three lines is no interval
            need = max([need, *map(cell_len, cells)])
        else:
            need = max([need, *(min(cell_len(cell), _PROSE) for cell in cells)])
        column.min_width = need
        needed.append(need)
    return table if sum(needed) + _GAP * (len(needed) - 1) <= columns else None


def stacked(table: Table, columns: int) -> str:
    """The table as text: each row is a block, headed by its first cell (`class red`), with a line for each other."""
    first, *others = table.columns
    headers = [str(column.header) for column in others]
    width = max(map(len, headers), default=0)
    blocks = [str(table.title)] if table.title else []
    for head, *cells in zip(*(column.cells for column in [first, *others]), strict=True):
        lines = [f"{first.header} {head}".strip()]
        for header, cell in zip(headers, cells, strict=True):
            if str(cell).strip():
                lines.append(f"  {header:<{width}}  {cell}" if width else f"  {cell}")
        blocks.append("\n".join(lines))
    return wrapped("\n".join(blocks), columns)
