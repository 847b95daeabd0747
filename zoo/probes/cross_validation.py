"""Cross-validation of a linear probe: for every image, logits of a fit that has not seen it.

The strength is chosen inside: for the images of a fold by the losses of the other folds alone, each by a fit without
both. The fit without folds i and j serves both, so ten small fits and five larger ones do the work of thirty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from zoo.probes.folds import Folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import RULE, STRENGTHS, WITHOUT_FOLDS, Rule, choose_by, compare_strengths, rises


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What a probe says of images on which it was not fitted."""

    logits: Tensor
    """logits[N, classes], float32: of each image by the fit that held it out; nan where none did."""
    folds: Folds
    strengths: tuple[float, ...]
    """The strength of each fold's fit."""

    @property
    def known(self) -> Tensor:
        """Which images were held out, bool[N]."""
        return torch.tensor([fold >= 0 for fold in self.folds.of_rows])

    def right(self, targets: Tensor) -> Tensor:
        """Class indices targets[N] -> whether each image was classified so, bool[N]; False where nothing is known."""
        # argmax takes nan for the highest number of all.
        return (self.logits.nan_to_num(-torch.inf).argmax(1) == targets) & self.known

    def probabilities(self) -> Tensor:
        """probabilities[N, classes], float64."""
        return self.logits.double().softmax(1)


def cross_validate(
    features: Tensor,
    targets: Tensor,
    classes: int,
    folds: Folds,
    *,
    rule: Rule = RULE,
    strengths: tuple[float, ...] = STRENGTHS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> OutOfFold:
    """Fit a probe without each fold, and judge that fold's images by it.

    Args:
        features: features[N, F].
        targets: Class indices targets[N].
        classes: How many classes there are.
        folds: Of the N images.
        rule: How a strength follows from losses.
        strengths: What to try, from strong to weak.
        progress: Called with how many strengths were tried, of how many at most.

    Raises:
        FeaturesError: Features that are not finite.
    """
    problem = LogisticProblem(features, targets, classes)
    if not folds.count:
        return OutOfFold(torch.full((len(targets), classes), torch.nan), folds, ())
    of_rows = torch.tensor(folds.of_rows)
    left_out = [(fold,) for fold in range(folds.count)]
    # With two folds there is no third one to choose a strength by.
    pairs = [*combinations(range(folds.count), 2)] if folds.count > 2 else []
    # First the fits that give logits, then those that choose: what follows divides them at `folds.count`.
    masks = torch.stack([torch.isin(of_rows, torch.tensor(each)) for each in [*left_out, *pairs]])
    outer: list[Tensor] = []
    inner: list[list[Tensor]] = [[] for _ in range(folds.count)]
    start: Tensor | None = None
    tried = strengths if pairs else (WITHOUT_FOLDS,)
    for number, strength in enumerate(tried, start=1):
        start = problem.fit_without(strength, masks, start)
        outer.append(_held_out(problem, start, of_rows, folds.count))
        for fold in range(folds.count if pairs else 0):
            # The images of `fold` are in none of these fits, so nothing about them chooses their strength.
            inner[fold].append(_losses_beside(problem, start[folds.count :], of_rows, fold, pairs))
        progress(number, len(tried))
        # Every fold chooses by losses of its own, so the search ends when all of these rise.
        if all(rises([problem.mean(each) for each in losses]) for losses in inner if losses) and pairs:
            progress(len(tried), len(tried))
            break
    return _chosen(problem, folds, of_rows, rule, tried, outer, inner if pairs else None)


def _chosen(
    problem: LogisticProblem,
    folds: Folds,
    of_rows: Tensor,
    rule: Rule,
    strengths: tuple[float, ...],
    outer: list[Tensor],
    inner: list[list[Tensor]] | None,
) -> OutOfFold:
    """Take each fold's logits from the strength that the other folds choose."""
    logits = torch.full_like(outer[0], torch.nan)
    chosen = []
    for fold in range(folds.count):
        index = 0 if inner is None else choose_by(rule, compare_strengths(problem, strengths, inner[fold]))
        chosen.append(strengths[index])
        logits[of_rows == fold] = outer[index][of_rows == fold]
    return OutOfFold(logits, folds, tuple(chosen))


def _held_out(problem: LogisticProblem, parameters: Tensor, of_rows: Tensor, count: int) -> Tensor:
    """parameters[fits, R + 1, classes], of which the first `count` leave out one fold -> logits[N, classes]."""
    logits = torch.full((len(of_rows), problem.classes), torch.nan)
    for fold in range(count):
        images = of_rows == fold
        logits[images] = problem.logits_of(parameters[fold], images)
    return logits


def _losses_beside(
    problem: LogisticProblem, parameters: Tensor, of_rows: Tensor, fold: int, pairs: list[tuple[int, int]]
) -> Tensor:
    """Log loss[N] of the images of every other fold, by the fit without it and without `fold`; nan for the rest."""
    logits = torch.full((len(of_rows), problem.classes), torch.nan)
    for pair, of_pair in zip(pairs, parameters, strict=True):
        if fold in pair:
            images = of_rows == next(each for each in pair if each != fold)
            logits[images] = problem.logits_of(of_pair, images)
    return problem.losses(logits)
