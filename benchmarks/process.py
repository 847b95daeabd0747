"""A program run as a process of its own: how it ended, how long it took, how much memory it had."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished process."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    """From before its start to its end, imports and all."""
    cpu_seconds: float
    """Of all its threads and of children that it waited for: what other work on the machine changes least."""
    peak_mb: float
    """Largest resident set of the process, or of a child that it waited for, in MB of 10^6 bytes: not their sum."""


def run(words: Sequence[str | Path], *, folder: Path, variables: Mapping[str, str] | None = None) -> Ended:
    """Run a program in `folder` to its end.

    The caller must be small itself: Linux counts what it held at the start as the child's (`getrusage(2)`).
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=folder,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            # Unlike getrusage(RUSAGE_CHILDREN), whose peak is that of all children so far.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * 1024 / 1e6  # Linux counts in KiB
        return Ended(
            code=process.returncode,
            stdout=_text(stdout),
            stderr=_text(stderr),
            seconds=round(seconds, 3),
            cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
            peak_mb=round(peak, 1),
        )


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
