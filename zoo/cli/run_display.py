"""What a run shows while it goes on: bars with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType

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

from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.cli.plan_text import print_plan
from zoo.events import EpochFinished, Event, Note, PlanReady, StageFinished, StageStarted
from zoo.events import Progress as Done
from zoo.planning.plan import Plan
from zoo.streams import prints_to_stderr

_EVERY = 10.0
"""Seconds between two lines about one task where there is no terminal."""
_WORTH_A_LINE = 1.0
"""Epochs shorter than this many seconds are summed up in the stage's line."""


class _Rate(ProgressColumn):
    """`184 images/s`"""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{speed / 1e6:.1f} MB/s")
        return Text(f"{speed:,.0f} {task.fields['unit']}/s")


class RunDisplay:
    """A context manager; its `report` takes every event. With `as_json` everything goes to stderr, prints of others
    as well."""

    def __init__(self, verbosity: Verbosity, *, as_json: bool) -> None:
        self._verbosity = verbosity
        self._console = console.err() if as_json else console.out()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._last_epoch: EpochFinished | None = None
        self._as_json = as_json
        self._stdout = contextlib.ExitStack()

    def __enter__(self) -> RunDisplay:
        self._keep_stdout_clean()
        if self._console.is_terminal and not self._verbosity.quiet:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._stdout.close()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While something else is printed: the bars make room on a terminal, and leave stdout alone."""
        if self._bars is not None:
            self._bars.stop()
        self._stdout.close()
        try:
            yield
        finally:
            self._keep_stdout_clean()
            if self._bars is not None:
                self._bars.start()

    def _keep_stdout_clean(self) -> None:
        # Heads, losses and observers of plugins run inside, and some print.
        if self._as_json:
            self._stdout.enter_context(prints_to_stderr())

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Done):
            self._progress(event)
        elif isinstance(event, Note):
            self._note(event)
        elif self._verbosity.quiet:
            return
        elif isinstance(event, PlanReady) and isinstance(event.plan, Plan):
            print_plan(event.plan, self._verbosity, to=self._console)
            self._console.print()
        elif isinstance(event, StageStarted):
            epochs = console.count(event.epochs, "epoch")
            self._console.print(f"Stage {event.number} of {event.stages}: {event.stage}, {epochs}", style="bold")
        elif isinstance(event, EpochFinished):
            self._epoch(event)
        elif isinstance(event, StageFinished):
            self._stage(event)

    def _note(self, note: Note) -> None:
        if note.loud:
            # Also under -q and --json: it changes what the result is worth.
            console.err().print(f"WARNING: {note.text}", style="bold yellow")
        elif not self._verbosity.quiet:
            self._console.print(note.text)

    def _epoch(self, epoch: EpochFinished) -> None:
        self._last_epoch = epoch
        if self._verbosity.verbose or epoch.seconds >= _WORTH_A_LINE:
            self._console.print(
                f"  epoch {epoch.epoch:>2}/{epoch.epochs}  train loss {epoch.train_loss:.4f}  "
                f"val loss {epoch.val['loss']:.4f}  val accuracy {epoch.val['accuracy']:.3f}  "
                f"{console.seconds(epoch.seconds)}  {epoch.images_per_second:,.0f} images/s"
            )

    def _stage(self, stage: StageFinished) -> None:
        last = self._last_epoch
        loss = f"train loss {last.train_loss:.4f}, " if last else ""
        self._console.print(
            f"  done in {console.seconds(stage.seconds)}: {loss}val loss {stage.val['loss']:.4f}, "
            f"val accuracy {stage.val['accuracy']:.3f}"
        )

    def _progress(self, done: Done) -> None:
        if self._verbosity.quiet:
            return
        if self._bars is not None:
            self._bar(self._bars, done)
        else:
            self._line(done)

    def _bar(self, bars: Progress, done: Done) -> None:
        task = self._tasks.get(done.task)
        if task is None:
            task = self._tasks[done.task] = bars.add_task(done.task, total=done.total, unit=done.unit)
        bars.update(task, completed=done.done)
        if done.done == done.total:
            bars.remove_task(self._tasks.pop(done.task))

    def _line(self, done: Done) -> None:
        now = time.monotonic()
        began = self._began.setdefault(done.task, now)
        finished = done.done == done.total
        due = now - self._said.get(done.task, began) >= _EVERY
        if due and not finished:
            self._said[done.task] = now
            rate = done.done / max(now - began, 1e-9)
            if done.total is None:
                self._console.print(f"  {done.task}: {done.done} {done.unit}, {rate:,.0f}/s")
            else:
                left = console.seconds((done.total - done.done) / max(rate, 1e-9))
                self._console.print(f"  {done.task}: {done.done}/{done.total} {done.unit}, {rate:,.0f}/s, {left} left")
        if finished:
            self._began.pop(done.task, None)
            self._said.pop(done.task, None)
