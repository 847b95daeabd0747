"""A few real steps of each kind of stage, and pieces through the frozen backbone, measured: seconds and bytes.

Everything but the weights' values is the run's own: its training loop, its images, batch sizes, freezing and checks.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.store import ImageStore
from zoo.events import EpochFinished, Event, Progress, Report
from zoo.features.table import table_of
from zoo.model.model import ZooModel
from zoo.planning.batches import batch_sizes
from zoo.planning.plan import Plan, StagePlan
from zoo.recipes import Augment
from zoo.training import inference, seeding
from zoo.training.inputs import ImageInputs, Inputs, KeptInputs
from zoo.training.live_memory import Peak, measure_peak
from zoo.training.loop import StageTraining, fit_stage
from zoo.training.memory import Pieces
from zoo.training.objective import Objective, anchors_of, balanced_weights
from zoo.training.rate import settled
from zoo.training.reuse import forward_of
from zoo.training.start import with_adapters
from zoo.training.watch import NotFinite, StageWatch

IMAGE_STEPS, FEATURE_STEPS = 3, 30
"""Measured after one for warming up; steps of a head on kept features are a thousand times shorter."""
PIECES = 3
"""Of `plan.chunk` images through the frozen backbone."""
_NO_RATE = 1e-12
"""Learning rate of the measured steps: random weights stay where they are."""
_NOT_OF_SPEED = {"name", "train", "epochs", "lr", "layer_decay", "warmup", "schedule", "weight_decay"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of stage."""

    training: float
    """Seconds of an epoch's steps; of all of it for a closed form."""
    validation: float
    """Seconds after each epoch."""
    checks: float
    """Seconds of the digests before and after the stage."""
    gradients: int
    optimizer: int
    activations: int
    """Bytes beside the two."""


@dataclass(slots=True)
class _Timed:
    """What the training loop reported while it ran."""

    steps: list[float] = field(default_factory=list)
    """When each step was done."""
    epochs: list[EpochFinished] = field(default_factory=list)

    def training(self, images: int) -> list[float]:
        """Seconds of each epoch's steps."""
        return [images / epoch.images_per_second for epoch in self.epochs]

    def validation(self, images: int) -> float:
        """Seconds after an epoch, of the last one: the first may still load what it needs."""
        return self.epochs[-1].seconds - self.training(images)[-1]

    def step(self, count: int) -> float:
        """Seconds of a step among the first `count`, without the first, which waits for its images."""
        return (self.steps[count - 1] - self.steps[0]) / (count - 1)


