"""Choose among the models of a run on its validation images, and estimate what the choice flatters its score by.

Candidates come one after another, those that changed less first, and ties go to the earlier one. They are compared by
the loss that they have after temperature scaling (Guo et al. 2017, arXiv:1706.04599): each candidate's logits are first
divided by the number that suits them best. Accuracy on few images is a coarse measure, and the plain loss mostly tells
how overconfident a model is, which grows with every step of training and says little of its mistakes.

How rules compare on real runs: `python -m benchmarks.choosing`, docs/decisions/046-choosing.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.evaluation.copies import Copies
from zoo.evaluation.metrics import class_shares
from zoo.evaluation.probabilities import losses, top_classes
from zoo.specs.plan import Plan
from zoo.specs.recipe import BALANCED, ChooseBy

STANDARD_ERRORS = 0.0
"""How many standard errors of the paired difference a later candidate must be better by. One standard error in favour
of what changed less was measured and cost 0.4 points."""
IN_WORDS: dict[ChooseBy, str] = {
    "accuracy": "{} accuracy",
    "loss": "{} loss after temperature scaling",
    "balanced_accuracy": "{} accuracy with every class counting the same",
    "balanced_loss": "{} loss after temperature scaling with every class counting the same",
}
_TIE = 1e-9
"""Of balanced accuracy, less is a tie: sums of fractions are rounded, and one of 3 images is worth three of 9."""
HALVINGS = 500
"""Random halvings of the validation images from which the optimism is estimated."""
_SECTIONS = 24
"""Steps of the search for a temperature, each to 62 % of the range before: to 1e-4 of the inverse."""
_USUAL, _USUAL_SPREAD, _AT_AN_END = (0.1, 10.0), 3.0, 1.01
"""Where the search begins, the usual standard deviation of an image's logits, and how near an end's factor is to it."""
_MOST_IMAGES = 5000
"""The most images that a temperature is found on: one number needs no more."""
_AT_ONCE = 1 << 22
"""Numbers in the largest tensor of the estimate: 32 MB in double precision."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate on every one of N validation images."""

    right: Tensor
    """Whether the image is classified correctly, bool[N]."""
    loss: Tensor
    """Cross-entropy in nats after temperature scaling, float32[N]."""
    weights: Tensor | None = None
    """How much each image counts, float64[N]; None: all the same."""

    def values(self, criterion: ChooseBy) -> Tensor:
        """Return what the candidate is compared by on every image, float64[N]; more is better."""
        values = self.right.double() if criterion in ("accuracy", "balanced_accuracy") else -self.loss.double()
        return values if self.weights is None else values * self.weights


def in_words(plan: Plan) -> str:
    """What the best candidate of a run is chosen by."""
    return IN_WORDS[plan.choose_by].format("val" if plan.folds is None else "out-of-fold")


def image_weights(targets: Tensor, criterion: ChooseBy) -> Tensor | None:
    """How much each image counts by its class, float64[N] with the mean 1, given targets[N]; None: all the same."""
    return class_shares(targets.cpu()) if criterion in BALANCED else None


