"""What a stage trains on: images, or cached outputs of its frozen groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.prefetch import prefetch
from zoo.data.store import ImageStore
from zoo.distributed.group import current
from zoo.evaluation import inference
from zoo.evaluation.context import RunContext
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.evaluation.shared import in_shares, logits_in_shares
from zoo.frozen.decision import WINDOW
from zoo.frozen.kept_prefix import KeptPrefix
from zoo.frozen.windows import WindowedOrder
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.storage.table import ReorderedTable, Table, TablePart

Order = Sequence[Sequence[int]]
"""The batches of an epoch: numbers of images."""


class Inputs(Protocol):
    """Where a stage's batches come from."""

    @property
    def chunk(self) -> int:
        """Number of images that go through the model at a time in validation."""

    @property
    def stored(self) -> Sequence[int] | None:
        """The training images by number, in the order in which their rows are stored; None: as they are counted."""

    def train_batches(
        self, order: Order, key: str, epoch: int, begin: int = 0, positions: Order | None = None
    ) -> Iterator[Tensor]:
        """Yield one tensor per batch of an epoch: images[B, 3, H, W], or cached rows[B, ...].

        Args:
            order: The indices of each batch.
            key: The epoch's key, which names its random draws.
            epoch: The epoch's number, counted from 1.
            begin: The first batch to yield.
            positions: Which positions of each batch to yield, which may be none. Default: all of them.
        """

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        """batch[B, ...] -> what the head gets, pooled[B, F] or map[B, C, H, W]; with a graph if the backbone trains."""

    def val_logits(self, model: ZooModel) -> Tensor:
        """logits[N, classes] over the validation split."""


