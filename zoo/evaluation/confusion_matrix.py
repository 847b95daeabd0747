"""The confusion matrix of any number of classes: what is not zero is kept, and it still reads as a table.

Of C classes a matrix has C * C numbers, but no more of them are above zero than there are images. In JSON, a matrix
has one of two forms, which `to_json` writes and `read_matrix` reads. Nothing here imports torch.

`confusion_picture` beside it draws a matrix, `confusion_table` gives its classes their names, and
`zoo.reporting.confusions` chooses what the report shows of it.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

DENSE_MOST = 200
"""Most classes of a matrix that is kept and written as a table: 440 kB of JSON. Of more, only the cells are."""
KEY, CELLS = "confusion", "confusion_cells"
"""The keys in JSON. Above `DENSE_MOST` classes `confusion` is null, and no program takes the cells for a table."""

Cell = tuple[int, int, int]
"""(true class, predicted class, images), with at least one image."""
ConfusionMatrix = Sequence[Sequence[int]]
"""[true class][predicted class] -> images."""


class SparseMatrix(Sequence[tuple[int, ...]]):
    """A matrix of many classes. It reads like a tuple of rows and makes a row when it is asked for.

    `cells` has what is not zero, as (true class, predicted class, images), in the order of the classes.
    """

    __slots__ = ("_size", "cells")

    def __init__(self, size: int, cells: Iterable[Cell]) -> None:
        """Make the matrix of `size` classes. Raises ValueError for cells that it cannot have."""
        self._size = size
        self.cells = tuple(sorted(cells))
        places = {(true, predicted) for true, predicted, _ in self.cells}
        if len(places) < len(self.cells):
            raise ValueError("a cell of the confusion matrix is given twice")
        if any(not (0 <= true < size and 0 <= predicted < size) for true, predicted in places):
            raise ValueError(f"a cell of the confusion matrix lies outside of its {size} classes")
        if any(images < 1 for _, _, images in self.cells):
            raise ValueError("a cell of the confusion matrix has no images")

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(self._size)[index])
        true = range(self._size)[index]
        # A tuple that ends early sorts before all that go on: (true,) is where the cells of this row begin.
        row = [0] * self._size
        for _, predicted, images in self.cells[bisect_left(self.cells, (true,)) : bisect_left(self.cells, (true + 1,))]:
            row[predicted] = images
        return tuple(row)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SparseMatrix):
            return self._size == other._size and self.cells == other.cells
        return isinstance(other, tuple) and len(other) == self._size and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash((self._size, self.cells))

    def __repr__(self) -> str:
        return f"SparseMatrix({self._size}, {len(self.cells)} cells)"


def matrix_of(size: int, cells: Iterable[Cell]) -> ConfusionMatrix:
    """The matrix of `size` classes with these cells: up to `DENSE_MOST` classes a tuple of tuples."""
    sparse = SparseMatrix(size, cells)
    # Through the sparse form, also where it is not kept: it refuses cells that a matrix cannot have.
    return tuple(sparse) if size <= DENSE_MOST else sparse


def cells_of(matrix: ConfusionMatrix) -> Sequence[Cell]:
    """What is not zero, in the order of the classes."""
    if isinstance(matrix, SparseMatrix):
        return matrix.cells
    return [
        (true, predicted, images) for true, row in enumerate(matrix) for predicted, images in enumerate(row) if images
    ]


def to_json(matrix: ConfusionMatrix) -> dict[str, Any]:
    """The keys of an assessment that hold the matrix, in plain JSON types.

    Up to `DENSE_MOST` classes `confusion` is the table. Of more it is null, and `confusion_cells` has the cells.
    """
    return {KEY: matrix} if len(matrix) <= DENSE_MOST else {KEY: None, CELLS: cells_of(matrix)}


def read_matrix(assessment: Mapping[str, Any]) -> ConfusionMatrix:
    """The matrix of a stored assessment in either form: zoo once wrote the table for any number of classes.

    Raises ValueError where there is none, or where it does not fit the classes.
    """
    size, table, cells = len(assessment["classes"]), assessment.get(KEY), assessment.get(CELLS)
    if isinstance(table, list):
        if len(table) != size or any(not isinstance(row, list) or len(row) != size for row in table):
            raise ValueError(f"its {KEY} is no table of {size} by {size} classes")
        return table
    if not isinstance(cells, list):
        raise ValueError(f"it has neither {KEY} nor {CELLS}")
    # By the exact type, as JSON's `true` is an int to isinstance.
    if any(not isinstance(cell, list) or len(cell) != 3 or {*map(type, cell)} != {int} for cell in cells):
        raise ValueError(f"its {CELLS} are not lists of three integers")
    return matrix_of(size, map(tuple, cells))


def most_confused(matrix: ConfusionMatrix, most: int) -> list[int]:
    """At most `most` classes that a picture of a part of the matrix should have, the most confused first.

    Pairs of classes are taken as long as there is room, those first that are confused most often, both ways together.
    Of two equal pairs, the first in the order of the classes is taken.
    """
    confused: Counter[tuple[int, int]] = Counter()
    for true, predicted, images in cells_of(matrix):
        if true != predicted:
            confused[min(true, predicted), max(true, predicted)] += images
    chosen: dict[int, None] = {}
    for pair, _ in sorted(confused.items(), key=lambda item: (-item[1], item[0])):
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) <= most:
            chosen |= dict.fromkeys(new)
        if len(chosen) == most:
            break
    return list(chosen)
