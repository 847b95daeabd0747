"""What a run shows while it goes on: bars with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
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

from zoo.cli import console, interrupt
from zoo.cli.console import Verbosity
from zoo.cli.plan import print_plan
from zoo.events import (
    EpochFinished,
    Event,
    Note,
    PlanReady,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
)
from zoo.events import Progress as ProgressEvent
from zoo.process import prints_to_stderr
from zoo.specs.plan import Plan

_LINE_INTERVAL = 10.0
"""Seconds between two lines about one task, off a terminal."""
_SHORT_EPOCH = 1.0
"""Seconds below which an epoch gets no line of its own: the stage's line sums up."""


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
    """A context manager whose `report` shows every event of a run.

    With `as_json`, everything goes to stderr, including what libraries and plugins print.
    """

    def __init__(self, verbosity: Verbosity, *, as_json: bool) -> None:
        self._verbosity = verbosity
        self._console = console.err() if as_json else console.out()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._last_epoch: EpochFinished | None = None
        self._fitted: dict[str, str] = {}
        self._judged = "val"
        self._as_json = as_json
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> RunDisplay:
        self._redirect_stdout()
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
        self._redirected.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars and give stdout back, so that something else can be printed."""
        if self._bars is not None:
            self._bars.stop()
        self._redirected.close()
        try:
            yield
        finally:
            self._redirect_stdout()
            if self._bars is not None:
                self._bars.start()

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, ProgressEvent):
            self._progress(event)
        elif isinstance(event, Note):
            self._note(event)
        elif isinstance(event, RunStarted):
            interrupt.run_started(event.run)
            # Stages that have no epochs.
            self._fitted = {stage.settings.name: "fitted in one go" for stage in event.plan.stages if not stage.steps}
            self._judged = "val" if event.plan.folds is None else "out-of-fold"
        elif isinstance(event, RunFinished):
            interrupt.run_finished()
        elif self._verbosity.quiet:
            return
        elif isinstance(event, PlanReady) and isinstance(event.plan, Plan):
            print_plan(event.plan, self._verbosity, to=self._console)
            self._console.print()
        elif isinstance(event, StageStarted):
            how = self._fitted.get(event.stage) or console.count(event.epochs, "epoch")
            self._console.print(f"Stage {event.number} of {event.stages}: {event.stage}, {how}", style="bold")
        elif isinstance(event, EpochFinished):
            self._epoch(event)
        elif isinstance(event, StageFinished):
            self._stage(event)

    def _redirect_stdout(self) -> None:
        # Heads, losses and observers of plugins run inside, and some print; with --json stdout must stay JSON.
        if self._as_json:
            self._redirected.enter_context(prints_to_stderr())

    def _note(self, note: Note) -> None:
        if note.parting:
            interrupt.remember_parting(note.text)  # said once, together with the error
        elif note.loud:
            # Shown under -q and --json too: it changes what the result is worth.
            console.err().print(f"WARNING: {note.text}", style="bold yellow")
        elif not self._verbosity.quiet:
            self._console.print(note.text)

    def _epoch(self, epoch: EpochFinished) -> None:
        self._last_epoch = epoch
        if self._verbosity.verbose or epoch.seconds >= _SHORT_EPOCH:
            self._console.print(
                f"  epoch {epoch.epoch:>2}/{epoch.epochs}  train loss {epoch.train_loss:.4f}  "
                f"{self._scores(epoch.val)}"
                f"{console.seconds(epoch.seconds)}  {epoch.images_per_second:,.0f} images/s"
            )

    def _stage(self, stage: StageFinished) -> None:
        if stage.abandoned:
            self._console.print(f"  given up after {console.seconds(stage.seconds)}: {stage.abandoned}")
            return
        last = self._last_epoch
        said = [f"train loss {last.train_loss:.4f}"] if last else []
        if stage.val:
            said.append(f"{self._judged} loss {stage.val['loss']:.4f}")
            said.append(f"{self._judged} accuracy {stage.val['accuracy']:.3f}")
        self._console.print(f"  done in {console.seconds(stage.seconds)}: {', '.join(said)}")

    def _scores(self, val: Mapping[str, float]) -> str:
        """What an epoch was judged by; nothing where only the end of the stage is, as in folds."""
        if not val:
            return ""
        return f"{self._judged} loss {val['loss']:.4f}  {self._judged} accuracy {val['accuracy']:.3f}  "

    def _progress(self, event: ProgressEvent) -> None:
        if self._verbosity.quiet:
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
            bars.remove_task(self._tasks.pop(event.task))

    def _line(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        started = self._started.setdefault(event.task, now)
        finished = event.done == event.total
        due = now - self._last_line.get(event.task, started) >= _LINE_INTERVAL
        if due and not finished:
            self._last_line[event.task] = now
            rate = event.done / max(now - started, 1e-9)
            if event.total is None:
                self._console.print(f"  {event.task}: {event.done} {event.unit}, {rate:,.0f}/s")
            else:
                left = console.seconds((event.total - event.done) / max(rate, 1e-9))
                self._console.print(
                    f"  {event.task}: {event.done}/{event.total} {event.unit}, {rate:,.0f}/s, {left} left"
                )
        if finished:
            self._started.pop(event.task, None)
            self._last_line.pop(event.task, None)
