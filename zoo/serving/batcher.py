"""Gather what several requests ask into batches, which one thread computes.

A batch is begun by what waits longest. It gathers from when that came, or from when the batch before was done, as those
that it answered may ask again at once. It is closed when it is full, when nobody came or got an answer for 5 ms, or
after 25 ms, and computed when what it holds is prepared. While it waits for that, others may still join, up to 100 ms.
Jobs of different kinds are never in one batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Generic, TypeVar

GATHER_SECONDS = 0.005
"""How long a batch waits for one more job."""
_LONGEST = 5
"""How many times as long a batch gathers at most while others keep coming."""
_LONGEST_PREPARING = 20
"""How many times as long others may join at most while what has come is prepared."""
_REMEMBERED = 0.9
"""Share of the past in the mean time for a job; the rest is the last batch."""

Job = TypeVar("Job")
Done = TypeVar("Done")


_DONE: Future[Any] = Future()
_DONE.set_result(None)


class QueueFull(Exception):
    """More jobs wait than may."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[Job]):
    """Jobs that are computed together."""

    number: int
    """Counted from 1, without gaps."""
    kind: Hashable
    jobs: list[Job]


@dataclass(slots=True)
class _Waiting(Generic[Job, Done]):
    job: Job
    kind: Hashable
    came: float
    """By the monotonic clock."""
    future: Future[Done]
    preparation: Future[Any] | None = None


class Batcher(Generic[Job, Done]):
    """A queue of jobs, and the thread that computes them. `submit` may be called from any thread."""

    def __init__(
        self,
        compute: Callable[[Batch[Job]], Sequence[Done | Exception]],
        *,
        largest: Callable[[Hashable], int],
        queue: int,
        begin: Callable[[Job], Future[Any]] = lambda job: _DONE,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """
        Args:
            compute: Called in the thread with each batch, returns a result or an error for each job, in their order. An
                error that it raises is that of every job.
            largest: Most jobs in a batch of a kind.
            queue: Most jobs that wait.
            begin: Called with each job while its batch gathers, and never while another batch is computed. It starts to
                prepare the job in another thread, and returns what is done when that is. Default: nothing to prepare.
            gather_seconds: How long a batch waits for one more job.
        """
        self._compute = compute
        self._largest = largest
        self._most_waiting = queue
        self._begin = begin
        self._gather_seconds = gather_seconds
        self._queue: deque[_Waiting[Job, Done]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._batches = 0
        self._seconds_each = 0.0
        self._free_since = 0.0
        self._answered_at = 0.0
        self._thread = threading.Thread(target=self._work, name="zoo-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for their batch."""
        # Without the lock: asking a deque for its length cannot fall into the middle of a change.
        return len(self._queue)

    @property
    def is_alive(self) -> bool:
        """Whether the thread computes, or would."""
        return self._thread.is_alive()

    @property
    def seconds_to_empty(self) -> float:
        """How long it will take to compute all that waits, as it went so far; at least a second."""
        return max(1.0, self.waiting * self._seconds_each)

    def submit(self, jobs: Sequence[Job], kind: Hashable) -> list[Future[Done]]:
        """Let jobs wait for their batches, all or none -> their results to come. One that is cancelled is left out.

        Raises QueueFull; RuntimeError once it is closed.
        """
        came = time.monotonic()
        with self._changed:
            if self._closing:
                raise RuntimeError("the batcher is closed")
            if len(self._queue) + len(jobs) > self._most_waiting:
                raise QueueFull
            added = [_Waiting[Job, Done](job, kind, came, Future()) for job in jobs]
            self._queue.extend(added)
            self._changed.notify()
        return [each.future for each in added]

    def note_answered(self) -> None:
        """Say that somebody got a result, and may ask again at once. May be called from any thread."""
        self._answered_at = time.monotonic()

    def close(self) -> None:
        """Compute what waits, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while gathered := self._gather():
            # Of what was cancelled meanwhile, nothing is computed. From here on it cannot be cancelled.
            batch = [each for each in gathered if each.future.set_running_or_notify_cancel()]
            if batch:
                self._carry_out(batch)

    def _gather(self) -> list[_Waiting[Job, Done]]:
        """The next batch; empty where there will be none."""
        with self._changed:
            while not self._queue:
                if self._closing:
                    return []
                self._changed.wait()
            first = self._queue[0]
            most = self._largest(first.kind)
            begun = max(first.came, self._free_since)
            gathered: list[_Waiting[Job, Done]] = []
            left = self._gather_seconds
            while True:
                # Afterwards nobody joins: under a steady load a batch would not close before it is full.
                if left > 0 or not gathered or time.monotonic() < begun + _LONGEST_PREPARING * self._gather_seconds:
                    gathered = self._next(first.kind, most)
                    self._prepare(gathered)
                    # One thread answers all. Who got the first answer asks again before the others have theirs.
                    last = max(begun, gathered[-1].came, self._answered_at)
                    until = min(last + self._gather_seconds, begun + _LONGEST * self._gather_seconds)
                    left = until - time.monotonic()
                preparing = not all(each.preparation and each.preparation.done() for each in gathered)
                if len(gathered) >= most or self._closing or not (left > 0 or preparing):
                    return [self._queue.popleft() for _ in gathered]
                # Without a limit only where something is being prepared: the end of that wakes this thread.
                self._changed.wait(left if left > 0 else None)

    def _next(self, kind: Hashable, most: int) -> list[_Waiting[Job, Done]]:
        """The jobs at the head of the queue that the next batch may hold."""
        # Only from the front: a later job of this kind must not overtake one of another kind that waits longer.
        return list(takewhile(lambda each: each.kind == kind, islice(self._queue, most)))

    def _prepare(self, gathered: Sequence[_Waiting[Job, Done]]) -> None:
        for each in gathered:
            if each.preparation is None:
                try:
                    each.preparation = self._begin(each.job)
                except Exception:
                    # No thread can be had, for instance. `compute` meets the same, and tells those who wait.
                    each.preparation = _DONE
                each.preparation.add_done_callback(self._prepared)

    def _prepared(self, _: object) -> None:
        with self._changed:
            self._changed.notify()

    def _carry_out(self, batch: list[_Waiting[Job, Done]]) -> None:
        began = time.monotonic()
        self._batches += 1
        results: Sequence[Done | Exception]
        try:
            results = self._compute(Batch(self._batches, batch[0].kind, [each.job for each in batch]))
        except Exception as error:
            # The thread lives on: the next batch may be a better one.
            results = [error] * len(batch)
        each = (time.monotonic() - began) / len(batch)
        self._seconds_each = _REMEMBERED * self._seconds_each + (1 - _REMEMBERED) * each if self._seconds_each else each
        self._free_since = time.monotonic()
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
