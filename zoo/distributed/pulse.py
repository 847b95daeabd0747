"""The pulse of every process of a job: one that ends, stops with an error or hangs is known by name within seconds.

Collective operations alone do not tell: they wait, for up to their own time limit, and then say that a connection was
closed, but not whose. Each process therefore writes to the store that the launcher keeps, every second, that it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo.distributed.launch import Launch
from zoo.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

BEAT = 1.0
"""Seconds between two beats."""
SILENCE = 20.0
"""Seconds without a beat after which a process counts as lost. A stopped or unreachable one is found by this alone.
With the 30 s that a launcher gives it to end, the job ends within a minute."""
LEAVING = 5.0
"""Seconds that a thread has to leave the store: at the end of the process, and before another one has something to say
there. A store whose machine is gone keeps it for many minutes."""
GRACE = 3.0
"""Seconds that the main thread has to end by itself once a process is lost: it may hang in a collective operation."""
State = Literal["runs", "done", "failed"]


class ProcessLost(RunError):
    """Another process of the same run has ended, stopped with an error, or hangs."""

    code = "process_lost"
    # Where the run had not begun; later, the message says how to resume it.
    next_step = "see what that process said, and start all processes of the run again."


@dataclass(slots=True)
class _Sign:
    """What a process says of itself."""

    beat: int
    state: State
    run: int
    """How many runs it has begun."""
    text: str
    host: str
    pid: int
    pids: str
    """Names the numbering of processes in which `pid` counts: that of the machine, or of a container."""


class Pulse:
    """Says that this process lives, and hears the others, in a thread of its own."""

    def __init__(self, store: Store, launch: Launch) -> None:
        """Begin. `store`: a connection of its own, for one that waits for a key keeps all others waiting."""
        self._store = store
        self._launch = launch
        self._sign = _Sign(0, "done", 0, "", socket.gethostname(), os.getpid(), _numbering())
        self._heard: dict[int, tuple[int, float]] = {}
        self._looked = time.monotonic()
        self._others: dict[int, _Sign] = {}
        self._unreachable_since: float | None = None
        self._reached = time.monotonic()
        self._lost = ""
        self._next_step = ""
        self._when_lost: Callable[[str], None] = _end
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._write()
        self._thread = threading.Thread(target=self._listen, name="zoo-pulse", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="zoo-pulse-watch", daemon=True)

    def begin(self) -> None:
        """Begin to listen: to be called when every process has written its first beat."""
        self._reached = time.monotonic()
        self._thread.start()
        self._watching.start()
        # A thread that is inside the store when Python ends would be unwound there, which aborts the process.
        atexit.register(self.end)

    def when_lost(self, end: Callable[[str], None]) -> None:
        """Set what ends this process, with a message, where it does not end by itself after another is lost."""
        self._when_lost = end

    def check(self) -> None:
        """Raise ProcessLost, naming the process, where one is lost."""
        if self._lost:
            raise ProcessLost(self._lost)

    def wait_for_lost(self, seconds: float = SILENCE + 5) -> str:
        """Wait until it is known which process is lost -> the message; empty where all of them live."""
        until = time.monotonic() + seconds
        while not self._lost and time.monotonic() < until:
            time.sleep(0.05)
        return self._lost

    def remember(self, next_step: str) -> None:
        """Remember how the run goes on after another process was lost, for the message."""
        self._next_step = f"\n{next_step}"

    def begin_run(self) -> None:
        """Say that this process begins a run, which the others begin as well."""
        self._sign.run += 1
        self.tell("runs")

    def tell(self, state: State, text: str = "") -> None:
        """Say how this process's run goes: it is done, or has stopped with an error."""
        self._sign.state, self._sign.text = state, text
        with contextlib.suppress(Exception):  # the store may have ended before
            self._write()

    def failure_of_main(self, seconds: float) -> str | None:
        """The error that process 0 stopped with, where it does so within some seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sign = self._others.get(0)
            if sign is not None and sign.state == "failed":
                return sign.text
            time.sleep(0.05)
        return None

    def stop(self) -> None:
        """Stop listening."""
        self._stopped.set()

    def end(self) -> None:
        """Stop listening, and wait for the thread, which may be inside the store."""
        self.stop()
        self._thread.join(LEAVING)

    def gone(self) -> str:
        """Look now, without waiting for the next beat, for processes of this machine that have ended -> the message."""
        for rank, sign in self._others.items():
            if (
                (sign.state == "runs" or sign.run < self._sign.run)
                and sign.pids == self._sign.pids
                and _ended(sign.pid)
            ):
                return self._name(rank, "has ended")
        return self._lost

    def _listen(self) -> None:
        while not self._stopped.wait(BEAT):
            try:
                self._sign.beat += 1
                self._write()
                self._read()
                self._unreachable_since, self._reached = None, time.monotonic()
            except Exception as error:  # whatever the store raises once its process has ended
                self._not_reached(error)
            if self._sign.state == "runs" and (self._lost or self._find_lost()):
                self._stop_this_process()

    def _not_reached(self, error: Exception) -> None:
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        if now - self._unreachable_since > SILENCE / 2:
            self._lost = self._of_store(f"cannot be reached any more: {error}")

    def _watch(self) -> None:
        """End this process where the store says nothing: who asks a machine that is gone hears so very late."""
        looked = time.monotonic()
        while not self._stopped.wait(BEAT):
            now = time.monotonic()
            if now - looked > SILENCE / 2:
                self._reached = now  # this process has slept, and nothing was asked meanwhile
            looked = now
            silent = now - self._reached
            if silent > SILENCE and self._sign.state == "runs":
                self._lost = self._lost or self._of_store(f"has not answered for {silent:.0f} s.")
                self._stop_this_process()
                return

    def _of_store(self, what: str) -> str:
        place = os.environ.get("MASTER_ADDR", "")
        return (
            f"The launcher's store{f' on {place}' if place else ''}, through which the processes of this run hear of "
            f"one another, {what}{self._next_step}"
        )

    def _find_lost(self) -> bool:
        now = time.monotonic()
        if self._sign.state != "runs":
            return False  # it needs nobody
        if now - self._looked > SILENCE / 2:
            # This process has slept, as when a whole job is suspended and goes on: so have the others, perhaps, and
            # nobody was silent while nobody listened.
            self._heard = {rank: (sign.beat, now) for rank, sign in self._others.items()}
        self._looked = now
        for rank, sign in self._others.items():
            beat, since = self._heard.get(rank, (-1, now))
            if sign.beat != beat:
                self._heard[rank] = sign.beat, now
            behind = sign.run < self._sign.run
            if sign.state == "done" and not behind:
                continue
            if sign.state == "failed" and not behind:
                self._lost = self._name(rank, f"has stopped. It said: {sign.text}" if sign.text else "has stopped")
            elif sign.pids == self._sign.pids and _ended(sign.pid):
                self._lost = self._name(rank, "has ended")
            elif sign.beat == beat and now - since > SILENCE:
                self._lost = self._name(rank, f"has not been heard of for {now - since:.0f} s")
            if self._lost:
                return True
        return False

    def _stop_this_process(self) -> None:
        # The main thread ends the run itself where it can: it knows how to go on.
        if not self._stopped.wait(GRACE) and self._sign.state == "runs":
            self._when_lost(str(ProcessLost(self._lost)))

    def _name(self, rank: int, what: str) -> str:
        sign = self._others[rank]
        where = f"process number {sign.pid} on {sign.host}"
        return f"Process {rank} of {self._launch.count} ({where}) {what}.{self._next_step}"

    def _write(self) -> None:
        # Not for longer: the thread may be inside a store that does not answer. What it writes next says it as well.
        if self._lock.acquire(timeout=LEAVING):
            try:
                self._store.set(_key(self._launch.rank), json.dumps(asdict(self._sign)))
            finally:
                self._lock.release()

    def _read(self) -> None:
        ranks = [rank for rank in range(self._launch.count) if rank != self._launch.rank]
        with self._lock:
            # It waits for keys that are not there. All are: nobody listens before every process has written once.
            found = self._store.multi_get([_key(rank) for rank in ranks])
        self._others = {rank: _Sign(**json.loads(text)) for rank, text in zip(ranks, found, strict=True)}


def _key(rank: int) -> str:
    return f"pulse/{rank}"


def _numbering() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return socket.gethostname()


def _ended(pid: int) -> bool:
    """Whether a process of this machine has ended, though its parent may not have heard of it yet."""
    try:
        # After the name, which may hold anything: the state.
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        pass
    if os.name == "nt":
        return False  # there, signal 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _end(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr, flush=True)
    os._exit(1)
