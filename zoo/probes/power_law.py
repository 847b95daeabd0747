"""What more images would bring: a learning curve extrapolated by a power law, with the interval that backtests earn.

Over the range that data sets have, errors fall as a power of the number of images (Hestness et al. 2017,
arXiv:1712.00409): error = b * n^-c. Extrapolations tend to be too hopeful (Mahmood et al. 2022, arXiv:2207.01725). So
the same law is fitted to the beginning of the curve and asked for its end. The interval is as wide as chance makes that
prediction miss, in images and draws (by the bootstrap), and never narrower than the miss that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.probes.learning_curve import LearningCurve

RESAMPLES = 400
STEEPEST = 1.0
"""Largest exponent c. Published ones lie between 0.07 and 0.5; a larger one is chance."""
BEND = 0.5
"""How much of the exponent is left for every doubling after the first. Curves of four networks and three sets bend:
with 1, four times as many images brought 2 points less than the law said, with 0.5 it was half a point."""
Z80 = 1.2815515655446004
"""The 90 % quantile of the normal distribution, for two-sided 80 % intervals."""
_NUMBERS = 1 << 23
"""Numbers of all images together, in as many resamples as are counted at a time: 64 MB."""
_HALF_A_FAULT = 0.5
"""Added to the number of wrong images, so that a curve without errors has a logarithm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """How much accuracy a number of times as many images would bring, in shares from 0 to 1."""

    gain: float
    low: float
    """Lower end of the 80 % interval of the gain; below 0 where more images may bring nothing."""
    high: float
    chance: float
    """Standard deviation of the accuracy now, over images and draws."""
    missed: float
    """The backtest: what the curve's end brought, less what the law said when it was fitted to the beginning."""

    @property
    def half_width(self) -> float:
        """Half the width of the gain's interval, before it is cut at an accuracy of 1."""
        return self.gain - self.low


def extrapolate(curve: LearningCurve, times: int, images: Tensor | None = None) -> Extrapolation | None:
    """Extrapolate a curve to 2 or 4 times as many images.

    Args:
        curve: The curve, each share twice the one before.
        times: How many times as many images, a power of 2.
        images: Which images count, bool[N]. None: all that are judged.

    Returns:
        None where the curve is too short: two shares have to be left when as many doublings are taken from its end.
    """
    doublings = times.bit_length() - 1
    begun = len(curve.shares) - doublings
    judged = curve.judged if images is None else curve.judged & images
    if begun < 2 or int(judged.sum()) < 2:
        return None
    accuracies = resampled(curve, judged)
    count = int(judged.sum())
    independent = len(set(torch.tensor(curve.groups)[judged].tolist()))
    # A curve without errors has none in any resample, though the next image may be the first: half an error's chance.
    least = math.sqrt(_HALF_A_FAULT) / independent
    gains = predicted_gains(curve.shares, accuracies, count, doublings)
    expected = predicted_gains(curve.shares[:begun], accuracies[:, :begun], count, doublings)
    missed = accuracies[:, -1] - accuracies[:, begun - 1] - expected
    # Row 0 is what was seen, the others are what chance makes of it.
    half = max(Z80 * max(float(missed[1:].std()), least), abs(float(missed[0])))
    gain, now = float(gains[0]), float(accuracies[0, -1])
    chance = max(float(accuracies[1:, -1].std()), least)
    # No images bring more than all of them right.
    gain, high = min(gain, 1 - now), min(gain + half, 1 - now)
    return Extrapolation(gain=gain, low=gain - half, high=high, chance=chance, missed=float(missed[0]))


def predicted_gains(shares: Sequence[float], accuracies: Tensor, images: int, doublings: int) -> Tensor:
    """By how much accuracy rises after the last share, by the law; later shares, with smaller chance, weigh more.

    Args:
        shares: Shares of the images, ascending.
        accuracies: accuracies[B, shares].
        images: How many images were judged.
        doublings: How often the number of images doubles.

    Returns:
        gains[B].
    """
    errors = (1 - accuracies) * images / (images + 1) + _HALF_A_FAULT / images
    logarithms = torch.tensor([math.log2(each) for each in shares], dtype=torch.float64)
    weights = torch.tensor(shares, dtype=torch.float64)
    weights = weights / weights.sum()
    centred = logarithms - (weights * logarithms).sum()
    slopes = errors.log2() @ (weights * centred) / (weights * centred.square()).sum()
    exponents = (-slopes).clamp(0, STEEPEST) * (1 + BEND * (doublings - 1))
    result: Tensor = errors[:, -1] * (1 - 2**-exponents)
    return result


def resampled(curve: LearningCurve, images: Tensor) -> Tensor:
    """Accuracies of a curve on resampled images and draws. Copies and near-duplicates are drawn together.

    Args:
        curve: The curve.
        images: Which images count, bool[N].

    Returns:
        accuracies[RESAMPLES + 1, shares], float64; the first row is of the images and draws themselves.
    """
    # The same curve has the same interval, whatever the seed of the run.
    generator = torch.Generator().manual_seed(0)
    # Of the images that count alone: of many classes one after another, all images would be gone through for each.
    right = curve.right[:, :, images].double()
    members, group_of = torch.unique(torch.tensor(curve.groups)[images], return_inverse=True)
    # The first row is without any resampling.
    parts = [_right_of(right, torch.ones(1, len(group_of), dtype=torch.float64))]
    at_once = max(1, min(RESAMPLES, _NUMBERS // len(group_of)))
    for begin in range(0, RESAMPLES, at_once):
        # Drawn in parts, the numbers are the same as drawn at once.
        drawn = torch.randint(len(members), (min(at_once, RESAMPLES - begin), len(members)), generator=generator)
        counts = torch.zeros(len(drawn), len(members), dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))
        parts.append(_right_of(right, counts[:, group_of]))
    per_draw, weights = (torch.cat(each) for each in zip(*parts, strict=True))
    draws = len(curve.right)
    chosen = torch.randint(draws, (RESAMPLES, draws), generator=generator)
    of_draws = torch.nn.functional.one_hot(chosen, draws).double().mean(1)
    # As for the images, a first row without any resampling.
    of_draws = torch.cat([torch.full((1, draws), 1 / draws, dtype=torch.float64), of_draws])
    accuracies = torch.einsum("bd,bds->bs", of_draws, per_draw)
    result: Tensor = accuracies / weights.clamp(min=1)
    return result


def _right_of(right: Tensor, of_images: Tensor) -> tuple[Tensor, Tensor]:
    """Add up right[draws, shares, M], each of M images counted of_images[B, M] times -> sums[B, draws, shares], and all
    counts[B, 1].

    Both are whole numbers, so no order of adding changes them.
    """
    return torch.einsum("bn,dsn->bds", of_images, right), of_images.sum(1, keepdim=True)
