"""Tables and lines of text, which a terminal prints and a notebook shows as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.display import console
from zoo.text import printable, size

if TYPE_CHECKING:
    from rich.console import Console

FRAME_MOST = 2_000_000
"""Most bytes of a page that a notebook takes in: it is stored in the notebook's file, as often as it is shown."""
_COLOURS = {"bold red": "#c5221f", "bold yellow": "#a86400", "yellow": "#a86400"}
"""Readable on white and on black, as nothing says which of them a notebook has."""
_CELL = "padding:2px 10px 2px 0;vertical-align:top;text-align:"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
    """A table of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None
    right: Sequence[str] = ()
    """The columns that are aligned to the right."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text; a `\\n` in it begins another."""

    text: str = ""
    style: str | None = None
    """As rich names it: `bold`, `bold red`, `bold yellow`, `yellow`."""


Block = TextTable | Line


def print_blocks(screen: Console, blocks: Iterable[Block]) -> None:
    """Print blocks one below the other."""
    for block in blocks:
        if isinstance(block, Line):
            screen.print(block.text, style=block.style)
        else:
            console.show(screen, console.table(block.title, block.columns, block.rows, right=block.right))


def blocks_html(blocks: Iterable[Block]) -> str:
    """The blocks as a piece of HTML. It takes its colours from the page around it, light or dark."""
    return f"<div>{''.join(_line(block) if isinstance(block, Line) else table_html(block) for block in blocks)}</div>"


def table_html(table: TextTable) -> str:
    """A table as HTML, wide ones in a box that scrolls."""
    sides = ["right" if column in table.right else "left" for column in table.columns]
    title = f'<div style="font-weight:bold">{escaped(table.title)}</div>' if table.title else ""
    head = "".join(
        f'<th style="{_CELL}{side}">{escaped(name)}</th>' for name, side in zip(table.columns, sides, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(_cell(text, side) for text, side in zip(row, sides, strict=True))}</tr>" for row in table.rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(table.columns) else ""
    return (
        f'{title}<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:4px 0">{head}'
        f"<tbody>{rows}</tbody></table></div>"
    )


def frame_html(page: str, *, place: str, height: int = 640) -> str | None:
    """A whole page in a frame, `height` pixels high; None if the page is too large to be stored in a notebook.

    `place` is the title of the frame, for people who hear it.
    """
    if len(page.encode("utf-8", errors="replace")) > FRAME_MOST:
        return None
    # The empty sandbox: no script runs in it, whatever the page holds.
    return (
        f'<iframe sandbox="" title="{escaped(place)}" srcdoc="{html.escape(printable(page))}" '
        f'style="display:block;box-sizing:border-box;width:100%;height:{height}px;border:1px solid #8888"></iframe>'
    )


def too_large(bytes_of_page: int) -> Line:
    """What stands in place of a page that is too large for a frame."""
    return Line(f"The page has {size(bytes_of_page)}, more than the {size(FRAME_MOST)} that a notebook shows.")


def escaped(text: str) -> str:
    """Text as HTML: class and file names are arbitrary, markup included."""
    return html.escape(printable(text))


def _cell(text: str, side: str) -> str:
    return f'<td style="{_CELL}{side}">{escaped(text)}</td>'


def _line(line: Line) -> str:
    style = "white-space:pre-wrap;min-height:0.6em"
    if line.style and "bold" in line.style:
        style += ";font-weight:bold"
    if line.style in _COLOURS:
        style += f";color:{_COLOURS[line.style]}"
    return f'<div style="{style}">{escaped(line.text)}</div>'
