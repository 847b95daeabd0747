"""The law continues curves that follow it, and its interval is as wide as the backtest demands."""

from __future__ import annotations

import math

import pytest
import torch
from zoo.probes.learning_curve import SHARES, LearningCurve
from zoo.probes.power_law import BEND, Extrapolation, extrapolate, predicted_gains


def curve_of(errors: list[float], images: int = 1000, draws: int = 2) -> LearningCurve:
    """A curve with these errors: the first images are wrong, in every draw."""
    wrong = torch.arange(images) < torch.tensor([[round(each * images)] for each in errors])
    return LearningCurve(
        shares=SHARES[-len(errors) :],
        right=(~wrong).expand(draws, -1, -1),
        judged=torch.ones(images, dtype=torch.bool),
        groups=tuple(range(images)),
        targets=torch.zeros(images, dtype=torch.long),
    )


def said(curve: LearningCurve, times: int) -> Extrapolation:
    found = extrapolate(curve, times)
    assert found is not None
    return found


@pytest.mark.parametrize("exponent", [0.0, 0.1, 0.35, 0.5])
@pytest.mark.parametrize("end", [0.02, 0.2])
def test_a_power_law_is_continued(exponent: float, end: float) -> None:
    errors = [end * share**-exponent for share in SHARES]
    accuracies = 1 - torch.tensor([errors], dtype=torch.float64)
    for doublings in (1, 2):
        effective = exponent * (1 + BEND * (doublings - 1))
        gain = predicted_gains(SHARES, accuracies, 10**9, doublings)
        assert float(gain) == pytest.approx(end * (1 - 2**-effective), abs=1e-6)


def test_a_curve_that_rises_promises_nothing_and_one_without_errors_stays_finite() -> None:
    assert said(curve_of([0.1, 0.1, 0.15, 0.2, 0.2]), 2).gain == 0
    perfect = said(curve_of([0.0] * 5), 4)
    assert perfect.gain == 0 and perfect.high == 0 and math.isfinite(perfect.low)


def test_more_images_bring_no_more_than_all_of_them_right() -> None:
    found = said(curve_of([0.2, 0.1, 0.04, 0.01, 0.0]), 2)
    assert found.low <= found.gain <= found.high == 0


@pytest.mark.parametrize("times", [2, 4])
def test_the_interval_is_at_least_as_wide_as_the_backtest_missed(times: int) -> None:
    bent = said(curve_of([0.6, 0.4, 0.25, 0.25, 0.25]), times)
    straight = said(curve_of([0.6, 0.48, 0.384, 0.307, 0.246]), times)
    assert bent.missed < -0.05 and bent.half_width >= abs(bent.missed) > 2 * straight.half_width


def test_a_curve_that_is_too_short_is_not_extrapolated() -> None:
    assert extrapolate(curve_of([0.3, 0.2]), 2) is None
    assert extrapolate(curve_of([0.4, 0.3, 0.2]), 2) is not None
    assert extrapolate(curve_of([0.4, 0.3, 0.2]), 4) is None
