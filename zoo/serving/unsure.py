"""When a prediction counts as unsure: where, on validation images, so low a probability was too often wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from zoo.artefact.config import FOLDER
from zoo.errors import RunError
from zoo.evaluation.predictions import ImagePrediction
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.training.run_files import read_predictions
from zoo.training.run_folder import PREDICTIONS

EVEN = 0.5
"""Below it, the classifier itself holds its answer more likely wrong than right. The least bound that is ever set."""
RIGHT = 0.95
"""The share of answers that must be right at and above the bound."""
FEWEST = 20
"""Fewest validation images from which a bound is taken: 19 of 20 right is 95 %."""


@dataclass(frozen=True, slots=True)
class UnsureRule:
    """A prediction with a probability below `below` is unsure."""

    below: float
    why: str
    """Where the number comes from, in a sentence or two."""

    def says(self, probability: float) -> bool:
        """Whether a prediction with this probability is unsure."""
        return probability < self.below


def rule_of(artefact: Path) -> UnsureRule:
    """The rule for the artefact in this folder. Where it is the `model` folder of a run, the run's predictions of its
    validation images, or out of fold, decide; else it is even odds."""
    table = artefact.parent / PREDICTIONS if artefact.name == FOLDER else None
    if table is None or not table.is_file():
        return UnsureRule(EVEN, f"{_even()} The run, with its validation images, is not here to tell more.")
    try:
        predictions = read_predictions(artefact.parent)
    except RunError:
        # Not the error itself, which names a folder of the server to whoever asks it.
        return UnsureRule(EVEN, f"{_even()} {table.name} of its run cannot be read, or was changed after the run.")
    judged = [each for each in predictions if each.split in ("val", OUT_OF_FOLD)]
    return rule_from(judged)


def rule_from(predictions: Sequence[ImagePrediction]) -> UnsureRule:
    """The rule that predictions of labelled images justify."""
    if len(predictions) < FEWEST:
        return UnsureRule(EVEN, f"{_even()} {len(predictions)} validation images are too few to tell more.")
    below = _lowest_bound(predictions)
    if below is None:
        return UnsureRule(
            1.0,
            f"At no probability were {_percent(RIGHT)} of the {len(predictions)} validation images right, "
            "so every answer below certainty is unsure.",
        )
    # Where all together are right often enough, nothing speaks against lower ones than were seen.
    below = EVEN if below == min(each.probability for each in predictions) else max(below, EVEN)
    above = [each for each in predictions if each.probability >= below]
    rest = [each for each in predictions if each.probability < below]
    words = f"At this probability and above, {_rate(above)} of the validation images were right"
    why = f"{words}; below, {_rate(rest)}." if rest else f"{words}; none was below it."
    return UnsureRule(below, why)


def _lowest_bound(predictions: Sequence[ImagePrediction]) -> float | None:
    """The lowest probability at and above which RIGHT of the predictions are right; None where there is none."""
    lowest: float | None = None
    right = seen = 0
    # From above, and to the end: the share may fall below RIGHT and rise above it again.
    # Equal probabilities together: a bound lies above all of them or above none.
    for probability, group in groupby(sorted(predictions, key=_downwards), key=lambda each: each.probability):
        several = list(group)
        right += sum(each.right for each in several)
        seen += len(several)
        if right >= RIGHT * seen:
            lowest = probability
    return lowest


def _downwards(prediction: ImagePrediction) -> float:
    return -prediction.probability


def _rate(predictions: Sequence[ImagePrediction]) -> str:
    if not predictions:
        return "none"
    right = sum(each.right for each in predictions)
    return f"{right} of {len(predictions)} ({_percent(right / len(predictions))})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _even() -> str:
    return "Below even odds, the classifier itself holds its answer more likely wrong than right."
