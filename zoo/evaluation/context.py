"""What every part of a run shares: the plan, images, model, reporting, clock, and out-of-memory retries.

What computes outputs of a model alone needs no plan and no data set: `ComputeContext` is the part for that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.store import ImageStore
from zoo.evaluation import inference
from zoo.evaluation.metrics import Scores, score
from zoo.evaluation.out_of_memory import MicroBatches, OutOfMemoryRetry
from zoo.events import Progress, Report
from zoo.model.model import ZooModel
from zoo.specs.plan import Plan
from zoo.specs.recipe import BALANCED


class Clock:
    """Adds up the seconds that parts of the work take, such as `train` and `evaluate`."""

    def __init__(self, *parts: str) -> None:
        """Start the clock; `parts` are in `seconds` also where they took no time."""
        self._began = time.perf_counter()
        self._parts = dict.fromkeys(parts, 0.0)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time inside the `with` block for a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] = self._parts.get(part, 0.0) + time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count the time inside the `with` block for nothing."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - began

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what an earlier process of the same run took, as its clock's `seconds` returned it."""
        for part, value in seconds.items():
            if part == "total":
                self._began -= value  # as if this clock had started so much earlier
            else:
                self._parts[part] = self._parts.get(part, 0.0) + value

    def seconds(self) -> dict[str, float]:
        """Return the seconds of `total`, which is the time since the clock was made, and of every part."""
        total = time.perf_counter() - self._began
        return {name: round(value, 3) for name, value in {"total": total, **self._parts}.items()}


@dataclass(kw_only=True)
class ComputeContext:
    """What runs a model on images works with."""

    store: ImageStore
    model: ZooModel
    report: Report
    clock: Clock
    retries: list[OutOfMemoryRetry] = field(default_factory=list)
    """The retries after running out of memory, in order."""

    def micro_batches(self, size: int, work: str) -> MicroBatches:
        """Return micro-batches of `size` images, or of as few as memory allowed when the same work was done before."""
        # What did not fit once would not fit again, and another retry costs another failed pass.
        smallest = min([size, *(retry.size for retry in self.retries if retry.work == work)])
        return MicroBatches(smallest, work=work, report=self.report, retries=self.retries)

    def progress(self, task: str, total: int) -> Callable[[int], None]:
        """Return a function that reports how many of a task's `total` images are done."""
        return lambda done: self.report(Progress(task=task, done=done, total=total))


@dataclass(kw_only=True)
class RunContext(ComputeContext):
    """What every part of a run works with, except for the folder that the run writes."""

    plan: Plan
    dataset: Dataset

    @property
    def train(self) -> Sequence[ImageFile]:
        """The images of the training split."""
        return self.dataset.splits["train"]

    @property
    def val(self) -> Sequence[ImageFile]:
        """The images of the validation split.

        A run in folds has none: these are the training images then, and what a stage says of them is no score. Its
        scores are those of `zoo.training.out_of_fold`.
        """
        return self.dataset.splits.get("val", self.train)

    @cached_property
    def train_targets(self) -> Tensor:
        """Class indices of the N training images, int64[N]."""
        return inference.targets_of(self.train)

    @cached_property
    def val_targets(self) -> Tensor:
        """Class indices of the N validation images, int64[N]."""
        return inference.targets_of(self.val)

    @property
    def balanced(self) -> bool:
        """Whether models of this run are compared as if every class had equally many images, as its plan asks."""
        return self.plan.choose_by in BALANCED

    def scored(self, logits: Tensor, targets: Tensor | None = None) -> Scores:
        """Score logits[N, classes], with the numbers by which models of this run are compared.

        `targets`: class indices targets[N]; None: those of the validation images.
        """
        return score(logits, self.val_targets if targets is None else targets, balanced=self.balanced)
