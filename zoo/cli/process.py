"""The process of the `zoo` command: what holds for a program and not for whoever calls `main`."""

from __future__ import annotations

import atexit
import os
import sys

from zoo.cli.app import main


def run() -> None:
    """Entry point of the `zoo` command."""
    leaving = _Leaving()
    atexit.register(leaving)  # before what is registered from now on, so called after it
    try:
        main()
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            leaving.status = ended.code or 0
        raise
    leaving.status = 0


class _Leaving:
    """Ends the process when its threads and everything registered to be called have ended.

    Python would then take all objects of torch apart, one by one, for longer than many commands take. Where the way
    out is not known, or output cannot be written, it is left to Python, which says so.
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