@dataclass(frozen=True, slots=True)
class CachedInputs:
    """Cached outputs of the frozen groups: features for the head, or what crosses a cut."""

    views: tuple[Table, ...]
    """Rows of the training images, one table a view. Epochs take the views in turn."""
    val: Table
    micro_batches: MicroBatches
    """How many validation images go through the rest of the model at a time."""
    before: str = ""
    """The group that takes the cached rows; empty where they are features for the head."""
    # Weakly, so that the moving average of a stage that is over does not stay in memory.
    _cuts: WeakKeyDictionary[ZooModel, Cut] = field(default_factory=WeakKeyDictionary, compare=False, repr=False)

    @property
    def chunk(self) -> int:
        return self.micro_batches.size

    @property
    def stored(self) -> Sequence[int] | None:
        view = self.views[0]
        return view.order if isinstance(view, ReorderedTable) else None

    def train_batches(
        self, order: Order, key: str, epoch: int, begin: int = 0, positions: Order | None = None
    ) -> Iterator[Tensor]:
        """Yield cached rows[B, ...] of the epoch's view, as `Inputs` says."""
        # By the epoch's number alone, so that a resumed run takes the view that it would have taken.
        view = self.views[(epoch - 1) % len(self.views)]
        if positions is not None:
            shares = [_at(batch, held) for batch, held in zip(order, positions, strict=True)]
            # A process without an image in a batch still takes the step with the others, on no rows of the right shape.
            return (view.rows(indices) if indices else view.rows([0])[:0] for indices in shares[begin:])
        if view.in_memory:
            return (view.rows(order[number]) for number in range(begin, len(order)))
        return _read_ahead(view, order, begin)

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        cut = self._cut_of(model)
        return batch if cut is None else model.features_after(cut, batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        cut = self._cut_of(model)

        def compute(rows: range) -> Tensor:
            part = self.val if len(rows) == len(self.val) else TablePart(self.val, rows)
            return inference.cached_logits(model, part, cut, micro_batches=self.micro_batches)

        # A head alone is judged faster than others are told what it says.
        return compute(range(len(self.val))) if cut is None else in_shares(len(self.val), self.micro_batches, compute)

    def _cut_of(self, model: ZooModel) -> Cut | None:
        """The cut of this very model. A moving average is another model, and a cut calls its own model's modules."""
        if not self.before:
            return None
        if model not in self._cuts:
            self._cuts[model] = model.cut_before(self.before)
        return self._cuts[model]


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """Images, augmented as the stage says. Nothing is cached."""

    store: ImageStore
    train: Sequence[ImageFile]
    val: Sequence[ImageFile]
    stage: StagePlan
    micro_batches: MicroBatches
    progress: Callable[[int], None]
    keys: tuple[str, ...] = ()
    """Keys of the views' random draws. Empty: every epoch draws anew."""
    kept: KeptPrefix | None = None
    """Of the validation images, what the groups that stay as they are gave."""

    @classmethod
    def of(cls, context: RunContext, stage: StagePlan, kept: KeptPrefix | None = None) -> ImageInputs:
        """The inputs of a run's stage that trains on images."""
        micro_batches = context.micro_batches(context.plan.chunk, f"validation {stage.settings.name}")
        progress = context.progress("validate", len(context.val))
        keys = stage.view_keys(context.plan.seed)
        return cls(context.store, context.train, context.val, stage, micro_batches, progress, keys, kept)

    @property
    def chunk(self) -> int:
        return self.micro_batches.size

    @property
    def stored(self) -> Sequence[int] | None:
        return None

    def train_batches(
        self, order: Order, key: str, epoch: int, begin: int = 0, positions: Order | None = None
    ) -> Iterator[Tensor]:
        """Yield images[B, 3, H, W], augmented for the epoch or its view, as `Inputs` says."""
        key = self.keys[(epoch - 1) % len(self.keys)] if self.keys else key
        augment, anew = self.stage.settings.augment, not self.keys
        return self.store.training_batches(
            self.train, order, augment=augment, key=key, anew=anew, begin=begin, positions=positions
        )

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        return model.features(batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        kept, processes = self.kept, current().count
        if kept is None:
            return logits_in_shares(
                model, self.store, self.val, micro_batches=self.micro_batches, progress=self.progress
            )

        def compute(rows: range) -> Tensor:
            def progress(done: int) -> None:
                self.progress(min(done * processes, len(self.val)))

            files = self.val[rows.start : rows.stop]
            size = self.micro_batches.size
            logits = kept.logits(
                model,
                rows,
                lambda: self.store.batches(files, size),
                micro_batches=self.micro_batches,
                progress=progress,
            )
            if logits is not None:
                return logits
            return inference.logits_of_files(
                model, self.store, files, micro_batches=self.micro_batches, progress=progress
            )

        return in_shares(len(self.val), self.micro_batches, compute)


def _at(batch: Sequence[int], positions: Sequence[int]) -> list[int]:
    return [batch[position] for position in positions]


def _read_ahead(table: Table, order: Sequence[Sequence[int]], begin: int) -> Iterator[Tensor]:
    """Yield the rows[B, ...] of each batch, from number `begin` on. Many batches are read at a time, file by file.

    While some are trained on, the next ones are read: two windows are in memory.
    """

    def read(numbers: range) -> tuple[list[int], Tensor]:
        batches = [order[number] for number in numbers]
        return [*map(len, batches)], table.rows([index for batch in batches for index in batch])

    row = max(1, table.bytes // len(table))
    parts = order.together(begin) if isinstance(order, WindowedOrder) else _so_many(order, begin, max(1, WINDOW // row))
    with ThreadPoolExecutor(1, thread_name_prefix="zoo-rows") as pool:
        for lengths, rows in prefetch(pool, read, parts, pending=2):
            # Copied, so that each begins where memory of its own does: kernels may sum in another order elsewhere.
            yield from (batch.clone() for batch in torch.split(rows, lengths))


def _so_many(order: Sequence[Sequence[int]], begin: int, most: int) -> Iterator[range]:
    """Yield the numbers of batches of `most` rows together, or few more."""
    first, count = begin, 0
    for number in range(begin, len(order)):
        count += len(order[number])
        if count >= most:
            yield range(first, number + 1)
            first, count = number + 1, 0
    if first < len(order):
        yield range(first, len(order))
