"""The run folder: made once, never overwritten, every file in it complete or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo.artefact.config import FOLDER
from zoo.errors import Refused, RunError
from zoo.events import EpochFinished
from zoo.files import append_line, clear_write_errors, existing_parent, json_line, json_text, write_problem, write_text
from zoo.planning.plan import Plan
from zoo.training.proof import Check, overall

PLAN, HISTORY, PROOF, RESULT = "plan.json", "history.jsonl", "proof.json", "result.json"
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


class RunFolder:
    """Where a run writes. Made with its plan in it."""

    def __init__(self, plan: Plan, out: Path | None) -> None:
        """Raises Refused where the folder exists by now, RunError where it cannot be written."""
        self.path = out if out is not None else RUNS / _name(plan)
        with clear_write_errors(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.mkdir()
            except FileExistsError:
                raise Refused(f"{self.path} exists already; a run is never overwritten.") from None
        write_text(self.path / PLAN, plan.model_dump_json(indent=2) + "\n")

    @property
    def artefact(self) -> Path:
        return self.path / FOLDER

    def record_epoch(self, epoch: EpochFinished) -> None:
        """Append a line to the history."""
        append_line(self.path / HISTORY, json_line(asdict(epoch)))

    def write_proof(self, checks: Sequence[Check]) -> None:
        content = {"format": 1, "verdict": overall(checks), "checks": [check.to_dict() for check in checks]}
        write_text(self.path / PROOF, json_text(content))

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
