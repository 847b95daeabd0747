"""Tables of computed rows, one row for each image, in memory or in files.

A row is what a frozen part of a backbone gives for an image: pooled features, or a map. `zoo.storage.feature_cache`
writes blocks of them and reads them back.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

_MANY = 256
"""Rows wanted at a time from which on blocks are gone through, each once; below, each row is copied by itself."""


class RowBlock(Protocol):
    """Some neighbouring rows of a table, in memory or in a file."""

    @property
    def rows(self) -> Tensor:
        """A contiguous tensor[N, ...] with its dimensions in the order of `order`, in the type that is stored."""

    @property
    def order(self) -> tuple[int, ...]:
        """For each dimension of `rows`, which dimension of the output[N, ...] it is. The first is N."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the output. What is stored in fewer bits is widened to it, which is exact."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `rows`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in the memory layout in which the backbone gave them.

    A channels-last output stays channels-last, for in another layout the next layer may give other bits.
    """

    rows: Tensor
    """A contiguous tensor[N, ...] with its dimensions in the order of `order`."""
    order: tuple[int, ...]
    """For each dimension of `rows`, which dimension of the output[N, ...] it is. The first is N."""
    widens_to: torch.dtype | None = None
    """The type of the output, where `rows` hold it in fewer bits and lose none. None: that of `rows`."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Size of the rows in bytes, as they are stored."""
        return self.rows.numel() * self.rows.element_size()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the output."""
        return self.widens_to or self.rows.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the rows."""
        return tuple(self.rows.shape)

    @property
    def outputs(self) -> Tensor:
        """The output[N, ...] with the backbone's own order of dimensions; copied only where it is stored in fewer
        bits."""
        return self.rows.to(self.dtype).permute(_inverse(self.order))

    def halved(self) -> Block:
        """The same with float32 rows as bfloat16, where all of them are numbers of that type; else this block.

        A backbone that computes in bfloat16 gives such rows: of the four bytes of each number two are zeros.
        """
        # The first row tells in nearly every case, without a copy of the whole block.
        if self.rows.dtype != torch.float32 or not _are_halves(self.rows[:1]) or not _are_halves(self.rows):
            return self
        return Block(self.rows.to(torch.bfloat16), self.order, torch.float32)


def _are_halves(rows: Tensor) -> bool:
    """Whether float32 rows[N, ...] come back from bfloat16 with the same bits; a NaN may not."""
    # Compared as whole numbers: among floats 0 equals -0, and NaN not itself.
    back = rows.to(torch.bfloat16).to(torch.float32)
    return torch.equal(back.view(torch.int32), rows.view(torch.int32))


def block_of(outputs: Tensor) -> Block:
    """outputs[N, ...] of any layout -> a block. Nothing is copied where N is outermost and the memory is contiguous."""
    strides = outputs.stride()
    # Equal strides belong to dimensions of size one. Python's sort leaves those in their order.
    inner = sorted(range(1, outputs.ndim), key=lambda dimension: -strides[dimension])
    order = (0, *inner)
    return Block(outputs.permute(order).contiguous(), order)


def joined(blocks: Sequence[RowBlock]) -> Block:
    """Join several blocks into one, in the layout of the first."""
    order = blocks[0].order
    return Block(torch.cat([_laid_out(block, order).to(block.dtype) for block in blocks]), order)


def _laid_out(block: RowBlock, order: tuple[int, ...]) -> Tensor:
    """The stored rows[N, ...] of a block with their dimensions in another order."""
    if block.order == order:
        return block.rows
    return block.rows.permute(_inverse(block.order)).permute(order).contiguous()


