"""What a classifier is judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


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
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    logits, targets = logits.float().cpu(), targets.cpu()
    classes = logits.shape[1]
    return Scores(
        accuracy=float(multiclass_accuracy(logits, targets, num_classes=classes, average="micro")),
        macro_f1=float(multiclass_f1_score(logits, targets, num_classes=classes, average="macro")),
        loss=float(torch.nn.functional.cross_entropy(logits, targets)),
    )
