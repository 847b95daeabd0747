"""A finished run as its files tell it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import RunError
from zoo.evaluation.predictions import ImagePrediction, from_csv
from zoo.files import parse_json
from zoo.planning.plan import Plan
from zoo.training.resume import read_plan
from zoo.training.run_folder import EVALUATION, HISTORY, PREDICTIONS, PROOF, RESULT


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Everything that a run wrote, but its classifier."""

    path: Path
    plan: Plan
    result: dict[str, Any]
    checks: list[dict[str, Any]]
    history: list[dict[str, Any]]
    evaluation: dict[str, Any]
    """Split -> assessment; empty for a run by a zoo that wrote none."""
    predictions: tuple[ImagePrediction, ...]

    @property
    def split(self) -> str:
        """The one that says most: `test` where there is one, for nothing was chosen on it."""
        return "test" if "test" in self.result["metrics"] else "val"

    @property
    def assessment(self) -> dict[str, Any] | None:
        """Of `split`."""
        found: dict[str, Any] | None = self.evaluation.get(self.split)
        return found


def read_run(path: Path) -> RunRecord:
    """Read a run folder. Raises RunError for what is none, is not finished, or cannot be read."""
    plan = read_plan(path)
    if not (path / RESULT).exists():
        raise RunError(
            f"{path} is not finished: it has no {RESULT}, so there is nothing to report.\n"
            f"Next: zoo finetune --resume {path}"
        )
    table = _text(path / PREDICTIONS) if (path / PREDICTIONS).exists() else None
    try:
        predictions = tuple(from_csv(table)) if table is not None else ()
    except ValueError as error:
        raise RunError(f"{path / PREDICTIONS} cannot be read: {error}") from None
    return RunRecord(
        path=path,
        plan=plan,
        result=_json(path / RESULT),
        checks=_json(path / PROOF).get("checks", []),
        history=[_parsed(line, path / HISTORY) for line in _text(path / HISTORY).splitlines()],
        evaluation=_json(path / EVALUATION) if (path / EVALUATION).exists() else {},
        predictions=predictions,
    )


def _json(path: Path) -> dict[str, Any]:
    return _parsed(_text(path), path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} cannot be read: it holds no JSON object.")
    return content


def _text(path: Path) -> str:
    try:
        # An older zoo wrote names of files as the bytes that they are.
        return path.read_text("utf-8", errors="surrogateescape")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}.") from None
