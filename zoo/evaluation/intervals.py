"""How sure a counted share is."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """`value` from 0 to 1 with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Share | None:
    """A share with its 95 % Wilson score interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    It stays within 0 to 1 and is honest for few trials, where the usual +- would say that 5 of 5 is certain. None
    without trials.
    """
    if trials == 0:
        return None
    share, square = successes / trials, Z95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = Z95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    # Exact at both ends: rounding must not push the interval past the share itself.
    low = 0.0 if successes == 0 else max(0.0, centre - spread)
    high = 1.0 if successes == trials else min(1.0, centre + spread)
    return Share(share, low, high)
