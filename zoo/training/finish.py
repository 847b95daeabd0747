"""A run that was stopped after its result was written: what comes after the result is made up for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import CheckFailed, RunError
from zoo.events import Note, Report
from zoo.files import parse_json
from zoo.training.checkpoint import FOLDER as FOLDER_OF_CHECKPOINT
from zoo.training.lock import RunLock
from zoo.training.proof import Check, complaint
from zoo.training.result import Result
from zoo.training.resume import read_plan
from zoo.training.run_folder import PROOF, RESULT, RunFolder


def has_result(run: Path) -> bool:
    """Whether everything that a run computes is written."""
    return (run / RESULT).exists()


def finish(run: Path, report: Report, finished: Callable[[Path], None]) -> Result:
    """Clear away what the stopped process left, and call `finished`; nothing is computed again.

    Raises RunError for what is no run, while another process writes it and for files that cannot be read; CheckFailed
    where the run's proof failed, as the run itself would have.
    """
    read_plan(run)
    folder = RunFolder(run)
    with RunLock(run / FOLDER_OF_CHECKPOINT, run=run):
        result = Result(path=run, content=_read(run / RESULT))
        checks = [Check.from_dict(each) for each in _read(run / PROOF)["checks"]]
    folder.remove_checkpoint()
    report(Note(text=f"{run} is finished but for its report; nothing is trained again, and the report is written now."))
    finished(run)
    if result.proof == "failed":
        raise CheckFailed(complaint(checks, run))
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return content
