"""What a killed run goes on from: tensors and facts in a folder, the last good state there at every moment.

    checkpoint.json                facts in plain JSON, and the tensor files that belong to them with their digests
    NNNNNN-PART.safetensors        tensors; a part that has not changed keeps its file

The JSON is replaced in one rename after its tensors have reached the disk, and files that it does not name are removed
after that: whatever happens in between, the JSON that is there names files that are whole.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import RunError
from zoo.files import json_text, parse_json, write_problem, write_text
from zoo.model.build import file_digest
from zoo.model.tensor_files import save_tensors

FORMAT = 1
FOLDER, _FACTS = "checkpoint", "checkpoint.json"
Moment = Literal["step", "epoch", "stage"]
SECONDS_BETWEEN: dict[Moment, float] = {"step": 120.0, "epoch": 5.0, "stage": 0.0}
"""How old the last checkpoint must be at such a moment: short epochs need not be saved one by one."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as it was read."""

    facts: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]


class Checkpoint:
    """The checkpoint of one run, in `run/checkpoint/`."""

    def __init__(self, run: Path) -> None:
        self.folder = run / FOLDER
        self._run = run
        self._files: dict[str, dict[str, str]] = {}
        self._number = 0
        self._last = time.monotonic()

    def due(self, moment: Moment) -> bool:
        """Whether the last one is old enough for another at this moment."""
        return time.monotonic() - self._last >= SECONDS_BETWEEN[moment]

    def save(self, facts: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Make this the state to go on from; parts that are not given stay as they are. Raises RunError."""
        self._number += 1
        drafts = {part: f"{self._number:06d}-{part}.safetensors" for part in parts}
        try:
            for part, name in drafts.items():
                save_tensors(self.folder / name, parts[part])
            new = {part: {"name": name, "sha256": file_digest(self.folder / name)} for part, name in drafts.items()}
            files = {**self._files, **new}
            write_text(self.folder / _FACTS, json_text({"format": FORMAT, "files": files, "facts": facts}))
        except (OSError, RunError) as error:
            for name in drafts.values():
                (self.folder / name).unlink(missing_ok=True)
            raise self._not_written(error, parts) from error
        self._files = files
        self._remove_others()
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """The last good state; None where nothing was saved yet. Raises RunError for a damaged one."""
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
        self._number = max((int(file["name"].partition("-")[0]) for file in self._files.values()), default=0)
        self._remove_others()
        return Saved(content["facts"], parts)

    def _tensors(self, name: str, sha256: str) -> dict[str, Tensor]:
        path = self.folder / name
        try:
            if file_digest(path) != sha256:
                raise self._damaged(path, "its SHA-256 is not the one noted when it was written")
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise self._damaged(path, str(error)) from None

    def _remove_others(self) -> None:
        named = {file["name"] for file in self._files.values()}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in named:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f".{_FACTS}-*"):
            path.unlink(missing_ok=True)

    def _damaged(self, path: Path, what: str) -> RunError:
        return RunError(
            f"The checkpoint {path} is damaged: {what}.\n"
            f"Next: to begin this run again from its plan, remove {self.folder} and repeat "
            f"zoo finetune --resume {self._run}"
        )

    def _not_written(self, error: OSError | RunError, parts: Mapping[str, Mapping[str, Tensor]]) -> RunError:
        cause = error.__cause__ if isinstance(error, RunError) else error
        if not isinstance(cause, OSError):
            return RunError(str(error))
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            return RunError(write_problem(self.folder, cause))
        size = sum(each.numel() * each.element_size() for part in parts.values() for each in part.values())
        free = shutil.disk_usage(self._run).free
        return RunError(
            f"No space left for the checkpoint of {self._run}: it takes {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are "
            "free there. The last good checkpoint is intact.\n"
            f"Next: free space there, then go on with zoo finetune --resume {self._run}"
        )
