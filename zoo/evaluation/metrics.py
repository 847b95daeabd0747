"""Scores of a classifier on one split, from logits and targets alone.

`score` gives the numbers that models are chosen by, and `Scores.order` says which of two models is the better one:
epochs, rates and ingredients of soups are compared by it. `assess` gives everything that is reported: the same numbers
with confidence intervals, the scores of every class, the confusion matrix and the calibration.

torchmetrics is the reference in the tests. It is not used here, because importing it takes up to a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from zoo.evaluation.confusion_matrix import ConfusionMatrix, cells_of, matrix_of, to_json
from zoo.evaluation.copies import Copies, CountedCopies
from zoo.evaluation.probabilities import certainties, cross_entropy, hits_in_top, losses, top_classes

BINS = 15
"""Bins of the reliability diagram, as in Guo et al. 2017."""
Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""
_TOP = 5


@dataclass(frozen=True, slots=True)
class Scores:
    """The numbers that stages and runs are compared by."""

    accuracy: float
    """Top-1, 0 to 1."""
    macro_f1: float
    """Mean F1 of the classes that occur among targets or predictions, 0 to 1."""
    loss: float
    """Mean cross-entropy in nats."""
    balanced_accuracy: float | None = None
    """Accuracy with every class counting the same, however many images it has. None: models are compared by the plain
    numbers, as nobody asked for these."""
    balanced_loss: float | None = None
    """Mean cross-entropy with every class counting the same; None as above."""

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types; without what was not asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_file(cls, stored: Mapping[str, float | None]) -> Scores:
        """What `to_dict` gave, from a file that may have null for numbers that are not finite: they are read as nan."""
        return cls(**{name: math.nan if value is None else value for name, value in stored.items()})

    @property
    def finite(self) -> bool:
        """Whether the loss is a finite number, which it is not where a logit is none."""
        return math.isfinite(self.loss)

    @property
    def compared(self) -> tuple[float, float]:
        """The accuracy and the loss by which models are compared: the balanced ones where they were asked for."""
        if self.balanced_accuracy is None or self.balanced_loss is None:
            return self.accuracy, self.loss
        return self.balanced_accuracy, self.balanced_loss

    @property
    def order(self) -> tuple[bool, float, float]:
        """What models are sorted by, the better one higher: accuracy, then loss; those that are not `finite` lowest.

        Logits that are no numbers still have an accuracy, which may be high by chance. And nothing compares with nan.
        """
        accuracy, loss = self.compared
        return self.finite, accuracy, -loss if self.finite else 0.0

    def better_than(self, other: Scores) -> bool:
        """Whether this is strictly the better model.

        By what both have: a checkpoint of an older zoo holds the plain numbers alone.
        """
        if (self.balanced_accuracy is None) != (other.balanced_accuracy is None):
            return self._plain.order > other._plain.order
        return self.order > other.order

    @property
    def _plain(self) -> Scores:
        return Scores(self.accuracy, self.macro_f1, self.loss)


@dataclass(frozen=True, slots=True)
class Share:
    """A share from 0 to 1 with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose highest probability lies in (low, high]."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean of their highest probabilities; None for an empty bin."""
    accuracy: float | None
    """Share of them that are classified correctly; None for an empty bin."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """The scores of one class."""

    name: str
    images: int
    """Images of this class."""
    predicted: int
    """Images that were classified as this class."""
    correct: int
    """Images of this class that were classified as it."""
    precision: Share | None
    """`correct` of `predicted`; None where nothing was classified as this class."""
    recall: Share | None
    """`correct` of `images`; None where there are no images of this class."""
    f1: float
    """Harmonic mean of precision and recall; 0 where the class was never predicted correctly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """Everything that is reported of a classifier on one split."""

    images: int
    accuracy: Share
    """Top-1."""
    top5: Share | None
    """Top-5 accuracy; None for five classes or fewer, where it is always 1."""
    macro_f1: float
    """As in `Scores`."""
    loss: float
    """As in `Scores`."""
    calibration_error: float
    """Expected calibration error over the bins of `reliability`, 0 to 1."""
    reliability: tuple[Bin, ...]
    classes: tuple[ClassScores, ...]
    confusion: ConfusionMatrix
    """[true class][predicted class] -> images, in the order of `classes`. Of many classes, a `SparseMatrix`."""
    copies: CountedCopies | None = None
    """Copies among the images, which widen all intervals; None where none are known."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. Of many classes, the matrix is under another key (`zoo.evaluation.confusion_matrix`).

        `copies` is there only where there are any.
        """
        content = asdict(self) | to_json(self.confusion)
        return content if self.copies else {name: value for name, value in content.items() if name != "copies"}


