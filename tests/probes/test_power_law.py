"""The law continues curves that follow it, and its interval is as wide as the backtest demands."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from zoo.probes.learning_curve import SHARES, LearningCurve
from zoo.probes.power_law import BEND, RESAMPLES, Extrapolation, extrapolate, predicted_gains, resampled


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


def test_images_that_are_all_right_do_not_make_it_certain() -> None:
    curve = curve_of([0.0] * 5)
    images = len(curve.targets)
    for times in (2, 4):
        perfect = said(curve, times)
        assert perfect.chance > 0.5 / images and perfect.low < -0.5 / images
    # With few images less is known.
    some = torch.arange(images) < images // 10
    few = extrapolate(curve, 2, some)
    assert few is not None and few.half_width == pytest.approx(10 * said(curve, 2).half_width)


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


def all_at_once(curve: LearningCurve, draws: int) -> Tensor:
    """`resampled` for a curve whose groups are numbered from 0 on and are all judged."""
    generator, groups = torch.Generator().manual_seed(0), torch.tensor(curve.groups)
    drawn = torch.randint(int(groups.max()) + 1, (RESAMPLES, int(groups.max()) + 1), generator=generator)
    chosen = torch.randint(draws, (RESAMPLES, draws), generator=generator)
    rows = [torch.ones(len(groups)), *(torch.bincount(row, minlength=int(groups.max()) + 1)[groups] for row in drawn)]
    taken = torch.stack([torch.full((draws,), 1 / draws), *torch.nn.functional.one_hot(chosen, draws).double().mean(1)])
    right = torch.stack([(curve.right.double() @ row.double()) / row.sum() for row in rows])
    return torch.einsum("bd,bds->bs", taken.double(), right)


def test_many_images_that_are_counted_in_parts_give_what_all_at_once_would() -> None:
    images, draws = 30_000, 2
    drawn = torch.rand(draws, 3, images, generator=torch.Generator().manual_seed(1))
    curve = LearningCurve(
        shares=SHARES[-3:],
        right=drawn < torch.tensor([0.5, 0.7, 0.9])[:, None],
        judged=torch.ones(images, dtype=torch.bool),
        groups=tuple((torch.arange(images) // 2).tolist()),
        targets=torch.zeros(images, dtype=torch.long),
    )
    assert torch.allclose(resampled(curve, curve.judged), all_at_once(curve, draws), rtol=0, atol=1e-12)


def test_what_is_said_of_a_class_does_not_depend_on_the_images_of_others_nor_does_the_work() -> None:
    """With a thousand classes, going through all images for each of them takes an hour."""
    images = 4_000
    drawn = torch.rand(2, 3, images, generator=torch.Generator().manual_seed(1))
    curve = LearningCurve(
        shares=SHARES[-3:],
        right=drawn < torch.tensor([0.5, 0.7, 0.9])[:, None],
        judged=torch.ones(images, dtype=torch.bool),
        groups=tuple((torch.arange(images) // 2).tolist()),
        targets=torch.arange(images) // 40,
    )
    of_class = curve.targets == 7
    alone = LearningCurve(
        shares=curve.shares,
        right=curve.right[:, :, of_class],
        judged=curve.judged[of_class],
        groups=tuple((torch.arange(40) // 2).tolist()),
        targets=curve.targets[of_class],
    )
    found, work = [], []
    for each, counted in ((curve, of_class), (alone, alone.judged)):
        with FlopCounterMode(display=False) as flops:
            found.append(resampled(each, counted))
        work.append(flops.get_total_flops())
    assert torch.equal(*found) and work[0] == work[1] > 0


MANY = """
import resource, torch
from zoo.probes.learning_curve import SHARES, LearningCurve
from zoo.probes.power_law import extrapolate

n = 150_000
curve = LearningCurve(
    shares=SHARES[-3:],
    right=torch.rand(1, 3, n) < torch.tensor([0.5, 0.7, 0.9])[:, None],
    judged=torch.ones(n, dtype=torch.bool),
    groups=tuple(range(n)),
    targets=torch.zeros(n, dtype=torch.long),
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
extrapolate(curve, 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's unit")
def test_the_memory_does_not_grow_with_resamples_times_images() -> None:
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    # 400 resamples of as many images are 480 MB, once.
    assert int(done.stdout) < 400_000
