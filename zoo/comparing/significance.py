"""Whether two classifiers that judged the same images differ by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""Below this a p-value is called more than chance."""
RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How often two classifiers were right on the same images."""

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int

    @property
    def images(self) -> int:
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def apart(self) -> int:
        """Images on which one was right and the other wrong: all that tells the two apart."""
        return self.only_first + self.only_second

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first, -1 to 1."""
        return (self.only_second - self.only_first) / self.images


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval of 95 % (Efron 1979, doi:10.1214/aos/1176344552)."""

    low: float
    high: float
    resamples: int
    seed: int


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (McNemar 1947, doi:10.1007/BF02295996).

    If neither were better, each image on which one alone is right would be a toss of a fair coin: twice the smaller
    tail of the binomial distribution, at most 1. Without such images it is 1.
    """
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    # math.comb for every term would be quadratic; each follows from the one before.
    term = tail = 1
    for index in range(fewer):
        term = term * (tosses - index) // (index + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << tosses))


def bootstrap(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The interval of `outcomes.difference` when images are drawn anew, in pairs, with replacement.

    Of each resample only the counts matter, and they are multinomial: drawing them is drawing the images.
    """
    count = outcomes.images
    shares = [outcomes.only_first / count, outcomes.only_second / count]
    drawn = np.random.default_rng(seed).multinomial(count, [*shares, max(0.0, 1.0 - sum(shares))], size=resamples)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / count, [0.025, 0.975])
    return Interval(low=float(low), high=float(high), resamples=resamples, seed=seed)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Each p-value adjusted for their number, in their order (Holm 1979, jstor.org/stable/4615733)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def smallest_shown(outcomes: Outcomes, *, alpha: float = ALPHA) -> float | None:
    """The smallest difference in accuracy that would have had a p-value below `alpha` here.

    With as many images that tell the two apart as there were, or, where those are too few for any difference to show,
    as many as it takes. None where all images together would not suffice.
    """
    for tosses in range(outcomes.apart, outcomes.images + 1):
        if mcnemar(0, tosses) >= alpha:
            continue
        fewer = _most_on_the_other_side(tosses, alpha)
        return (tosses - 2 * fewer) / outcomes.images
    return None


def _most_on_the_other_side(tosses: int, alpha: float) -> int:
    """The largest count of the smaller side with a p-value below `alpha`; 0 has one."""
    term = tail = 1
    for index in range(tosses // 2):
        term = term * (tosses - index) // (index + 1)
        tail += term
        if 2 * tail / (1 << tosses) >= alpha:
            return index
    return tosses // 2
