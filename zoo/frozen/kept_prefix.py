"""What validation images are where a stage begins to train: computed in its first validation, and kept for the others.

A stage that augments its training images computes its frozen groups anew in every step. Its validation images are never
augmented, so of them the frozen groups would give the same outputs after every epoch and for every blend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from zoo.errors import DeviceError
from zoo.evaluation import inference
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.frozen.cache_key import state_digest
from zoo.frozen.cut_check import fault_of
from zoo.frozen.decision import worth_keeping_before
from zoo.model.cut import CannotCut, Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan


class KeptPrefix:
    """Outputs of the groups before a cut, in the chunks in which they were computed, in memory."""

    def __init__(self, before: str, frozen: str) -> None:
        """Keep nothing yet.

        Args:
            before: The first group that is computed each time.
            frozen: The `state_digest` of the groups before it. A model in which they are others gets nothing.
        """
        self.before = before
        self.frozen = frozen
        self._chunks: dict[tuple[range, int], list[Tensor]] = {}
        self._cuts: WeakKeyDictionary[ZooModel, Cut | None] = WeakKeyDictionary()

    def logits(
        self,
        model: ZooModel,
        rows: range,
        batches: Callable[[], Iterable[Tensor]],
        *,
        micro_batches: MicroBatches,
        progress: Callable[[int], None],
    ) -> Tensor | None:
        """Return logits[N, classes], with the bits that the whole model gives; None where that cannot be had.

        Args:
            model: Any model, such as a moving average, or a blend, which may change groups that its stage does not. It
                is left in evaluation mode.
            rows: Which N images these are; what is kept is known by them.
            batches: Gives their images[B, 3, H, W], in batches of as many as are computed at a time.
            micro_batches: How many images are computed at a time.
            progress: Called with the number of images that are done.
        """
        if state_digest(model, self.before) != self.frozen:
            return None
        size, count = micro_batches.size, len(rows)
        cut = self._cut_of(model, batches)
        if cut is None:
            return None
        known = self._chunks.get((rows, size))
        found: list[Tensor] = []

        def from_images(images: Tensor) -> Tensor:
            outputs = model.outputs_before(cut, images)
            # Whole chunks, padding included: the rest of the model then gets what it would get from the images.
            found.append(outputs.cpu())
            return from_outputs(outputs)

        def from_outputs(outputs: Tensor) -> Tensor:
            logits: Tensor = model.head(model.features_after(cut, outputs))
            return logits

        forward, inputs = (from_images, batches()) if known is None else (from_outputs, known)
        logits = []
        for number, part in enumerate(inference.outputs(forward, model, inputs, micro_batches), start=1):
            if micro_batches.size != size:  # memory ran out: in smaller chunks the outputs may have other bits
                self._chunks.clear()
                return None
            logits.append(part)
            progress(min(number * size, count))
        if known is None:
            self._chunks[rows, size] = found
        return torch.cat(logits)[:count]

    def _cut_of(self, model: ZooModel, batches: Callable[[], Iterable[Tensor]]) -> Cut | None:
        """The cut of this very model; None where it cannot be cut, or does not give the whole one's bits."""
        if model not in self._cuts:
            self._cuts[model] = self._checked(model, next(iter(batches())))
        return self._cuts[model]

    def _checked(self, model: ZooModel, images: Tensor) -> Cut | None:
        try:
            cut = model.cut_before(self.before)
            return None if fault_of(model, cut, images) else cut
        except (CannotCut, DeviceError):  # where memory ran out, the whole model goes on in smaller batches
            return None


class KeptPrefixes:
    """Gives each stage that trains on images what is kept of its validation images; the last is kept for the next."""

    def __init__(self) -> None:
        self._last: KeptPrefix | None = None

    def forget(self) -> None:
        """Free what is in memory."""
        self._last = None

    def of(self, model: ZooModel, stage: StagePlan, *, images: int, passes: int) -> KeptPrefix | None:
        """What is kept for a stage; None where nothing is worth it.

        Args:
            model: The model at the stage's beginning. It is left in evaluation mode.
            stage: The stage.
            images: Number of validation images.
            passes: How often they are judged, by epochs and blends.
        """
        kept = worth_keeping_before(stage, model, images=images, passes=passes)
        if kept is None:
            self._last = None
            return None
        before = kept.before
        # Another stage has trained the same groups, or began from a model in which other ones had been trained.
        frozen = state_digest(model, before)
        if self._last is None or (self._last.before, self._last.frozen) != (before, frozen):
            self._last = KeptPrefix(before, frozen)
        return self._last
