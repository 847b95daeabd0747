"""The checkpoint of a run, from which a killed run is resumed.

    checkpoint.json                facts as JSON, and the names and digests of the tensor files that belong to them
    NNNNNN-PART.safetensors        tensors; a part that has not changed keeps its file

Tensor files are written and reach the disk first. Then one rename replaces the JSON, and only then are files removed
that it does not name. A run may be killed between any two of these: the JSON in the folder always names whole files.
"""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import RunError
from zoo.storage.atomic import json_text, parse_json, write_problem, write_text
from zoo.storage.tensors import file_digest, save_tensors
from zoo.text import shell_word

FORMAT = 1
FOLDER, _FACTS = "checkpoint", "checkpoint.json"
Moment = Literal["step", "epoch", "stage"]
"""After what a checkpoint may be written."""
SECONDS_BETWEEN: dict[Moment, float] = {"step": 120.0, "epoch": 5.0, "stage": 0.0}
"""How old the last checkpoint must be before the next is written. Repeating a short epoch is cheaper than saving it."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as it was read."""

    facts: dict[str, Any]
    """Plain JSON types."""
    parts: dict[str, dict[str, Tensor]]
    """Tensors, by part and name."""


class Checkpoint:
    """The checkpoint of one run, in `RUN/checkpoint/`."""

    def __init__(self, run: Path, *, resumed_as: Path | None = None) -> None:
        """Use the folder of a run; nothing is read or written yet. `resumed_as`: the run that messages name."""
        self.folder = run / FOLDER
        self._run = resumed_as or run
        self._files: dict[str, dict[str, str]] = {}
        self._number = 0
        self._last = time.monotonic()

    def due(self, moment: Moment) -> bool:
        """Return whether the last checkpoint is old enough for a new one after a step, an epoch or a stage."""
        return time.monotonic() - self._last >= SECONDS_BETWEEN[moment]

    def save(self, facts: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Make this the state to resume from.

        Args:
            facts: Plain JSON types.
            parts: Tensors of any shape, by part and name. A part that is not given keeps its file.

        Raises:
            RunError: It cannot be written. The previous checkpoint is still whole.
        """
        self._number += 1
        # New names each time: what the JSON in the folder names is never written over.
        drafts = {part: f"{self._number:06d}-{part}.safetensors" for part in parts}
        try:
            for part, name in drafts.items():
                save_tensors(self.folder / name, parts[part])
            new = {part: {"name": name, "sha256": file_digest(self.folder / name)} for part, name in drafts.items()}
            files = {**self._files, **new}
            write_text(self.folder / _FACTS, json_text({"format": FORMAT, "files": files, "facts": _named(facts)}))
        # The system's own error from tensors, and the one that `write_text` makes of it.
        except (OSError, RunError) as error:
            self._remove_drafts(drafts.values())
            raise self._not_written(error, parts) from error
        self._files = files
        self._remove_unnamed_files()
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """Read the last checkpoint; None where nothing was saved yet. Raises RunError for a damaged one."""
        path = self.folder / _FACTS
        try:
            content = parse_json(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._damaged(path, str(error)) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._damaged(path, f"format {FORMAT} was expected")
        self._files = content["files"]
        parts = {part: self._tensors(**file) for part, file in self._files.items()}
        # Counted on, so that a new file never takes a name that is in use.
        self._number = max((int(file["name"].partition("-")[0]) for file in self._files.values()), default=0)
        self._remove_unnamed_files()
        return Saved(_unnamed(content["facts"]), parts)

    def _tensors(self, name: str, sha256: str) -> dict[str, Tensor]:
        path = self.folder / name
        try:
            if file_digest(path) != sha256:
                raise self._damaged(path, "its SHA-256 is not the one recorded when it was written")
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise self._damaged(path, str(error)) from None

    def _remove_drafts(self, names: Iterable[str]) -> None:
        """Remove files that were written for a checkpoint that could not be."""
        try:
            # It may be in place all the same: only the flush of its folder failed. Then what it names stays.
            placed = (self.folder / _FACTS).read_text("utf-8")
        except FileNotFoundError:
            placed = ""
        except OSError:
            return  # nobody knows; the next checkpoint removes what no file names
        for name in names:
            if name not in placed:
                with contextlib.suppress(OSError):  # the error that is told is the first one
                    (self.folder / name).unlink(missing_ok=True)

    def _remove_unnamed_files(self) -> None:
        named = {file["name"] for file in self._files.values()}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in named:
                path.unlink(missing_ok=True)
        # Drafts of the JSON, as `new_text` names them, of a process that was killed.
        for path in self.folder.glob(f".{_FACTS}-*"):
            path.unlink(missing_ok=True)

    def _damaged(self, path: Path, what: str) -> RunError:
        return RunError(
            f"The checkpoint {path} is damaged: {what}.\n"
            f"Next: to start this run again from its plan, remove {self.folder} and repeat "
            f"zoo finetune --resume {shell_word(self._run)}"
        )

    def _not_written(self, error: OSError | RunError, parts: Mapping[str, Mapping[str, Tensor]]) -> RunError:
        cause = error.__cause__ if isinstance(error, RunError) else error
        if not isinstance(cause, OSError):
            return RunError(str(error))
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            return RunError(write_problem(self.folder, cause))
        size = sum(tensor.numel() * tensor.element_size() for part in parts.values() for tensor in part.values())
        free = shutil.disk_usage(self._run).free
        return RunError(
            f"No space left for the checkpoint of {self._run}: it takes {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are "
            "free there. The last good checkpoint is intact.\n"
            f"Next: free space there, then resume with zoo finetune --resume {shell_word(self._run)}"
        )


_NOT_FINITE = "not_finite"
"""The only key of what stands for a number that is not finite, which JSON does not have."""


def _named(content: Any) -> Any:
    """Content with such numbers under their names: as null, a loss could not be compared after resuming."""
    if isinstance(content, float) and not math.isfinite(content):
        return {_NOT_FINITE: str(content)}
    if isinstance(content, Mapping):
        return {key: _named(value) for key, value in content.items()}
    return [_named(value) for value in content] if isinstance(content, (list, tuple)) else content


def _unnamed(content: Any) -> Any:
    """What `_named` was given."""
    if isinstance(content, dict):
        if list(content) == [_NOT_FINITE] and isinstance(content[_NOT_FINITE], str):
            return float(content[_NOT_FINITE])
        return {key: _unnamed(value) for key, value in content.items()}
    return [_unnamed(value) for value in content] if isinstance(content, list) else content
