"""Train one stage: epochs of steps over cached features or images, validation after each epoch, resumable anywhere."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.inference import to_device
from zoo.evaluation.metrics import Scores
from zoo.evaluation.out_of_memory import MicroBatches, out_of_memory_as_error
from zoo.events import BatchFinished, EpochFinished, EpochStarted, Progress, Report, silent
from zoo.frozen.inputs import Inputs
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.training import seeding
from zoo.training.abandon import Rival, hopeless
from zoo.training.checkpoint import Moment
from zoo.training.divided import BackboneInParts
from zoo.training.first_look import look, undo_step
from zoo.training.frozen_faults import blamed
from zoo.training.learning_rate import rates_at, set_rates
from zoo.training.objective import Objective
from zoo.training.optimizer import load_optimizer_state, make_average, make_optimizer, optimizer_state, take_step
from zoo.training.shares import Piece, Shares
from zoo.training.stage_state import StageEnd, StageProgress, load_partial_state_dict, sub_state_dict
from zoo.training.stage_watch import FIRST_STEPS, NotFinite, StageWatch


@dataclass(kw_only=True)
class StageSetup:
    """Everything that the training of one stage needs."""

    model: ZooModel
    """The model, frozen as the stage says, with the stage's adapters."""
    stage: StagePlan
    """The stage, with a number for its learning rate."""
    inputs: Inputs
    """Where its batches come from."""
    train_targets: Tensor
    """Class indices of the training images, int64[N]."""
    scored: Callable[[Tensor], Scores]
    """Scores of validation logits[N, classes], with what epochs are compared by."""
    seed: int
    """The seed of the run."""
    objective: Objective
    """The loss."""
    watch: StageWatch
    """Observes every step."""
    micro_batches: MicroBatches
    """How many training images go through the model at a time."""
    rival: Rival | None = None
    """The best stage so far, where this one is to be given up when it cannot beat it."""
    report: Report = silent
    """Called with events of epochs and batches."""
    record: Callable[[EpochFinished], None] = silent
    """Called after every epoch."""
    save: Callable[[Moment], None] = lambda moment: None
    """Called wherever a checkpoint may be written."""
    judged: Scores | None = None
    """The scores of the stage out of fold, in a run in folds: it has no validation images to score."""
    contents: Sequence[str] = ()
    """Digest of each training image; equal ones are never in two folds. Empty: all images differ."""
    shares: Shares = field(default_factory=Shares)
    """What of each batch this process computes: by default all of it."""
    parts: BackboneInParts | None = None
    """The model's backbone in parts, one a process; None: every process has all of it."""


