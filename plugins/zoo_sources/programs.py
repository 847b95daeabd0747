"""Commands that messages offer as the next step: one line of Python, which runs wherever zoo does."""

from __future__ import annotations

import shlex
from pathlib import Path

_SPECIAL = frozenset('"$`\\!%')
"""Letters that a shell may change between double quotes."""


def command(program: str, old: Path, new: Path) -> str:
    """The command that runs `program` with the names of two files, the one to read and the one to write."""
    return f"{python(program)} {shlex.quote(str(old))} {shlex.quote(str(new))}"


def python(program: str) -> str:
    """The command that runs `program`: in double quotes, which every shell knows, where it holds nothing special."""
    plain = not _SPECIAL.intersection(program)
    return f'python -c "{program}"' if plain else f"python -c {shlex.quote(program)}"
