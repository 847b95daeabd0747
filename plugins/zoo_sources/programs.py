"""Commands that messages offer as the next step: one line of Python, which runs wherever zoo does."""

from __future__ import annotations

import shlex
from pathlib import Path


def command(program: str, old: Path, new: Path) -> str:
    """The command that runs `program` with the names of two files, the one to read and the one to write.

    `program` has no double quotes and nothing else that a shell would change between them.
    """
    return f'python -c "{program}" {shlex.quote(str(old))} {shlex.quote(str(new))}'
