"""The run folder: created once, never overwritten, written by one process, every file in it whole or absent."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from zoo.artefact.config import FOLDER
from zoo.data.dataset import ImageFile, names_of
from zoo.errors import Refused, RunError
from zoo.evaluation.copies import Copies, copies_among
from zoo.evaluation.inference import targets_of
from zoo.evaluation.metrics import assess
from zoo.evaluation.predictions import predictions_of, to_csv
from zoo.events import EpochFinished
from zoo.specs.plan import Plan
from zoo.specs.run_result import Check
from zoo.storage.atomic import (
    append_line,
    clear_write_errors,
    json_line,
    json_text,
    new_folder,
    new_numbered_folder,
    parse_json,
    refuse_unwritable,
    write_text,
)
from zoo.storage.tensors import file_digest
from zoo.training.checkpoint import Checkpoint
from zoo.training.proof import overall_verdict

PLAN, HISTORY, PROOF, RESULT = "plan.json", "history.jsonl", "proof.json", "result.json"
EVALUATION, PREDICTIONS = "evaluation.json", "predictions.csv"
PREDICTIONS_DIGEST = "predictions_digest"
"""The key of `evaluation.json` for the SHA-256 of `predictions.csv`."""
CURVE = "curve.json"
"""The learning curve, in runs that begin with a head on plain cached features."""
SOUP = "soup.json"
"""In a folder of `zoo soup`, in place of plan and result."""
RUNS = Path("runs")
"""Where run folders are created without `--out`."""
_LOCK, _OWNER = "lock", "owner.json"


def has_result(run: Path) -> bool:
    """Return whether the run has its result, which is written after everything else that a run computes."""
    return (run / RESULT).exists()


def refuse_unusable(out: Path | None) -> None:
    """Check before anything runs that the run folder can be created; `out`: the folder asked for, if any.

    Raises:
        Refused: `out` exists.
        RunError: The folder cannot be written.
    """
    if out is not None and os.path.lexists(out):
        raise Refused(
            f"--out {out} exists already; a run is never overwritten.\n"
            "Next: choose another name, or leave --out out to get a folder under runs/."
        )
    place, named = (RUNS / "new", RUNS) if out is None else (out, out)
    refuse_unwritable(place, with_parents=True, named=named)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedSplit:
    """The classifier's logits on one split."""

    split: str
    files: tuple[str, ...]
    """Names of the images, relative to the data folder."""
    logits: Tensor
    """logits[N, classes], in the order of `files`."""
    targets: Tensor
    """Class indices, int64[N]."""
    copies: Copies | None = None
    """Which of the images are copies of one another, byte for byte; None where none are known."""

    @classmethod
    def of(
        cls, split: str, files: Sequence[ImageFile], logits: Tensor, digest_of: Callable[[ImageFile], str]
    ) -> EvaluatedSplit:
        """Make it of N images and their logits[N, classes]; `digest_of`: the SHA-256 of one, empty if unknown."""
        names, copies = tuple(names_of(files)), copies_among(map(digest_of, files))
        return cls(split=split, files=names, logits=logits, targets=targets_of(files), copies=copies)


