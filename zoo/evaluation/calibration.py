"""Whether the classifier is right as often as it says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose highest probability lies in (low, high]; an empty one has no means."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean of the highest probability."""
    accuracy: float | None
    """Share of them that are right."""


def reliability(probabilities: Tensor, targets: Tensor, *, bins: int = BINS) -> tuple[Bin, ...]:
    """probabilities[N, classes], targets[N] -> bins of equal width over the highest probability (Guo et al. 2017,
    arXiv:1706.04599)."""
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == targets).double()
    # (low, high], as in the paper, so that a probability of exactly 1 has company.
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, edges[1:-1], right=False)
    found = []
    for number in range(bins):
        inside = index == number
        count = int(inside.sum())
        found.append(
            Bin(
                low=number / bins,
                high=(number + 1) / bins,
                images=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return tuple(found)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance between accuracy and confidence over the bins, weighted by their images (arXiv:1706.04599)."""
    total = sum(each.images for each in bins)
    gaps = [
        each.images * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    ]
    return sum(gaps) / total
