"""The `zoo` command as a process: signals, streams, exit codes, and a quick end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from zoo.cli.console import escape_names, quiet_libraries
from zoo.errors import TERMINATED, Terminated, ZooError
from zoo.process import gc_paused

if TYPE_CHECKING:
    import typer

_SHORT_COMMANDS = ("list", "show", "--help", "-h", "--version")
"""First words of commands that end before garbage collection could pay off."""


def run() -> None:
    """Entry point of the `zoo` command."""
    quick_exit = _QuickExit()
    atexit.register(quick_exit)  # exit handlers run in reverse order: registered first, it runs last
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            quick_exit.status = ended.code or 0
        raise
    quick_exit.status = 0


def main() -> None:
    """Run the command line: the one place where a ZooError becomes a message and an exit code."""
    quiet_libraries()
    escape_names()
    # Services and clusters stop programs with SIGTERM: like Ctrl-C, it lets a run say how to resume.
    signal.signal(signal.SIGTERM, _terminate)
    short = len(sys.argv) < 2 or sys.argv[1] in _SHORT_COMMANDS
    try:
        with gc_paused() if short else contextlib.nullcontext():
            _app()()
    except ZooError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


class _QuickExit:
    """An exit handler that ends the process without taking its objects apart.

    Python would destroy torch's objects one by one, which takes longer than many commands. Where the exit status is
    not known (an error without one) or output cannot be flushed, Python ends the process itself and reports why.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is None:
            return
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return
        os._exit(self.status)


def _app() -> typer.Typer:
    # Importing makes thousands of objects and no garbage; collecting would take a fifth of the time.
    with gc_paused():
        from zoo.cli.app import app
    return app


def _terminate(*_: object) -> None:
    raise Terminated(TERMINATED)
