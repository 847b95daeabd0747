"""Lines of text on a terminal: wrapped between words, with what they are about left standing out.

Off a terminal they stay whole. Words are never broken, and neither are commands: the terminal wraps those itself, in a
way that can be copied.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import TextIO

from zoo.text import without_commands

_LABEL = re.compile(r"\s*\S.*?\s{2,}(?=\S)")
"""What a line is about, up to the gap behind it: `parameters  11,176,512 ...`, `heads/linear   One ...`."""
_COMMAND = re.compile(r"\s*([\w' ]+: )?zoo \S+")
"""A line that is a command, possibly with what it is for: `Next: zoo show gem`."""
_SHARE = 0.45
"""Of the columns, the most that labels may take beside their text. Where they take more, the text goes below."""
_BELOW = 4


def terminal_columns(stream: TextIO | None) -> int | None:
    """Columns of the terminal that the stream goes to; None if it goes to no terminal, or is closed."""
    try:
        return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None
    # A closed stream cannot be asked.
    except ValueError:
        return None


def say(text: str = "", *, to_stderr: bool = False) -> None:
    """Print lines, wrapped if they go to a terminal, and with nothing in them that a terminal would obey.

    Where the stream is closed they go nowhere.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is None:
        return  # to `print`, no stream means stdout
    columns = terminal_columns(stream)
    # Off a terminal too: what is written to a file is looked at on one.
    text = without_commands(text)
    print(text if columns is None else wrapped(text, columns), file=stream)


def wrapped(text: str, columns: int) -> str:
    """The text with each line wrapped between words; further lines stand below the text of the first."""
    return "\n".join(_wrapped(line, columns) for line in text.split("\n"))


def _wrapped(line: str, columns: int) -> str:
    if len(line) <= columns:
        return line
    label = _LABEL.match(line)
    if label is None:
        if _COMMAND.match(line):
            return line
        indent = line[: len(line) - len(line.lstrip())]
        return _filled(line.strip(), columns, first=indent, rest=indent)
    name, text = label[0], line[label.end() :]
    # Beside a long label the text would be a column of single words.
    if label.end() <= _SHARE * columns:
        return _filled(text, columns, first=name, rest=" " * label.end())
    below = " " * (len(name) - len(name.lstrip()) + _BELOW)
    return f"{name.rstrip()}\n{_filled(text, columns, first=below, rest=below)}"


def _filled(text: str, columns: int, *, first: str, rest: str) -> str:
    return textwrap.fill(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
