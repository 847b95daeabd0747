"""The objective of penalised logistic regression for several fits over the same rows, and its minimum by L-BFGS."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS, _MEMORY = 1000, 10
"""Most iterations of L-BFGS, and how many of the last ones it remembers."""
_LEAST_CURVATURE = 1e-6
"""Smallest curvature of a bias."""


class LogisticObjective:
    """The sum of one objective for each fold, over rows that they share: one pass over the rows serves all folds."""

    def __init__(self, rows: Tensor, shares: Tensor, weights: Tensor | None, strength: float) -> None:
        """Put together.

        Args:
            rows: rows[N, R].
            shares: shares[N, classes], whose sum over classes is an image's weight.
            weights: weights[folds, N]: how much each image counts in each fold. None: one fold, all count 1.
            strength: The penalty's.
        """
        self._rows = rows
        self._strength = strength
        self._shares = shares[:, None] if weights is None else shares[:, None] * weights.T[:, :, None]
        self._sums = self._shares.sum(2, keepdim=True)
        self._classes = shares.shape[1]

    def zeros(self, folds: int) -> Tensor:
        """parameters[folds, R + 1, classes] of nothing."""
        return self._rows.new_zeros(folds, self._rows.shape[-1] + 1, self._classes)

    def value_and_gradient(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """parameters[folds, R + 1, classes] -> the sum of the objectives, and its gradient of the same shape."""
        logits = self._logits(parameters)
        largest = logits.logsumexp(2, keepdim=True)
        value = (self._sums * largest).sum() - (self._shares * logits).sum()
        value = value + 0.5 * self._strength * parameters[:, :-1].square().sum()
        residuals = (logits - largest).exp_().mul_(self._sums).sub_(self._shares)
        of_weights = self._over_images(self._rows, residuals) + self._strength * parameters[:, :-1]
        return value, torch.cat([of_weights, residuals.sum(0)[:, None]], dim=1)

    def scale(self, parameters: Tensor) -> Tensor:
        """parameters[folds, R + 1, classes] -> of the same shape, factors in which all curvatures there are alike.

        Columns that do not correlate have a curvature that is nearly diagonal: the mean of p (1 - p) times the square.
        """
        shares = self._logits(parameters).softmax(2)
        spread = shares * (1 - shares) * self._sums
        of_weights = self._over_images(self._rows.square(), spread) + self._strength
        # The penalty keeps the curvature of a weight above 0. A bias has none, and its classes may be certain.
        return torch.cat([of_weights, spread.sum(0)[:, None].clamp(min=_LEAST_CURVATURE)], dim=1).rsqrt()

    def _logits(self, parameters: Tensor) -> Tensor:
        folds = len(parameters)
        weights = parameters[:, :-1].permute(1, 0, 2).reshape(-1, folds * self._classes)
        return (self._rows @ weights).view(-1, folds, self._classes) + parameters[:, -1]

    def _over_images(self, rows: Tensor, values: Tensor) -> Tensor:
        """rows[N, R], values[N, folds, classes] -> their sums of products over the images, [folds, R, classes]."""
        _, folds, classes = values.shape
        return (rows.T @ values.reshape(-1, folds * classes)).view(-1, folds, classes).permute(1, 0, 2)

    def minimise(self, start: Tensor, tolerance: float) -> tuple[Tensor, int]:
        """Minimise from parameters[folds, R + 1, classes] -> parameters of the same shape, number of iterations."""
        scale = self.scale(start)
        # L-BFGS takes no preconditioner, so other coordinates stand in for it.
        scaled = (start / scale).clone()
        optimizer = torch.optim.LBFGS(
            [scaled],
            max_iter=_STEPS,
            max_eval=2 * _STEPS,
            history_size=_MEMORY,
            tolerance_grad=tolerance,
            tolerance_change=tolerance**2,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            value, gradient = self.value_and_gradient(scaled * scale)
            # Written out, not by autograd: one pass over the rows gives both value and gradient of all folds.
            scaled.grad = gradient * scale
            return float(value)

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return scaled * scale, int(optimizer.state[scaled]["n_iter"])


class SeveralLogisticObjectives(LogisticObjective):
    """The sum of such sums, over problems with rows of their own: fits are numbered through, problem by problem."""

    def __init__(self, rows: Tensor, shares: Tensor, weights: Tensor, strength: float) -> None:
        """Put together.

        Args:
            rows: rows[problems, N, R].
            shares: shares[problems, N, classes].
            weights: weights[problems, folds, N].
            strength: The penalty's.
        """
        self._rows = rows
        self._strength = strength
        self._classes = shares.shape[2]
        each = shares[:, :, None] * weights.transpose(1, 2)[..., None]
        self._shares = each.transpose(0, 1).flatten(1, 2).contiguous()
        self._sums = self._shares.sum(2, keepdim=True)

    def _logits(self, parameters: Tensor) -> Tensor:
        problems, images, width = self._rows.shape
        fits = len(parameters) // problems
        weights = parameters[:, :-1].view(problems, fits, width, self._classes).transpose(1, 2).flatten(2)
        logits = torch.bmm(self._rows, weights).view(problems, images, fits, self._classes)
        return logits.transpose(0, 1).flatten(1, 2) + parameters[:, -1]

    def _over_images(self, rows: Tensor, values: Tensor) -> Tensor:
        problems, images, width = rows.shape
        fits = values.shape[1] // problems
        of_problems = values.view(images, problems, fits * self._classes).transpose(0, 1)
        sums = torch.bmm(rows.transpose(1, 2), of_problems).view(problems, width, fits, self._classes)
        return sums.transpose(1, 2).flatten(0, 1)