def judge(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Judged:
    """Judge logits[N, classes] by the class indices targets[N] of the same images, which count weights[N]."""
    scaled = losses(logits, targets, scale=1 / best_temperature(logits, targets, weights))
    return Judged(top_classes(logits) == targets.cpu(), scaled, weights)


def best_temperature(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> float:
    """Return the number by which to divide logits[N, classes] so that their mean loss on targets[N] is lowest.

    From 0.1 to 10, and beyond where the logits themselves are larger or smaller than usual. The loss is convex in its
    inverse, so a golden-section search finds it. Images count weights[N]; None: all the same.
    """
    # From all over the split, as images come sorted by class.
    step = math.ceil(len(logits) / _MOST_IMAGES)
    logits, targets = logits[::step], targets[::step]
    weights = None if weights is None else weights[::step]
    inverse = _lowest(logits, targets, weights, *_USUAL)
    spread = max(1e-9, float(logits.double().std(dim=1, correction=0).mean()))
    lowest, highest = _USUAL[0] * min(1.0, _USUAL_SPREAD / spread), _USUAL[1] * max(1.0, _USUAL_SPREAD / spread)
    # Logits of a head with a scale of its own, such as a cosine's times 64 or times 1. Nothing is wider than it must
    # be: of images that are all right the best number is 0.
    if inverse < _USUAL[0] * _AT_AN_END and lowest < _USUAL[0]:
        inverse = _lowest(logits, targets, weights, lowest, _USUAL[0])
    elif inverse > _USUAL[1] / _AT_AN_END and highest > _USUAL[1]:
        inverse = _lowest(logits, targets, weights, _USUAL[1], highest)
    # Written so, it is the same number to the last bit as when there was one range.
    return 2 / (2 * inverse)


def _lowest(logits: Tensor, targets: Tensor, weights: Tensor | None, low: float, high: float) -> float:
    """By what factor from low to high logits[N, classes] have the lowest mean loss on targets[N]."""
    golden = (math.sqrt(5) - 1) / 2

    def loss(inverse: float) -> float:
        each = losses(logits, targets, scale=inverse).double()
        mean = float((each if weights is None else each * weights).mean())
        # Of large logits the product overflows, and nothing compares with nan: the search must turn to smaller ones.
        return math.inf if math.isnan(mean) else mean

    inner, outer = high - golden * (high - low), low + golden * (high - low)
    of_inner, of_outer = loss(inner), loss(outer)
    # Of the two points inside, one is inside the next range as well, so each section costs one evaluation.
    for _ in range(_SECTIONS):
        if of_inner <= of_outer:
            high, outer, of_outer = outer, inner, of_inner
            inner = high - golden * (high - low)
            of_inner = loss(inner)
        else:
            low, inner, of_inner = inner, outer, of_outer
            outer = low + golden * (high - low)
            of_outer = loss(outer)
    return (low + high) / 2


def is_better(later: Judged, best: Judged, criterion: ChooseBy, standard_errors: float = STANDARD_ERRORS) -> bool:
    """Whether a later candidate replaces the best one: it is better by more than so many standard errors.

    The error is that of the mean of paired differences whose true mean is zero. So a lead on a single image never
    suffices for one standard error, however many images there are.
    """
    gains = later.values(criterion) - best.values(criterion)
    # Not `>=`: on a tie the earlier one stays, which changed the weights less.
    lead = standard_errors * math.sqrt(float(gains.square().sum())) + len(gains) * _tie(criterion)
    return float(gains.sum()) > lead


def _tie(criterion: ChooseBy) -> float:
    return _TIE if criterion == "balanced_accuracy" else 0.0


def optimism(
    candidates: Sequence[Judged],
    criterion: ChooseBy,
    standard_errors: float = STANDARD_ERRORS,
    copies: Copies | None = None,
) -> float | None:
    """Estimate by how much the chosen candidate's accuracy is too high because it was chosen on these images.

    The images are halved at random, many times, with the same seed every time. The candidate that is chosen on one half
    is scored on both; the mean difference is, without bias, what choosing on half of the images flatters by. Chance
    differences shrink with the root of the number of images, so it is divided by the root of two. (A bootstrap would
    say too little: the lead that the winner has by chance is there in every draw.)

    Args:
        candidates: In the order in which they were offered.
        criterion: What they are compared by.
        standard_errors: As for `is_better`.
        copies: Which of the images are copies of one another; None where none are known. Copies are in one half: a
            picture in both would make each look as if it had foretold the other.

    Returns:
        A share of 1, at least 0; None for fewer than two images that differ, which cannot be halved.
    """
    values = torch.stack([each.values(criterion) for each in candidates])
    right = torch.stack([each.right for each in candidates]).double()
    sizes = torch.ones(1, right.shape[1], dtype=torch.float64)
    if copies is not None:
        values, right, sizes = (_of_pictures(each, copies) for each in (values, right, sizes))
    pictures = sizes.shape[1]
    if pictures < 2:
        return None
    differences = []
    for half in _halves(pictures):
        rest = 1 - half
        lead = half @ right.T / (half @ sizes.T) - rest @ right.T / (rest @ sizes.T)
        of_half, of_rest = (
            lead.gather(1, _chosen(values, each, criterion, standard_errors)[:, None]) for each in (half, rest)
        )
        # Each half chooses once. Where both choose the same, nothing is left, exactly.
        differences.append((of_half - of_rest) / 2)
    return max(0.0, float(torch.cat(differences).mean()) / math.sqrt(2))


def _of_pictures(values: Tensor, copies: Copies) -> Tensor:
    """values[R, N] of N images -> their sums over the copies of each of P pictures, [R, P]."""
    sums = values.new_zeros(len(values), len(copies.sizes()))
    return sums.index_add_(1, torch.from_numpy(copies.picture_of), values)


def _halves(images: int) -> Iterator[Tensor]:
    """Yield random halves as weights float64[draws, N], 1 for images in the half and 0 for the others."""
    generator = torch.Generator().manual_seed(0)
    at_once = max(1, _AT_ONCE // images)
    for begin in range(0, HALVINGS, at_once):
        draws = min(at_once, HALVINGS - begin)
        order = torch.rand(draws, images, generator=generator, dtype=torch.float64).argsort(dim=1)
        yield torch.zeros(draws, images, dtype=torch.float64).scatter_(1, order[:, : images // 2], 1.0)


def _chosen(values: Tensor, weights: Tensor, criterion: ChooseBy, standard_errors: float) -> Tensor:
    """Choose as `is_better` does from values[candidates, N], once for each row of weights[draws, N] -> int64[draws]."""
    best = torch.zeros(len(weights), dtype=torch.int64)
    sums, tie = weights @ values.T, values.shape[1] * _tie(criterion)
    for number in range(1, len(values)):
        squares = weights @ (values[number] - values[:number]).square().T
        of_best = best[:, None]
        gain = sums[:, number] - sums.gather(1, of_best)[:, 0]
        error = squares.gather(1, of_best)[:, 0].sqrt()
        # Sums of whole numbers are exact; those of losses are rounded differently than in `is_better`.
        best = torch.where(gain > standard_errors * error + tie, number, best)
    return best
