"""The confusion matrix as the report shows it: all of it for few classes, the most confused classes of many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.evaluation.confusion_matrix import ConfusionMatrix, cells_of, most_confused

_WHOLE_MOST = 30
"""Most classes of a matrix that is shown as a whole. Of more, the cells would be too small to read."""
_PART = 20
"""Classes that are shown of a larger one."""
CONFUSIONS_SHOWN = 25
"""Most pairs of classes that are listed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One true class of a matrix."""

    name: str
    cells: tuple[tuple[int, float], ...]
    """For each shown class: images that were predicted as it, and their share of all images of the class."""
    elsewhere: tuple[int, float]
    """The same for all classes together that are not shown."""


@dataclass(frozen=True, slots=True)
class ShownMatrix:
    """The part of a confusion matrix that the report shows."""

    rows: tuple[Row, ...]
    """The true classes. The predicted ones are the same, in the same order."""
    of: int
    """How many classes there are."""

    @property
    def whole(self) -> bool:
        """Whether every class is shown."""
        return len(self.rows) == self.of


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that were predicted as another."""

    true: str
    predicted: str
    count: int
    images: int
    """All images of the true class."""


def shown_matrix(matrix: ConfusionMatrix, names: Sequence[str]) -> ShownMatrix:
    """Choose what is shown of a matrix: every class in order, or of many the most confused, those first.

    Where no class of many is confused with another, no row is left.
    """
    chosen = range(len(names)) if len(names) <= _WHOLE_MOST else most_confused(matrix, _PART)
    # Whole rows of the chosen classes: what is elsewhere in them counts for their shares.
    counts: dict[int, dict[int, int]] = {label: {} for label in chosen}
    for true, predicted, images in cells_of(matrix):
        if true in counts:
            counts[true][predicted] = images
    return ShownMatrix(tuple(_row(names[label], counts[label], chosen) for label in chosen), len(names))


def frequent_confusions(matrix: ConfusionMatrix, names: Sequence[str]) -> list[Confusion]:
    """At most `CONFUSIONS_SHOWN` confusions, the most frequent first."""
    images_of: dict[int, int] = defaultdict(int)
    confused = []
    for true, predicted, images in cells_of(matrix):
        images_of[true] += images
        if true != predicted:
            confused.append((true, predicted, images))
    frequent = sorted(confused, key=lambda cell: -cell[2])[:CONFUSIONS_SHOWN]
    return [Confusion(names[true], names[predicted], count, images_of[true]) for true, predicted, count in frequent]


def _row(name: str, counts: dict[int, int], chosen: Sequence[int]) -> Row:
    total = sum(counts.values())
    shown = [counts.get(label, 0) for label in chosen]
    # A class may have no image in this split.
    shares = [(count, count / (total or 1)) for count in (*shown, total - sum(shown))]
    return Row(name, tuple(shares[:-1]), shares[-1])
