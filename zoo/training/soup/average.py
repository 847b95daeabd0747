"""The average of saved weights, and the greedy choice of what goes into it (arXiv:2203.05482, recipe 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from zoo.evaluation.metrics import Scores
from zoo.storage.tensors import same_bits


def average_of(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the average of the tensors of several safetensors files, of any shape and by name.

    Numbers with a fraction are added up in float64, in the order of the files, and rounded once. Integers, such as the
    counters of batch norms, are those of the first file. One tensor of each file is in memory at a time.

    Args:
        files: At least one file; all with the same names, shapes and types.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        return {name: _mean([file.get_tensor(name) for file in opened]) for name in opened[0].keys()}  # noqa: SIM118


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape[...] and type; for integers, and where all are equal, the first of them."""
    first = tensors[0]
    # What was frozen is equal in all, and must stay so to the bit.
    if not (first.is_floating_point() or first.is_complex()) or all(same_bits(first, other) for other in tensors[1:]):
        return first
    wide = torch.complex128 if first.is_complex() else torch.float64
    # A copy also where it is wide already, for sums are taken in place.
    total = first.to(wide, copy=True)
    for other in tensors[1:]:
        total += other.to(wide)
    return (total / len(tensors)).to(first.dtype)


@dataclass(frozen=True, slots=True)
class Trial:
    """One ingredient that was tried."""

    ingredient: int
    """Its position among those that were offered."""
    together: Scores | None
    """Scores of the average with it; None for the first, which was not averaged."""
    added: bool
    """Whether it went into the average."""


def by_quality(scores: Sequence[Scores]) -> list[int]:
    """Return the positions of models by `Scores.order`, the best first.

    Those with a loss that is not finite come last.
    """
    # A sort keeps the order of equals, also in reverse.
    return sorted(range(len(scores)), key=lambda position: scores[position].order, reverse=True)


def not_worse(scores: Scores, than: Scores) -> bool:
    """Whether accuracy is higher, or the same and the loss no higher. With a loss that is not finite it is worse."""
    return scores.finite and scores.order >= than.order


def choose_greedily(alone: Sequence[Scores], together: Callable[[Sequence[int]], Scores]) -> list[Trial]:
    """Start with the best model, and add each further one where the average with it is not worse -> what was tried.

    Args:
        alone: Validation scores of every model, at least one.
        together: Judges the average of the models at these positions, which are in the order in which they were added.
    """
    best, *others = by_quality(alone)
    trials, chosen, reached = [Trial(best, None, added=True)], [best], alone[best]
    for other in others:
        scores = together([*chosen, other])
        added = not_worse(scores, reached)
        trials.append(Trial(other, scores, added))
        if added:
            chosen.append(other)
            reached = scores
    return trials
