"""One process writes a run, and the others are told which."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from zoo.errors import RunError
from zoo.files import clear_write_errors, json_text, parse_json, write_text

_LOCK, _OWNER = "lock", "owner.json"


class RunLock:
    """A context manager; the system lets go of the lock when its process ends, however it ends."""

    def __init__(self, folder: Path, *, run: Path) -> None:
        """`folder`: where the lock's files are; `run`: what people call the run."""
        self._folder = folder
        self._run = run
        self._lock = FileLock(folder / _LOCK)

    def __enter__(self) -> RunLock:
        """Raises RunError, saying who holds it, where another process writes the run."""
        with clear_write_errors(self._folder):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"{self._run} is being written by another process: {self._holder()}.\n"
                    "Next: wait until it has finished, or end it first."
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

    def _holder(self) -> str:
        try:
            owner = parse_json((self._folder / _OWNER).read_text("utf-8"))
            return f"{owner['process']} on {owner['host']}, since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "it has only just begun"
