"""One stage: epochs of steps over features or images, with validation after each epoch; it can be taken up again."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.events import BatchFinished, EpochFinished, EpochStarted, Progress, Report
from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.training import seeding
from zoo.training.average import make_average
from zoo.training.checkpoint import Moment
from zoo.training.inference import moved
from zoo.training.inputs import Inputs
from zoo.training.memory import Pieces
from zoo.training.metrics import Scores, score
from zoo.training.mixing import mix, mixes
from zoo.training.objective import Objective
from zoo.training.optimizer import load_optimizer_state, make_optimizer, optimizer_state, rates_at, set_rates, take_step
from zoo.training.watch import StageWatch


@dataclass(slots=True)
class Position:
    """Where a stage is: what of it a checkpoint holds beside tensors."""

    epoch: int = 1
    """The one under way, counted from 1."""
    images: int = 0
    """That the epoch under way has trained on."""
    steps: int = 0
    """Of the optimizer, in the whole stage."""
    loss: float = 0.0
    """Sum over those images."""
    seconds: float = 0.0
    """Spent on them."""
    waited: int = 0
    """Epochs since the best one."""
    best: dict[str, float] | None = None
    """Validation scores of the best epoch."""


@dataclass(frozen=True, slots=True)
class StageEnd:
    """What a stage ends with."""

    scores: Scores
    logits: Tensor
    """logits[N, classes] over the validation split."""
    epochs: int
    """That were trained."""


class StageTraining:
    """A stage that is trained by gradients: made where it begins or is taken up again, then run to its end."""

    def __init__(
        self,
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
        save: Callable[[Moment], None],
    ) -> None:
        """`model` is frozen as the stage says already; `save` is called wherever the stage could be taken up again."""
        self._model = model
        self._stage = stage
        self._inputs = inputs
        self._train_targets = train_targets
        self._val_targets = val_targets
        self._seed = seed
        self._objective = objective
        self._watch = watch
        self._pieces = pieces
        self._report = report
        self._record = record
        self._save = save
        self._optimizer = make_optimizer(model, stage)
        self._average = make_average(model, stage.settings.ema)
        self._at = Position()
        self._device = next(model.parameters()).device
        self._random: Mapping[str, Tensor] | None = None
        self._best_state: dict[str, Tensor] = {}
        self._last: tuple[Scores, Tensor] | None = None
        watch.optimizer_made(self._optimizer)

    def run(self) -> StageEnd:
        """Train to the stage's end. Raises CheckFailed where the loss or a gradient is not finite."""
        while self._at.epoch <= self._stage.settings.epochs and not self._patience_is_over():
            self._train_epoch()
            self._judge_epoch()
            self._save("epoch")
        scores, logits = self._end()
        self._watch.finished(logits)
        return StageEnd(scores, logits, self._at.epoch - 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What taking the stage up again needs beside the model -> (plain JSON types, tensors)."""
        tensors = {f"optimizer.{name}": each for name, each in optimizer_state(self._model, self._optimizer).items()}
        tensors |= {f"random.{name}": each for name, each in seeding.random_state(self._device).items()}
        tensors |= {f"best.{name}": each for name, each in self._best_state.items()}
        if self._average is not None:
            tensors |= {f"average.{name}": each for name, each in self._average.state(self._watch.names).items()}
        return asdict(self._at), tensors

    def take_up(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._at = Position(**facts)
        # At an epoch's beginning the generators are seeded from its key.
        self._random = below("random.", tensors) if self._at.images else None
        load_optimizer_state(self._model, self._optimizer, below("optimizer.", tensors))
        self._best_state = below("best.", tensors)
        if self._average is not None:
            self._average.load(below("average.", tensors))

    def _train_epoch(self) -> None:
        settings, at, count = self._stage.settings, self._at, len(self._train_targets)
        text = seeding.key(self._seed, settings.name, at.epoch)
        seeding.seed_torch(text)
        if self._random is not None:
            seeding.set_random_state(self._random, self._device)
            self._random = None
        self._report(EpochStarted(stage=settings.name, epoch=at.epoch, epochs=settings.epochs))
        self._model.train()
        size = settings.batch_size * settings.accumulate
        order = seeding.epoch_batches(settings.sampling, self._train_targets.tolist(), size, text=text)
        begin = _batches_done(at.images, order)
        batches = self._inputs.train_batches(order, text, at.epoch, begin)
        tick = time.perf_counter()
        for number, batch in enumerate(batches, start=begin):
            targets = self._train_targets[torch.tensor(order[number])]
            if mixes(settings):
                batch, targets = mix(batch, targets, len(self._model.classes), settings, key=f"{text}/{number}")
            loss = self._train_step(batch, targets)
            # Over the whole stage, so that the time left is the stage's.
            done = (at.epoch - 1) * count + at.images
            self._report(Progress(task=settings.name, done=done, total=settings.epochs * count))
            at.seconds += time.perf_counter() - tick
            self._report_batch(loss, len(targets))
            self._save("step")
            tick = time.perf_counter()
        self._watch.epoch_finished(at.loss / count, seeding.is_seeded(text))

    def _report_batch(self, loss: float, images: int) -> None:
        at, stage = self._at, self._stage
        self._report(
            BatchFinished(
                stage=stage.settings.name,
                epoch=at.epoch,
                step=at.steps,
                steps=stage.steps,
                images=images,
                loss=loss,
                rates=rates_at(stage, at.steps - 1),
            )
        )

    def _train_step(self, batch: Tensor, targets: Tensor) -> float:
        set_rates(self._optimizer, self._stage, self._at.steps)
        loss = _step(self._model, self._inputs, batch, targets, self._objective, self._pieces, self._watch)
        clip = self._stage.settings.clip
        if clip:
            torch.nn.utils.clip_grad_norm_([each for each in self._model.parameters() if each.grad is not None], clip)
        take_step(self._optimizer)
        if self._average is not None:
            self._average.update(self._model)
        self._at.loss += loss * len(targets)
        self._at.images += len(targets)
        self._at.steps += 1
        self._watch.stepped(loss)
        return loss

    def _judge_epoch(self) -> None:
        at, settings = self._at, self._stage.settings
        began = time.perf_counter()
        judged = self._model if self._average is None else self._average.model
        logits = self._inputs.val_logits(judged)
        scores = score(logits, self._val_targets)
        self._compare_with_the_best(judged, scores, logits)
        self._record(
            EpochFinished(
                stage=settings.name,
                epoch=at.epoch,
                epochs=settings.epochs,
                rates=rates_at(self._stage, at.steps * (at.epoch - 1) // at.epoch),
                train_loss=at.loss / len(self._train_targets),
                val=scores.to_dict(),
                seconds=at.seconds + time.perf_counter() - began,
                images_per_second=len(self._train_targets) / max(at.seconds, 1e-9),
            )
        )
        self._last = scores, logits
        at.epoch, at.images, at.loss, at.seconds = at.epoch + 1, 0, 0.0, 0.0

    def _compare_with_the_best(self, judged: ZooModel, scores: Scores, logits: Tensor) -> None:
        best = self._at.best
        if best is not None and (scores.accuracy, -scores.loss) <= (best["accuracy"], -best["loss"]):
            self._at.waited += 1
            return
        self._at.best, self._at.waited = scores.to_dict(), 0
        if self._stage.settings.keep_epoch == "best":
            state = judged.state_dict()
            self._best_state = {name: state[name].detach().clone() for name in self._watch.names if name in state}
            self._best_state["logits"] = logits

    def _patience_is_over(self) -> bool:
        patience = self._stage.settings.patience
        return 0 < patience <= self._at.waited

    def _end(self) -> tuple[Scores, Tensor]:
        """Put what the stage keeps into the model -> its validation scores and logits."""
        if self._best_state:
            copy_into(self._model, self._best_state)
            logits = self._best_state["logits"]
            return score(logits, self._val_targets), logits
        if self._average is not None:
            copy_into(self._model, self._average.state(self._watch.names))
        if self._last is None:  # taken up after its last epoch
            logits = self._inputs.val_logits(self._model)
            self._last = score(logits, self._val_targets), logits
        return self._last


def fit_stage(
    model: ZooModel,
    stage: StagePlan,
    inputs: Inputs,
    *,
    train_targets: Tensor,
    val_targets: Tensor,
    watch: StageWatch,
    record: Callable[[EpochFinished], None],
) -> StageEnd:
    """Fit a closed-form head in one pass."""
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
    return StageEnd(scores, logits, 1)


def copy_into(model: ZooModel, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's own of the same full names; names that are not there are left out."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if name in own:
                own[name].copy_(tensor)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def _batches_done(images: int, order: Sequence[Sequence[int]]) -> int:
    """How many batches so many images are."""
    return list(itertools.accumulate((len(batch) for batch in order), initial=0)).index(images)


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
            features = inputs.features(model, moved(part, device))
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
    state = seeding.random_state(device)
    running = [
        (buffer, buffer.clone()) for module in model.modules() if module.training for buffer in module.buffers(False)
    ]

    def restore() -> None:
        seeding.set_random_state(state, device)
        for buffer, before in running:
            buffer.copy_(before)

    return restore
