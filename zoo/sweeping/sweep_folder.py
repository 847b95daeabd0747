"""The folder of a sweep: what was asked for, the tables of images, a row for each trial that ended, and the result.

A row is whole or absent, and a trial whose row is there never runs again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from zoo.errors import Refused, RunError
from zoo.storage.atomic import (
    clear_write_errors,
    json_text,
    new_folder,
    new_numbered_folder,
    parse_json,
    refuse_unwritable,
    write_text,
)
from zoo.sweeping.grid import SweepTrial
from zoo.sweeping.settings import SETTINGS, SweepSettings, digests_of_files
from zoo.text import shell_word
from zoo.training.run_folder import PLAN, RunLock, has_result, refuse_unusable

SWEEPS = Path("sweeps")
"""Where folders of sweeps are created without `--out`."""
RECORD, TABLE, PAGE = "sweep.json", "trials.csv", "sweep.html"
ROWS, TRIAL_RUNS, WINNER = "trials", "runs", "winner"
Status = Literal["done", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """A trial that ended."""

    trial: int
    candidate: int
    seed: int
    settings: Mapping[str, str]
    status: Status
    val: Mapping[str, float]
    """`accuracy`, `macro_f1` and `loss` on the validation images, with a balanced `choose_by` `balanced_accuracy` and
    `balanced_loss`, too; empty where it failed."""
    kept: str
    """The stage, or blend, that has these scores."""
    seconds: float
    run: str | None
    """Its run folder, relative to the sweep's; None for a trial on kept features."""
    retries: int = 0
    """How often its worker was lost, and it went on from its checkpoint."""
    fault: str = ""
    """Why it failed."""
    feature_seconds: float = 0.0
    """Of a trial on kept features, the first that needed some of them: what these took, which `seconds` leaves out."""


class SweepFolder:
    """Reads and writes the files of a sweep."""

    def __init__(self, path: Path) -> None:
        """Open a folder that `create` made."""
        self.path = path

    @classmethod
    def create(cls, out: Path | None, content: Mapping[str, Any]) -> SweepFolder:
        """Create the folder at `out`, or under `sweeps/` with a name that says when, with `settings.json` in it.

        Raises Refused where it exists by now, RunError where it cannot be written.
        """
        path = out if out is not None else SWEEPS / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

        def write(draft: Path) -> None:  # so that no folder of a sweep is ever without its settings
            (draft / SETTINGS).write_text(json_text(content), "utf-8")

        with clear_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if out is None:  # two sweeps may start in the same second
            path = new_numbered_folder(path, write)
        elif path.exists():
            raise Refused(f"{path} exists already; a sweep is never overwritten.\nNext: give another --out.")
        else:
            with new_folder(path) as draft:
                write(draft)
        for part in (ROWS, TRIAL_RUNS):
            (path / part).mkdir(exist_ok=True)
        return cls(path)

    def lock(self) -> RunLock:
        """A context manager that lets one process at a time work on the sweep. It raises RunError."""
        with clear_write_errors(self.path):
            (self.path / ".lock").mkdir(exist_ok=True)
        # In a folder of its own, so that `remove_lock` takes all its files away, whatever they are called.
        return RunLock(self.path / ".lock", run=self.path)

    def rows(self, trials: Sequence[SweepTrial]) -> dict[int, TrialRow]:
        """Read the rows of the trials that ended, by number. Raises RunError for one that is of another trial."""
        found = {}
        for trial in trials:
            path = self._row(trial.number)
            if not path.exists():
                continue
            try:
                row = TrialRow(**parse_json(path.read_text("utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise RunError(f"{path} cannot be read: {error}.\nNext: remove it; the trial runs again.") from None
            # A row is found by its number alone, and would else be taken for the scores of other settings.
            if (row.seed, dict(row.settings)) != (trial.seed, dict(trial.settings)):
                raise RunError(
                    f"{path} is of another trial than {trial.described}, seed {trial.seed}: {SETTINGS} was "
                    "changed, or another zoo laid it out.\nNext: start a new sweep."
                )
            found[trial.number] = row
        return found

    def write_row(self, row: TrialRow) -> None:
        """Write a row, whole or not at all."""
        write_text(self._row(row.trial), json_text(asdict(row)))

    def write_settings(self, content: Mapping[str, Any]) -> None:
        """Write `settings.json` again, once the images are known."""
        write_text(self.path / SETTINGS, json_text(content))

    def run_of(self, trial: SweepTrial) -> Path:
        """The run folder of a trial that is a run."""
        return self.path / TRIAL_RUNS / trial.name

    @property
    def finished(self) -> bool:
        """Whether the sweep has its result, which is written last."""
        return (self.path / RECORD).exists()

    def refuse_finished(self) -> None:
        """Raise Refused where there is nothing to resume."""
        if self.finished:
            raise Refused(
                f"{self.path} is finished: there is nothing to resume.\n"
                f"Next: open {self.path / PAGE}, or start a new sweep with another --out."
            )

    def refuse_moved(self) -> None:
        """Raise Refused where a run is under way whose plan names images by where this folder was."""
        for plan in sorted([*self.path.glob(f"{TRIAL_RUNS}/*/{PLAN}"), self.path / WINNER / PLAN]):
            if not plan.exists() or has_result(plan.parent):
                continue
            try:
                table = Path(parse_json(plan.read_text("utf-8"))["data"]["path"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # what is wrong with it is said when it goes on
            if not table.exists():
                raise Refused(
                    f"{self.path} was in {table.parent} when {plan.parent} was stopped, and this run can go on only "
                    f"there.\nNext: move the folder back; or remove {plan.parent}, and this trial begins anew."
                )

    def remove_lock(self) -> None:
        """Remove what only a sweep that runs needs."""
        shutil.rmtree(self.path / ".lock", ignore_errors=True)

    def _row(self, number: int) -> Path:
        return self.path / ROWS / f"{number:05d}.json"


def refuse_unusable_out(out: Path | None) -> None:
    """Raise Refused or RunError, before anything runs, for a folder that exists or cannot be written."""
    if out is not None and out.exists():
        goes_on = (out / SETTINGS).exists() and not SweepFolder(out).finished
        resuming = f"zoo sweep --resume {shell_word(out)} goes on with the sweep in it; or " if goes_on else ""
        raise Refused(
            f"--out {out} exists already; a sweep is never overwritten.\n"
            f"Next: {resuming}choose another name, or leave --out out to get a folder under {SWEEPS}/."
        )
    if out is not None:
        refuse_unusable(out)
    else:
        refuse_unwritable(SWEEPS / "new", with_parents=True, named=SWEEPS)


def stored_content(
    settings: SweepSettings, division: Mapping[str, Any], *, digest: str, threads: int, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What `settings.json` holds: all that the trials are a function of.

    Args:
        settings: What was asked for.
        division: How the images are divided.
        digest: Of all images.
        threads: With how many torch computes trials on kept features; the number changes bits.
        versions: Of zoo and what it computes with.
    """
    return {
        "format": 1,  # `settings.FORMAT`
        "settings": settings.to_dict(),
        "division": division,
        "data_digest": digest,
        "threads": threads,
        "files": digests_of_files(settings),
        "versions": dict(versions),
    }
