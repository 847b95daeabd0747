"""Workers on this machine: a process for each job, with cores of its own, or a graphics card."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import IO

from zoo.sweeping.run_queue import Ending
from zoo.sweeping.trial_runs import ANSWER, RunJob, RunOutcome

CORES = 2
"""Cores of a trial, where nobody says how many run at once: most recipes gain little from more."""
_LAST = 400
"""Characters of a lost worker's last words that are told."""


def cores_here() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_at_once(device: str) -> int:
    """How many trials run at once where nobody says: one a graphics card, else one for each `CORES` cores."""
    cards = _cards(device)
    return cards if cards else max(1, len(cores_here()) // CORES)


def equal_shares(cores: Sequence[int], places: int) -> list[tuple[int, ...]]:
    """The cores of each place, as many for all: a number of threads is one of a run's settings, and changes bits.

    What does not divide stays free. With more places than cores, several places share one.
    """
    size = max(1, len(cores) // places)
    return [tuple(cores[place % len(cores) :: places][:size]) for place in range(places)]


def _cards(device: str) -> int:
    if device not in ("auto", "cuda"):
        return 1 if device.startswith(("cuda:", "mps")) else 0
    import torch

    return torch.cuda.device_count()


@dataclass(slots=True)
class _Slot:
    """A place for a worker: its share of cores, and its graphics card."""

    cores: tuple[int, ...]
    card: str | None


class LocalWorkers:
    """Processes of this machine, as `zoo.sweeping.run_queue.Workers` says."""

    def __init__(self, at_once: int, device: str) -> None:
        """Share cores, and cards where there are some, among `at_once` places."""
        cores, cards = cores_here(), _cards(device) if device in ("auto", "cuda") else 0
        # The user may have left zoo some of the cards: torch counts these, and a worker must be given their own names.
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = named if len(named) >= cards and named[0] else [str(card) for card in range(cards)]
        self._free = [
            _Slot(share, names[place % cards] if cards else None)
            for place, share in enumerate(equal_shares(cores, at_once))
        ]
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._endings: queue.SimpleQueue[tuple[Ending, _Slot]] = queue.SimpleQueue()

    def has_room(self) -> bool:
        """Whether a place is free."""
        return bool(self._free)

    def start(self, job: RunJob) -> None:
        """Start a process for a job, in a free place."""
        slot = self._free.pop()
        job = replace(job, threads=len(slot.cores), cores=slot.cores)
        # Libraries read it when they are loaded, before the worker can say how many threads it wants.
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
        if slot.card is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.card
        # A file and no pipe: nobody reads it before the end, and a full pipe would stop the worker.
        said = tempfile.TemporaryFile(  # noqa: SIM115 - closed by the thread that follows the process
            "w+", encoding="utf-8", errors="replace"
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo.sweeping.trial_runs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
            # Ctrl-C is for the process that leads; it ends its workers.
            start_new_session=os.name != "nt",
        )
        self._processes[job.number] = process
        threading.Thread(target=self._follow, args=(job, process, said, slot), daemon=True).start()

    def wait(self) -> list[Ending]:
        """Wait for the next end, at most a second."""
        try:
            ending, slot = self._endings.get(timeout=1.0)
        except queue.Empty:
            return []
        self._free.append(slot)
        del self._processes[ending.number]
        return [ending]

    def stop(self) -> None:
        """Kill what still runs: a checkpoint is whole or absent, so nothing is lost that was written."""
        for process in self._processes.values():
            with contextlib.suppress(OSError):
                process.kill()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)

    def _follow(self, job: RunJob, process: subprocess.Popen[str], said: IO[str], slot: _Slot) -> None:
        assert process.stdin is not None and process.stdout is not None
        answer = ""
        try:
            # Its stdin stays open: an end of it would mean that this process is gone.
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer = line.removeprefix(ANSWER) if line.startswith(ANSWER) else answer
        except OSError:
            pass  # it ended before it had read its job
        code = process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        # An answer alone is not enough: a worker that is killed while it prints may leave half a line.
        outcome = RunOutcome(**json.loads(answer)) if answer and code == 0 else None
        lost = "" if outcome is not None else f"{_in_words(code)}{_last_words(said)}"
        said.close()
        self._endings.put((Ending(job.number, outcome, lost), slot))


def _in_words(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"it ended with code {code}"


def _last_words(said: IO[str]) -> str:
    said.seek(0)
    lines = said.read()[-_LAST:].strip().splitlines()
    return f": {lines[-1]}" if lines else ""