class Table:
    """Rows[N, ...] in blocks of equal length, but for the last."""

    def __init__(self, blocks: Sequence[RowBlock], *, in_memory: bool = True) -> None:
        """Put blocks together.

        Args:
            blocks: At least one. All are brought into the layout of the first.
            in_memory: Whether all rows are in memory or in files that stay mapped, and not in files that are opened
                when rows of them are used.
        """
        order = blocks[0].order
        if in_memory:
            blocks = [
                each if each.order == order else Block(_laid_out(each, order), order, each.dtype) for each in blocks
            ]
        self._blocks = list(blocks)
        self._order = order
        self._length = blocks[0].shape[0]
        self._count = sum(block.shape[0] for block in blocks)
        self._inverse = _inverse(order)
        self._in_memory = in_memory

    def __len__(self) -> int:
        return self._count

    @property
    def in_memory(self) -> bool:
        """Whether all rows are in memory, or mapped. If not, it is quicker to ask for many at a time."""
        return self._in_memory

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes, in the type in which they are given."""
        return sum(_size(block) for block in self._blocks)

    def in_one_piece(self) -> Table:
        """The same table in one tensor: quicker to draw rows from, and not mapped from files."""
        return Table([joined(self._blocks)])

    def rows(self, indices: Sequence[int]) -> Tensor:
        """rows[len(indices), ...] in the order of the indices."""
        block = self._blocks[0]
        if len(self._blocks) == 1:
            return block.rows[torch.tensor(list(indices))].to(block.dtype).permute(self._inverse)
        # In the layout of the blocks, and turned at the end: a permuted view costs nothing.
        found = torch.empty(len(indices), *block.shape[1:], dtype=block.dtype)
        if isinstance(indices, range) or len(indices) >= _MANY:
            self._copy_blocks(indices, found)
        else:
            for place, index in enumerate(indices):
                found[place] = self._rows_of(index // self._length)[index % self._length]
        return found.permute(self._inverse)

    def _copy_blocks(self, indices: Sequence[int], found: Tensor) -> None:
        """Copy the rows of the indices to found[len(indices), ...], going through each block once, in their order."""
        wanted = torch.tensor(list(indices))
        numbers = torch.div(wanted, self._length, rounding_mode="floor")
        places = torch.argsort(numbers, stable=True)
        which, counts = torch.unique_consecutive(numbers[places], return_counts=True)
        for number, part in zip(which.tolist(), torch.split(places, counts.tolist()), strict=True):
            rows = self._rows_of(number)
            found[part] = rows[wanted[part] - number * self._length].to(found.dtype)

    def _rows_of(self, number: int) -> Tensor:
        return _laid_out(self._blocks[number], self._order)

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Yield all rows in order, as rows[size or fewer, ...]."""
        bounds = [*range(0, len(self), size), len(self)]
        return (self.rows(range(begin, end)) for begin, end in pairwise(bounds))


class TablePart(Table):
    """Some of a table's rows; none is copied before it is asked for."""

    def __init__(self, whole: Table, indices: Sequence[int]) -> None:
        self._whole = whole
        self._indices = array("q", indices)

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def in_memory(self) -> bool:
        """Whether all rows are in memory."""
        return self._whole.in_memory

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


class ReorderedTable(TablePart):
    """All rows of a table, which are stored in another order than the one that they are counted in."""

    def __init__(self, whole: Table, order: Sequence[int]) -> None:
        """Give new numbers to the rows: `order[n]` is the number of the row that is stored as number n."""
        numbers = array("q", order)
        # Eight bytes a number, where a list would hold an object for each.
        at = array("q", bytes(numbers.itemsize * len(numbers)))
        for place, number in enumerate(numbers):
            at[number] = place
        super().__init__(whole, at)
        self.order = numbers
        """The number of each row, as they are stored."""


def table_of(outputs: Tensor) -> Table:
    """A table of outputs[N, ...] that are in memory already."""
    return Table([block_of(outputs)])


def _size(block: RowBlock) -> int:
    numbers = torch.Size(block.shape).numel()
    return numbers * block.dtype.itemsize


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(order.index(dimension) for dimension in range(len(order)))
