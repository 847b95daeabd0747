"""The one question that every function of the library asks: is what goes on shown, and where?"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, Self

from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.notebook import NotebookDisplay, in_notebook
from zoo.display.wrapping import terminal_columns
from zoo.events import Event, Report, silent

_showing = threading.Lock()
"""One display at a time: two that draw at the same place would destroy one another."""
_asked: set[int] = set()
"""Threads in which a call has answered the question. By number: a call may end in another thread than it began."""


class _Display(AbstractContextManager["_Display"], Protocol):
    def __enter__(self) -> Self: ...

    def report(self, event: Event) -> None: ...


@contextlib.contextmanager
def shown(on_event: Report | None = None, verbose: bool | None = None) -> Iterator[Report]:
    """A context manager that gives the callable for events, and shows them as long as it lasts.

    Args:
        on_event: Called with every event. None, or `silent`, for a caller that does not listen.
        verbose: None shows progress in a notebook, and on stderr where that is a terminal, unless the caller listens
            with a callable of its own. True shows it everywhere, and a line for every epoch; False nowhere.

    Inside another call `None` shows nothing: it was for that call to say, and where it shows, it shows this one too.
    """
    listens = on_event is not None and on_event is not silent
    told = on_event if on_event is not None else silent
    thread = threading.get_ident()
    is_part = thread in _asked
    _asked.add(thread)
    try:
        # Not waiting for it: who shows already is a call that this one is a part of, or runs beside this one.
        if not _wanted(verbose, listens=listens, is_part=is_part) or not _showing.acquire(blocking=False):
            yield told
            return
        try:
            with _display(Verbosity(verbose=bool(verbose))) as display:
                yield _both(told, display.report) if listens else display.report
        finally:
            _showing.release()
    finally:
        if not is_part:
            _asked.discard(thread)


def _wanted(verbose: bool | None, *, listens: bool, is_part: bool) -> bool:
    if verbose is not None:
        return verbose
    return not is_part and not listens and (in_notebook() or terminal_columns(sys.stderr) is not None)


def _display(verbosity: Verbosity) -> _Display:
    if in_notebook():
        return NotebookDisplay(verbosity)
    from zoo.display.terminal import TerminalDisplay  # rich takes a tenth of a second

    return TerminalDisplay(verbosity, console.err())


def _both(first: Report, second: Report) -> Report:
    """A callable that tells both; the caller's own first, whose exceptions end the run as before."""

    def report(event: Event) -> None:
        first(event)
        second(event)

    return report