def score(logits: Tensor, targets: Tensor, *, balanced: bool = False) -> Scores:
    """Score logits[N, classes] against class indices targets[N], with N at least 1.

    `balanced`: models are to be compared as if every class had equally many images.
    """
    predicted, targets = top_classes(logits), targets.cpu()
    return Scores(
        accuracy=int((predicted == targets).sum()) / len(targets),
        macro_f1=_macro_f1(predicted, targets, classes=logits.shape[1]),
        loss=cross_entropy(logits, targets),
        balanced_accuracy=_balanced_accuracy(predicted, targets) if balanced else None,
        balanced_loss=float((losses(logits, targets).double() * class_shares(targets)).mean()) if balanced else None,
    )


def class_shares(targets: Tensor) -> Tensor:
    """How much each image counts where every class counts the same: float64[N] with the mean 1, given targets[N]."""
    counts = torch.bincount(targets).double()
    return len(targets) / (counts > 0).sum() / counts[targets]


def assess(logits: Tensor, targets: Tensor, classes: Sequence[str], *, copies: Copies | None = None) -> Assessment:
    """Assess logits[N, classes] against class indices targets[N], with N at least 1; `classes` are their names.

    `copies`: which of the N images are copies of one another; None where none are known.
    """
    images, targets = len(targets), targets.cpu()
    # The very numbers that stages are chosen by, not the same formulas a second time.
    scores = score(logits, targets)
    confusion = confusion_matrix(logits, targets)
    of_class = _class_scores(classes, confusion, *_effective_of_classes(logits, targets, copies))
    effective = None if copies is None else copies.effective()
    accuracy = wilson_interval(sum(scored.correct for scored in of_class), images, effective=effective)
    assert accuracy is not None, "there is at least one image"
    hits = hits_in_top(logits, targets, _TOP) if len(classes) > _TOP else None
    top5 = None if hits is None else wilson_interval(hits, images, effective=effective)
    certain = certainties(logits, targets)
    bins = _bins(certain.highest, certain.predicted == targets, BINS)
    return Assessment(
        images=images,
        accuracy=accuracy,
        top5=top5,
        macro_f1=scores.macro_f1,
        loss=scores.loss,
        calibration_error=expected_calibration_error(bins),
        reliability=bins,
        classes=of_class,
        confusion=confusion,
        copies=None if copies is None else copies.counted(),
    )


