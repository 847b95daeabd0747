"""The strength of a penalty, chosen by cross-validation: held-out log loss on stratified folds, strong to weak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.probes.folds import Folds
from zoo.probes.logistic import LogisticProblem

Rule = Literal["best", "one_se"]
"""`best`: the strength with the lowest held-out loss. `one_se`: the strongest whose loss is higher by no more than one
standard error of the paired difference, image by image. On four real networks and three sets it was as accurate as the
usual rule, whose standard error is that of the loss itself, and its probabilities were better."""

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
    """Of the mean difference to the loss with the best strength, image by image; 0 for the best."""


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
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    starts: list[Tensor] = []
    start: Tensor | None = None
    for number, strength in enumerate(strengths, start=1):
        # From strong to weak, each fit begins close to its end and takes few steps.
        found, start = problem.held_out_logits(strength, held_out, start)
        losses.append(problem.losses(found))
        logits.append(found)
        starts.append(start.mean(0))
        progress(number, len(strengths))
        if rises([problem.mean(each) for each in losses]):
            progress(len(strengths), len(strengths))
            break
    tried = compare_strengths(problem, strengths, losses)
    chosen = choose_by(rule, tried)
    return ChosenStrength(tried[chosen].strength, tuple(tried), folds.count, logits[chosen], starts[chosen])


def choose_by(rule: Rule, tried: list[TriedStrength]) -> int:
    """Return which of the strengths, in order from strong to weak, a rule chooses."""
    best = min(range(len(tried)), key=lambda index: tried[index].loss)
    if rule == "best":
        return best
    # From strong to weak, so the first one that is close enough is the strongest.
    return next(index for index, each in enumerate(tried) if each.loss - tried[best].loss <= each.standard_error)


def compare_strengths(
    problem: LogisticProblem, strengths: Sequence[float], losses: Sequence[Tensor]
) -> list[TriedStrength]:
    """Compare every strength with the best one by losses[N] of the same held-out images, which says more than means."""
    means = [problem.mean(each) for each in losses]
    best = losses[min(range(len(means)), key=means.__getitem__)]
    errors = [problem.standard_error(each - best) for each in losses]
    # The search may have ended before the weakest strength.
    return [TriedStrength(*each) for each in zip(strengths, means, errors, strict=False)]


def rises(means: Sequence[float]) -> bool:
    """Whether the losses of ever weaker penalties have clearly passed their minimum, so that the search may end."""
    # A single loss that is higher may be chance: it takes two, still rising.
    last = means[-2:]
    return len(means) > 2 and min(last) > _CLEARLY * min(means) and last[1] > last[0]
