"""What every part of a run needs at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from zoo.clock import Clock
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.store import ImageStore
from zoo.events import EpochFinished, Progress, Report
from zoo.model.model import ZooModel
from zoo.planning.plan import Plan
from zoo.training import inference
from zoo.training.checkpoint import Checkpoint
from zoo.training.memory import Halving, Pieces
from zoo.training.run_folder import RunFolder


@dataclass(kw_only=True)
class RunContext:
    """A run under way."""

    plan: Plan
    dataset: Dataset
    store: ImageStore
    model: ZooModel
    folder: RunFolder
    checkpoint: Checkpoint
    report: Report
    clock: Clock
    halvings: list[Halving] = field(default_factory=list)

    @property
    def train(self) -> tuple[ImageFile, ...]:
        return self.dataset.splits["train"]

    @property
    def val(self) -> tuple[ImageFile, ...]:
        return self.dataset.splits["val"]

    @cached_property
    def train_targets(self) -> Tensor:
        """int64[N]"""
        return inference.targets_of(self.train)

    @cached_property
    def val_targets(self) -> Tensor:
        """int64[N]"""
        return inference.targets_of(self.val)

    def pieces(self, size: int, work: str) -> Pieces:
        """So many images at a time, or as few as memory allowed when the same work was done before."""
        smallest = min([size, *(halving.size for halving in self.halvings if halving.work == work)])
        return Pieces(smallest, work=work, report=self.report, halvings=self.halvings)

    def progress(self, task: str, total: int) -> Callable[[int], None]:
        """Reports so many images done of a task."""
        return lambda done: self.report(Progress(task=task, done=done, total=total))

    def record(self, epoch: EpochFinished) -> None:
        """Into the history, and to whoever watches."""
        self.folder.record_epoch(epoch)
        self.report(epoch)