def confusion_matrix(logits: Tensor, targets: Tensor) -> ConfusionMatrix:
    """Count the images of logits[N, classes] by their true class targets[N] (row) and predicted class (column)."""
    number = logits.shape[1]
    # One number for each pair of classes: a whole table of C * C would be mostly zeros.
    places, counts = torch.unique(targets.cpu() * number + top_classes(logits), return_counts=True)
    cells = zip(places.tolist(), counts.tolist(), strict=True)
    return matrix_of(number, ((place // number, place % number, images) for place, images in cells))


def wilson_interval(successes: int, trials: int, *, effective: float | None = None) -> Share | None:
    """Return a share with its 95 % Wilson score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the normal approximation, it stays within 0 to 1 and does not claim certainty for 5 successes in 5 trials.
    None without trials.

    `effective`: how many independent trials they are worth, where some are copies of others (`zoo.evaluation.copies`).
    The interval is then that of so many trials with the same share (Korn and Graubard 1998, Survey Methodology 24).
    """
    if trials == 0:
        return None
    share, square, number = successes / trials, Z95**2, trials if effective is None else effective
    centre = (share + square / (2 * number)) / (1 + square / number)
    spread = Z95 / (1 + square / number) * math.sqrt(share * (1 - share) / number + square / (4 * number**2))
    # Exact at both ends: rounding must not push the interval past the share itself.
    low = 0.0 if successes == 0 else max(0.0, centre - spread)
    high = 1.0 if successes == trials else min(1.0, centre + spread)
    return Share(share, low, high)


def reliability_bins(probabilities: Tensor, targets: Tensor, *, bins: int = BINS) -> tuple[Bin, ...]:
    """Sort images into bins of equal width by their highest probability (Guo et al. 2017, arXiv:1706.04599).

    Takes probabilities[N, classes] and class indices targets[N].
    """
    confidence, predicted = probabilities.double().max(1)
    return _bins(confidence, predicted == targets, bins)


def _bins(confidence: Tensor, right: Tensor, bins: int) -> tuple[Bin, ...]:
    """Sort N images by confidence, float64[N]; right, bool[N], says which are classified correctly.

    Those whose confidence is no number, as their logits are not finite, are in no bin.
    """
    confidence, correct = confidence[~confidence.isnan()], right[~confidence.isnan()].double()
    # Bins are (low, high] as in the paper, so that a probability of exactly 1 is in the last one.
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    # By the inner edges alone: what rounding puts beyond 0 or 1 is in the first or the last bin.
    index = torch.bucketize(confidence, edges[1:-1], right=False)
    filled = []
    for number in range(bins):
        inside = index == number
        images = int(inside.sum())
        filled.append(
            Bin(
                low=number / bins,
                high=(number + 1) / bins,
                images=images,
                confidence=float(confidence[inside].mean()) if images else None,
                accuracy=float(correct[inside].mean()) if images else None,
            )
        )
    return tuple(filled)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance between accuracy and confidence over the bins, weighted by their images (arXiv:1706.04599).

    nan where all bins are empty.
    """
    total = sum(part.images for part in bins)
    gaps = [
        part.images * abs(part.accuracy - part.confidence)
        for part in bins
        if part.accuracy is not None and part.confidence is not None
    ]
    return sum(gaps) / total if total else math.nan


def _balanced_accuracy(predicted: Tensor, targets: Tensor) -> float:
    """Class indices predicted[N] and targets[N] -> the mean share of each class's images that is right."""
    correct = torch.bincount(targets[predicted == targets], minlength=int(targets.max()) + 1).tolist()
    by_size: dict[int, int] = {}
    for images, right in zip(torch.bincount(targets).tolist(), correct, strict=True):
        by_size[images] = by_size.get(images, 0) + right
    classes = int((torch.bincount(targets) > 0).sum())
    # Exact: one of 3 images is worth three of 9, and whatever sums are rounded to, that is a tie.
    return float(sum(Fraction(right, images) for images, right in by_size.items() if images) / classes)


def _macro_f1(predicted: Tensor, targets: Tensor, classes: int) -> float:
    """Class indices predicted[N] and targets[N] -> mean F1 of the classes that occur in either."""
    # The order of these operations is that of torchmetrics; the tests compare the two bit for bit.
    correct = torch.bincount(targets[predicted == targets], minlength=classes)
    occurring = torch.bincount(predicted, minlength=classes) + torch.bincount(targets, minlength=classes)
    of_class = 2 * correct / occurring.clamp(min=1)
    return float((of_class / (occurring > 0).sum()).sum())


def _effective_of_classes(
    logits: Tensor, targets: Tensor, copies: Copies | None
) -> tuple[Sequence[float | None], Sequence[float | None]]:
    """The effective number of images of each class, and of those that are classified as it; None without copies."""
    number = logits.shape[1]
    if copies is None:
        return [None] * number, [None] * number
    predicted = top_classes(logits)
    return copies.effective_of(targets, number), copies.effective_of(predicted, number)


def _class_scores(
    names: Sequence[str],
    confusion: ConfusionMatrix,
    of_images: Sequence[float | None],
    of_predicted: Sequence[float | None],
) -> tuple[ClassScores, ...]:
    """Count every class in the confusion matrix, in the order of the names; the effective numbers are given."""
    images, predicted, correct = ([0] * len(names) for _ in range(3))
    for true, taken_for, count in cells_of(confusion):
        images[true] += count
        predicted[taken_for] += count
        correct[true] += count if true == taken_for else 0
    return tuple(map(_scores_of_class, names, images, predicted, correct, of_images, of_predicted))


def _scores_of_class(
    name: str, images: int, predicted: int, correct: int, of_images: float | None, of_predicted: float | None
) -> ClassScores:
    return ClassScores(
        name=name,
        images=images,
        predicted=predicted,
        correct=correct,
        precision=wilson_interval(correct, predicted, effective=of_predicted),
        recall=wilson_interval(correct, images, effective=of_images),
        f1=2 * correct / (images + predicted) if images + predicted else 0.0,
    )
