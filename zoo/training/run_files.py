"""Read single files of a run folder. What cannot be read is a RunError that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from zoo.errors import COPY_FOLDER, RunError
from zoo.evaluation.predictions import ImagePrediction, from_csv
from zoo.specs.run_result import Verdict
from zoo.storage.atomic import parse_json
from zoo.storage.csv_lines import read_as_written
from zoo.storage.tensors import file_digest
from zoo.text import shell_word
from zoo.training.run_folder import EVALUATION, HISTORY, PREDICTIONS, PREDICTIONS_DIGEST, PROOF


def read_history(run: Path) -> list[dict[str, Any]]:
    """The records of `history.jsonl`: one for each epoch, over all stages. Raises RunError."""
    path = run / HISTORY
    return [_parsed(line, path) for line in _text(path).splitlines()]


def read_predictions(run: Path) -> tuple[ImagePrediction, ...]:
    """The rows of `predictions.csv`: one for each image of every evaluated split.

    Raises RunError, also where the file is not the one that the run wrote.
    """
    path = run / PREDICTIONS
    digests = digests_of_predictions(run)
    if digests is not None and digests[0] != digests[1]:
        raise RunError(
            f"{changed_predictions(run, *digests)}, so nothing is computed from it.\n"
            f"Next: zoo verify {shell_word(run)} tells what else has changed. Then put the run's own file back."
        )
    try:
        return tuple(from_csv(_text(path)))
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None


def read_checks(run: Path) -> list[dict[str, Any]]:
    """The checks in `proof.json`, in the order in which they were made. Raises RunError."""
    return checks_in(read_json(run / PROOF), run / PROOF)


def checks_in(proof: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The checks of a proof that was read from `path`. Raises RunError where it does not hold them as a run does."""
    checks = proof.get("checks", [])
    if not isinstance(checks, list) or not all(map(_is_check, checks)):
        raise RunError(f"{path} cannot be read: its checks are not as a run writes them.\n{COPY_FOLDER}")
    return checks


def _is_check(stored: object) -> bool:
    if not isinstance(stored, dict) or stored.get("verdict") not in get_args(Verdict):
        return False
    texts = all(isinstance(stored.get(name), str) for name in ("name", "summary"))
    return texts and isinstance(stored.get("evidence"), dict)


def digests_of_predictions(run: Path) -> tuple[str, str] | None:
    """SHA-256 of `predictions.csv` as the run wrote it, and as it is now; None where either is unknown.

    An older zoo recorded none. Raises RunError.
    """
    if not (run / EVALUATION).exists() or not (run / PREDICTIONS).exists():
        return None
    then = read_json(run / EVALUATION).get(PREDICTIONS_DIGEST)
    if then is None:
        return None
    try:
        return str(then), file_digest(run / PREDICTIONS)
    except OSError as error:
        raise _unreadable(run / PREDICTIONS, error) from None


def changed_predictions(run: Path, then: str, now: str) -> str:
    """Say that `predictions.csv` is not the file that the run wrote, by its two digests."""
    return (
        f"{run / PREDICTIONS} was changed after the run wrote it: its SHA-256 is {now[:16]}..., "
        f"{EVALUATION} says {then[:16]}..."
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises RunError."""
    return _parsed(_text(path), path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}\n{COPY_FOLDER}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read: it does not hold a JSON object.\n{COPY_FOLDER}")
    return content


def _text(path: Path) -> str:
    try:
        # An older zoo wrote the raw bytes of file names that are not UTF-8.
        return read_as_written(path, errors="surrogateescape")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> RunError:
    return RunError(f"{path} cannot be read: {error.strerror or error}.\n{COPY_FOLDER}")
