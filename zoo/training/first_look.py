"""A look at a batch before a step, which leaves no trace: how much training mode alone changes the loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.evaluation.inference import to_device
from zoo.evaluation.metrics import score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.frozen.inputs import Inputs
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.training import seeding
from zoo.training.abandon import FEW_STEPS, broken


def look(
    model: ZooModel, stage: StagePlan, inputs: Inputs, micro_batches: MicroBatches, train_targets: Tensor, seed: int
) -> str:
    """Judge a stage by its first batch, before its first step -> why it cannot win; empty where it can.

    Args:
        model: The model, frozen as the stage says.
        stage: The stage, whose batch norms train.
        inputs: Where its batches come from.
        micro_batches: How many images go through the model at a time.
        train_targets: Class indices of the training images, int64[N].
        seed: The seed of the run.
    """
    if stage.steps > FEW_STEPS:
        return ""
    settings = stage.settings
    key = seeding.epoch_key(seed, settings.name, 1)
    size = settings.batch_size * settings.accumulate
    order = seeding.epoch_batches(settings.sampling, train_targets.tolist(), size, key=key, window=stage.window)
    # A step that accumulates goes through the model in batches of this size, each normalised by itself.
    images = order[0][: settings.batch_size]
    batch, targets = next(inputs.train_batches([images], key, 1)), train_targets[torch.tensor(images)]
    at_rest, in_training = (
        first_loss(model, inputs, micro_batches, batch, targets, training=training) for training in (False, True)
    )
    return broken(at_rest, in_training, steps=stage.steps)


def first_loss(
    model: ZooModel, inputs: Inputs, micro_batches: MicroBatches, batch: Tensor, targets: Tensor, *, training: bool
) -> float:
    """Compute the mean cross-entropy of a batch, the backbone in training or evaluation mode -> the loss.

    The head is in evaluation mode. Nothing of it stays: neither in running statistics nor in random states.

    Args:
        model: The model, frozen as its stage says.
        inputs: Of the stage; they know what a batch is.
        micro_batches: How many images go through the model at a time.
        batch: images[N, 3, H, W], or cached rows[N, ...] of the frozen part.
        targets: Class indices int64[N].
        training: Whether modules of the backbone that train are in training mode.
    """
    device = next(model.parameters()).device
    model.train(training)
    # Its dropout would change the loss too, and what is asked is what batch norms do.
    model.head.eval()
    restore = undo_step(model, device)

    def attempt(size: int) -> float:
        restore()
        with torch.no_grad():
            # Even parts, as in training: a batch norm cannot normalise a single image that is left over.
            parts = batch.tensor_split(math.ceil(len(batch) / size))
            logits = [model.head(inputs.features(model, to_device(part, device))).cpu() for part in parts]
        return score(torch.cat(logits), targets).loss

    loss = micro_batches.run(attempt)
    restore()
    return loss


def undo_step(model: ZooModel, device: torch.device) -> Callable[[], None]:
    """Return a function that undoes what a forward pass in training changes: random states and running statistics."""
    state = seeding.random_state(device)
    # Modules in evaluation mode change none of theirs.
    running = [
        (buffer, buffer.clone()) for module in model.modules() if module.training for buffer in module.buffers(False)
    ]

    def restore() -> None:
        seeding.set_random_state(state, device)
        for buffer, before in running:
            buffer.copy_(before)

    return restore
