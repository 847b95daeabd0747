"""Where a stage's batches come from: images, or what its frozen part made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.features.table import Table
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.training import inference
from zoo.training.memory import Pieces


class Inputs(Protocol):
    """Where a stage's batches come from."""

    @property
    def chunk(self) -> int:
        """Images at a time in validation."""

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int, begin: int = 0) -> Iterator[Tensor]:
        """One tensor per batch of indices from the batch `begin`, in the epoch (from 1) that `text` names."""

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        """A batch -> what the head gets, with a graph where the backbone trains."""

    def val_logits(self, model: ZooModel) -> Tensor:
        """logits[N, classes] over the validation split."""


@dataclass(frozen=True, slots=True)
class KeptInputs:
    """What the frozen part puts out, computed once: features for the head, or what crosses a cut."""

    views: tuple[Table, ...]
    """Of the training images; epochs take the views in turn."""
    val: Table
    pieces: Pieces
    """Of validation."""
    before: str = ""
    """The group with which the kept rows go on into the backbone; none where they are features."""
    _cuts: WeakKeyDictionary[ZooModel, Cut] = field(default_factory=WeakKeyDictionary, compare=False, repr=False)

    @property
    def chunk(self) -> int:
        return self.pieces.size

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int, begin: int = 0) -> Iterator[Tensor]:
        view = self.views[(epoch - 1) % len(self.views)]
        return (view.rows(indices) for indices in order[begin:])

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        cut = self._cut_of(model)
        return batch if cut is None else model.features_after(cut, batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        return inference.kept_logits(model, self.val, self._cut_of(model), pieces=self.pieces)

    def _cut_of(self, model: ZooModel) -> Cut | None:
        """Of this very model: a moving average is another one than what trains, and a cut calls its model's modules."""
        if not self.before:
            return None
        if model not in self._cuts:
            self._cuts[model] = model.cut_before(self.before)
        return self._cuts[model]


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """Images, augmented as the stage says."""

    store: ImageStore
    train: Sequence[ImageFile]
    val: Sequence[ImageFile]
    stage: StagePlan
    pieces: Pieces
    progress: Callable[[int], None]
    keys: tuple[str, ...] = ()
    """Of the views' draws, where epochs take views in turn; otherwise every epoch draws anew."""

    @property
    def chunk(self) -> int:
        return self.pieces.size

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int, begin: int = 0) -> Iterator[Tensor]:
        key = self.keys[(epoch - 1) % len(self.keys)] if self.keys else text
        augment = self.stage.settings.augment
        return self.store.training_batches(self.train, order, augment=augment, key=key, anew=not self.keys, begin=begin)

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        return model.features(batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        return inference.logits(model, self.store, self.val, pieces=self.pieces, progress=self.progress)
