"""The shares into which a step's batch is cut, one a process, and how their gradients become that of the whole batch.

The batch is the one that a process alone would take; each process computes what its share adds to the mean loss of the
whole. So the gradients are added up, not averaged: shares may differ in length, or have no image. That is done once a
step, after the backward pass, because a step that runs out of memory is repeated in smaller micro-batches by the one
process that it happens to: what talks within the backward pass, as torch's DistributedDataParallel does, cannot be
repeated there.

Into how many shares a batch is cut is a part of the plan. How many processes carry it out is not: one may compute
several shares, for a run that goes on with fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo.distributed.group import ProcessGroup
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Stage
from zoo.training import seeding
from zoo.training.divided import is_part
from zoo.training.objective import mix, mixes, partners_of


def is_shared(stage: StagePlan) -> bool:
    """Whether all processes train a stage, each on a share of every batch; else process 0 alone trains it."""
    return stage.inputs != "features"


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a batch goes through the model with random numbers of its own."""

    batch: Tensor
    """images[n, 3, H, W], or cached rows[n, ...]; n may be 0."""
    targets: Tensor
    """Class indices int64[n], or class shares[n, classes] of mixed images."""
    key: str = ""
    """Of its random numbers; empty where they go on from those before."""

    def in_micro_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images[m, ...], targets[m, ...]), m at most `size`, all but even."""
        # With uneven ones the last could be a single image, on which batch norm cannot train.
        count = -(-len(self.batch) // size)
        if count:
            yield from zip(self.batch.tensor_split(count), self.targets.tensor_split(count), strict=True)


@dataclass(slots=True)
class Shares:
    """The shares of a stage's batches, and those of them that this process computes."""

    count: int = 1
    """Into how many shares a batch is cut."""
    group: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that carry the stage out together; one alone has all shares."""
    seeded: bool = True
    """Whether torch's generators still had a piece's seed after every piece of the epoch so far."""

    @property
    def whole(self) -> bool:
        """Whether this process takes whole batches, in one piece."""
        return self.count == 1 and not self.group.several

    @property
    def own(self) -> range:
        """Which shares this process computes."""
        return range(self.group.rank, self.count, self.group.count)

    def positions(self, order: Sequence[Sequence[int]], settings: Stage, key: str) -> list[list[int]] | None:
        """The places in each batch of an epoch that this process needs; None for all of them.

        `key` is the epoch's. Where images are mixed, the partners of its own are among them.
        """
        if self.whole:
            return None
        return [self._needed(len(batch), settings, f"{key}/{number}") for number, batch in enumerate(order)]

    def pieces(self, batch: Tensor, targets: Tensor, classes: int, settings: Stage, *, key: str) -> list[Piece]:
        """Cut a batch into this process's pieces, mixed where the stage mixes.

        Args:
            batch: images[n, 3, H, W] or cached rows[n, ...] at the places that `positions` gives.
            targets: Class indices of the whole batch, int64[N].
            classes: How many classes there are.
            settings: The stage's.
            key: Names seed, stage, epoch and step.
        """
        held = list(range(len(targets))) if self.whole else self._needed(len(targets), settings, key)
        at = {place: number for number, place in enumerate(held)}
        found = []
        for share in self.own:
            places = range(len(targets)) if self.whole else self._places(len(targets), share)
            if self.whole and not mixes(settings):
                of_share = batch, targets
            elif mixes(settings):
                of_share = mix(batch, targets, classes, settings, key=key, held=held, own=places)
            else:
                of_share = batch[[at[place] for place in places]], targets[list(places)]
            # One share has the draws of an uncut batch, also where others look on.
            found.append(Piece(*of_share, key=f"{key}/share {share}" if self.count > 1 else ""))
        return found

    def begin(self, piece: Piece) -> None:
        """Give torch's generators the seed of a piece that has random numbers of its own."""
        if piece.key:
            seeding.seed_torch(piece.key)

    def end(self, piece: Piece) -> None:
        """Note whether something else has seeded torch's generators meanwhile."""
        self.seeded &= not piece.key or seeding.is_seeded(piece.key)

    def add_up(self, model: nn.Module, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """Add up the gradients that the processes have, and their losses[K], K scalars -> those of the whole batch.

        A parameter that got no gradient in any process keeps none. Gradients of parameters that are held in parts were
        added up in the backward pass.
        """
        group = self.group
        if not group.several:
            return losses
        loss = 0.0
        for each in losses:  # not `sum`, which rounds differently from Python 3.12 on
            loss += float(each)
        trained = [each for each in model.parameters() if each.requires_grad and not is_part(each)]
        # With the loss, in one exchange: who has which gradient.
        known = [float(parameter.grad is not None) for parameter in trained]
        facts = torch.tensor([loss, *known], dtype=torch.float64, device=next(model.parameters()).device)
        group.add_up([facts])
        holders = facts.tolist()[1:]
        held = [parameter for parameter, count in zip(trained, holders, strict=True) if count]
        for parameter in held:
            # All add up the same tensors, in the same order.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        group.add_up([parameter.grad for parameter in held if parameter.grad is not None])
        return [facts[0]]  # on the device of the gradients, with which it is read

    def passes_without_images(self, images: int, size: int) -> int:
        """How many passes more another process makes than this one, in a step of so many images in all.

        Args:
            images: Of the whole batch.
            size: The most that go through the model at a time, in all processes.
        """
        made = [
            sum(-(-len(self._places(images, share)) // size) for share in range(rank, self.count, self.group.count))
            for rank in range(self.group.count)
        ]
        return max(made) - made[self.group.rank]

    def _places(self, count: int, share: int) -> range:
        return range(count * share // self.count, count * (share + 1) // self.count)

    def _needed(self, count: int, settings: Stage, key: str) -> list[int]:
        own = {place for share in self.own for place in self._places(count, share)}
        if own and mixes(settings):
            partners = partners_of(count, key)
            own |= {partners[place] for place in own}
        return sorted(own)
