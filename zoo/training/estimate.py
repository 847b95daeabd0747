"""What a plan will take on this machine: what a few real steps took, added up before anything is trained.

The model has random weights of the same shapes: neither time nor memory depends on the values, and nothing has to be
downloaded. How the steps are measured: `zoo.training.measuring`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from zoo.data.dataset import Dataset
from zoo.data.store import ImageStore
from zoo.events import Event, Progress, Report
from zoo.model.build import Weights, WeightsChoice
from zoo.model.model import HEAD
from zoo.planning.plan import Estimate, MemoryEstimate, Plan, StageEstimate, StagePlan
from zoo.planning.resolve import Resolved
from zoo.planning.reuse import MEMORY_BUDGET
from zoo.training import seeding
from zoo.training.live_memory import process_peak
from zoo.training.measuring import Measuring
from zoo.training.memory import memory_suffices
from zoo.training.metrics import score
from zoo.training.rate import RATES, trial
from zoo.training.start import build


def estimate(
    resolved: Resolved, plan: Plan, dataset: Dataset, store: ImageStore, report: Report, *, decode: float
) -> Estimate:
    """Seconds and bytes of every stage and of the whole run; `decode` are the seconds that opening all images took.

    `store` has decoded the images. Raises DeviceError where memory does not suffice for one image.
    """
    choice = WeightsChoice(kind="random", tag=resolved.weights.tag)
    model = build(resolved, plan, Weights(choice=choice, state=None, digest=None))
    with memory_suffices(f"measuring {plan.backbone.name} with {plan.head.name}"):
        measuring = Measuring(plan, dataset, store, model, report, feature_shape=resolved.feature_shape)
        return _Sum(plan, dataset, store, measuring).all(decode)


class Decoding:
    """Passes events on, and notes when the last image was decoded: planning does more than that."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = self._ended = time.perf_counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.task == "decode":
            self._ended = time.perf_counter()
        self._report(event)

    @property
    def seconds(self) -> float:
        return self._ended - self._began


class _Sum:
    """What was measured, added up over a plan."""

    def __init__(self, plan: Plan, dataset: Dataset, store: ImageStore, measuring: Measuring) -> None:
        self._plan = plan
        self._store = store
        self._measuring = measuring
        self._train, self._val = dataset.splits["train"], dataset.splits["val"]
        self._test = dataset.splits.get("test", ())

    def all(self, decode: float) -> Estimate:
        score(torch.eye(2), torch.arange(2))  # imports what judges
        stages = []
        known: tuple[str, tuple[str, ...]] | None = None
        moved = False
        for number, stage in enumerate(self._plan.stages):
            kept = stage.cut, seeding.view_keys(self._plan.seed, stage)
            stages.append(self._stage(stage, computed=moved or known != kept, first=number == 0))
            known = None if stage.inputs == "images" else kept
            moved |= bool(stage.tensors) or set(stage.trains) != {HEAD}
        pieces = self._measuring.pieces_of(self._test)
        test = pieces * self._measuring.through_backbone("none")[0] if pieces else 0.0
        on_device = max(each.memory.on_device for each in stages)
        host = max(each.memory.on_host for each in stages)
        process = self._process(stages)
        if self._measuring.device.type == "cpu":
            host = on_device = max(each.memory.total for each in stages) + process
        else:
            host += process
        return Estimate(
            decode=decode,
            stages=tuple(stages),
            test=test,
            seconds=decode + sum(each.seconds for each in stages) + test,
            process=process,
            bytes=on_device,
            host_bytes=host,
        )

    def _stage(self, stage: StagePlan, *, computed: bool, first: bool) -> StageEstimate:
        measured = self._measuring.of_stage(stage)
        features = activations = 0
        seconds = 0.0
        if stage.inputs != "images":
            piece, activations = self._measuring.through_backbone("none", stage.cut)
            train, views = self._measuring.through_backbone(stage.settings.augment, stage.cut)[0], max(1, stage.views)
            features = min(stage.kept_bytes, MEMORY_BUDGET)
            if computed:
                train *= views * self._measuring.pieces_of(self._train)
                seconds = train + piece * self._measuring.pieces_of(self._val)
        at_once = self._plan.chunk if stage.inputs != "images" else max(self._measuring.step_sizes(stage))
        under_way = 4 * math.prod(self._store.preprocessing.input_size) * at_once * (self._store.workers + 2)
        epochs = stage.settings.epochs
        if stage.settings.lr == "auto":
            epochs += len(RATES) * trial(stage).settings.epochs
        training = measured.training * epochs + measured.checks
        # Once more where adapters have been merged.
        validation = measured.validation * (epochs + bool(stage.adapters))
        return StageEstimate(
            stage=stage.settings.name,
            features=seconds,
            training=training,
            validation=validation,
            seconds=seconds + training + validation,
            memory=MemoryEstimate(
                parameters=self._measuring.state_bytes,
                gradients=measured.gradients,
                optimizer=measured.optimizer,
                activations=max(measured.activations, activations),
                features=features,
                images=self._store.kept_bytes + under_way,
                # The best stage so far is kept while the next one trains.
                copies=(0 if first else self._measuring.state_bytes) + self._measuring.anchor_bytes,
            ),
        )

    def _process(self, stages: Sequence[StageEstimate]) -> int:
        """Bytes that this process took beside the tensors: Python, libraries, what kernels work with."""
        there = self._store.kept_bytes
        if self._measuring.device.type == "cpu":
            there += max(each.memory.on_device for each in stages)
        return max(0, process_peak() - there)
