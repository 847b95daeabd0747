"""The run folder: made once, never overwritten, every file in it complete or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.artefact.config import FOLDER
from zoo.errors import Refused, RunError
from zoo.evaluation.assessment import assess
from zoo.evaluation.predictions import predictions_of, to_csv
from zoo.events import EpochFinished
from zoo.files import (
    append_line,
    clear_write_errors,
    existing_parent,
    json_line,
    json_text,
    new_folder,
    write_problem,
    write_text,
)
from zoo.planning.plan import Plan
from zoo.training.checkpoint import FOLDER as FOLDER_OF_CHECKPOINT
from zoo.training.proof import Check, overall

PLAN, HISTORY, PROOF, RESULT = "plan.json", "history.jsonl", "proof.json", "result.json"
EVALUATION, PREDICTIONS = "evaluation.json", "predictions.csv"
RUNS = Path("runs")


def refuse_unusable(out: Path | None) -> None:
    """Raise Refused for an `--out` that exists and RunError for one that cannot be made, before anything runs."""
    if out is not None and os.path.lexists(out):
        raise Refused(
            f"--out {out} exists already; a run is never overwritten.\n"
            "Next: choose another name, or leave --out out to get a folder under runs/."
        )
    parent = existing_parent(out if out is not None else RUNS / "new")
    try:
        # Trying is the only test that also knows read-only disks, quotas and access lists.
        handle, probe = tempfile.mkstemp(prefix=".zoo-", dir=parent)
        os.close(handle)
        Path(probe).unlink()
    except OSError as error:
        raise RunError(write_problem(out or RUNS, error)) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A split that the classifier was judged on."""

    split: str
    files: tuple[str, ...]
    """Below the data folder."""
    logits: Tensor
    """float[N, classes], in the files' order."""
    targets: Tensor
    """int64[N]"""


class RunFolder:
    """Where a run writes."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """`writes`: whether a run is going to; it then has a place for checkpoints."""
        self.path = path
        if writes:
            with clear_write_errors(path):
                (path / FOLDER_OF_CHECKPOINT).mkdir(exist_ok=True)

    @classmethod
    def create(cls, plan: Plan, out: Path | None) -> RunFolder:
        """A new one, which appears with its plan in it: a folder without a plan could be neither used nor resumed.

        Raises Refused where it exists by now, RunError where it cannot be written.
        """
        path = out if out is not None else RUNS / _name(plan)
        with clear_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                raise Refused(f"{path} exists already; a run is never overwritten.")
        with new_folder(path) as draft:
            (draft / PLAN).write_text(plan.model_dump_json(indent=2) + "\n", "utf-8")
        return cls(path)

    @property
    def artefact(self) -> Path:
        return self.path / FOLDER

    def record_epoch(self, epoch: EpochFinished) -> None:
        """Append a line to the history."""
        append_line(self.path / HISTORY, json_line(asdict(epoch)))

    def history_length(self) -> int:
        """Lines of the history."""
        path = self.path / HISTORY
        return len(path.read_text("utf-8").splitlines()) if path.exists() else 0

    def shorten_history(self, lines: int) -> None:
        """Forget epochs that a stopped run recorded after its last checkpoint: they are trained again."""
        path = self.path / HISTORY
        if path.exists():
            kept = path.read_text("utf-8").splitlines(keepends=True)[:lines]
            write_text(path, "".join(kept))

    def remove_leftovers(self) -> None:
        """What a stopped run left half done: drafts, and an artefact whose run has no result."""
        for path in [*self.path.glob(".*-*"), self.artefact]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def remove_checkpoint(self) -> None:
        """The run is complete: nothing of it is needed to go on."""
        shutil.rmtree(self.path / FOLDER_OF_CHECKPOINT, ignore_errors=True)

    def write_proof(self, checks: Sequence[Check]) -> None:
        content = {"format": 1, "verdict": overall(checks), "checks": [check.to_dict() for check in checks]}
        write_text(self.path / PROOF, json_text(content))

    def write_judged(self, judged: Sequence[Judged], classes: Sequence[str]) -> None:
        """What was counted on every split that was looked at, and what was said about each of its images."""
        assessments = {each.split: assess(each.logits, each.targets, classes).to_dict() for each in judged}
        predictions = [
            prediction
            for each in judged
            for prediction in predictions_of(each.split, each.files, each.logits, each.targets, classes)
        ]
        write_text(self.path / EVALUATION, json_text({"format": 1, "classes": list(classes), **assessments}))
        write_text(self.path / PREDICTIONS, to_csv(predictions))

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.path / RESULT, json_text(result))


def _name(plan: Plan) -> str:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    recipe = Path(plan.recipe).stem if plan.recipe.endswith(".toml") else plan.recipe.rpartition("/")[2]
    parts = [plan.backbone.name, plan.head.name.rpartition("/")[2], recipe]
    name = "-".join([when, *(part.replace("/", "-") for part in parts)])
    taken = [number for number in range(1, 100) if not (RUNS / _numbered(name, number)).exists()]
    return _numbered(name, taken[0])


def _numbered(name: str, number: int) -> str:
    # Two runs may start in one second.
    return name if number == 1 else f"{name}-{number}"
