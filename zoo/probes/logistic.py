"""L2-regularised multinomial logistic regression on features, fitted by L-BFGS to the minimum of its objective.

With z the standardised features of an image (each column is shifted by its mean and divided as `SHARE` says), W one
column of weights for each class, and b the biases:

    objective = mean over weighted images of cross-entropy(z W + b) + strength / 2 * sum of penalty_f * W_fc²

Class weights and label smoothing act as in `torch.nn.functional.cross_entropy`. The strength belongs to a mean, so the
same one fits when every image is there twice. What comes out is a plain linear layer on the raw features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import FeaturesError
from zoo.probes.logistic_objective import LogisticObjective, SeveralLogisticObjectives

NEARLY_CONSTANT = 1e-6
"""A column whose standard deviation is below this share of its largest value is constant: the rest is rounding."""
SHARE = 0.5
"""Columns are divided by deviation^SHARE * typical^(1 - SHARE): a column's own standard deviation, and the root mean
square of those of all columns. With 1, full standardisation, a unit that is silent on all but a few training images
gets the loudest voice on others: on four real networks and three sets, accuracy was 6.5 points lower than with 0.5 from
5 images a class, 2.9 from 10, 0.8 from 25, 0.3 from seven tenths of the images. With 0, one divisor for all columns, it
was the same from 5 and 10 images, and 0.2 to 0.3 points lower from more."""
LARGEST_TURN = 4096
"""The most images or columns, whichever are fewer, for which the features are turned to their principal axes."""
CLOSE, LOOSE = 1e-6, 2e-4
"""Largest entry of the gradient, in scaled coordinates, at which the last fit and those of folds end."""
_NO_RANK = 1e-12
"""The share of the largest eigenvalue below which an axis is nothing but rounding."""
NEXT_IF_NOT_FINITE = (
    "Next: --precision float32 if features are computed in bfloat16, or other weights: these may be damaged."
)
"""What to do where features are not finite, as the line of a message."""
TOGETHER = 1 << 25
"""Numbers in the logits of folds that are fitted in one go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticFit:
    """A fitted linear layer, for raw features, and the same in standardised form."""

    weight: Tensor
    """weight[classes, F], float32, for raw features."""
    bias: Tensor
    """bias[classes], float32."""
    strength: float
    gradient_norm: float
    """Norm of the objective's gradient at the end, over standardised weights and biases, in float64."""
    objective: float
    iterations: int
    mean: Tensor
    """mean[F] that standardises the features, float64."""
    scale: Tensor
    """scale[F] that divides them."""
    standardised_weight: Tensor
    """weight[classes, F] for standardised features, float64."""
    standardised_bias: Tensor
    """bias[classes] for standardised features, float64."""
    constant: int
    """Number of columns that are constant, whose weights are 0."""

    def standardised_logits(self, features: Tensor) -> Tensor:
        """features[N, F] -> logits[N, classes] in float64, computed from the standardised form."""
        standardised = (features.double() - self.mean) / self.scale
        return standardised @ self.standardised_weight.T + self.standardised_bias


