"""What a classifier is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from zoo.evaluation.assessment import macro_f1


@dataclass(frozen=True, slots=True)
class Scores:
    """Over one split: top-1 `accuracy` and `macro_f1` from 0 to 1, `loss` is the mean cross-entropy in nats."""

    accuracy: float
    macro_f1: float
    loss: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def score(logits: Tensor, targets: Tensor) -> Scores:
    """logits[N, classes], targets[N] -> scores. Macro F1 averages over the classes that occur in either."""
    logits, targets = logits.float().cpu(), targets.cpu()
    predicted = logits.argmax(dim=1)
    return Scores(
        accuracy=int((predicted == targets).sum()) / len(targets),
        macro_f1=macro_f1(predicted, targets, classes=logits.shape[1]),
        loss=float(torch.nn.functional.cross_entropy(logits, targets)),
    )
