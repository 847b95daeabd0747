"""One stage: epochs of steps over features or images, with validation after each epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.events import EpochFinished, Progress, Report
from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.training import inference, seeding
from zoo.training.memory import Pieces
from zoo.training.metrics import Scores, score
from zoo.training.mixing import mix, mixes
from zoo.training.objective import Objective
from zoo.training.optimizer import make_optimizer, make_schedule
from zoo.training.watch import StageWatch


class Inputs(Protocol):
    """Where a stage's batches come from."""

    @property
    def chunk(self) -> int:
        """Images at a time in validation."""

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int) -> Iterator[Tensor]:
        """One tensor per batch of indices, in the epoch (from 1) that `text` names."""

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        """A batch -> what the head gets, with a graph where the backbone trains."""

    def val_logits(self, model: ZooModel) -> Tensor:
        """logits[N, classes] over the validation split."""


@dataclass(frozen=True, slots=True)
class FeatureInputs:
    """What the head gets, computed once: for stages that leave the backbone alone."""

    train: Tensor
    val: Tensor
    chunk: int
    further_views: tuple[Tensor, ...] = ()
    """`train` is of the first view then: epochs take the views in turn."""
    keys: tuple[str, ...] = ()
    """Of the views' draws; none for the images as they are."""

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int) -> Iterator[Tensor]:
        views = (self.train, *self.further_views)
        view = views[(epoch - 1) % len(views)]
        return (view[torch.tensor(list(indices))] for indices in order)

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        return batch

    def val_logits(self, model: ZooModel) -> Tensor:
        return inference.head_logits(model, self.val, size=self.chunk)


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

    def train_batches(self, order: Sequence[Sequence[int]], text: str, epoch: int) -> Iterator[Tensor]:
        key = self.keys[(epoch - 1) % len(self.keys)] if self.keys else text
        augment = self.stage.settings.augment
        return self.store.training_batches(self.train, order, augment=augment, key=key, anew=not self.keys)

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        return model.features(batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        return inference.logits(model, self.store, self.val, pieces=self.pieces, progress=self.progress)


def train_stage(
    model: ZooModel,
    stage: StagePlan,
    inputs: Inputs,
    *,
    train_targets: Tensor,
    val_targets: Tensor,
    seed: int,
    objective: Objective,
    watch: StageWatch,
    pieces: Pieces,
    report: Report,
    record: Callable[[EpochFinished], None],
) -> tuple[Scores, Tensor]:
    """Train one stage in place -> (validation scores, validation logits[N, classes]) after its last epoch.

    `model` is frozen as the stage says already. Raises CheckFailed where the loss or a gradient is not finite.
    """
    settings = stage.settings
    count = len(train_targets)
    optimizer = make_optimizer(model, stage)
    schedule = make_schedule(optimizer, stage)
    watch.optimizer_made(optimizer)
    logits, scores = torch.empty(0), Scores(0.0, 0.0, 0.0)
    for epoch in range(1, settings.epochs + 1):
        began = time.perf_counter()
        text = seeding.key(seed, settings.name, epoch)
        seeding.seed_torch(text)
        order = seeding.epoch_batches(settings.sampling, train_targets.tolist(), settings.batch_size, text=text)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        model.train()
        losses = 0.0
        done = 0
        for step, (indices, batch) in enumerate(zip(order, inputs.train_batches(order, text, epoch), strict=True)):
            targets = train_targets[torch.tensor(indices)]
            if mixes(settings):
                batch, targets = mix(batch, targets, len(model.classes), settings, key=f"{text}/{step}")
            losses += _step(model, inputs, batch, targets, objective, pieces, watch) * len(indices)
            if settings.clip:
                torch.nn.utils.clip_grad_norm_(
                    [each for each in model.parameters() if each.grad is not None], settings.clip
                )
            optimizer.step()
            schedule.step()
            done += len(indices)
            # Over the whole stage, so that the time left is the stage's.
            report(Progress(task=settings.name, done=(epoch - 1) * count + done, total=settings.epochs * count))
        trained = time.perf_counter() - began
        logits = inputs.val_logits(model)
        scores = score(logits, val_targets)
        watch.epoch_finished(losses / count)
        record(
            EpochFinished(
                stage=settings.name,
                epoch=epoch,
                epochs=settings.epochs,
                rates=rates,
                train_loss=losses / count,
                val=scores.to_dict(),
                seconds=time.perf_counter() - began,
                images_per_second=count / trained,
            )
        )
    watch.finished(logits)
    return scores, logits


def fit_stage(
    model: ZooModel,
    stage: StagePlan,
    inputs: Inputs,
    *,
    train_targets: Tensor,
    val_targets: Tensor,
    watch: StageWatch,
    record: Callable[[EpochFinished], None],
) -> tuple[Scores, Tensor]:
    """Fit a closed-form head in one pass -> (validation scores, validation logits[N, classes])."""
    began = time.perf_counter()
    device = next(model.parameters()).device
    model.eval()
    watch.step_begins()
    order = [range(len(train_targets))]
    # All views at once: there is but one pass.
    views = [next(inputs.train_batches(order, stage.settings.name, view)) for view in range(1, max(1, stage.views) + 1)]
    features, targets = torch.cat(views).to(device), train_targets.repeat(len(views)).to(device)
    states = []
    for _ in range(2):
        model.fit_head(features, targets)
        states.append({name: each.detach().clone() for name, each in model.head.state_dict().items()})
    watch.fitted(*states)
    with torch.no_grad():
        train_loss = float(model.loss(features, targets))
    seconds = time.perf_counter() - began
    logits = inputs.val_logits(model)
    scores = score(logits, val_targets)
    watch.finished(logits)
    record(
        EpochFinished(
            stage=stage.settings.name,
            epoch=1,
            epochs=1,
            rates={},
            train_loss=train_loss,
            val=scores.to_dict(),
            seconds=time.perf_counter() - began,
            images_per_second=len(targets) / seconds,
        )
    )
    return scores, logits


def _step(
    model: ZooModel,
    inputs: Inputs,
    batch: Tensor,
    targets: Tensor,
    objective: Objective,
    pieces: Pieces,
    watch: StageWatch,
) -> float:
    """Gradients of one batch's mean loss -> the loss; in several pieces where memory asks for it."""
    device = next(model.parameters()).device
    restore = _restorer(model, device)
    watch.step_begins()

    def attempt(size: int) -> float:
        restore()
        model.zero_grad(set_to_none=True)
        total = 0.0
        # Even parts: one image by itself would be no batch for a batch norm.
        parts = math.ceil(len(batch) / size)
        for part, part_targets in zip(batch.tensor_split(parts), targets.tensor_split(parts), strict=True):
            features = inputs.features(model, part.to(device))
            total += _backward(objective.part(model, features, part_targets.to(device), targets))
        pull = objective.pull(model)
        return total if pull is None else total + _backward(pull)

    loss = pieces.run(attempt)
    watch.gradients_ready(loss)
    return loss


def _backward(loss: Tensor) -> float:
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _restorer(model: ZooModel, device: torch.device) -> Callable[[], None]:
    """What puts back all that a step changes before its gradients are whole: random states and running statistics."""
    state = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    running = [
        (buffer, buffer.clone()) for module in model.modules() if module.training for buffer in module.buffers(False)
    ]

    def restore() -> None:
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
        for buffer, before in running:
            buffer.copy_(before)

    return restore
