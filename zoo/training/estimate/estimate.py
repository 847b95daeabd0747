"""Estimate what a plan will take on this machine, before anything is trained: measurements of its stages, added up.

The model has random weights of the real shapes: time and memory do not depend on the values, and nothing has to be
downloaded. `zoo.training.estimate.measure` has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from zoo.evaluation.context import RunContext
from zoo.evaluation.metrics import score
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.frozen.decision import MEMORY_BUDGET
from zoo.model.model import HEAD
from zoo.planning.examine import Examined
from zoo.specs.estimated import Estimate, MemoryEstimate, StageEstimate
from zoo.specs.plan import StagePlan
from zoo.training.estimate.measure import StageTimer
from zoo.training.estimate.memory import process_peak
from zoo.training.learning_rate import RATES, shorten_for_search


def estimate(context: RunContext, *, feature_shape: Sequence[int], decode: float, examined: Examined) -> Estimate:
    """Return the seconds and bytes of every stage and of the whole run.

    Args:
        context: With a model of the run's shapes, whose weights may be random.
        feature_shape: Shape of what the head gets for one image.
        decode: Seconds that decoding all images takes.
        examined: The images. Those that were opened are measured on, in place of all; a part of them has had so much
            of the memory for images as is its share of all.

    Raises:
        DeviceError: Memory does not suffice for one image.
    """
    plan = context.plan
    with out_of_memory_as_error(f"measuring {plan.backbone.name} with {plan.head.name}"):
        return _Estimator(
            context, StageTimer(context, feature_shape=feature_shape, opened=examined.opened), examined
        ).estimate(decode)


class _Estimator:
    """Adds up measurements over the stages of a plan."""

    def __init__(self, context: RunContext, timer: StageTimer, examined: Examined) -> None:
        self._plan = context.plan
        self._store = context.store
        self._scale = examined.scale
        self._timer = timer
        self._train, self._val = context.train, context.val
        self._folds = context.plan.folds.count if context.plan.folds else 0
        self._test = context.dataset.splits.get("test", ())

    def estimate(self, decode: float) -> Estimate:
        score(torch.eye(2), torch.arange(2))  # imports what scores need, outside of the measurements
        stages = []
        cached: tuple[str, tuple[str, ...]] | None = None
        moved = False
        for number, stage in enumerate(self._plan.stages):
            # Cached outputs serve the next stage if it wants the same, and if no weights have changed in between.
            wanted = stage.cut, stage.view_keys(self._plan.seed)
            # Else they are computed once, for all folds. After a stage that trained the backbone each fold has another
            # one, and so has the run that follows them.
            times = self._folds + 1 if moved else int(cached != wanted)
            stages.append(self._stage(stage, times=times, first=number == 0))
            cached = None if stage.inputs == "images" else wanted
            moved |= bool(stage.tensors) or set(stage.trains) != {HEAD}
        batches = self._timer.evaluation_batches(self._test)
        test = batches * self._timer.through_backbone("none")[0] if batches else 0.0
        on_device = max(stage.memory.on_device for stage in stages)
        host = max(stage.memory.on_host for stage in stages)
        process = self._process_bytes(stages)
        if self._timer.device.type == "cpu":
            host = on_device = max(stage.memory.total for stage in stages) + process
        else:
            host += process
        return Estimate(
            decode=decode,
            stages=tuple(stages),
            test=test,
            seconds=decode + sum(stage.seconds for stage in stages) + test,
            process=process,
            bytes=on_device,
            host_bytes=host,
        )

    def _stage(self, stage: StagePlan, *, times: int, first: bool) -> StageEstimate:
        """Estimate one stage; `times`: how often the run computes the outputs of its frozen part."""
        measured = self._timer.of_stage(stage)
        features = activations = 0
        seconds = 0.0
        if stage.inputs != "images":
            val_batch, activations = self._timer.through_backbone("none", stage.cut)
            train_batch, _ = self._timer.through_backbone(stage.settings.augment, stage.cut)
            features = min(stage.kept_bytes, MEMORY_BUDGET)
            if times:
                train_batches = max(1, stage.views) * self._timer.evaluation_batches(self._train)
                val_batches = self._timer.evaluation_batches(self._val)
                if self._folds and not stage.views:
                    val_batches = 0  # the same images
                seconds = times * (train_batch * train_batches + val_batch * val_batches)
        at_once = self._plan.chunk if stage.inputs != "images" else max(self._timer.step_sizes(stage))
        # float32 batches under way: one for each worker, and two more.
        loading = 4 * math.prod(self._store.preprocessing.input_size) * at_once * (self._store.workers + 2)
        epochs = stage.epochs
        if stage.settings.lr == "auto" and stage.steps:
            epochs += len(RATES) * shorten_for_search(stage).settings.epochs
        training = measured.training * epochs + measured.checks
        # Merged adapters are validated once more, and so is every blend.
        candidates = bool(stage.adapters) + len(stage.settings.blend)
        validation = measured.validation * (epochs + candidates)
        if not self._folds and (kept := self._timer.kept_prefix(stage, self._val)) is not None:
            # The groups before it get the validation images once; all later passes begin behind them.
            frozen = self._timer.through_backbone("none", kept.before)[0] * self._timer.evaluation_batches(self._val)
            validation -= min(frozen, measured.validation) * (epochs + candidates - 1)
            features = kept.bytes
        if self._folds:
            # The folds leave one image out of so many each, and then all are trained on: so many times in all. They
            # judge every image once; at the end the classifier goes over all of them.
            training *= self._folds
            validation += measured.validation * (1 + candidates)
        return StageEstimate(
            stage=stage.settings.name,
            features=seconds,
            training=training,
            validation=validation,
            seconds=seconds + training + validation,
            memory=MemoryEstimate(
                parameters=self._timer.state_bytes,
                gradients=measured.gradients,
                optimizer=measured.optimizer,
                activations=max(measured.activations, activations),
                features=features,
                images=round(self._store.kept_bytes * self._scale) + loading,
                # The best stage so far is kept while the next one trains.
                copies=(0 if first else self._timer.state_bytes) + self._timer.anchor_bytes,
            ),
        )

    def _process_bytes(self, stages: Sequence[StageEstimate]) -> int:
        """Return the bytes that this process took beside tensors: Python, libraries, buffers inside kernels."""
        tensors = self._store.kept_bytes
        if self._timer.device.type == "cpu":
            tensors += max(stage.memory.on_device for stage in stages)
        return max(0, process_peak() - tensors)
