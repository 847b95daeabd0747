"""Prefetch: do work such as decoding in threads, a little ahead of the model or in lockstep with it.

Before torch is imported, `zoo.data.ahead` decodes in another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from typing import TypeVar

from zoo.errors import OptionError

Item = TypeVar("Item")
Done = TypeVar("Done")


def prefetch(pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, pending: int) -> Iterator[Done]:
    """`map` in the pool, with the results in order and at most `pending` items at a time, so that memory stays flat."""
    waiting = iter(items)
    running: list[Future[Done]] = [pool.submit(work, item) for item in islice(waiting, pending)]
    try:
        while running:
            yield running.pop(0).result()
            running += [pool.submit(work, item) for item in islice(waiting, 1)]
    finally:
        # Where the consumer stops early, by an error or a `break`, the threads must not go on working for nobody.
        for future in running:
            future.cancel()


def map_for_model(
    pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, workers: int, on_cpu: bool
) -> Iterator[Done]:
    """`map` in the pool for results that a model uses: in lockstep with it on the CPU, ahead of it on a GPU."""
    if on_cpu:
        return map_lockstep(pool, work, items, at_once=workers)
    # One more than there are threads, so that none is idle while a result is used.
    return prefetch(pool, work, items, pending=workers + 1)


def map_lockstep(
    pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, at_once: int
) -> Iterator[Done]:
    """`map` in the pool, with the results in order: `at_once` items together, then a pause while results are used.

    This is for a consumer that computes on all cores itself. Its operations are shared among all cores and wait for the
    one that a worker occupies, so prefetching would slow down both (docs/measurements.md).
    """
    waiting = iter(items)
    while running := [pool.submit(work, item) for item in islice(waiting, at_once)]:
        try:
            wait(running)
            yield from (future.result() for future in running)
        finally:
            for future in running:
                future.cancel()


def resolve_workers(workers: int | None, *, processes: int = 1) -> int:
    """The number of decoding threads; None means the default, divided among the `processes` of a run on this machine.

    Raises OptionError for fewer than one.
    """
    if workers is not None and workers < 1:
        raise OptionError(
            f"--workers must be at least 1, got {workers}.\nNext: leave --workers out, for one of each core up to 8."
        )
    return max(1, default_workers() // processes) if workers is None else workers


def default_workers() -> int:
    """The default number of decoding threads: one per core that this process may use, at most eight."""
    # `os.cpu_count` counts the cores of the machine, also of those that taskset or a container withholds.
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
