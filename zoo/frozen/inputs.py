"""What a stage trains on: images, or cached outputs of its frozen groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.evaluation import inference
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.evaluation.shared import in_shares, logits_in_shares
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.storage.table import Table, TablePart

Order = Sequence[Sequence[int]]
"""The batches of an epoch: numbers of images."""


class Inputs(Protocol):
    """Where a stage's batches come from."""

    @property
    def chunk(self) -> int:
        """Number of images that go through the model at a time in validation."""

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
    _cuts: WeakKeyDictionary[ZooModel, Cut] = field(default_factory=WeakKeyDictionary, compare=False, repr=False)

    @property
    def chunk(self) -> int:
        return self.micro_batches.size

    def train_batches(
        self, order: Order, key: str, epoch: int, begin: int = 0, positions: Order | None = None
    ) -> Iterator[Tensor]:
        """Yield cached rows[B, ...] of the epoch's view, as `Inputs` says."""
        view = self.views[(epoch - 1) % len(self.views)]
        wanted = (
            order if positions is None else [_at(batch, held) for batch, held in zip(order, positions, strict=True)]
        )
        return (view.rows(indices) if indices else view.rows([0])[:0] for indices in wanted[begin:])

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

    @property
    def chunk(self) -> int:
        return self.micro_batches.size

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
        return logits_in_shares(model, self.store, self.val, micro_batches=self.micro_batches, progress=self.progress)


def _at(batch: Sequence[int], positions: Sequence[int]) -> list[int]:
    return [batch[position] for position in positions]
