"""Where output for people goes: rich tables on a terminal, plain and complete text elsewhere."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.printable import ESCAPED

# rich is imported where something is printed with it: lists and help do without, and are a tenth faster.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 10_000


@dataclass(frozen=True)
class Verbosity:
    """What `-q` and `-v` ask for."""

    quiet: bool = False
    verbose: bool = False


def out() -> Console:
    """stdout. Where it is no terminal, nothing is wrapped, cut or coloured."""
    return _console(sys.stdout.isatty(), stderr=False)


def err() -> Console:
    """stderr, likewise."""
    return _console(sys.stderr.isatty(), stderr=True)


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A table without lines; the columns named in `right` are aligned to the right."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show(screen: Console, made: Table) -> None:
    """Print a table; where it is no terminal, without the blanks that fill the last column."""
    if screen.is_terminal:
        screen.print(made)
        return
    with screen.capture() as captured:
        screen.print(made)
    for line in captured.get().splitlines():
        screen.print(line.rstrip())


def quiet_libraries() -> None:
    """Libraries' warnings are for developers; zoo says itself what people should know."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # Said while torch.compile works, on every machine that has a compiler for CUDA and no GPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def escape_names() -> None:
    """What stdout and stderr cannot take is written as an escape: a file name may be any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def seconds(value: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s"


def _console(terminal: bool, *, stderr: bool) -> Console:
    from rich.console import Console

    if terminal:
        return Console(stderr=stderr, highlight=False, markup=False)
    return Console(stderr=stderr, highlight=False, markup=False, width=_WIDE, no_color=True, force_terminal=False)