class StageTrainer:
    """Trains a stage by gradient descent, from its beginning or from a checkpoint."""

    def __init__(self, work: StageSetup) -> None:
        """Make a fresh optimizer. To resume, call `load_state_dict` before `run`."""
        self._work = work
        self._model = work.model
        self._stage = work.stage
        self._inputs = work.inputs
        self._watch = work.watch
        self._parts = work.parts
        # Steps are made on the twin whose layers are in parts; everything else looks at the model.
        self._stepping = work if work.parts is None else replace(work, model=work.parts.model)
        self._optimizer = make_optimizer(self._stepping.model, work.stage)
        self._average = make_average(work.model, work.stage.settings.ema)
        self._at = StageProgress()
        self._device = next(work.model.parameters()).device
        self._random_state: Mapping[str, Tensor] | None = None
        self._best_state: dict[str, Tensor] = {}
        self._last: tuple[Scores, Tensor] | None = None
        self._untold: deque[tuple[int, int]] = deque()
        """Step and images of the batches whose loss is not known yet."""
        if work.parts is not None:
            work.watch.steps_in_parts(work.parts)
        work.watch.optimizer_made(self._optimizer)

    def run(self, *, stop_after: int | None = None) -> StageEnd | None:
        """Train to the end of the stage.

        Args:
            stop_after: Stop after so many optimizer steps of the stage, before any validation that would follow.

        Returns:
            The outcome; None where `stop_after` stopped training.

        Raises:
            NotFinite: The loss or a gradient is not finite.
        """
        try:
            ended, why = self._train_epochs(stop_after)
        except NotFinite as error:
            self._tell(error.losses_before)
            self._end_parts()  # every process has it, at the same step; where another error has one, none waits
            raise blamed(error, self._inputs, stage=self._stage.settings.name) from None
        self._end_parts()
        if not ended:
            return self._given_up(why) if why else None
        scores, logits = self._load_kept_weights()
        self._watch.finished(logits)
        return StageEnd(scores, logits, self._at.epoch - 1)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the model has all values, also where processes hold it in parts: all of them enter it then."""
        with self._parts.whole() if self._parts is not None else contextlib.nullcontext():
            yield

    def saves(self, due: bool) -> bool:
        """Whether a checkpoint is written now, which the first process finds due: of parts, all processes save."""
        return due if self._parts is None else self._parts.any_wants(due)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what resuming needs beside the model's own tensors: plain JSON types, and tensors[...] by name.

        Left out is whatever the plan decides: the order of images, learning rates, L2-SP anchors. They are made again.
        Raises NotFinite where a GPU had not told yet of such a step: it is asked first.
        """
        self._read()
        read = {} if self._parts is None else {"read": self._parts.for_file}
        state = {"optimizer": optimizer_state(self._stepping.model, self._optimizer, **read)}
        state["random"] = seeding.random_state(self._device)
        state["best"] = self._best_state
        if self._average is not None:
            state["average"] = self._average.state_dict(self._watch.names)
        return asdict(self._at), {f"{part}.{name}": state[part][name] for part in state for name in state[part]}

    def load_state_dict(self, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned: plain JSON types, and tensors[...] by name."""
        self._at = StageProgress.from_file(progress)
        # An epoch seeds the generators when it begins. Their state matters only in the middle of one.
        self._random_state = sub_state_dict("random.", tensors) if self._at.images else None
        load_optimizer_state(self._stepping.model, self._optimizer, sub_state_dict("optimizer.", tensors))
        self._best_state = sub_state_dict("best.", tensors) if self._at.best else {}
        if self._average is not None:
            self._average.load_state_dict(sub_state_dict("average.", tensors))

    def _train_epochs(self, stop_after: int | None) -> tuple[bool, str]:
        """Train to the end of the stage -> whether it got there, and why it was given up."""
        while self._at.epoch <= self._stage.settings.epochs and not self._patience_is_over():
            if why := self._cannot_win():
                return False, why
            self._train_epoch(stop_after)
            if self._at.steps == stop_after:
                return False, ""
            with self.whole():
                self._validate_epoch()
                self._work.save("epoch")
        return True, ""

    def _end_parts(self) -> None:
        if self._parts is not None:
            self._parts.end()
            self._watch.parts_ended(self._parts.check(self._optimizer))

    def _train_epoch(self, stop_after: int | None) -> None:
        settings, at, count = self._stage.settings, self._at, len(self._work.train_targets)
        key = seeding.epoch_key(self._work.seed, settings.name, at.epoch)
        # Seeded even when resuming, so that the watch can compare the seed at the end of the epoch.
        seeding.seed_torch(key)
        if self._random_state is not None:
            seeding.set_random_state(self._random_state, self._device)
            self._random_state = None
        self._work.report(EpochStarted(stage=settings.name, epoch=at.epoch, epochs=settings.epochs))
        self._stepping.model.train()
        size = settings.batch_size * settings.accumulate
        labels = self._work.train_targets.tolist()
        window, stored = self._stage.window, self._inputs.stored
        order = seeding.epoch_batches(settings.sampling, labels, size, key=key, window=window, stored=stored)
        begin = seeding.batches_done(at.images, order)
        shares = self._work.shares
        shares.seeded = True
        batches = self._inputs.train_batches(order, key, at.epoch, begin, shares.positions(order, settings, key))
        tick = time.perf_counter()
        for number, batch in enumerate(batches, start=begin):
            targets = self._work.train_targets[torch.tensor(order[number])]
            pieces = shares.pieces(batch, targets, len(self._model.classes), settings, key=f"{key}/{number}")
            losses = self._train_step(pieces, targets)
            # Over the whole stage, so that a display shows the time left for the stage.
            done = (at.epoch - 1) * count + at.images
            self._work.report(Progress(task=settings.name, done=done, total=settings.epochs * count))
            at.seconds += time.perf_counter() - tick
            self._tell(losses)
            self._work.save("step")
            if at.steps == stop_after:
                return self._read()
            tick = time.perf_counter()
        self._read()
        self._watch.epoch_finished(at.loss / count, shares.seeded and (shares.count > 1 or seeding.is_seeded(key)))

    def _read(self) -> None:
        """Wait for what a GPU has not told yet. To be called before anything is made of weights or losses."""
        began, losses = time.perf_counter(), self._watch.read()
        # Until now these steps had only been asked for, so this is their time.
        self._at.seconds += time.perf_counter() - began
        self._tell(losses)

    def _tell(self, losses: Sequence[float]) -> None:
        """Note and report the losses of the next batches."""
        at, stage = self._at, self._stage
        for loss in losses:
            step, images = self._untold.popleft()
            at.loss += loss * images
            self._work.report(
                BatchFinished(
                    stage=stage.settings.name,
                    epoch=at.epoch,
                    step=step,
                    steps=stage.steps,
                    images=images,
                    loss=loss,
                    rates=rates_at(stage, step - 1),
                )
            )

    def _train_step(self, pieces: Sequence[Piece], targets: Tensor) -> list[float]:
        """Train on a batch -> the losses that became known: its own, or on a GPU those of many steps, or none."""
        self._untold.append((self._at.steps + 1, len(targets)))
        set_rates(self._optimizer, self._stage, self._at.steps)
        losses = train_step(self._stepping, pieces, targets)
        clip = self._stage.settings.clip
        if clip and self._parts is not None:
            self._parts.clip(clip)
        elif clip:
            with_gradient = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
            torch.nn.utils.clip_grad_norm_(with_gradient, clip)
        take_step(self._optimizer, self._watch.found)
        if self._average is not None:
            self._average.update(self._model)
        self._at.images += len(targets)
        self._at.steps += 1
        if losses:
            with self.whole() if self._at.steps <= FIRST_STEPS else contextlib.nullcontext():
                self._watch.stepped(losses[-1])
        return losses

    def _validate_epoch(self) -> None:
        at, settings = self._at, self._stage.settings
        began = time.perf_counter()
        model = self._model if self._average is None else self._average.model
        judged = self._work.judged
        if judged is None:
            logits = self._inputs.val_logits(model)
            scores = self._work.scored(logits)
            self._compare_with_best(model, scores, logits)
            self._last = scores, logits
            val = scores.to_dict()
        else:  # of the folds, the end of the stage is known
            val = judged.to_dict() if at.epoch == settings.epochs else {}
        self._work.record(
            EpochFinished(
                stage=settings.name,
                epoch=at.epoch,
                epochs=settings.epochs,
                # The rates of the epoch's first step.
                rates=rates_at(self._stage, at.steps * (at.epoch - 1) // at.epoch),
                train_loss=at.loss / len(self._work.train_targets),
                val=val,
                seconds=at.seconds + time.perf_counter() - began,
                images_per_second=len(self._work.train_targets) / max(at.seconds, 1e-9),
            )
        )
        if self._work.rival is not None:
            at.epochs.append(val)
        at.epoch, at.images, at.loss, at.seconds = at.epoch + 1, 0, 0.0, 0.0

    def _compare_with_best(self, model: ZooModel, scores: Scores, logits: Tensor) -> None:
        best = Scores(**self._at.best) if self._at.best else None
        usable = scores.finite and bool(torch.isfinite(logits).all())
        # Strictly better only: on a tie the earlier epoch stays, which changed the weights less.
        if not usable or (best is not None and not scores.better_than(best)):
            self._at.waited += best is not None
            return
        self._at.best, self._at.waited = scores.to_dict(), 0
        if self._stage.settings.keep_epoch == "best":
            state = model.state_dict()
            kept = {name: state[name].detach() for name in self._watch.names if name in state}
            move = torch.Tensor.clone if self._parts is None else _in_main_memory  # in parts: the device is full
            self._best_state = {name: move(tensor) for name, tensor in kept.items()}
            self._best_state["logits"] = logits

    def _cannot_win(self) -> str:
        """Return why the stage cannot become the best one, seen before an epoch; empty where it can."""
        work, settings = self._work, self._stage.settings
        if work.rival is None:
            return ""
        if not self._at.steps and self._stage.batch_norms_training:
            return look(work.model, work.stage, work.inputs, work.micro_batches, work.train_targets, work.seed)
        return hopeless(work.rival, [Scores(**scores) for scores in self._at.epochs], of=settings.epochs)

    def _given_up(self, why: str) -> StageEnd:
        """End the stage as it is: what its model holds is not used."""
        epochs, rival = self._at.epochs, self._work.rival
        assert rival is not None, "nothing else gives a stage up"
        self._watch.given_up()
        if self._at.steps:
            total = self._stage.settings.epochs * len(self._work.train_targets)
            self._work.report(Progress(task=self._stage.settings.name, done=total, total=total))
        scores = Scores(**epochs[-1]) if epochs else rival.scores
        return StageEnd(scores, torch.empty(0), len(epochs), abandoned=why)

    def _patience_is_over(self) -> bool:
        patience = self._stage.settings.patience
        return 0 < patience <= self._at.waited

    def _load_kept_weights(self) -> tuple[Scores, Tensor]:
        """Load the best epoch or the average into the model, where the stage keeps it -> validation scores, logits."""
        if self._best_state:
            load_partial_state_dict(self._model, self._best_state)
            logits = self._best_state["logits"]
            return self._work.scored(logits), logits
        if self._average is not None:
            load_partial_state_dict(self._model, self._average.state_dict(self._watch.names))
        if self._last is None:  # resumed after the last epoch: its logits are not in the checkpoint
            logits = self._inputs.val_logits(self._model)
            self._last = self._work.judged or self._work.scored(logits), logits
        return self._last


def train_step(work: StageSetup, pieces: Sequence[Piece], targets: Tensor) -> list[float]:
    """Compute the gradients of one batch's mean loss, in micro-batches where memory asks for it.

    Args:
        work: The stage's.
        pieces: What of the batch this process computes; other processes have the rest.
        targets: Class indices of the whole batch, int64[N].

    Returns:
        The losses that became known, as `StageWatch.gradients_ready` says: of this step, of many, or none.

    Raises:
        NotFinite: The loss or a gradient is not finite.
        DeviceError: Memory does not suffice for one image.
    """
    model, device = work.model, next(work.model.parameters()).device
    restore, parts = undo_step(model, device), work.parts
    work.watch.step_begins()

    def attempt(size: int) -> list[Tensor]:
        # A step that ran out of memory is undone whole before it is repeated in smaller micro-batches: it has drawn
        # random numbers, updated running statistics and left gradients.
        restore()
        model.zero_grad(set_to_none=True)
        losses = []
        for piece in pieces:
            work.shares.begin(piece)
            for micro_batch, part in piece.in_micro_batches(size):
                features = work.inputs.features(model, to_device(micro_batch, device))
                loss = work.objective.micro_batch_loss(model, features, to_device(part, device), targets)
                losses.append(_backward(loss))
            work.shares.end(piece)
        if parts is not None:
            # A layer is put together by all processes, so all make as many passes.
            for _ in range(work.shares.passes_without_images(len(targets), size)):
                images = pieces[0].batch.new_zeros(1, *pieces[0].batch.shape[1:])
                features = work.inputs.features(model, to_device(images, device))
                _backward(features.sum() * 0)
        penalty = work.objective.penalty(model) if work.shares.group.is_main else None
        return losses if penalty is None else [*losses, _backward(penalty)]

    if parts is None:
        losses = work.micro_batches.run(attempt)
    else:  # what runs out of memory in one process cannot be repeated there: the others have gone on
        training = f"training {work.stage.settings.name}"
        with work.shares.group.naming_the_lost(), out_of_memory_as_error(training):
            losses = attempt(work.micro_batches.size)
    return work.watch.gradients_ready(work.shares.add_up(model, losses))


def _in_main_memory(tensor: Tensor) -> Tensor:
    return tensor.cpu() if tensor.device.type != "cpu" else tensor.clone()


def _backward(loss: Tensor) -> Tensor:
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()  # read with the norm of the gradients: a device that is asked for a number is waited for
