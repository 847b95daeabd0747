"""The strength of a penalty, chosen by cross-validation: held-out log loss on stratified folds, strong to weak."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.probes.folds import Folds
from zoo.probes.logistic import LogisticProblem

Rule = Literal["best", "one_se"]
"""`best`: the strength with the lowest held-out loss. `one_se`: the strongest within one standard error of it."""

RULE: Rule = "one_se"
STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(2, -11, -1))
"""From 10 to 1e-5 in half decades. They are factors of a mean loss, so that they do not depend on how many images there
are; columns are standardised, so that they do not depend on the features' scale."""
WITHOUT_FOLDS = 10**-1.5
"""The strength where nothing can be held out, because every class has one image."""
_CLEARLY = 1.01
"""The search ends after two strengths in a row with a loss this many times the best one's."""


@dataclass(frozen=True, slots=True)
class TriedStrength:
    """What cross-validation says of one strength."""

    strength: float
    loss: float
    """Mean held-out log loss in nats, over weighted images."""
    standard_error: float
    """Of that mean, from the folds' spread."""


@dataclass(frozen=True, slots=True)
class ChosenStrength:
    """A strength, and why."""

    strength: float
    tried: tuple[TriedStrength, ...]
    """From strong to weak; empty where nothing could be held out."""
    folds: int
    logits: Tensor | None
    """logits[N, classes] with the chosen strength: of each image by the fit that held it out, nan where none did."""
    start: Tensor | None = None
    """Where a fit to all images may begin: the mean of the folds' parameters[R + 1, classes]."""


def choose_strength(
    problem: LogisticProblem,
    folds: Folds,
    *,
    rule: Rule = RULE,
    strengths: tuple[float, ...] = STRENGTHS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ChosenStrength:
    """Choose a strength. Every fit begins where the one with the next stronger penalty ended.

    Args:
        problem: The features and targets.
        folds: Of its images.
        rule: How the strength follows from the losses.
        strengths: What to try, from strong to weak.
        progress: Called with how many strengths were tried, of how many at most.
    """
    if not folds.count:
        return ChosenStrength(WITHOUT_FOLDS, (), 0, None)
    held_out = torch.tensor([[number == fold for number in folds.of_rows] for fold in range(folds.count)])
    held_out = held_out.to(problem.targets.device)
    tried: list[TriedStrength] = []
    logits: list[Tensor] = []
    starts: list[Tensor] = []
    start: Tensor | None = None
    for number, strength in enumerate(strengths, start=1):
        found, start = problem.held_out_logits(strength, held_out, start)
        tried.append(TriedStrength(strength, *_mean_loss(problem, found, held_out)))
        logits.append(found)
        starts.append(start.mean(0))
        progress(number, len(strengths))
        if _rises(tried):
            progress(len(strengths), len(strengths))
            break
    chosen = choose_by(rule, tried)
    return ChosenStrength(tried[chosen].strength, tuple(tried), folds.count, logits[chosen], starts[chosen])


def choose_by(rule: Rule, tried: list[TriedStrength]) -> int:
    """Return which of the strengths, in order from strong to weak, a rule chooses."""
    best = min(range(len(tried)), key=lambda index: tried[index].loss)
    if rule == "best":
        return best
    most = tried[best].loss + tried[best].standard_error
    return next(index for index, each in enumerate(tried) if each.loss <= most)


def _rises(tried: list[TriedStrength]) -> bool:
    best = min(each.loss for each in tried)
    return (
        len(tried) > 2 and all(each.loss > _CLEARLY * best for each in tried[-2:]) and tried[-1].loss > tried[-2].loss
    )


def _mean_loss(problem: LogisticProblem, logits: Tensor, held_out: Tensor) -> tuple[float, float]:
    """logits[N, classes], held_out[folds, N] -> (mean loss over weighted images, its standard error)."""
    losses = torch.nn.functional.cross_entropy(logits.double(), problem.targets, reduction="none")
    weights = problem.image_weights
    means = [float((losses[out] * weights[out]).sum() / weights[out].sum()) for out in held_out if bool(out.any())]
    out = held_out.any(0)
    mean = float((losses[out] * weights[out]).sum() / weights[out].sum())
    spread = math.sqrt(sum((each - mean) ** 2 for each in means) / max(1, len(means) - 1))
    return mean, spread / math.sqrt(len(means))
