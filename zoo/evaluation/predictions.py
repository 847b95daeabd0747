"""The prediction for each image, as a table in CSV."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from torch import Tensor

from zoo.evaluation.probabilities import certainties
from zoo.storage.csv_lines import csv_rows, csv_text


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """One line of `predictions.csv`."""

    split: str
    file: str
    """Its path below the data folder, with forward slashes."""
    label: str
    """The true class."""
    predicted: str
    """The class with the highest probability."""
    probability: float
    """Probability of `predicted`, 0 to 1."""
    probability_of_label: float
    """Probability of `label`, 0 to 1."""

    @property
    def right(self) -> bool:
        """Whether the predicted class is the true one."""
        return self.label == self.predicted


# The header is that of the record: `to_csv` writes its fields in this order, and `from_csv` refuses another.
COLUMNS = tuple(field.name for field in fields(ImagePrediction))


def predictions_of(
    split: str, files: Sequence[str], logits: Tensor, targets: Tensor, classes: Sequence[str]
) -> list[ImagePrediction]:
    """Return a prediction for each of N files, in their order, from logits[N, classes] and class indices targets[N]."""
    certain = certainties(logits, targets)
    columns = (targets, certain.predicted, certain.highest, certain.of_target)
    rows = zip(files, *(column.tolist() for column in columns), strict=True)
    return [
        ImagePrediction(split, file, classes[label], classes[top], probability, probability_of_label)
        for file, label, top, probability, probability_of_label in rows
    ]


def to_csv(predictions: Iterable[ImagePrediction], *, views: str | None = None) -> str:
    """Return the table with a header line, and with six digits after the point in probabilities.

    Where probabilities were averaged over `views`, a last column names them.
    """
    further = [] if views is None else [views]
    header = [*COLUMNS, *(["views"] if further else [])]
    rows = (
        [*(f"{value:.6f}" if isinstance(value, float) else value for value in astuple(each)), *further]
        for each in predictions
    )
    return csv_text(itertools.chain([header], rows))


def from_csv(text: str) -> Iterator[ImagePrediction]:
    """Read what `to_csv` returned; probabilities keep its six digits. Raises ValueError for other columns."""
    reader = iter(csv_rows(text))
    if tuple(next(reader, ())) != COLUMNS:
        raise ValueError(f"the columns are not {', '.join(COLUMNS)}")
    for split, file, label, predicted, probability, of_label in reader:
        yield ImagePrediction(split, file, label, predicted, float(probability), float(of_label))
