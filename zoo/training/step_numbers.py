"""The numbers of training steps that Python asks for: each step's loss, and whether its gradients were finite.

To ask a GPU for a number is to wait for it, so its steps are left unread and read many at a time. Meanwhile Python does
not know whether all of them were finite, but the GPU does: from the first step on whose loss or gradients are not, its
optimizer changes nothing more (`StepNumbers.found`). So the weights stay what they were before that step, and a later
reading names the same step as one at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from zoo.distributed.group import current

READ_EVERY = 50
"""Steps after which a GPU is asked for their numbers, if nothing asks before: the end of an epoch, a checkpoint."""


def steps_between_readings(device: torch.device) -> int:
    """Return after how many steps their numbers are read: after each where that costs nothing, or saves nothing.

    Processes that share a step tell each other its loss anyway, and they have to stop at the same step.
    """
    return READ_EVERY if device.type == "cuda" and not current().several else 1


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was read of some steps."""

    losses: list[float] = field(default_factory=list)
    """The losses of these steps, in their order, up to the first one that is not finite."""
    moved: frozenset[str] = frozenset()
    """Tensors that got a gradient other than zeros in one of these steps."""
    fault: int | None = None
    """The number of the first step whose loss or gradients are not finite; None: all are finite."""
    fault_loss: float = 0.0
    """The loss of that step."""
    not_finite: tuple[str, ...] = ()
    """Tensors whose gradients are not finite in that step; empty where it is the loss alone."""


class StepNumbers:
    """Takes the numbers of every step, and reads them: at once, or of many steps together."""

    def __init__(self, every: int, *, of_all: Callable[[Sequence[float]], list[float]] = list) -> None:
        """Read after so many steps.

        `of_all`, for gradients that processes hold in parts: adds numbers up over them, for where one alone has what is
        not finite, all must see it. Then each step is read at once.
        """
        self._every = every
        self._of_all = of_all
        self._forget()

    def _forget(self) -> None:
        self.found: Tensor | None = None
        """1.0 from the first step on that is not finite, else 0.0: a scalar on the device, float32, which torch's fused
        optimizers take. None where no step is unread: then all are known to be finite."""
        self._last = 0
        self._names: tuple[str, ...] = ()
        self._steps: list[Tensor] = []
        self._moved = torch.empty(0)
        self._largest = torch.empty(0)

    def add(
        self,
        step: int,
        losses: Sequence[Tensor],
        gradients: Mapping[str, Tensor],
        *,
        asked: Collection[str],
        now: bool = False,
    ) -> Numbers:
        """Add a step before the optimizer takes it -> what was read: of all unread steps, or of none.

        Args:
            step: Its number.
            losses: K scalars, losses[K], which add up to its loss.
            gradients: Its gradients[...] by name.
            asked: The tensors of which nobody knows yet that they ever got a gradient other than zeros.
            now: Read, however many steps are unread.
        """
        if self._every == 1:
            return _at_once(step, losses, gradients, asked, self._of_all)
        before = Numbers()
        if self._steps and self._names != tuple(gradients):
            before = self.read()
            if before.fault is not None:
                return before
        self._leave(step, losses, gradients)
        if not now and len(self._steps) < self._every:
            return before
        after = self.read()
        return Numbers(
            before.losses + after.losses, before.moved | after.moved, after.fault, after.fault_loss, after.not_finite
        )

    def _leave(self, step: int, losses: Sequence[Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Note the numbers of a step without waiting for them."""
        tensors = list(gradients.values())
        numbers = torch.stack([each.reshape(()).to(torch.float64) for each in (*losses, *_norm(tensors))])
        faulty = torch.isfinite(numbers).all().logical_not().to(torch.float32)
        # The largest value, unlike a norm, is finite if and only if all are. Of zeros alone it is 0.
        largest = torch.stack(torch._foreach_norm(tensors, math.inf)) if tensors else numbers[:0]
        if self.found is None:
            self._names, self.found, self._moved, self._largest = tuple(gradients), faulty, largest != 0, largest
        else:
            self._largest = torch.where(self.found > 0, self._largest, largest)  # after a fault it stays
            self._moved, self.found = self._moved | (largest != 0), torch.maximum(self.found, faulty)
        self._steps.append(numbers)
        self._last = step

    def read(self) -> Numbers:
        """Wait for the device and return the numbers of all unread steps."""
        if not self._steps:
            return Numbers()
        parts = [*self._steps, self._moved.to(torch.float64), self._largest.to(torch.float64)]
        values = iter(torch.cat(parts).cpu().tolist())
        *steps, moved, largest = [list(islice(values, len(part))) for part in parts]
        names, first = self._names, self._last - len(steps) + 1
        self._forget()
        losses = [_sum(step[:-1] if names else step) for step in steps]
        moving = frozenset(name for name, there in zip(names, moved, strict=True) if there)
        for number, step in enumerate(steps):
            if not all(map(math.isfinite, step)):
                wrong = tuple(name for name, each in zip(names, largest, strict=True) if not math.isfinite(each))
                return Numbers(losses[:number], moving, first + number, losses[number], wrong)
        return Numbers(losses, moving)


def _at_once(
    step: int,
    losses: Sequence[Tensor],
    gradients: Mapping[str, Tensor],
    asked: Collection[str],
    of_all: Callable[[Sequence[float]], list[float]],
) -> Numbers:
    """Read the numbers of one step."""
    names = sorted(name for name in asked if name in gradients)
    moving = of_all(_values([gradients[name].any() for name in names]))
    moved = frozenset(name for name, any_there in zip(names, moving, strict=True) if any_there)
    numbers = _values([*losses, *_norm(list(gradients.values()))])
    loss = _sum(numbers[: len(losses)])
    if all(map(math.isfinite, [*numbers[: len(losses)], *of_all(numbers[len(losses) :])])):
        return Numbers([loss], moved)
    # Which gradient it is, is looked up only now.
    faulty = of_all(_values([torch.isfinite(each).all().logical_not() for each in gradients.values()]))
    wrong = tuple(name for name, there in zip(gradients, faulty, strict=True) if there)
    return Numbers([], moved, step, loss, wrong)


def _norm(gradients: list[Tensor]) -> list[Tensor]:
    """One norm over all gradients, a scalar, if there are any: not finite as soon as any gradient is not."""
    return [torch.nn.utils.get_total_norm(gradients)] if gradients else []


def _sum(losses: Sequence[float]) -> float:
    loss = 0.0
    for each in losses:  # not `sum`, which rounds differently from Python 3.12 on
        loss += each
    return loss


def _values(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalars [], read at once."""
    values: list[float] = torch.stack([scalar.reshape(()) for scalar in scalars]).cpu().tolist() if scalars else []
    return values
