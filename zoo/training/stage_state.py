"""What a running stage has got to and what it ends with, and the part of a model's tensors that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.metrics import Scores
from zoo.model.model import ZooModel


@dataclass(slots=True)
class StageProgress:
    """Scalar state of a running stage, as checkpointed."""

    epoch: int = 1
    """The current epoch, counted from 1."""
    images: int = 0
    """Images seen in the current epoch."""
    steps: int = 0
    """Optimizer steps in the whole stage so far."""
    loss: float = 0.0
    """Sum of the loss over the images seen in the current epoch."""
    seconds: float = 0.0
    """Seconds spent on the images seen in the current epoch."""
    waited: int = 0
    """Epochs since the best one, for early stopping."""
    best: dict[str, float] | None = None
    """Validation scores of the best epoch; None before one whose logits are finite."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    """Validation scores of every epoch, where the stage may be given up."""

    @classmethod
    def from_file(cls, stored: Mapping[str, Any]) -> StageProgress:
        """The state as a checkpoint has it; older versions wrote null for a loss that is not finite."""
        found = cls(**stored)
        best = Scores.from_file(found.best) if found.best else None
        # Older versions counted an epoch without numbers as the best one, too.
        found.best = best.to_dict() if best is not None and best.finite else None
        found.waited = found.waited if found.best else 0
        found.epochs = [Scores.from_file(scores).to_dict() if scores else scores for scores in found.epochs]
        return found


@dataclass(frozen=True, slots=True)
class StageEnd:
    """The outcome of a stage, whose model holds what the stage keeps."""

    scores: Scores
    """Validation scores."""
    logits: Tensor
    """Validation logits[N, classes]."""
    epochs: int
    """Number of epochs trained."""
    solved: dict[str, Any] | None = None
    """How a solver found the head, in plain JSON types; None where none did."""
    abandoned: str = ""
    """Why the stage was given up before its end; empty where it was not. Its scores are those of its last epoch; where
    it has none, those of the rival, with which the run goes on."""


def load_partial_state_dict(model: ZooModel, state: Mapping[str, Tensor]) -> None:
    """Copy tensors[...] into the model's own, by full name. Names that the model does not have are ignored.

    Copied in place, as the optimizer and a moving average hold the same parameters.
    """
    # The very tensors of the model, not copies of them.
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            if name in own:
                own[name].copy_(tensor)


def sub_state_dict(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors[...] whose names begin with the prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
