"""Everything that is counted on one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.calibration import Bin, expected_calibration_error, reliability
from zoo.evaluation.intervals import Share, wilson

_TOP = 5


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class: shares with 95 % Wilson intervals, None where nothing could be counted."""

    name: str
    images: int
    predicted: int
    """Images that were given this class."""
    correct: int
    precision: Share | None
    """Of those that were given this class, how many are of it."""
    recall: Share | None
    """Of those of this class, how many were given it."""
    f1: float
    """0 where the class was never right; harmonic mean of precision and recall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """A classifier on one split."""

    images: int
    accuracy: Share
    """Top-1."""
    top5: Share | None
    """None for five classes or fewer, where it would be 1 whatever the classifier says."""
    macro_f1: float
    """Mean F1 of the classes that occur among targets or predictions."""
    loss: float
    """Mean cross-entropy in nats."""
    calibration_error: float
    """Expected calibration error over `reliability`, 0 to 1."""
    reliability: tuple[Bin, ...]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[true class][predicted class] -> images, in the order of `classes`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def assess(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> Assessment:
    """logits[N, classes], targets[N], with N at least 1 -> what is counted of them."""
    logits, targets = logits.float().cpu(), targets.cpu()
    count, number = len(targets), len(classes)
    predicted = logits.argmax(1)
    confusion = confusion_matrix(logits, targets)
    right = int((predicted == targets).sum())
    top5 = None
    if number > _TOP:
        among = (logits.topk(_TOP, dim=1).indices == targets[:, None]).any(dim=1)
        top5 = wilson(int(among.sum()), count)
    accuracy = wilson(right, count)
    assert accuracy is not None, "there are images"
    bins = reliability(logits.double().softmax(1), targets)
    return Assessment(
        images=count,
        accuracy=accuracy,
        top5=top5,
        macro_f1=macro_f1(predicted, targets, classes=number),
        loss=float(torch.nn.functional.cross_entropy(logits, targets)),
        calibration_error=expected_calibration_error(bins),
        reliability=bins,
        classes=tuple(_class_scores(name, index, confusion) for index, name in enumerate(classes)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(logits: Tensor, targets: Tensor) -> Tensor:
    """logits[N, classes], targets[N] -> int64[classes, classes]: how many of a class (rows) were taken for which."""
    number = logits.shape[1]
    cells = targets.cpu() * number + logits.float().cpu().argmax(dim=1)
    return torch.bincount(cells, minlength=number**2).reshape(number, number)


def macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> float:
    """predicted[N], targets[N] -> mean F1 of the classes that occur in either."""
    # Written out, for torchmetrics takes up to a second to import; the tests compare the two bit for bit.
    right = torch.bincount(targets[predicted == targets], minlength=classes)
    occurring = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    of_class = 2 * right / occurring.clamp(min=1)
    return float((of_class / (occurring > 0).sum()).sum())


def _class_scores(name: str, index: int, confusion: Tensor) -> ClassScores:
    images, given = int(confusion[index].sum()), int(confusion[:, index].sum())
    correct = int(confusion[index, index])
    return ClassScores(
        name=name,
        images=images,
        predicted=given,
        correct=correct,
        precision=wilson(correct, given),
        recall=wilson(correct, images),
        f1=2 * correct / (images + given) if images + given else 0.0,
    )
