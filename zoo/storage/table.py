"""Tables of computed rows, one row for each image, in memory or mapped from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in the memory layout in which the backbone gave them.

    A channels-last output stays channels-last, for in another layout the next layer may give other bits.
    """

    rows: Tensor
    """A contiguous tensor[N, ...] with its dimensions in the order of `order`."""
    order: tuple[int, ...]
    """For each dimension of `rows`, which dimension of the output[N, ...] it is. The first is N."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Size of the rows in bytes."""
        return self.rows.numel() * self.rows.element_size()

    @property
    def outputs(self) -> Tensor:
        """The output[N, ...] with the backbone's own order of dimensions, without a copy."""
        return self.rows.permute(_inverse(self.order))


def block_of(outputs: Tensor) -> Block:
    """outputs[N, ...] of any layout -> a block. Nothing is copied where N is outermost and the memory is contiguous."""
    strides = outputs.stride()
    # Equal strides belong to dimensions of size one. Python's sort leaves those in their order.
    inner = sorted(range(1, outputs.ndim), key=lambda dimension: -strides[dimension])
    order = (0, *inner)
    return Block(outputs.permute(order).contiguous(), order)


def joined(blocks: Sequence[Block]) -> Block:
    """Join several blocks into one, in the layout of the first."""
    order = blocks[0].order
    return Block(torch.cat([_laid_out(block, order).rows for block in blocks]), order)


def _laid_out(block: Block, order: tuple[int, ...]) -> Block:
    return block if block.order == order else Block(block.outputs.permute(order).contiguous(), order)


class Table:
    """Rows[N, ...] in blocks of equal length, but for the last."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        """`blocks` has at least one block. All are brought into the layout of the first."""
        self._blocks = [_laid_out(block, blocks[0].order) for block in blocks]
        self._length = len(blocks[0])
        self._inverse = _inverse(blocks[0].order)

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(block.bytes for block in self._blocks)

    def in_one_piece(self) -> Table:
        """The same table in one tensor: quicker to draw rows from, and not mapped from files."""
        return Table([joined(self._blocks)])

    def rows(self, indices: Sequence[int]) -> Tensor:
        """rows[len(indices), ...] in the order of the indices."""
        if len(self._blocks) == 1:
            return self._blocks[0].rows[torch.tensor(list(indices))].permute(self._inverse)
        length = self._length
        return torch.stack([self._blocks[index // length].rows[index % length] for index in indices]).permute(
            self._inverse
        )

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, as rows[size or fewer, ...]."""
        bounds = [*range(0, len(self), size), len(self)]
        return (self.rows(range(begin, end)) for begin, end in pairwise(bounds))


class TablePart(Table):
    """Some of a table's rows; none is copied before it is asked for."""

    def __init__(self, whole: Table, indices: Sequence[int]) -> None:
        self._whole = whole
        self._indices = tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def bytes(self) -> int:
        """Size of these rows in bytes."""
        return self._whole.bytes * len(self) // len(self._whole)

    def in_one_piece(self) -> Table:
        """These rows in one tensor."""
        return table_of(self.rows(range(len(self))))

    def rows(self, indices: Sequence[int]) -> Tensor:
        """rows[len(indices), ...] in the order of the indices, which count the rows of this part."""
        return self._whole.rows([self._indices[index] for index in indices])


def table_of(outputs: Tensor) -> Table:
    """A table of outputs[N, ...] that are in memory already."""
    return Table([block_of(outputs)])


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(dimension) for dimension in range(len(order)))
