"""How much more the means of a backbone's groups are held back than its pooled features, by cross-validation.

Features of all layers are many, and of some data few of them are worth anything: where a penalty holds all columns back
alike, they drown the pooled features. So they are regularised by group, as in Head2Toe (arXiv:2201.03529): the squares
of the groups' weights count a factor more than those of the pooled features, and held-out images say which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.probes.folds import Folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import STRENGTHS, ChosenStrength, choose_strength

FACTORS = (1.0, 4.0, 16.0, 64.0)
"""With 1 the groups count as the pooled features do. With 64 next to nothing is left of them."""


@dataclass(frozen=True, slots=True)
class TriedFactor:
    """What cross-validation says of one factor."""

    factor: float
    strength: float
    """The strength that was chosen beside it."""
    loss: float
    """Mean held-out log loss in nats with both."""


@dataclass(frozen=True, slots=True)
class ChosenPenalty:
    """A factor, the strength beside it, and the problem that both belong to."""

    problem: LogisticProblem
    strength: ChosenStrength
    factor: float
    tried: tuple[TriedFactor, ...]
    """From small to large, the first that is worse than the one before included; empty where nothing was held out."""


def penalties_of(width: int, pooled: int, factor: float) -> Tensor:
    """Return penalties[width]: 1 for the first `pooled` columns, and `factor` for those of the groups."""
    penalties = torch.ones(width, dtype=torch.float64)
    penalties[pooled:] = factor
    return penalties


def choose_penalty(
    problem_with: Callable[[float], LogisticProblem],
    folds: Folds,
    *,
    factors: tuple[float, ...] = FACTORS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ChosenPenalty:
    """Choose a factor, and a strength beside it. Larger factors are tried as long as the held-out loss falls.

    Args:
        problem_with: Makes the problem whose groups' columns are held back by a factor.
        folds: Of its images.
        factors: What to try, from small to large.
        progress: Called with how many strengths were tried over all factors, of how many at most.
    """
    best: ChosenPenalty | None = None
    tried: list[TriedFactor] = []
    total = len(factors) * len(STRENGTHS)
    for number, factor in enumerate(factors):

        def told(done: int, _: int, before: int = number * len(STRENGTHS)) -> None:
            progress(before + done, total)

        problem = problem_with(factor)
        strength = choose_strength(problem, folds, progress=told)
        if not strength.tried:
            return ChosenPenalty(problem, strength, factor, ())
        loss = next(each.loss for each in strength.tried if each.strength == strength.strength)
        tried.append(TriedFactor(factor, strength.strength, loss))
        if best is not None and loss >= min(each.loss for each in tried[:-1]):
            break
        best = ChosenPenalty(problem, strength, factor, ())
    assert best is not None, "there is a factor to try"
    progress(total, total)
    return ChosenPenalty(best.problem, best.strength, best.factor, tuple(tried))
