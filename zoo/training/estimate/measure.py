"""Measure the seconds and bytes of a few real steps of each kind of stage, and of batches through the backbone.

Everything but the weights' values is the run's own: its training loop, images, batch sizes, freezing and checks.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.data.dataset import ImageFile
from zoo.evaluation import inference
from zoo.evaluation.context import RunContext
from zoo.evaluation.metrics import score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import EpochFinished, Event, Progress
from zoo.frozen.decision import KeptOutputs, worth_keeping_before
from zoo.frozen.inputs import CachedInputs, ImageInputs, Inputs, Order
from zoo.frozen.outputs import forward_of
from zoo.model.model import ZooModel
from zoo.planning.batch_sizes import batch_sizes
from zoo.specs.data import Split
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Augment
from zoo.storage.table import table_of
from zoo.training.estimate.memory import Peak, measure_peak
from zoo.training.learning_rate import with_rate
from zoo.training.objective import anchors_of, objective_for
from zoo.training.prepare import with_adapters
from zoo.training.solve import fit_stage, solve_stage
from zoo.training.stage_watch import NotFinite, StageWatch
from zoo.training.trainer import StageSetup, StageTrainer

IMAGE_STEPS, FEATURE_STEPS = 3, 30
"""Steps measured after a first one for warming up. Steps on cached features are a thousand times shorter."""
BACKBONE_BATCHES = 3
"""Batches of `plan.chunk` images that are measured through the frozen backbone."""
_NO_RATE = 1e-12
"""Learning rate of the measured steps, so small that the weights stay as they are."""
_NO_EFFECT_ON_SPEED = {"name", "train", "epochs", "lr", "layer_decay", "warmup", "schedule", "weight_decay"}
_NO_EFFECT_ON_SPEED |= {"abandon", "blend"}


@dataclass(frozen=True, slots=True)
class StageMeasurement:
    """What one kind of stage takes."""

    training: float
    """Seconds of the steps of one epoch; of the whole stage for a closed-form head."""
    validation: float
    """Seconds of one validation."""
    checks: float
    """Seconds of the watch's digests before and after the stage."""
    gradients: int
    """Bytes of gradients."""
    optimizer: int
    """Bytes of the optimizer's state."""
    activations: int
    """Bytes of everything else that training creates."""


@dataclass(slots=True)
class _LoopTimes:
    """Times that the training loop reported."""

    steps: list[float] = field(default_factory=list)
    """When each step ended, in seconds of `time.perf_counter`."""
    epochs: list[EpochFinished] = field(default_factory=list)
    """The events of finished epochs."""

    def training(self, images: int) -> list[float]:
        """Return the seconds of each epoch's steps; `images`: in an epoch."""
        return [images / epoch.images_per_second for epoch in self.epochs]

    def validation(self, images: int) -> float:
        """Return the seconds of a validation, the last one: the first may still load what it needs."""
        return self.epochs[-1].seconds - self.training(images)[-1]

    def step(self, count: int) -> float:
        """Return the seconds of a step, among the first `count`, without the first, which waits for its images."""
        return (self.steps[count - 1] - self.steps[0]) / (count - 1)


