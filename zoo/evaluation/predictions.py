"""What the classifier said about each image, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """One line of `predictions.csv`."""

    split: str
    file: str
    """Below the data folder, with forward slashes."""
    label: str
    """The true class."""
    predicted: str
    probability: float
    """Of `predicted`, 0 to 1."""
    probability_of_label: float

    @property
    def right(self) -> bool:
        return self.label == self.predicted


_COLUMNS = tuple(field.name for field in fields(ImagePrediction))


def predictions_of(
    split: str, files: Sequence[str], logits: Tensor, targets: Tensor, classes: Sequence[str]
) -> list[ImagePrediction]:
    """One for every file, in their order; logits[N, classes], targets[N]."""
    probabilities = logits.double().softmax(1)
    highest, predicted = probabilities.max(1)
    of_label = probabilities.gather(1, targets[:, None])[:, 0]
    rows = zip(files, targets.tolist(), predicted.tolist(), highest.tolist(), of_label.tolist(), strict=True)
    return [
        ImagePrediction(split, file, classes[label], classes[said], chance, true_chance)
        for file, label, said, chance, true_chance in rows
    ]


def to_csv(predictions: Iterable[ImagePrediction]) -> str:
    """The table with a line of names; probabilities with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in predictions:
        writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in astuple(each)])
    return text.getvalue()


def from_csv(text: str) -> Iterator[ImagePrediction]:
    """The inverse of `to_csv`, but for the digits. Raises ValueError for another table."""
    reader = csv.reader(io.StringIO(text, newline=""))
    if tuple(next(reader, ())) != _COLUMNS:
        raise ValueError(f"the columns are not {', '.join(_COLUMNS)}")
    for split, file, label, predicted, probability, of_label in reader:
        yield ImagePrediction(split, file, label, predicted, float(probability), float(of_label))