class LogisticProblem:
    """Features and targets, standardised once, to be fitted with any strength."""

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        classes: int,
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        penalties: Tensor | None = None,
        share: float = SHARE,
    ) -> None:
        """Standardise the features, and turn them to their principal axes.

        Args:
            features: features[N, F].
            targets: Class indices targets[N].
            classes: How many classes there are.
            class_weights: weights[classes]: how much an image of each class counts. None: all the same.
            label_smoothing: The share of each target that is spread over all classes.
            penalties: penalties[F], factors of the strength, above 0; None: 1 for every column.
            share: How far columns are standardised, from 0 to 1; see `SHARE`.

        Raises:
            FeaturesError: Features that are not finite.
        """
        refuse_not_finite(features)
        weights = torch.ones(classes) if class_weights is None else class_weights
        weights = weights.to(features.device, torch.float64)
        self.targets = targets.to(features.device)
        self.classes = classes
        self.image_weights = weights[self.targets]
        """How much each image counts, weights[N], float64."""
        self.columns = standardisation(features, self.image_weights, penalties, share)
        """How the columns are standardised."""
        standardised = (features.double() - self.columns.mean) / self.columns.divisor
        self._turn = _principal_axes(standardised)
        self._rows = standardised if self._turn is None else standardised @ self._turn
        self._shares = smoothed_shares(self.targets, classes, weights, label_smoothing)

    def fit(self, strength: float, start: Tensor | None = None) -> LogisticFit:
        """Fit to all images, in float64, until the gradient vanishes; `start[R + 1, classes]` is from another fit."""
        shares = self._shares / self.image_weights.sum()
        # Most of the way in float32, which takes a third of the time.
        rough = LogisticObjective(self._rows.float(), shares.float(), None, strength)
        begun, steps = rough.minimise(rough.zeros(1) if start is None else start.float()[None], LOOSE)
        problem = LogisticObjective(self._rows, shares, None, strength)
        found, iterations = problem.minimise(begun.double(), CLOSE)
        value, gradient = problem.value_and_gradient(found)
        weights, bias = found[0, :-1], found[0, -1]
        standardised = weights if self._turn is None else self._turn @ weights
        raw = (standardised / self.columns.divisor[:, None]).float()
        # From the rounded weights: so their rounding, times means far from zero, does not move all logits.
        folded = bias - self.columns.mean @ raw.double()
        return LogisticFit(
            weight=raw.T.contiguous(),
            bias=folded.float(),
            strength=strength,
            gradient_norm=float(gradient.norm()),
            objective=float(value),
            iterations=steps + iterations,
            mean=self.columns.mean,
            scale=self.columns.divisor,
            standardised_weight=standardised.T.contiguous(),
            standardised_bias=bias,
            constant=self.columns.constant,
        )

    def held_out_logits(self, strength: float, held_out: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fit once without each fold's images.

        All folds share one standardisation, which knows no labels, so that a strength means the same in each of them.

        Args:
            strength: As in `fit`.
            held_out: held_out[folds, N], bool: the images that each fold leaves out.
            start: Parameters[folds, R + 1, classes] from another strength.

        Returns:
            logits[N, classes] of each image from the fit that left it out (nan where none did), and the parameters.
        """
        found = self.fit_without(strength, held_out, start)
        logits = torch.full((len(self._rows), self.classes), torch.nan, device=found.device)
        for out, of_fold in zip(held_out, found, strict=True):
            logits[out] = self.logits_of(of_fold, out)
        return logits, found

    def fit_without(
        self, strength: float, held_out: Tensor, start: Tensor | None = None, tolerance: float = LOOSE
    ) -> Tensor:
        """Fit once without the images of each row of held_out[fits, N], bool -> parameters[fits, R + 1, classes].

        Images may be left out by several fits. `start` are parameters of the same shape from another strength, and
        `tolerance` is the largest entry of the gradient at which the fits end.
        """
        # Such fits are only asked about images, and none is saved: float32 is enough, and takes a third of the time.
        rows = self._rows.float()
        parameters = torch.zeros(len(held_out), rows.shape[1] + 1, self.classes, device=rows.device)
        parameters = parameters if start is None else start
        found = []
        together = max(1, TOGETHER // (len(rows) * self.classes))
        for begin in range(0, len(held_out), together):
            part = slice(begin, begin + together)
            problem = LogisticObjective(rows, self._shares.float(), self._weights_without(held_out[part]), strength)
            fitted, _ = problem.minimise(parameters[part], tolerance)
            found.append(fitted)
        return torch.cat(found)

    def _weights_without(self, held_out: Tensor) -> Tensor:
        """held_out[fits, N], bool -> how much each image counts in each fit, weights[fits, N]."""
        totals = (~held_out).double() @ self.image_weights
        if not bool((totals > 0).all()):
            raise FeaturesError("A fit without one of the folds has no image left.\nNext: add images.")
        return (~held_out / totals[:, None]).float()

    @property
    def width(self) -> int:
        """R, the number of columns that a fit has."""
        return self._rows.shape[1]

    def logits_of(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Logits[M, classes] of the M images of a mask images[N], bool, with parameters[R + 1, classes] of a fit."""
        return self._rows[images].float() @ parameters[:-1] + parameters[-1]

    def rows_of(self, features: Tensor) -> Tensor:
        """features[M, F] of any images -> rows[M, R], standardised and turned as those of this problem."""
        # In float64 only where the mean, far from zero, is taken away: the product is then as exact as the fits are.
        standardised = ((features.double() - self.columns.mean) / self.columns.divisor).float()
        return standardised if self._turn is None else standardised @ self._turn.float()

    def losses(self, logits: Tensor) -> Tensor:
        """logits[N, classes] -> log loss[N] in nats; nan for images whose logits are."""
        return torch.nn.functional.cross_entropy(logits.double(), self.targets, reduction="none")

    def mean(self, values: Tensor) -> float:
        """Mean of values[N] over weighted images, those that are nan left out."""
        known = ~values.isnan()
        weights = self.image_weights[known]
        return float((weights * values[known]).sum() / weights.sum())

    def standard_error(self, values: Tensor) -> float:
        """Standard error of that mean of values[N]."""
        known = ~values.isnan()
        shares = self.image_weights[known] / self.image_weights[known].sum()
        count = len(shares)
        square = (shares.square() * (values[known] - self.mean(values)).square()).sum()
        return math.sqrt(float(square) * count / max(1, count - 1))


def fit_each_without(
    problems: Sequence[LogisticProblem],
    strength: float,
    held_out: Sequence[Tensor],
    start: Tensor | None = None,
    tolerance: float = LOOSE,
) -> Tensor:
    """Fit several problems as `fit_without` does each, but at once: of small ones, most of the time is that of Python.

    Args:
        problems: Of equally many images, and of the same classes.
        strength: As in `fit_without`.
        held_out: A mask held_out[fits, N] for each problem, with equally many fits.
        start: What another strength gave.
        tolerance: As in `fit_without`.

    Returns:
        parameters[problems, fits, R + 1, classes], where R is the most columns that a problem has. Those that it does
        not have itself are 0, and the last row is the bias.
    """
    widest = max(each.width for each in problems)
    together = max(1, TOGETHER // (held_out[0].numel() * problems[0].classes))
    found: list[Tensor] = []
    for begin in range(0, len(problems), together):
        part = slice(begin, begin + together)
        begun = None if start is None else start[part]
        if len(problems[part]) > 1:
            found.append(_fit_at_once(problems[part], strength, held_out[part], widest, begun, tolerance))
            continue
        # Alone, it may be too large even for all of its own fits at once.
        problem, width = problems[begin], problems[begin].width
        own = None if begun is None else torch.cat([begun[0, :, :width], begun[0, :, -1:]], dim=1)
        fitted = problem.fit_without(strength, held_out[begin], own, tolerance)
        empty = fitted.new_zeros(len(fitted), widest - width, problem.classes)
        found.append(torch.cat([fitted[:, :-1], empty, fitted[:, -1:]], dim=1)[None])
    return torch.cat(found)


def _fit_at_once(
    problems: Sequence[LogisticProblem],
    strength: float,
    held_out: Sequence[Tensor],
    widest: int,
    start: Tensor | None,
    tolerance: float,
) -> Tensor:
    rows = torch.stack([torch.nn.functional.pad(each._rows.float(), (0, widest - each.width)) for each in problems])
    shares = torch.stack([each._shares.float() for each in problems])
    weights = torch.stack([each._weights_without(out) for each, out in zip(problems, held_out, strict=True)])
    joint = SeveralLogisticObjectives(rows, shares, weights, strength)
    begun = joint.zeros(weights.shape[0] * weights.shape[1]) if start is None else start.flatten(0, 1)
    fitted, _ = joint.minimise(begun, tolerance)
    return fitted.view(*weights.shape[:2], *fitted.shape[1:])


@dataclass(frozen=True, slots=True)
class Standardisation:
    """What each column is shifted and divided by."""

    mean: Tensor
    """mean[F], float64."""
    divisor: Tensor
    """divisor[F], float64: as SHARE says, times the root of the column's penalty. Infinite for constant columns."""
    constant: int
    """Number of constant columns."""


def standardisation(
    features: Tensor, image_weights: Tensor, penalties: Tensor | None = None, share: float = SHARE
) -> Standardisation:
    """Return the weighted mean of each column of features[N, F], and what it is divided by.

    Args:
        features: features[N, F].
        image_weights: How much each image counts, weights[N].
        penalties: penalties[F], or None for ones. A penalty p on W² is the same as none on a column divided by √p.
        share: How far columns are standardised; see `SHARE`.
    """
    shares = (image_weights / image_weights.sum()).double()
    values = features.double()
    mean = shares @ values
    deviation = (shares @ (values - mean).square()).sqrt()
    constant = deviation <= NEARLY_CONSTANT * values.abs().amax(0)
    if not bool(constant.all()):
        typical = deviation[~constant].square().mean().sqrt()
        deviation = deviation**share * typical ** (1 - share)
    roots = 1.0 if penalties is None else penalties.to(deviation).sqrt()
    # The mean of a constant column is that constant, so that nothing is left of it but rounding, which is cut off.
    return Standardisation(mean, torch.where(constant, torch.inf, deviation * roots), int(constant.sum()))


def smoothed_shares(targets: Tensor, classes: int, weights: Tensor, smoothing: float) -> Tensor:
    """Return shares[N, classes] of which the objective's cross-entropy is the sum, as torch defines smoothing.

    Args:
        targets: Class indices[N].
        classes: How many classes there are.
        weights: The weight of each class, [classes].
        smoothing: The share of a target that is spread over all classes.
    """
    shares = torch.nn.functional.one_hot(targets, classes).to(torch.float64)
    return ((1 - smoothing) * shares + smoothing / classes) * weights.double()


def refuse_not_finite(features: Tensor) -> None:
    """Raise FeaturesError where features[N, F] are not all finite."""
    finite = torch.isfinite(features)
    if bool(finite.all()):
        return
    images, columns = int((~finite).any(1).sum()), int((~finite).any(0).sum())
    raise FeaturesError(
        f"The features of {images:,} of {len(features):,} images are not finite (in {columns:,} of "
        f"{features.shape[1]:,} columns), so no head can be fitted to them.\n{NEXT_IF_NOT_FINITE}"
    )


def _principal_axes(standardised: Tensor) -> Tensor | None:
    """standardised[N, F] -> turn[F, R], whose columns are orthonormal; None where that would take too long.

    With an L2 penalty the solution lies in the span of the images (the representer theorem), so of F columns no more
    than the rank R is needed: nothing is approximated. And along principal axes the columns do not correlate, so that
    scaling each by itself is enough for L-BFGS to need few steps.
    """
    count, width = standardised.shape
    if min(count, width) > LARGEST_TURN:
        return None
    # Both matrices of products have the same eigenvalues above 0, and the smaller one is cheaper.
    few_images = count < width
    values, axes = torch.linalg.eigh(standardised @ standardised.T if few_images else standardised.T @ standardised)
    kept = values > max(float(values[-1]), 0.0) * _NO_RANK
    turn: Tensor = (standardised.T @ axes[:, kept]) / values[kept].sqrt() if few_images else axes[:, kept]
    return turn
