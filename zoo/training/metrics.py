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
    logits, targets = logits.float().cpu(), targets.cpu()
    predicted = logits.argmax(dim=1)
    return Scores(
        accuracy=float((predicted == targets).sum() / len(targets)),
        macro_f1=_macro_f1(predicted, targets, classes=logits.shape[1]),
        loss=float(torch.nn.functional.cross_entropy(logits, targets)),
    )


def confusion(logits: Tensor, targets: Tensor) -> tuple[tuple[int, ...], ...]:
    """logits[N, classes], targets[N] -> how many of each class (rows) were taken for which (columns)."""
    classes = logits.shape[1]
    cells = targets.cpu() * classes + logits.float().cpu().argmax(dim=1)
    counts = torch.bincount(cells, minlength=classes * classes).view(classes, classes)
    return tuple(tuple(row) for row in counts.tolist())


def _macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> float:
    # Written out, for torchmetrics takes up to a second to import; the tests compare the two bit for bit.
    right = torch.bincount(targets[predicted == targets], minlength=classes)
    occurring = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    of_class = 2 * right / occurring.clamp(min=1)
    return float((of_class / (occurring > 0).sum()).sum())
