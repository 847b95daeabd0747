"""Find shortcuts: classes that image sizes reveal, so that a classifier may learn the camera instead of the object.

For every class against all others, sizes are put into bins, and the bins predict the label in cross-validation: in four
fifths of the training images each bin gets the answer that is more frequent in it (with the class and the rest weighted
to one half each), and the last fifth is scored. The score is balanced accuracy, the mean of the recalls of the class
and of the rest: one half if size says nothing, however imbalanced the classes are. A shortcut must be both

- strong: a balanced accuracy of at least 0.8, and
- significant: the p-value of Fisher's exact test, the share of all assignments of the labels for which at least as many
  answers would be right, is below 0.001 divided by the number of tests (classes times kinds of bins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
MIN_ACCURACY = 0.8
MAX_P_VALUE = 0.001
_TOGETHER = 256
"""Classes that are counted at a time: a table of all classes by all sizes could be larger than memory."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A class that can be told from the others by the size of the image alone."""

    label: int
    cue: str
    """What reveals the class: `size` or `aspect`."""
    accuracy: float
    """Balanced accuracy in cross-validation."""
    p_value: float
    """Probability of doing as well if the labels were assigned at random, before the correction for many tests."""


def find_shortcuts(sizes: Sequence[tuple[int, int]], labels: Sequence[int], classes: int) -> list[Shortcut]:
    """The classes that (width, height) in pixels reveals, the most accurate first, each with its most accurate cue."""
    if len(sizes) < FOLDS:
        return []
    targets = np.asarray(labels)
    folds = _folds(targets)
    binnings = _binnings(np.asarray(sizes, float))
    best: dict[int, Shortcut] = {}
    for cue, bins in binnings:
        right, wrong = _cross_validate(bins, targets, folds, classes)
        for label, count in enumerate(np.bincount(targets, minlength=classes)):
            shortcut = _shortcut(label, cue, (int(right[label]), int(wrong[label])), int(count), len(targets))
            # Bonferroni: every class is tested with every binning.
            if shortcut is None or shortcut.p_value * classes * len(binnings) >= MAX_P_VALUE:
                continue
            if shortcut.accuracy >= MIN_ACCURACY:
                best[label] = max(best.get(label, shortcut), shortcut, key=lambda shortcut: shortcut.accuracy)
    return sorted(best.values(), key=lambda shortcut: -shortcut.accuracy)


def _binnings(sizes: NDArray[np.float64]) -> list[tuple[str, Counts]]:
    """Put sizes[N, 2] into bins: both sides within 9 %, the number of pixels within 41 %, the aspect within 9 %."""
    wide, high = np.log2(sizes[:, 0]), np.log2(sizes[:, 1])
    sides = np.stack([np.round(8 * wide), np.round(8 * high)], 1)
    columns = [
        ("size", sides),
        ("size", np.round(wide + high)[:, None]),
        ("aspect", np.round(8 * (wide - high))[:, None]),
    ]
    return [(cue, np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)) for cue, values in columns]


def _folds(labels: Counts) -> Counts:
    """A fold for every image; each class is spread evenly over the folds."""
    folds = np.empty(len(labels), np.int64)
    order = np.argsort(labels, kind="stable")
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def _cross_validate(bins: Counts, labels: Counts, folds: Counts, classes: int) -> tuple[Counts, Counts]:
    """Per class: its images that were recognised, and images of other classes that were taken for it."""
    of_bins = np.zeros((FOLDS, int(bins.max()) + 1), np.int64)
    np.add.at(of_bins, (folds, bins), 1)
    right, wrong = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for begin in range(0, classes, _TOGETHER):
        block = slice(begin, min(begin + _TOGETHER, classes))
        inside = (labels >= block.start) & (labels < block.stop)
        counts = np.zeros((*of_bins.shape, block.stop - begin), np.int64)
        np.add.at(counts, (folds[inside], bins[inside], labels[inside] - begin), 1)
        total = counts.sum(0)
        for fold, held_out in enumerate(counts):
            seen = total - held_out
            of_class, of_bin = seen.sum(0), (of_bins.sum(0) - of_bins[fold])[:, None]
            # The bin's share of the class against its share of the rest, multiplied out to avoid a division by zero.
            predicted = seen * (of_bin.sum() - of_class) > (of_bin - seen) * of_class
            right[block] += (held_out * predicted).sum(0)
            wrong[block] += ((of_bins[fold][:, None] - held_out) * predicted).sum(0)
    return right, wrong


def _shortcut(label: int, cue: str, predicted: tuple[int, int], count: int, total: int) -> Shortcut | None:
    right, wrong = predicted
    rest = total - count
    if not count or not rest:
        return None
    accuracy = (right / count + (rest - wrong) / rest) / 2
    return Shortcut(label, cue, accuracy, _hypergeometric_tail(right, drawn=right + wrong, count=count, total=total))


def _hypergeometric_tail(right: int, *, drawn: int, count: int, total: int) -> float:
    """Probability of `right` or more images of the class, which has `count`, among `drawn` images of `total`."""
    # In logarithms, because the binomials of a few thousand images exceed a float.
    log_total = _log_binomial(total, drawn)
    logs = [
        _log_binomial(count, hits) + _log_binomial(total - count, drawn - hits) - log_total
        for hits in range(max(right, drawn - (total - count)), min(count, drawn) + 1)
    ]
    return min(1.0, sum(math.exp(log) for log in logs))


def _log_binomial(items: int, chosen: int) -> float:
    return math.lgamma(items + 1) - math.lgamma(chosen + 1) - math.lgamma(items - chosen + 1)
