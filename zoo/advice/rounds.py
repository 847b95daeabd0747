"""Successive halving on growing samples, as pure functions: which images, and which candidates cannot win any more.

After Jamieson and Talwalkar 2016 (arXiv:1502.07943), but what is dropped is not a fixed share: it is what a paired test
tells from the best.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from zoo.evaluation.copies import Copies
from zoo.evaluation.significance import PairedOutcomes

FIRST, GROWTH = 512, 4
"""Images of the first round, and how many times as many the next ones have. Both keep samples whole blocks of the cache
of features, so that what a round computed serves the next."""
OF_A_CLASS, BLOCK = 10, 128
"""Images of a class in the first round, on average at least; and of how many images its size is a multiple."""
_KNOWN = 2
"""Images of each class that come first."""
DROPPED_BELOW = 0.01
"""A candidate whose McNemar p-value against the best of a round is below this goes no further."""


def sample_sizes(images: int, classes: int, most: int | None = None) -> list[int]:
    """The number of images in each round: at first ten of a class on average, or more.

    The last round has all of them; or `most`, where these are fewer and at least as many as the first round has.
    """
    sizes = []
    size = max(FIRST, -(-OF_A_CLASS * classes // BLOCK) * BLOCK)
    last = images if most is None else min(images, max(most, size))
    while size < last:
        sizes.append(size)
        size *= GROWTH
    return [*sizes, last]


def sample_order(labels: Sequence[int], seed: int) -> list[int]:
    """Put images in an order that is drawn by seed: first two of each class, so that a probe knows all classes.

    Then come the others, such that every beginning of them holds each class in its share.
    """
    of_label: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        of_label.setdefault(label, []).append(index)
    places = np.empty(len(labels))
    for label, members in of_label.items():
        # A generator for each class, so that another class more or less leaves the order within this one as it is. A
        # text as its seed is hashed alike in every process, unlike by `hash`.
        random.Random(f"sample/{seed}/{label}").shuffle(members)
        first, rest = members[:_KNOWN], members[_KNOWN:]
        # Below 0, and so before all that follow.
        places[first] = np.arange(len(first), dtype=float) - _KNOWN
        places[rest] = (np.arange(len(rest)) + 0.5) / len(rest)
    # The last key is the one sorted by first. The others break ties, so that the order follows from labels and seed.
    order: list[int] = np.lexsort((np.arange(len(labels)), np.asarray(labels, np.int64), places)).tolist()
    return order


def cannot_win(right: Mapping[str, Tensor], *, stays: str, copies: Copies | None = None) -> dict[str, float]:
    """Return the candidates that are dropped after a round, with the p-value of each.

    Args:
        right: Name of each candidate -> which of the round's N images it classified correctly, bool[N].
        stays: The best by prior, which is never dropped: a probe on a small sample may be wrong about it.
        copies: Which of the images are copies of one another; None where none are known.
    """
    best = max(right, key=lambda name: int(right[name].sum()))
    found = {}
    for name, each in right.items():
        p = PairedOutcomes(right[best], each, copies).p
        if name not in (best, stays) and int(each.sum()) < int(right[best].sum()) and p < DROPPED_BELOW:
            found[name] = p
    return found
