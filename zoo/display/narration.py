"""What is said of a run while it goes on: which events become a line, and what the line says."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.display import console
from zoo.display.blocks import Line
from zoo.display.console import Verbosity
from zoo.events import EpochFinished, Event, Note, Progress, RunStarted, StageFinished, StageStarted

LOUD = "bold yellow"
"""The style of what changes what the result is worth, and is said to whoever asked for quiet too."""
_SHORT_EPOCH = 1.0
"""Seconds below which an epoch gets no line of its own: the stage's line sums up."""


class Pace:
    """How quickly a task goes on, from its first report on: what was done before that took no time here.

    So of a run that is resumed, and of a job of which half is there already.
    """

    def __init__(self, first: Progress, now: float) -> None:
        self._first, self._began = first.done, now
        self.last = first

    def hear(self, event: Progress, now: float) -> None:
        """Take a further report. One of less than before is of a task that begins again."""
        if event.done < self.last.done:
            self._first, self._began = event.done, now
        self.last = event

    def rate(self, now: float, *, least: float = 0.0) -> float | None:
        """Units in a second; None where nothing was done yet, or in fewer seconds than `least`."""
        passed, done = now - self._began, self.last.done - self._first
        return done / passed if done > 0 and passed > least else None


class Narration:
    """Tells a run, event by event. It remembers what a later line needs of an earlier event."""

    def __init__(self, verbosity: Verbosity) -> None:
        self._verbosity = verbosity
        self._last_epoch: EpochFinished | None = None
        self._fitted: dict[str, str] = {}
        self._judged = "val"

    def line(self, event: Event) -> Line | None:
        """What is said of an event; None for one of which nothing is said."""
        if isinstance(event, RunStarted):
            # Stages that have no epochs.
            self._fitted = {stage.settings.name: "fitted in one go" for stage in event.plan.stages if not stage.steps}
            self._judged = "val" if event.plan.folds is None else "out-of-fold"
        # Before quiet is looked at: a loud note changes what the result is worth.
        elif isinstance(event, Note) and event.loud:
            return Line(f"WARNING: {event.text}", LOUD)
        elif self._verbosity.quiet:
            return None
        elif isinstance(event, Note):
            return Line(event.text)
        elif isinstance(event, StageStarted):
            # A stage without steps reports one epoch all the same, which would say that it goes over the images once.
            how = self._fitted.get(event.stage) or console.count(event.epochs, "epoch")
            return Line(f"Stage {event.number} of {event.stages}: {event.stage}, {how}", "bold")
        elif isinstance(event, EpochFinished):
            return self._epoch(event)
        elif isinstance(event, StageFinished):
            return self._stage(event)
        return None

    def _epoch(self, epoch: EpochFinished) -> Line | None:
        self._last_epoch = epoch
        if not self._verbosity.verbose and epoch.seconds < _SHORT_EPOCH:
            return None
        return Line(
            f"  epoch {epoch.epoch:>2}/{epoch.epochs}  train loss {epoch.train_loss:.4f}  {self._scores(epoch.val)}"
            f"{console.seconds(epoch.seconds)}  {epoch.images_per_second:,.0f} images/s"
        )

    def _stage(self, stage: StageFinished) -> Line:
        if stage.abandoned:
            return Line(f"  given up after {console.seconds(stage.seconds)}: {stage.abandoned}")
        last = self._last_epoch
        said = [f"train loss {last.train_loss:.4f}"] if last else []
        if stage.val:
            said.append(f"{self._judged} loss {stage.val['loss']:.4f}")
            said.append(f"{self._judged} accuracy {stage.val['accuracy']:.3f}{_balanced(stage.val)}")
        return Line(f"  done in {console.seconds(stage.seconds)}: {', '.join(said)}")

    def _scores(self, val: Mapping[str, float]) -> str:
        """What an epoch was judged by; nothing where only the end of the stage is, as in folds."""
        if not val:
            return ""
        accuracy = f"{val['accuracy']:.3f}{_balanced(val)}"
        return f"{self._judged} loss {val['loss']:.4f}  {self._judged} accuracy {accuracy}  "


def _balanced(val: Mapping[str, float]) -> str:
    """Of a run that chooses by it, the balanced accuracy beside the plain one."""
    return f" (balanced {val['balanced_accuracy']:.3f})" if "balanced_accuracy" in val else ""
