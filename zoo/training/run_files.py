"""Read single files of a run folder. What cannot be read is a RunError that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import RunError
from zoo.evaluation.predictions import ImagePrediction, from_csv
from zoo.storage.atomic import parse_json
from zoo.storage.csv_lines import read_as_written
from zoo.training.run_folder import HISTORY, PREDICTIONS


def read_history(run: Path) -> list[dict[str, Any]]:
    """The records of `history.jsonl`: one for each epoch, over all stages. Raises RunError."""
    path = run / HISTORY
    return [_parsed(line, path) for line in _text(path).splitlines()]


def read_predictions(run: Path) -> tuple[ImagePrediction, ...]:
    """The rows of `predictions.csv`: one for each image of every evaluated split. Raises RunError."""
    path = run / PREDICTIONS
    try:
        return tuple(from_csv(_text(path)))
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises RunError."""
    return _parsed(_text(path), path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read: it does not hold a JSON object.")
    return content


def _text(path: Path) -> str:
    try:
        # An older zoo wrote the raw bytes of file names that are not UTF-8.
        return read_as_written(path, errors="surrogateescape")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