class StageTimer:
    """Measures the stages of a plan. What was measured once is not measured again."""

    def __init__(
        self, context: RunContext, *, feature_shape: Sequence[int], opened: Mapping[Split, Sequence[ImageFile]]
    ) -> None:
        """Nothing is measured yet.

        Args:
            context: Its model has the run's shapes and may have random weights, which stay as they are.
            feature_shape: Shape of what the head gets for one image.
            opened: Images of each split that can be read, some of train among them: those that are measured on.
        """
        self._plan = context.plan
        self._store = context.store
        self._model = model = context.model
        self._report = context.report
        self._feature_shape = feature_shape
        self._train, self._val = context.train, context.val
        self._opened = opened["train"]
        self._opened_val = opened.get("val") or self._opened
        self._kinds: dict[str, StageMeasurement] = {}
        self._backbone: dict[tuple[str, str], tuple[float, int]] = {}
        pulled = any(stage.settings.l2_sp for stage in self._plan.stages)
        self._anchors = anchors_of(model) if pulled else None
        self.device = next(model.parameters()).device
        self.state_bytes = _bytes([*model.parameters(), *model.buffers()])
        """Bytes of the model's parameters and buffers."""
        self.anchor_bytes = 0 if self._anchors is None else _bytes(list(self._anchors.values()))
        """Bytes of the weights that L2-SP pulls towards."""

    def of_stage(self, stage: StagePlan) -> StageMeasurement:
        """Measure a stage. Stages that do not differ in what speed or memory depend on are measured once."""
        settings = stage.settings.model_dump_json(exclude=_NO_EFFECT_ON_SPEED)
        kind = f"{stage.trains} {stage.tensors} {stage.inputs} {stage.cut} {stage.solver} {settings}"
        if kind not in self._kinds:
            with with_adapters(self._model, stage, self._plan.seed):
                self._model.freeze_all_but(stage.trains, stage.tensors, stage.batch_norm)
                self._kinds[kind] = self._steps(stage) if stage.steps else self._fit(stage)
        return self._kinds[kind]

    def step_sizes(self, stage: StagePlan) -> list[int]:
        """Return the number of images of each optimizer step of an epoch."""
        return batch_sizes(len(self._train), stage.settings.batch_size * stage.settings.accumulate)

    def through_backbone(self, augment: Augment, before: str = "") -> tuple[float, int]:
        """Measure one batch of `plan.chunk` images through the backbone in evaluation mode -> seconds, peak bytes.

        Args:
            augment: How the images are augmented.
            before: The group before which to stop; the whole backbone where none is named.
        """
        if (augment, before) not in self._backbone:
            files = spread_evenly(self._opened, BACKBONE_BATCHES * self._plan.chunk)
            with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
                # It warms up as well, before the seconds are taken.
                deque(self._frozen_outputs(files[: self._plan.chunk], augment, before), maxlen=0)
            began = time.perf_counter()
            deque(self._frozen_outputs(files, augment, before), maxlen=0)
            self._backbone[augment, before] = (time.perf_counter() - began) / BACKBONE_BATCHES, peak.peak
        return self._backbone[augment, before]

    def kept_prefix(self, stage: StagePlan, val: Sequence[ImageFile]) -> KeptOutputs | None:
        """What of the validation images is kept while a stage trains on images; None where nothing is."""
        passes = stage.epochs + len(stage.settings.blend)
        return worth_keeping_before(stage, self._model, images=len(val), passes=passes)

    def evaluation_batches(self, files: Sequence[ImageFile]) -> int:
        """Return in how many batches of `plan.chunk` the images go through the model in evaluation mode."""
        return math.ceil(len(files) / self._plan.chunk)

    def _steps(self, stage: StagePlan) -> StageMeasurement:
        sizes = self.step_sizes(stage)
        on_features = stage.inputs == "features"
        # Memory and seconds each have a run of their own: on a CPU, counting tensors takes time in every operation.
        with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
            watch = _MeasuringWatch(self._model, stage, peak)
            self._run(stage, [max(sizes)], 1, watch)
        gradients = _bytes([parameter for parameter in self._model.parameters() if parameter.requires_grad])
        optimizer = watch.optimizer_bytes()
        # The first step is measured. In all others the optimizer's state exists before the gradients do.
        activations = max(peak.peak, optimizer + watch.before_step) - gradients - optimizer
        del watch  # it holds the optimizer's state
        short = shorten_epoch(sizes, FEATURE_STEPS if on_features else IMAGE_STEPS)
        began = time.perf_counter()
        watch = _MeasuringWatch(self._model, stage)
        checks = time.perf_counter() - began
        timed = self._run(stage, short, math.ceil(IMAGE_STEPS / len(short)) + on_features, watch)
        began = time.perf_counter()
        watch.checks()
        checks += time.perf_counter() - began
        training = timed.training(sum(short))
        # Where there are several, the first is left out: it may still load what it needs.
        epoch = sum(training[1:] or training) / len(training[1:] or training)
        left_out = len(sizes) - len(short)
        val_batches, measured = (self.evaluation_batches(files) for files in (self._val, self._few_val(stage)))
        return StageMeasurement(
            training=epoch + (left_out * timed.step(len(short) - 1) if left_out else 0.0),
            validation=timed.validation(sum(short)) * val_batches / measured,
            checks=checks,
            gradients=gradients,
            optimizer=optimizer,
            activations=max(0, activations),
        )

    def _run(self, stage: StagePlan, sizes: Sequence[int], epochs: int, watch: _MeasuringWatch) -> _LoopTimes:
        """Train for so many epochs of steps of these sizes, at a rate that changes nothing."""
        timed = _LoopTimes()
        # At no rate no epoch is better than the first, so patience would end the stage.
        settings = stage.settings.model_copy(update={"epochs": epochs, "patience": 0})
        short = stage.model_copy(update={"settings": settings, "steps": epochs * len(sizes)})
        # A stage whose rate is still to be found has no rates of groups yet.
        short = with_rate(short, _NO_RATE) if settings.lr == "auto" else short
        short = short.model_copy(update={"rates": dict.fromkeys(short.rates, _NO_RATE)})
        task = f"measure {settings.name}"

        def listen(event: Event) -> None:
            if isinstance(event, Progress) and event.task == settings.name:
                timed.steps.append(time.perf_counter())
                event = Progress(task=task, done=event.done, total=event.total, unit=event.unit)
            self._report(event)

        # From all over the split: some images may be kept in memory and others on disk.
        files = spread_evenly(self._opened, sum(sizes))
        val = self._few_val(stage)
        longest = max(batch_sizes(len(self._train), settings.batch_size))
        work = self._work(short, self._inputs(short, files, val), files, val, watch)
        micro_batches = self._micro_batches(longest, task)
        StageTrainer(replace(work, micro_batches=micro_batches, report=listen, record=timed.epochs.append)).run()
        return timed

    def _fit(self, stage: StagePlan) -> StageMeasurement:
        timed = _LoopTimes()
        task = f"measure {stage.settings.name}"

        def listen(event: Event) -> None:
            if isinstance(event, Progress):
                self._report(Progress(task=task, done=event.done, total=event.total, unit=event.unit))

        with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
            inputs, watch = self._inputs(stage, self._train, self._val), _MeasuringWatch(self._model, stage)
            fit = fit_stage if self._model.closed_form else solve_stage
            work = self._work(stage, inputs, self._train, self._val, watch)
            fit(replace(work, report=listen, record=timed.epochs.append))
        return StageMeasurement(timed.epochs[0].seconds, 0.0, 0.0, gradients=0, optimizer=0, activations=peak.peak)

    def _work(
        self,
        stage: StagePlan,
        inputs: Inputs,
        files: Sequence[ImageFile],
        val: Sequence[ImageFile],
        watch: StageWatch,
    ) -> StageSetup:
        # Class weights are those of all images: among a few, a class may be missing.
        train_targets, val_targets = inference.targets_of(self._train), inference.targets_of(val)
        return StageSetup(
            model=self._model,
            stage=stage,
            inputs=inputs,
            train_targets=inference.targets_of(files),
            scored=lambda logits: score(logits, val_targets),
            seed=self._plan.seed,
            objective=objective_for(stage.settings, train_targets, len(self._plan.classes), self._anchors),
            watch=watch,
            micro_batches=self._micro_batches(self._plan.chunk, f"measure {stage.settings.name}"),
        )

    def _inputs(self, stage: StagePlan, files: Sequence[ImageFile], val: Sequence[ImageFile]) -> Inputs:
        micro_batches = self._micro_batches(self._plan.chunk, f"validation {stage.settings.name}")
        if stage.inputs == "features":
            # Made up: time does not depend on their values, and computing them would take as long as in the run.
            train, held_out = (table_of(torch.randn(len(part), *self._feature_shape)) for part in (files, val))
            return CachedInputs((train,), held_out, micro_batches)
        if stage.inputs == "prefix":
            outputs = (self._frozen_outputs(part, "none", stage.cut) for part in (files, val))
            train, held_out = (table_of(torch.cat(list(rows))) for rows in outputs)
            return CachedInputs((train,), held_out, micro_batches, stage.cut)
        keys = stage.view_keys(self._plan.seed)
        return _SteadyStateImages(self._store, files, val, stage, micro_batches, lambda done: None, keys)

    def _frozen_outputs(self, files: Sequence[ImageFile], augment: Augment, before: str) -> Iterator[Tensor]:
        size = self._plan.chunk
        if augment == "none":
            batches = self._store.batches(files, size)
        else:
            batches = inference.view_batches(self._store, files, size, augment=augment, key="measure")
        forward = forward_of(self._model, self._model.cut_before(before) if before else None)
        progress, done = self._progress("measure features", len(files)), 0
        for rows in inference.outputs(forward, self._model, batches, self._micro_batches(size, "features")):
            yield rows
            done += len(rows)
            progress(done)

    def _few_val(self, stage: StagePlan) -> Sequence[ImageFile]:
        batches = FEATURE_STEPS if stage.inputs == "features" else 2
        return self._opened_val[: batches * self._plan.chunk]

    def _micro_batches(self, size: int, work: str) -> MicroBatches:
        return MicroBatches(size, work=work, report=self._report, retries=[])

    def _progress(self, task: str, total: int) -> Callable[[int], None]:
        return lambda done: self._report(Progress(task=task, done=done, total=total))


