"""What a terminal shows of a run: bars with rate and time left; off a terminal, a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.narration import LOUD, Narration, Pace
from zoo.display.wrapping import terminal_columns
from zoo.events import Event
from zoo.events import Progress as ProgressEvent

_LINE_INTERVAL = 10.0
"""Seconds between two lines about one task, off a terminal."""


class _Rate(ProgressColumn):
    """`184 images/s`"""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{speed / 1e6:.1f} MB/s")
        return Text(f"{speed:,.0f} {task.fields['unit']}/s")


class TerminalDisplay:
    """A context manager whose `report` shows every event of a run on a screen."""

    def __init__(self, verbosity: Verbosity, screen: Console) -> None:
        self.verbosity = verbosity
        self.screen = screen
        self._narration = Narration(verbosity)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}
        self._last_line: dict[str, float] = {}

    def __enter__(self) -> TerminalDisplay:
        if self.screen.is_terminal and not self.verbosity.quiet:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(compact=True),
                console=self.screen,
                transient=True,
                # What a program prints into a file goes there, whatever its terminal shows.
                redirect_stdout=terminal_columns(sys.stdout) is not None,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars, so that something else can be printed."""
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            if self._bars is not None:
                self._bars.start()

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, ProgressEvent):
            self._progress(event)
        elif line := self._narration.line(event):
            # What is loud is shown beside JSON too, and so never where the JSON goes.
            (console.err() if line.style == LOUD else self.screen).print(line.text, style=line.style)

    def _progress(self, event: ProgressEvent) -> None:
        if self.verbosity.quiet:
            return
        if self._bars is not None:
            self._bar(self._bars, event)
        else:
            self._line(event)

    def _bar(self, bars: Progress, event: ProgressEvent) -> None:
        task = self._tasks.get(event.task)
        if task is None:
            task = self._tasks[event.task] = bars.add_task(event.task, total=event.total, unit=event.unit)
        bars.update(task, completed=event.done)
        if event.done == event.total:
            # A task may begin again, as with every stage, and then gets a bar of its own.
            bars.remove_task(self._tasks.pop(event.task))

    def _line(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        pace = self._paces.setdefault(event.task, Pace(event, now))
        pace.hear(event, now)
        finished = event.done == event.total
        # Counted from the start of a task, so that a short one has no line at all.
        due = now - self._last_line.setdefault(event.task, now) >= _LINE_INTERVAL
        if due and not finished:
            self._last_line[event.task] = now
            done = f"{event.done}{'' if event.total is None else f'/{event.total}'} {event.unit}"
            rate = pace.rate(now)
            speed = "" if rate is None else f", {rate:,.0f}/s"
            if rate is not None and event.total is not None:
                speed += f", {console.seconds((event.total - event.done) / rate)} left"
            self.screen.print(f"  {event.task}: {done}{speed}")
        if finished:
            # As with bars: the task may begin again, with a rate of its own.
            self._paces.pop(event.task, None)
            self._last_line.pop(event.task, None)
