"""The statistics that zoo writes out itself, against scipy."""

from __future__ import annotations

import random

import pytest
from scipy import stats
from zoo.data.check.shortcut import find_shortcuts
from zoo.evaluation.metrics import wilson_interval
from zoo.evaluation.significance import mcnemar

DRAWS = random.Random(0)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), *((DRAWS.randint(0, 40), 40) for _ in range(6))])
def test_wilsons_interval(successes: int, trials: int) -> None:
    share = wilson_interval(successes, trials)
    reference = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert share is not None
    assert (share.low, share.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (0, 9), (200, 260), (12, 30)])
def test_mcnemars_test(first: int, second: int) -> None:
    reference = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(reference, rel=1e-12)


def test_fishers_exact_test_of_a_shortcut() -> None:
    # 48 images of one class are wide and 8 are not; of the other, 12 are wide and 52 are not.
    sizes = [(640, 480)] * 48 + [(480, 640)] * 8 + [(640, 480)] * 12 + [(480, 640)] * 52
    (shortcut, *_) = find_shortcuts(sizes, [0] * 56 + [1] * 64, 2)
    reference = stats.fisher_exact([[48, 12], [8, 52]], alternative="greater").pvalue
    assert shortcut.p_value == pytest.approx(reference, rel=1e-9)
