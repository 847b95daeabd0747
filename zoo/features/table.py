"""Rows that were computed once, one for each image, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows as they lie in memory: `rows` is contiguous, and its dimensions stand in the order of `order`.

    A backbone's channels-last output stays channels-last: in another layout the next layer may give other bits.
    """

    rows: Tensor
    order: tuple[int, ...]
    """Which dimension of [N, ...] each dimension of `rows` is; N is the first."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()

    @property
    def seen(self) -> Tensor:
        """[N, ...] as the backbone put it out, without a copy."""
        return self.rows.permute(_inverse(self.order))


def block_of(outputs: Tensor) -> Block:
    """[N, ...] of any layout -> a block; nothing is copied where its N is outermost and nothing lies between."""
    strides = outputs.stride()
    # Equal strides belong to dimensions of one; Python's sort leaves those as they are.
    inner = sorted(range(1, outputs.ndim), key=lambda dimension: -strides[dimension])
    order = (0, *inner)
    return Block(outputs.permute(order).contiguous(), order)


def joined(blocks: Sequence[Block]) -> Block:
    """One block of several, in the first one's layout."""
    order = blocks[0].order
    return Block(torch.cat([_laid_out(block, order).rows for block in blocks]), order)


def _laid_out(block: Block, order: tuple[int, ...]) -> Block:
    return block if block.order == order else Block(block.seen.permute(order).contiguous(), order)


class Table:
    """`[N, ...]` in blocks of one length, but for the last."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        """There is at least one block; all are taken in the first one's layout."""
        self._blocks = [_laid_out(block, blocks[0].order) for block in blocks]
        self._each = len(blocks[0])
        self._inverse = _inverse(blocks[0].order)

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def bytes(self) -> int:
        """Of all rows."""
        return sum(block.bytes for block in self._blocks)

    def in_one_piece(self) -> Table:
        """The same, quicker to draw rows from, and mapped from no file."""
        return Table([joined(self._blocks)])

    def rows(self, indices: Sequence[int]) -> Tensor:
        """[len(indices), ...] in that order."""
        if len(self._blocks) == 1:
            return self._blocks[0].rows[torch.tensor(list(indices))].permute(self._inverse)
        each = self._each
        return torch.stack([self._blocks[index // each].rows[index % each] for index in indices]).permute(self._inverse)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """[size or fewer, ...], all rows in their order."""
        bounds = [*range(0, len(self), size), len(self)]
        return (self.rows(range(begin, end)) for begin, end in pairwise(bounds))


def table_of(outputs: Tensor) -> Table:
    """A table of what is in memory already."""
    return Table([block_of(outputs)])


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(dimension) for dimension in range(len(order)))
