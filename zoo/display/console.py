"""Where output for people goes: rich tables on a terminal, plain and complete text elsewhere."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.display.wrapping import say
from zoo.text import duration, escaping_errors, on_one_line, without_commands

# Only the functions that print with rich import it: help and lists do without, and start a tenth faster.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Verbosity:
    """What `-q` and `-v` ask for."""

    quiet: bool = False
    verbose: bool = False


def out() -> Console:
    """A rich console on stdout. Off a terminal, nothing is wrapped, cut or coloured."""
    from zoo.display.screen import screen_on

    return screen_on(sys.stdout)


def err() -> Console:
    """A rich console on stderr. Off a terminal, nothing is wrapped, cut or coloured."""
    from zoo.display.screen import screen_on

    return screen_on(sys.stderr)


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A table without lines; the columns named in `right` are aligned to the right."""
    from rich.table import Table

    title = None if title is None else without_commands(title)
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(on_one_line(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(on_one_line, row))
    return made


def show(screen: Console, made: Table) -> None:
    """Print a table; on a terminal that is too narrow for it, row by row. Off one, no line ends with blanks."""
    if screen.is_terminal:
        from zoo.display.screen import fitted, stacked

        screen.print(fitted(made, screen.width) or stacked(made, screen.width))
        return
    with screen.capture() as captured:
        screen.print(made)
    for line in captured.get().splitlines():
        screen.print(line.rstrip())


def hint(text: str, verbosity: Verbosity) -> None:
    """Say on stderr what can be done next, beside a result that other programs may read from stdout."""
    if not verbosity.quiet:
        say(text, to_stderr=True)


def quiet_libraries() -> None:
    """Hide warnings of libraries unless `python -W` asks for them: they are meant for developers, not users."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # torch.compile logs through this on every machine that has a CUDA compiler and no GPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def escape_names() -> None:
    """Let stdout and stderr escape what they cannot encode: a file name may be any bytes."""
    for stream in (sys.stdout, sys.stderr):
        # A program may have put a stream of another kind there.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=escaping_errors())


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


seconds = duration
"""A time for people: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
