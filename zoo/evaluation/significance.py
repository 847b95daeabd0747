"""Statistics for two classifiers that judged the same images: do they differ by more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.evaluation.copies import Copies

ALPHA = 0.05
"""A p-value below this counts as more than chance."""
RESAMPLES = 10_000
SEED = 0
"""Fixed, so that a comparison made twice gives the same interval."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many images both, one or none of two classifiers got right."""

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int

    @property
    def images(self) -> int:
        """The number of images."""
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def discordant(self) -> int:
        """Images that only one of the two got right. The others say nothing about a difference."""
        return self.only_first + self.only_second

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first, -1 to 1."""
        return (self.only_second - self.only_first) / self.images


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % percentile bootstrap interval (Efron 1979, doi:10.1214/aos/1176344552)."""

    low: float
    high: float
    resamples: int
    seed: int


class PairedOutcomes:
    """Two classifiers on the same images, of which some may be copies of others.

    The difference in accuracy is that of all images. Its interval and its test take copies for one observation.
    """

    def __init__(self, first: ArrayLike, second: ArrayLike, copies: Copies | None = None) -> None:
        """Take which of N images each classifier got right, bool[N], and which of them are copies of one another."""
        one, two = np.asarray(first, np.bool_), np.asarray(second, np.bool_)
        self._images = np.ones(len(one), np.int64) if copies is None else copies.sizes()
        pictures = np.arange(len(one)) if copies is None else copies.picture_of
        right_one, right_two = (np.bincount(pictures, weights=each).astype(np.int64) for each in (one, two))
        self._gains = right_two - right_one
        """Of each picture: how many more of its images the second got right."""
        self._copied = copies is not None
        self.outcomes = _counted(one & two, one & ~two, two & ~one)
        """Every image counts."""
        # Of copies under two labels one alone can be right: then the picture goes to who is right on more of them.
        even = self._gains == 0
        self.of_pictures = _counted(even & (2 * right_one >= self._images), self._gains < 0, self._gains > 0)
        """Every picture counts once, however many copies of it there are: independent ones, as a test needs them."""

    @property
    def p(self) -> float:
        """McNemar's exact p-value, two-sided, in which every picture counts once."""
        return mcnemar(self.of_pictures.only_first, self.of_pictures.only_second)

    def interval(self, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
        """The interval of `outcomes.difference`: `bootstrap`, but copies are drawn together.

        Resampled are pictures, each with all of its images (Davison and Hinkley 1997, Bootstrap Methods and their
        Application, 3.8). Pictures with as many images and as many more right are alike, so their numbers are drawn.
        """
        if not self._copied:
            return bootstrap(self.outcomes, resamples=resamples, seed=seed)
        kinds, counts = np.unique(np.stack([self._gains, self._images]), axis=1, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
        low, high = np.quantile((drawn @ kinds[0]) / (drawn @ kinds[1]), [0.025, 0.975])
        return Interval(low=float(low), high=float(high), resamples=resamples, seed=seed)


def _counted(both_right: NDArray[np.bool_], only_first: NDArray[np.bool_], only_second: NDArray[np.bool_]) -> Outcomes:
    right, first, second = (int(each.sum()) for each in (both_right, only_first, only_second))
    return Outcomes(right, first, second, len(both_right) - right - first - second)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (McNemar 1947, doi:10.1007/BF02295996).

    If neither classifier were better, each discordant image would be the toss of a fair coin. The p-value is twice the
    smaller tail of that binomial distribution, at most 1. Without discordant images it is 1.
    """
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    # Exact integers; each binomial coefficient follows from the one before, as math.comb would be quadratic.
    term = tail = 1
    for index in range(fewer):
        term = term * (tosses - index) // (index + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << tosses))


def bootstrap(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The interval of `outcomes.difference` when the images are resampled, in pairs, with replacement.

    Only the counts of a resample matter, and these are multinomial. So the counts are drawn, not the images.
    """
    count = outcomes.images
    shares = [outcomes.only_first / count, outcomes.only_second / count]
    # Rounding may take the two shares beyond 1, and a negative rest is refused.
    drawn = np.random.default_rng(seed).multinomial(count, [*shares, max(0.0, 1.0 - sum(shares))], size=resamples)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / count, [0.025, 0.975])
    return Interval(low=float(low), high=float(high), resamples=resamples, seed=seed)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p-values corrected for their number, in the given order (Holm 1979, jstor.org/stable/4615733)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        # No corrected p-value may be below that of a smaller one.
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def smallest_shown(outcomes: Outcomes, *, alpha: float = ALPHA) -> float | None:
    """The smallest difference in accuracy that would have had a p-value below `alpha` on these images.

    It assumes as many discordant images as there were or, if those are too few to show any difference, the fewest that
    can. None if all images together are too few.
    """
    for tosses in range(outcomes.discordant, outcomes.images + 1):
        if mcnemar(0, tosses) >= alpha:
            continue
        return (tosses - 2 * _largest_minority(tosses, alpha)) / outcomes.images
    return None


def _largest_minority(tosses: int, alpha: float) -> int:
    """The largest count of the smaller side whose p-value is below `alpha`. The caller knows that 0 is one."""
    term = tail = 1
    for index in range(tosses // 2):
        term = term * (tosses - index) // (index + 1)
        tail += term
        if 2 * tail / (1 << tosses) >= alpha:
            return index
    return tosses // 2