class RunFolder:
    """Writes the files of a run."""

    def __init__(self, path: Path, *, resumed_as: Path | None = None) -> None:
        """Open an existing run folder that has a plan. A folder for checkpoints is created in it.

        `resumed_as`: the run that messages say to resume; by default this one.
        """
        self.path = path
        self.of_fold = resumed_as is not None
        """Whether it is a part of another run's folder."""
        self.checkpoint = Checkpoint(path, resumed_as=resumed_as)
        # Of several processes only the first writes, and the others may be on machines that do not see the folder.
        if path.exists():
            with clear_write_errors(path):
                self.checkpoint.folder.mkdir(exist_ok=True)

    @classmethod
    def create(cls, plan: Plan, out: Path | None) -> RunFolder:
        """Create a run folder at `out`, or under `runs/` with a name that says when and what.

        The folder appears with its plan in it: without a plan it could be neither used nor resumed.

        Raises:
            Refused: The folder exists by now.
            RunError: It cannot be written.
        """
        path = out if out is not None else RUNS / _name(plan)

        def write(draft: Path) -> None:
            (draft / PLAN).write_text(plan.model_dump_json(indent=2) + "\n", "utf-8")

        with clear_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not `exists`, which does not see a broken link.
            if out is not None and os.path.lexists(path):
                raise Refused(f"{path} exists already; a run is never overwritten.\nNext: give another --out.")
        if out is None:  # two runs may start in the same second
            return cls(new_numbered_folder(path, write))
        with new_folder(path) as draft:
            write(draft)
        return cls(path)

    @property
    def artefact(self) -> Path:
        """The folder of the saved classifier."""
        return self.path / FOLDER

    def write_plan(self, plan: Plan) -> None:
        """Replace `plan.json`, which was made of a part of the images, by the plan made of all. Raises RunError."""
        write_text(self.path / PLAN, plan.model_dump_json(indent=2) + "\n")

    def discard(self) -> None:
        """Remove the folder of a run that ends before anything was computed, so that it can be started again."""
        shutil.rmtree(self.path, ignore_errors=True)

    def record_epoch(self, epoch: EpochFinished) -> None:
        """Append a line to the history."""
        append_line(self.path / HISTORY, json_line(asdict(epoch)))

    def history_length(self) -> int:
        """Return the number of lines in the history."""
        path = self.path / HISTORY
        return len(path.read_text("utf-8").splitlines()) if path.exists() else 0

    def shorten_history(self, lines: int) -> None:
        """Drop epochs that a stopped run recorded after its last checkpoint: they are trained again."""
        path = self.path / HISTORY
        if path.exists():
            kept = path.read_text("utf-8").splitlines(keepends=True)[:lines]
            write_text(path, "".join(kept))

    def remove_leftovers(self) -> None:
        """Remove what a stopped run left unfinished: drafts, and an artefact without a result."""
        # Drafts have the names that `zoo.storage.atomic` gives them.
        for path in [*self.path.glob(".*-*"), self.artefact]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint of a finished run."""
        shutil.rmtree(self.checkpoint.folder, ignore_errors=True)

    def write_curve(self, curve: dict[str, Any]) -> None:
        """Write `curve.json`."""
        write_text(self.path / CURVE, json_text(curve))

    def write_proof(self, checks: Sequence[Check]) -> None:
        """Write `proof.json`: the verdict, and every check with its evidence."""
        write_proof(self.path, checks)

    def write_evaluation(self, evaluated: Sequence[EvaluatedSplit], classes: Sequence[str]) -> None:
        """Write `evaluation.json`, the metrics of each split, and `predictions.csv`, the prediction for each image."""
        write_evaluation(self.path, evaluated, classes)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write `result.json`, which makes the run a finished one."""
        write_text(self.path / RESULT, json_text(result))


def write_proof(folder: Path, checks: Sequence[Check]) -> None:
    """Write `proof.json` into a folder. Raises RunError."""
    content = {"format": 1, "verdict": overall_verdict(checks), "checks": [check.to_dict() for check in checks]}
    write_text(folder / PROOF, json_text(content))


def write_evaluation(folder: Path, evaluated: Sequence[EvaluatedSplit], classes: Sequence[str]) -> None:
    """Write `evaluation.json` and `predictions.csv` into a folder. Raises RunError."""
    assessments = {
        each.split: assess(each.logits, each.targets, classes, copies=each.copies).to_dict() for each in evaluated
    }
    predictions = [
        prediction
        for split in evaluated
        for prediction in predictions_of(split.split, split.files, split.logits, split.targets, classes)
    ]
    write_text(folder / PREDICTIONS, to_csv(predictions))
    # Whoever reads the predictions later learns by it whether somebody has changed them.
    digest = {PREDICTIONS_DIGEST: file_digest(folder / PREDICTIONS)}
    write_text(folder / EVALUATION, json_text({"format": 1, "classes": list(classes), **digest, **assessments}))


class RunLock:
    """A context manager that lets one process at a time write a run.

    The operating system releases the lock when the process ends, however it ends, so a killed run leaves none behind.
    """

    def __init__(self, folder: Path, *, run: Path) -> None:
        """`folder`: where the files of the lock are; `run`: the run folder, as messages name it."""
        self._folder = folder
        self._run = run
        self._lock = FileLock(folder / _LOCK)

    def __enter__(self) -> RunLock:
        """Take the lock. Raises RunError, naming the holder, where another process writes the run."""
        with clear_write_errors(self._folder):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"{self._run} is being written by another process: {self._holder()}.\n"
                    f"Next: wait until it has finished, or end it first{self._left_behind()}."
                ) from None
        owner = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        write_text(self._folder / _OWNER, json_text(owner))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _left_behind(self) -> str:
        """What else may have happened on a drive without locks, where a file stands for one."""
        # The file of a real lock stays empty. One that stands for a lock names its holder. Asked of the file and not of
        # filelock, whose releases tell it in different ways.
        try:
            names_its_holder = (self._folder / _LOCK).stat().st_size > 0
        except FileNotFoundError:
            names_its_holder = False
        if not names_its_holder:
            return ""
        return f"; this drive has no locks, so if that process is gone, remove {self._folder / _LOCK}"

    def _holder(self) -> str:
        try:
            owner = parse_json((self._folder / _OWNER).read_text("utf-8"))
            return f"{owner['process']} on {owner['host']}, since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            # The holder writes its name after it has taken the lock.
            return "it has just started"


def _name(plan: Plan) -> str:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    # A recipe of the user's is a path, one of a plugin `plugin/name`: neither may make folders.
    recipe = Path(plan.recipe).stem if plan.recipe.endswith(".toml") else plan.recipe.rpartition("/")[2]
    parts = [plan.backbone.name, plan.head.name.rpartition("/")[2], recipe]
    return "-".join([when, *(part.replace("/", "-") for part in parts)])
