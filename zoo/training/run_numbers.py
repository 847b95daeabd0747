"""Whether the files of a run say the same: what follows from its predictions is what its other files state.

The scores of a run stand in `result.json` and `evaluation.json`, and whoever passes a run folder on could write others
there. `predictions.csv` has the prediction for each image, from which they follow.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.artefact.config import FOLDER
from zoo.errors import COPY_FOLDER, RunError
from zoo.evaluation.confusion_matrix import cells_of, read_matrix
from zoo.evaluation.predictions import ImagePrediction
from zoo.training.run_folder import EVALUATION, PREDICTIONS, RESULT

_CLOSE = {"accuracy": 1e-9, "balanced_accuracy": 1e-6, "macro_f1": 1e-4}
"""How far a stored score may be from the one that is counted here. F1 is stored from float32, over many classes."""
_ROUNDED, _LOSS = 5.1e-7, 1e-3
"""Probabilities in the table have six digits. What their rounding allows for the loss may be passed by this share."""


def contradictions(
    result: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    predictions: Sequence[ImagePrediction],
    classes: Sequence[str],
) -> list[str]:
    """What the files of a run state that does not follow from its predictions, in words; nothing where all agree.

    Args:
        result: The content of `result.json`.
        evaluation: The content of `evaluation.json`; empty for a run of an older zoo, which wrote none.
        predictions: The rows of `predictions.csv`; empty for such a run. Then little can be said.
        classes: The plan's classes, in the order of the logits.

    Raises RunError where the scores are not where a run writes them.
    """
    with _as_runs_write_them():
        return list(_contradictions(result, evaluation, predictions, classes))


def differing_scores(result: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The scores in which `result.json` differs from `metrics`, in words: `accuracy on val: 0.99 and 0.75`.

    Raises RunError where the scores are not where a run writes them.
    """
    with _as_runs_write_them():
        return [
            f"{name} on {split}: {_said(value)} and {_said(metrics.get(split, {}).get(name))}"
            for split, scores in result["metrics"].items()
            for name, value in scores.items()
            if not _equal(value, metrics.get(split, {}).get(name))
        ]


@contextlib.contextmanager
def _as_runs_write_them() -> Iterator[None]:
    """Turn what happens with files of another structure into an error for people."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunError(
            f"{RESULT} or {EVALUATION} is not as a run writes it: {type(error).__name__} {error}.\n{COPY_FOLDER}"
        ) from None


def _contradictions(
    result: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    predictions: Sequence[ImagePrediction],
    classes: Sequence[str],
) -> Iterator[str]:
    if result["artefact"] != FOLDER:
        yield f"{RESULT} says that the classifier is in {str(result['artefact'])!r}, and a run's is in {FOLDER!r}"
    for split, scores in result["metrics"].items():
        rows = [each for each in predictions if each.split == split]
        # Of logits that are no numbers, no probabilities tell what was predicted.
        if not rows or scores["loss"] is None:
            continue
        yield from _of_scores(f"{RESULT} says", scores, rows, split)
        assessed = evaluation.get(split)
        if assessed is None:
            continue
        stated = {**{name: assessed[name] for name in ("macro_f1", "loss")}, "accuracy": assessed["accuracy"]["value"]}
        yield from _of_scores(f"{EVALUATION} says", stated, rows, split)
        if _counted(rows, classes) != {(true, found): count for true, found, count in cells_of(read_matrix(assessed))}:
            yield f"the confusion matrix of {split} in {EVALUATION} is not that of {PREDICTIONS}"


def _of_scores(who: str, stated: Mapping[str, Any], rows: Sequence[ImagePrediction], split: str) -> Iterator[str]:
    for name, value in _scores_of(rows).items():
        if name in stated and not abs(float(stated[name]) - value) <= _CLOSE[name]:
            yield f"{who} {name} {float(stated[name]):.4f} on {split}, and {PREDICTIONS} gives {value:.4f}"
    low, high = _bounds_of_loss(rows)
    loss = float(stated["loss"])
    if not low * (1 - _LOSS) - _LOSS <= loss <= high * (1 + _LOSS) + _LOSS:
        yield f"{who} loss {loss:.4f} on {split}, and {PREDICTIONS} gives {low:.4f}"


def _scores_of(rows: Sequence[ImagePrediction]) -> dict[str, float]:
    images = Counter(each.label for each in rows)
    predicted = Counter(each.predicted for each in rows)
    right = Counter(each.label for each in rows if each.right)
    occurring = images.keys() | predicted.keys()
    return {
        "accuracy": right.total() / len(rows),
        "balanced_accuracy": sum(right[name] / count for name, count in images.items()) / len(images),
        "macro_f1": sum(2 * right[name] / (images[name] + predicted[name]) for name in occurring) / len(occurring),
    }


def _bounds_of_loss(rows: Sequence[ImagePrediction]) -> tuple[float, float]:
    """The smallest and the largest mean cross-entropy that the probabilities may have had before they were rounded."""
    given = [each.probability_of_label for each in rows]
    low = sum(-math.log(min(1.0, share + _ROUNDED)) for share in given) / len(given)
    if min(given) <= _ROUNDED:
        return low, math.inf
    return low, sum(-math.log(share - _ROUNDED) for share in given) / len(given)


def _counted(rows: Sequence[ImagePrediction], classes: Sequence[str]) -> dict[tuple[int, int], int]:
    places = {name: index for index, name in enumerate(classes)}
    return Counter((places[each.label], places[each.predicted]) for each in rows)


def _equal(one: float | None, other: float | None) -> bool:
    # JSON has null for what is no number, and a config that was read has nan.
    unknown = [value is None or math.isnan(value) for value in (one, other)]
    return all(unknown) or (not any(unknown) and one == other)


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