class Measuring:
    """Measures on a model with the run's shapes; what was measured once is not measured again."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        store: ImageStore,
        model: ZooModel,
        report: Report,
        *,
        feature_shape: Sequence[int],
    ) -> None:
        """`model`: may have random weights, which stay where they are; `feature_shape`: of what the head gets, for one
        image."""
        self._plan = plan
        self._store = store
        self._model = model
        self._report = report
        self._feature_shape = feature_shape
        self._train, self._val = dataset.splits["train"], dataset.splits["val"]
        self._kinds: dict[str, Measured] = {}
        self._backbone: dict[tuple[str, str], tuple[float, int]] = {}
        pulled = any(stage.settings.l2_sp for stage in plan.stages)
        self._anchors = anchors_of(model) if pulled else None
        self.device = next(model.parameters()).device
        self.state_bytes = _bytes([*model.parameters(), *model.buffers()])
        """Of parameters and buffers."""
        self.anchor_bytes = 0 if self._anchors is None else _bytes(list(self._anchors.values()))
        """Of where an L2-SP pull goes."""

    def of_stage(self, stage: StagePlan) -> Measured:
        """One stage; those that differ in nothing that speed or memory depend on are measured together."""
        settings = stage.settings.model_dump_json(exclude=_NOT_OF_SPEED)
        kind = f"{stage.trains} {stage.tensors} {stage.inputs} {stage.cut} {settings}"
        if kind not in self._kinds:
            with with_adapters(self._model, stage, self._plan.seed):
                self._model.freeze_all_but(stage.trains, stage.tensors, stage.settings.batch_norm)
                self._kinds[kind] = self._fit(stage) if self._model.closed_form else self._steps(stage)
        return self._kinds[kind]

    def step_sizes(self, stage: StagePlan) -> list[int]:
        """Images of each step of an epoch."""
        return batch_sizes(len(self._train), stage.settings.batch_size * stage.settings.accumulate)

    def through_backbone(self, augment: Augment, before: str = "") -> tuple[float, int]:
        """(Seconds, peak of bytes) of one piece in evaluation mode, up to a group where one is named."""
        if (augment, before) not in self._backbone:
            files = _spread(self._train, PIECES * self._plan.chunk)
            with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
                deque(self._put_out(files[: self._plan.chunk], augment, before), maxlen=0)
            began = time.perf_counter()
            deque(self._put_out(files, augment, before), maxlen=0)
            self._backbone[augment, before] = (time.perf_counter() - began) / PIECES, peak.peak
        return self._backbone[augment, before]

    def pieces_of(self, files: Sequence[ImageFile]) -> int:
        """In how many pieces files go through the frozen backbone."""
        return math.ceil(len(files) / self._plan.chunk)

    def _steps(self, stage: StagePlan) -> Measured:
        sizes = self.step_sizes(stage)
        on_features = stage.inputs == "features"
        with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
            watch = _Watch(self._model, stage, peak)
            self._run(stage, [max(sizes)], 1, watch)
        gradients = _bytes([each for each in self._model.parameters() if each.requires_grad])
        optimizer = watch.optimizer_bytes()
        # In all steps but the first the optimizer's state is there before the gradients are.
        activations = max(peak.peak, optimizer + watch.before_step) - gradients - optimizer
        del watch  # and with it the optimizer's state
        short = _shortened(sizes, FEATURE_STEPS if on_features else IMAGE_STEPS)
        began = time.perf_counter()
        watch = _Watch(self._model, stage)
        checks = time.perf_counter() - began
        timed = self._run(stage, short, math.ceil(IMAGE_STEPS / len(short)) + on_features, watch)
        began = time.perf_counter()
        watch.checks()
        checks += time.perf_counter() - began
        training = timed.training(sum(short))
        epoch = sum(training[1:] or training) / len(training[1:] or training)
        left_out = len(sizes) - len(short)
        return Measured(
            training=epoch + (left_out * timed.step(len(short) - 1) if left_out else 0.0),
            validation=timed.validation(sum(short)) * self.pieces_of(self._val) / self.pieces_of(self._few_val(stage)),
            checks=checks,
            gradients=gradients,
            optimizer=optimizer,
            activations=max(0, activations),
        )

    def _run(self, stage: StagePlan, sizes: Sequence[int], epochs: int, watch: _Watch) -> _Timed:
        """Real training for so many epochs of steps of these sizes, that moves nothing."""
        timed = _Timed()
        settings = stage.settings.model_copy(update={"epochs": epochs, "patience": 0})
        short = stage.model_copy(update={"settings": settings, "steps": epochs * len(sizes)})
        # One that is still to be found is one for all groups.
        short = settled(short, _NO_RATE) if settings.lr == "auto" else short
        short = short.model_copy(update={"rates": dict.fromkeys(short.rates, _NO_RATE)})
        task = f"measure {settings.name}"

        def listen(event: Event) -> None:
            if isinstance(event, Progress) and event.task == settings.name:
                timed.steps.append(time.perf_counter())
                event = Progress(task=task, done=event.done, total=event.total, unit=event.unit)
            self._report(event)

        # Spread over the split: not all of them may be kept in memory.
        files = _spread(self._train, sum(sizes))
        val = self._few_val(stage)
        longest = max(batch_sizes(len(self._train), settings.batch_size))
        StageTraining(
            self._model,
            short,
            self._inputs(short, files, val),
            train_targets=inference.targets_of(files),
            val_targets=inference.targets_of(val),
            seed=self._plan.seed,
            objective=self._objective(stage),
            watch=watch,
            pieces=self._pieces(longest, task),
            report=listen,
            record=timed.epochs.append,
            save=lambda moment: None,
        ).run()
        return timed

    def _fit(self, stage: StagePlan) -> Measured:
        timed = _Timed()
        with measure_peak(self.device, [*self._model.parameters(), *self._model.buffers()]) as peak:
            fit_stage(
                self._model,
                stage,
                self._inputs(stage, self._train, self._val),
                train_targets=inference.targets_of(self._train),
                val_targets=inference.targets_of(self._val),
                watch=_Watch(self._model, stage),
                record=timed.epochs.append,
            )
        return Measured(timed.epochs[0].seconds, 0.0, 0.0, gradients=0, optimizer=0, activations=peak.peak)

    def _inputs(self, stage: StagePlan, files: Sequence[ImageFile], val: Sequence[ImageFile]) -> Inputs:
        pieces = self._pieces(self._plan.chunk, f"validation {stage.settings.name}")
        if stage.inputs == "features":
            train, held_out = (table_of(torch.randn(len(each), *self._feature_shape)) for each in (files, val))
            return KeptInputs((train,), held_out, pieces)
        if stage.inputs == "prefix":
            put_out = (self._put_out(each, "none", stage.cut) for each in (files, val))
            train, held_out = (table_of(torch.cat(list(each))) for each in put_out)
            return KeptInputs((train,), held_out, pieces, stage.cut)
        keys = seeding.view_keys(self._plan.seed, stage)
        return _SteadyImages(self._store, files, val, stage, pieces, lambda done: None, keys)

    def _objective(self, stage: StagePlan) -> Objective:
        balanced = stage.settings.class_weights == "balanced"
        targets = inference.targets_of(self._train)
        weights = balanced_weights(targets, len(self._plan.classes)) if balanced else None
        return Objective(stage.settings, weights, self._anchors)

    def _put_out(self, files: Sequence[ImageFile], augment: Augment, before: str) -> Iterator[Tensor]:
        size = self._plan.chunk
        if augment == "none":
            batches = self._store.batches(files, size)
        else:
            batches = inference.view_batches(self._store, files, size, augment=augment, key="measure")
        forward = forward_of(self._model, self._model.cut_before(before) if before else None)
        progress, done = self._progress("measure features", len(files)), 0
        for rows in inference.outputs(forward, self._model, batches, self._pieces(size, "features")):
            yield rows
            done += len(rows)
            progress(done)

    def _few_val(self, stage: StagePlan) -> Sequence[ImageFile]:
        pieces = FEATURE_STEPS if stage.inputs == "features" else 2
        return self._val[: pieces * self._plan.chunk]

    def _pieces(self, size: int, work: str) -> Pieces:
        return Pieces(size, work=work, report=self._report, halvings=[])

    def _progress(self, task: str, total: int) -> Callable[[int], None]:
        return lambda done: self._report(Progress(task=task, done=done, total=total))


class _Watch(StageWatch):
    """The run's own, at its own cost; random weights may give numbers that are not finite, as fast as others."""

    def __init__(self, model: ZooModel, stage: StagePlan, peak: Peak | None = None) -> None:
        super().__init__(model, stage)
        self.before_step = 0
        """Peak of memory before the optimizer's step."""
        self._peak = peak
        self._made: Optimizer | None = None

    def optimizer_made(self, optimizer: Optimizer) -> None:
        self._made = optimizer
        super().optimizer_made(optimizer)

    def gradients_ready(self, loss: float) -> None:
        with contextlib.suppress(NotFinite):
            super().gradients_ready(loss)
        if self._peak is not None:
            self.before_step = self._peak.peak

    def optimizer_bytes(self) -> int:
        states = self._made.state.values() if self._made else ()
        return _bytes([each for state in states for each in state.values() if isinstance(each, Tensor)])


class _SteadyImages(ImageInputs):
    """In the midst of an epoch: the next batches are being loaded beside every step, up to the last one."""

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int, begin: int = 0) -> Iterator[Tensor]:
        more = islice(cycle(order), self.store.workers + 1)
        return islice(super().train_batches([*order, *more], text, epoch, begin), len(order) - begin)


def _shortened(sizes: Sequence[int], steps: int) -> list[int]:
    """An epoch with fewer batches of the usual size and the same last one."""
    return [*sizes] if len(sizes) <= steps + 1 else [*sizes[:steps], sizes[-1]]


def _spread(files: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """So many files evenly from all; several times where there are fewer."""
    if count >= len(files):
        return list(islice(cycle(files), count))
    return [files[index * len(files) // count] for index in range(count)]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)
