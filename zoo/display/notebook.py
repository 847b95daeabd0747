"""What a notebook shows of a run: one output below the cell, which is drawn anew while the run goes on.

It needs no widgets: a display with a name is replaced by the next one of that name, which every notebook can do.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
import warnings
from types import TracebackType
from typing import Any

from zoo.display.blocks import Line, blocks_html, escaped
from zoo.display.console import Verbosity
from zoo.display.narration import Narration, Pace
from zoo.events import Event, Progress
from zoo.text import duration

_INTERVAL = 0.2
"""Seconds between two drawings, at least: each is a message to the browser."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """A context manager whose `report` shows every event of a run below the cell. Only in a notebook."""

    def __init__(self, verbosity: Verbosity) -> None:
        self._narration = Narration(verbosity)
        self._lines: list[Line] = []
        self._tasks: dict[str, Pace] = {}
        self._handle: Any = None
        self._drawn = 0.0

    def __enter__(self) -> NotebookDisplay:
        # The hub's library asks tqdm for bars made of widgets, and tqdm warns where there are none.
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")
            importlib.import_module("tqdm.auto")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is left is what a saved notebook holds: lines, and no bar that stands still for ever.
        self._tasks.clear()
        if self._handle is not None:
            self._draw()

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress):
            now = time.monotonic()
            if event.done == event.total:
                self._tasks.pop(event.task, None)
            else:
                self._tasks.setdefault(event.task, Pace(event, now)).hear(event, now)
            if now - self._drawn >= _INTERVAL:
                self._draw()
        elif line := self._narration.line(event):
            self._lines.append(line)
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        said = [_said(task, self._drawn) for task in self._tasks.values()]
        content = {
            "text/plain": "\n".join([*(line.text for line in self._lines), *said]),
            "text/html": blocks_html(self._lines)
            + "".join(_bar(task, text) for task, text in zip(self._tasks.values(), said, strict=True)),
        }
        if self._handle is None:
            ipython: Any = importlib.import_module("IPython.display")
            # Only now: a call of which nothing is said leaves no empty output.
            self._handle = ipython.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _said(task: Pace, now: float) -> str:
    """`features 120/500 images, 184/s, 2.1 s left`"""
    last = task.last
    if last.total is None:
        done, left = f"{last.done:,} {last.unit}", None
    else:
        done, left = f"{last.done:,}/{last.total:,} {last.unit}", last.total - last.done
    # The rate of a moment tells nothing of what is left.
    rate = task.rate(now, least=_INTERVAL)
    if rate is None:
        return f"{last.task} {done}"
    speed = f"{rate / 1e6:.1f} MB/s" if last.unit == "bytes" else f"{rate:,.0f}/s"
    return f"{last.task} {done}, {speed}" + ("" if left is None else f", {duration(left / rate)} left")


def _bar(task: Pace, said: str) -> str:
    share = "" if task.last.total is None else f' value="{task.last.done}" max="{max(1, task.last.total)}"'
    return (
        f'<div><progress{share} style="width:16em;vertical-align:middle;margin-right:0.7em"></progress>'
        f"{escaped(said)}</div>"
    )
