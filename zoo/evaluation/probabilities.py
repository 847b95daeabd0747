"""Probabilities and losses of many logits, some rows at a time, so that little memory beside the logits is needed.

Every row is computed by itself, so the numbers are, bit for bit, those of all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

_NUMBERS = 1 << 21
"""Logits in a part: 16 MB in double precision."""


NO_CLASS = "the classifier has no class for it, as its logits are not finite"
"""What is said of an image, after its name, for which `have_probabilities` says no."""


@dataclass(frozen=True, slots=True)
class Certainties:
    """How certain a classifier is of N images, as float64[N] and, for the classes, int64[N]."""

    highest: Tensor
    """The highest probability of each image."""
    predicted: Tensor
    """The class with it."""
    of_target: Tensor
    """The probability of the true class."""


def certainties(logits: Tensor, targets: Tensor) -> Certainties:
    """Return the probabilities that are reported, in double precision, of logits[N, classes] and indices targets[N]."""
    images = len(targets)
    found = Certainties(
        highest=torch.empty(images, dtype=torch.float64),
        predicted=torch.empty(images, dtype=torch.int64),
        of_target=torch.empty(images, dtype=torch.float64),
    )
    for rows, part in _parts(logits):
        probabilities = part.double().softmax(1)
        found.highest[rows], found.predicted[rows] = probabilities.max(1)
        found.of_target[rows] = _at(probabilities, targets[rows])
    return found


def mean_of_views(logits: Sequence[Tensor]) -> Tensor:
    """Average the probabilities of several views, each logits[N, classes] -> the logarithm of the mean, [N, classes].

    Its softmax is the mean, so that it may stand wherever logits stand.
    """
    # In logarithms throughout: a probability that has underflowed to 0 has none any more.
    of_views = torch.stack([each.double().cpu().log_softmax(1) for each in logits])
    return (of_views.logsumexp(0) - math.log(len(logits))).float()


def have_probabilities(logits: Tensor) -> Tensor:
    """Return which rows of logits[N, classes] have probabilities, bool[N] on the CPU: not those with nan or infinity.

    Minus infinity rules out a class, and all others keep theirs.
    """
    found = torch.empty(len(logits), dtype=torch.bool)
    for rows, part in _parts(logits):
        found[rows] = part.softmax(1).isnan().logical_not().all(dim=1)
    return found


def top_classes(logits: Tensor) -> Tensor:
    """Return the class with the highest of logits[N, classes], int64[N], on the CPU."""
    found = torch.empty(len(logits), dtype=torch.int64)
    for rows, part in _parts(logits):
        found[rows] = part.argmax(dim=1)
    return found


def best_classes(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the probabilities[N, K] and the indices[N, K] of the best classes of logits[N, classes], the best first.

    K is `most`, or the number of classes where that is smaller. Of equal classes the first is named first, as
    `top_classes` does.
    """
    # Not topk: which of equals it takes depends on K. In bfloat16, equal logits are nothing rare.
    classes = logits.sort(dim=1, descending=True, stable=True).indices[:, :most]
    return logits.softmax(1).gather(1, classes), classes


def hits_in_top(logits: Tensor, targets: Tensor, top: int) -> int:
    """Count the images whose class targets[N] is among the `top` highest of logits[N, classes]."""
    return sum(
        int((part.topk(top, dim=1).indices == targets[rows, None].cpu()).any(dim=1).sum())
        for rows, part in _parts(logits)
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> float:
    """Return the mean cross-entropy of logits[N, classes] and class indices targets[N] in nats."""
    of_target = -losses(logits, targets)
    # Torch's own mean, in its order: of a single column, every target is class 0.
    return float(nll_loss(of_target[:, None], torch.zeros_like(targets, device="cpu")))


def losses(logits: Tensor, targets: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return the cross-entropy of each of scale * logits[N, classes] and indices targets[N] in nats, float32[N]."""
    of_target = torch.empty(len(targets))
    for rows, part in _parts(logits):
        of_target[rows] = -_at((scale * part).log_softmax(1), targets[rows])
    return of_target


def _parts(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of logits[N, classes] at a time, and which they are, on the CPU in float32.

    Results are put into one tensor for all rows. A tensor for each part would lie between the large ones, and the
    memory of those could not be used again.
    """
    count = max(1, _NUMBERS // logits.shape[1])
    for begin in range(0, len(logits), count):
        rows = slice(begin, begin + count)
        yield rows, logits[rows].float().cpu()


def _at(values: Tensor, targets: Tensor) -> Tensor:
    """Return from values[N, classes] those of the classes targets[N]."""
    return values.gather(1, targets.cpu()[:, None])[:, 0]
