"""Read the files of a finished run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.artefact.config import FOLDER as ARTEFACT
from zoo.errors import RunError
from zoo.evaluation.confusion_matrix import ConfusionMatrix, read_matrix
from zoo.evaluation.predictions import ImagePrediction
from zoo.specs.plan import Plan
from zoo.specs.run_result import judged_on
from zoo.text import shell_word
from zoo.training.run_files import read_checks, read_history, read_json, read_predictions
from zoo.training.run_folder import CURVE, EVALUATION, PREDICTIONS, RESULT
from zoo.training.stored_plan import read_plan

DAMAGED = "\nNext: copy the run folder again from where it was made; its classifier can be used all the same."

_OF_STRUCTURE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What Python raises where a file holds something else than was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """Everything that a run wrote except its classifier."""

    path: Path
    plan: Plan
    result: dict[str, Any]
    """The content of result.json."""
    checks: list[dict[str, Any]]
    """The checks in proof.json, in the order in which they were made."""
    history: list[dict[str, Any]]
    """One record per epoch, over all stages."""
    evaluation: dict[str, Any]
    """Split -> assessment. Empty for a run of an older zoo, which wrote none."""
    predictions: tuple[ImagePrediction, ...]
    """One per image of every evaluated split. Empty for a run of an older zoo."""
    curve: dict[str, Any] | None = None
    """The learning curve of the head's features; None for a run of an older zoo, or one without such a stage."""

    @property
    def split(self) -> str:
        """The split to report: `test` if there is one, on which nothing was chosen, else `val` or `out_of_fold`."""
        return "test" if "test" in self.result["metrics"] else self.judged

    @property
    def judged(self) -> str:
        """What stages were judged by: `val`, or `out_of_fold` for a run in folds."""
        return judged_on(self.result["metrics"])

    @property
    def assessment(self) -> dict[str, Any] | None:
        """The assessment of `split`; None for a run of an older zoo."""
        assessment: dict[str, Any] | None = self.evaluation.get(self.split)
        return assessment

    @property
    def confusion(self) -> ConfusionMatrix | None:
        """The confusion matrix of `split`; None for a run of an older zoo. Raises RunError for one that is damaged."""
        if self.assessment is None:
            return None
        try:
            return read_matrix(self.assessment)
        except ValueError as error:
            raise RunError(f"{self.path / EVALUATION} cannot be read: {error}.{DAMAGED}") from None


def read_run(path: Path) -> RunRecord:
    """Read a run folder. Raises RunError if it is not one, is not finished, or cannot be read."""
    plan = read_plan(path)
    if not (path / RESULT).exists():
        raise RunError(
            f"{path} is not finished: it has no {RESULT}, so there is nothing to report.\n"
            f"Next: zoo finetune --resume {shell_word(path)}"
        )
    # The files that older versions of zoo did not write are optional; all others must be there.
    record = RunRecord(
        path=path,
        plan=plan,
        result=read_json(path / RESULT),
        checks=read_checks(path),
        history=read_history(path),
        evaluation=read_json(path / EVALUATION) if (path / EVALUATION).exists() else {},
        predictions=read_predictions(path) if (path / PREDICTIONS).exists() else (),
        curve=read_json(path / CURVE) if (path / CURVE).exists() else None,
    )
    with as_runs_write_it(path):
        _refuse_other_folder(record)
    return record


@contextlib.contextmanager
def as_runs_write_it(*runs: Path) -> Iterator[None]:
    """Turn what happens with files of another structure into an error for people: run folders may come from others."""
    try:
        yield
    # A template that finds nothing under a name raises an error of jinja2, which is imported where a page is written.
    except Exception as error:
        if not (isinstance(error, _OF_STRUCTURE) or type(error).__name__ == "UndefinedError"):
            raise
        # Chained, as it may be a fault of zoo's own.
        raise RunError(
            f"{' or '.join(map(str, runs))} cannot be shown, as a file in it is not as a run writes it: "
            f"{type(error).__name__} {error}.{DAMAGED}"
        ) from error


def _refuse_other_folder(record: RunRecord) -> None:
    """Refuse a run whose classifier is said to be elsewhere: of a run that came from others, nothing else is opened."""
    said = record.result.get("artefact", ARTEFACT)
    if said != ARTEFACT:
        raise RunError(
            f"{record.path / RESULT} says that the classifier is in {said!r}, and a run's is in {ARTEFACT!r}.{DAMAGED}"
        )
