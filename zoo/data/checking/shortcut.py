"""Does the size of a picture give its label away? Then a classifier may learn the camera instead of the thing.

For every class against all others, the size is asked to tell the label in cross-validation: in four fifths of the
training images each bin of sizes gets the answer that is more frequent in it (each side weighted to one half), and
the last fifth is judged. Balanced accuracy, the mean of the share found of the class and of the rest, is one half
where size says nothing, whatever the imbalance. A shortcut must be both

- strong: a balanced accuracy of at least 0.8, and
- no accident: Fisher's exact test, the share of all ways to deal out the labels in which so many or more would be
  right, is below 0.001, divided by the number of questions asked (classes times kinds of bins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
STRONG = 0.8
ACCIDENT = 0.001

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A class that is told from the others without looking at the picture."""

    label: int
    by: str
    """`size` or `aspect`."""
    accuracy: float
    """Balanced, out of fold."""
    chance: float
    """Probability that labels dealt out at random would do as well."""


def find_shortcuts(sizes: Sequence[tuple[int, int]], labels: Sequence[int], classes: int) -> list[Shortcut]:
    """The classes that (width, height) in pixels gives away, the surest first; for each what tells it best."""
    if len(sizes) < FOLDS:
        return []
    of = np.asarray(labels)
    folds = _folds(of)
    kinds = _bins(np.asarray(sizes, float))
    best: dict[int, Shortcut] = {}
    for by, bins in kinds:
        right, wrong = _judge(bins, of, folds, classes)
        for label, count in enumerate(np.bincount(of, minlength=classes)):
            found = _shortcut(label, by, (int(right[label]), int(wrong[label])), int(count), len(of))
            if found and found.chance * classes * len(kinds) < ACCIDENT and found.accuracy >= STRONG:
                best[label] = max(best.get(label, found), found, key=lambda each: each.accuracy)
    return sorted(best.values(), key=lambda each: -each.accuracy)


def _bins(sizes: NDArray[np.float64]) -> list[tuple[str, Counts]]:
    """What a size is reduced to: both sides within 9 %, the number of pixels within 41 %, the aspect within 9 %."""
    wide, high = np.log2(sizes[:, 0]), np.log2(sizes[:, 1])
    sides = np.stack([np.round(8 * wide), np.round(8 * high)], 1)
    columns = [
        ("size", sides),
        ("size", np.round(wide + high)[:, None]),
        ("aspect", np.round(8 * (wide - high))[:, None]),
    ]
    return [(by, np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)) for by, values in columns]


def _folds(labels: Counts) -> Counts:
    """A fold for every image, every class dealt out evenly."""
    folds = np.empty(len(labels), np.int64)
    order = np.argsort(labels, kind="stable")
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def _judge(bins: Counts, labels: Counts, folds: Counts, classes: int) -> tuple[Counts, Counts]:
    """Per class: its images that were told, and images of others that were taken for it."""
    counts = np.zeros((FOLDS, int(bins.max()) + 1, classes), np.int64)
    np.add.at(counts, (folds, bins, labels), 1)
    total = counts.sum(0)
    right, wrong = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for held_out in counts:
        known = total - held_out
        of_class, of_bin = known.sum(0), known.sum(1, keepdims=True)
        # Rates within the class and within the rest, multiplied out: no division by an empty side.
        taken = known * (len(labels) - held_out.sum() - of_class) > (of_bin - known) * of_class
        right += (held_out * taken).sum(0)
        wrong += ((held_out.sum(1, keepdims=True) - held_out) * taken).sum(0)
    return right, wrong


def _shortcut(label: int, by: str, told: tuple[int, int], count: int, total: int) -> Shortcut | None:
    right, wrong = told
    rest = total - count
    if not count or not rest:
        return None
    accuracy = (right / count + (rest - wrong) / rest) / 2
    return Shortcut(label, by, accuracy, _as_many(right, taken=right + wrong, count=count, total=total))


def _as_many(right: int, *, taken: int, count: int, total: int) -> float:
    """Probability of `right` or more of the class among `taken` images of `total`: the hypergeometric tail."""
    ways = _log_ways(total, taken)
    logs = [
        _log_ways(count, hits) + _log_ways(total - count, taken - hits) - ways
        for hits in range(max(right, taken - (total - count)), min(count, taken) + 1)
    ]
    return min(1.0, sum(math.exp(each) for each in logs))


def _log_ways(items: int, chosen: int) -> float:
    return math.lgamma(items + 1) - math.lgamma(chosen + 1) - math.lgamma(items - chosen + 1)
