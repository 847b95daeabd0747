"""A confusion matrix with the names of its classes, counted from the predictions of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo.display.blocks import escaped
from zoo.errors import OptionError, meant
from zoo.evaluation.confusion_matrix import ConfusionMatrix, cells_of, matrix_of, most_confused
from zoo.evaluation.predictions import ImagePrediction
from zoo.text import some

_WHOLE_MOST = 30
"""Most classes of a table that a notebook shows as a whole. Of more, it shows those that are confused most."""
_PART = 20
"""Classes that are shown of more."""
# Styles stand in the cells: the page of a notebook has no style sheet of ours.
_CELL = "padding:2px 8px;text-align:right"


@dataclass(frozen=True, slots=True, repr=False)
class ConfusionTable:
    """How often each class was predicted as which, on the images of one split.

    `table["cat", "dog"]` is the number of cats that were predicted as dogs.
    """

    split: str
    classes: tuple[str, ...]
    counts: ConfusionMatrix
    """Images by [true class][predicted class], in the order of `classes`: rows of a table for pandas, say."""

    @classmethod
    def of(cls, split: str, predictions: Iterable[ImagePrediction], classes: Sequence[str]) -> ConfusionTable:
        """Count the predictions of a split. Raises ValueError where one names a class that there is not."""
        places = {name: index for index, name in enumerate(classes)}
        counted: Counter[tuple[int, int]] = Counter()
        for each in predictions:
            if each.label not in places or each.predicted not in places:
                raise ValueError(f"{each.file} is of a class that the run does not have")
            counted[places[each.label], places[each.predicted]] += 1
        cells = [(true, predicted, images) for (true, predicted), images in counted.items()]
        return cls(split, tuple(classes), matrix_of(len(classes), cells))

    def __getitem__(self, pair: tuple[str, str]) -> int:
        """Images of the first class that were predicted as the second. Raises OptionError for anything else."""
        # A text of two letters would be taken for two classes.
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise OptionError(f"A confusion has two classes; got {pair!r}.\nNext: table[TRUE, PREDICTED].")
        true, predicted = (class_index(name, self.classes) for name in pair)
        return self.counts[true][predicted]

    @property
    def images(self) -> int:
        """All images of the split."""
        return sum(images for _, _, images in cells_of(self.counts))

    @property
    def confused(self) -> list[tuple[str, str, int]]:
        """(true class, predicted class, images) of every confusion, the most frequent first."""
        wrong = [cell for cell in cells_of(self.counts) if cell[0] != cell[1]]
        # The order of the classes decides between equal numbers, because sorting is stable.
        return [
            (self.classes[true], self.classes[predicted], images)
            for true, predicted, images in sorted(wrong, key=lambda cell: -cell[2])
        ]

    def __repr__(self) -> str:
        wrong = sum(images for _, _, images in self.confused)
        return f"<ConfusionTable of {self.split}: {self.images:,} images, {wrong:,} of them confused>"

    def _repr_html_(self) -> str:
        whole = len(self.classes) <= _WHOLE_MOST
        shown = list(range(len(self.classes))) if whole else most_confused(self.counts, _PART)
        names = "".join(f'<th style="{_CELL}">{escaped(self.classes[label])}</th>' for label in shown)
        rows = "".join(self._row(label, shown, whole=whole) for label in shown)
        others = "" if whole else f'<th style="{_CELL}">elsewhere</th>'
        part = "" if whole else f" The {len(shown)} of {len(self.classes):,} classes that are confused most."
        return (
            f"<div>{escaped(self.split)}: true classes in rows, predicted ones in columns.{part}"
            '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:4px 0">'
            f"<thead><tr><th></th>{names}{others}</tr></thead><tbody>{rows}</tbody></table></div></div>"
        )

    def _row(self, true: int, shown: Sequence[int], *, whole: bool) -> str:
        row = self.counts[true]
        images = sum(row)
        cells = "".join(_cell(row[label], images, right=label == true) for label in shown)
        elsewhere = "" if whole else _cell(images - sum(row[label] for label in shown), images, right=False)
        return f'<tr><th style="{_CELL}">{escaped(self.classes[true])}</th>{cells}{elsewhere}</tr>'


def class_index(name: str, classes: Sequence[str]) -> int:
    """The place of a class among the classes of a model. Raises OptionError, with the nearest names, for no class."""
    if name in classes:
        return classes.index(name)
    raise OptionError(
        f"There is no class {name!r}.{meant(str(name), classes)}\nNext: give one of the classes: {some(classes)}."
    )


def _cell(images: int, of: int, *, right: bool) -> str:
    """A number on a colour that is stronger the greater its share: blue where it is right, orange where it is not."""
    share = images / of if of else 0.0
    colour = "66,133,244" if right else "230,120,20"
    back = f";background:rgba({colour},{0.15 + 0.45 * share:.2f})" if images else ""
    return f'<td style="{_CELL}{back}">{images:,}</td>' if images else f'<td style="{_CELL};opacity:0.35">0</td>'
