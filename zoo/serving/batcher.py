"""Gather what several requests ask into batches, which one thread computes.

A batch is begun by what waits longest. It is closed when it is full, or 5 ms after its first job came, or after the
batch before was done: those that it answered may ask again at once. Jobs of different kinds are never in one batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Generic, TypeVar

GATHER_SECONDS = 0.005
"""Longest time that a job waits for others to share its batch."""
_REMEMBERED = 0.9
"""Share of the past in the mean time for a job; the rest is the last batch."""

Job = TypeVar("Job")
Done = TypeVar("Done")


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
    is_begun: bool = False


class Batcher(Generic[Job, Done]):
    """A queue of jobs, and the thread that computes them. `submit` may be called from any thread."""

    def __init__(
        self,
        compute: Callable[[Batch[Job]], Sequence[Done | Exception]],
        *,
        largest: Callable[[Hashable], int],
        queue: int,
        begin: Callable[[Job], None] = lambda job: None,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """
        Args:
            compute: Called in the thread with each batch, returns a result or an error for each job, in their order. An
                error that it raises is that of every job.
            largest: Most jobs in a batch of a kind.
            queue: Most jobs that wait.
            begin: Called with each job while its batch gathers, and never while another batch is computed. It may start
                work in other threads, and must return at once.
            gather_seconds: How long the first job of a batch waits for more.
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
            until = max(first.came, self._free_since) + self._gather_seconds
            self._begin_next(first.kind, most)
            while len(self._queue) < most and not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
                self._begin_next(first.kind, most)
            return [self._queue.popleft() for _ in self._next(first.kind, most)]

    def _next(self, kind: Hashable, most: int) -> list[_Waiting[Job, Done]]:
        """The jobs at the head of the queue that the next batch may hold."""
        # Only from the front: a later job of this kind must not overtake one of another kind that waits longer.
        return list(takewhile(lambda each: each.kind == kind, islice(self._queue, most)))

    def _begin_next(self, kind: Hashable, most: int) -> None:
        for each in self._next(kind, most):
            if not each.is_begun:
                each.is_begun = True
                self._begin(each.job)

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