class _MeasuringWatch(StageWatch):
    """The run's own watch, so that its cost is measured. Losses that are not finite are accepted: random weights give
    some, and they take as long as others."""

    def __init__(self, model: ZooModel, stage: StagePlan, peak: Peak | None = None) -> None:
        # Every step is waited for, so that it is the time of the work, and not of asking a GPU for it.
        super().__init__(model, stage, read_every=1)
        self.before_step = 0
        """Peak bytes before the optimizer's step."""
        self._peak = peak
        self._stage_optimizer: Optimizer | None = None

    def optimizer_made(self, optimizer: Optimizer) -> None:
        self._stage_optimizer = optimizer
        super().optimizer_made(optimizer)

    def gradients_ready(self, losses: Sequence[Tensor]) -> list[float]:
        known = [math.nan]
        with contextlib.suppress(NotFinite):
            known = super().gradients_ready(losses)
        if self._peak is not None:
            self.before_step = self._peak.peak
        return known

    def optimizer_bytes(self) -> int:
        """Return the bytes of the optimizer's state."""
        states = self._stage_optimizer.state.values() if self._stage_optimizer else ()
        return _bytes([value for state in states for value in state.values() if isinstance(value, Tensor)])


class _SteadyStateImages(ImageInputs):
    """Images as in the middle of a long epoch: beside every step, the last included, the next batches are loaded."""

    def train_batches(
        self, order: Order, key: str, epoch: int, begin: int = 0, positions: Order | None = None
    ) -> Iterator[Tensor]:
        further = islice(cycle(order), self.store.workers + 1)
        return islice(super().train_batches([*order, *further], key, epoch, begin), len(order) - begin)


def shorten_epoch(sizes: Sequence[int], steps: int) -> list[int]:
    """Return the batch sizes of a shorter epoch: fewer batches of the usual size, and the same last one."""
    return [*sizes] if len(sizes) <= steps + 1 else [*sizes[:steps], sizes[-1]]


def spread_evenly(files: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """Take `count` files evenly from all of them, repeated where there are fewer."""
    if count >= len(files):
        return list(islice(cycle(files), count))
    return [files[index * len(files) // count] for index in range(count)]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
