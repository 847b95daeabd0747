"""Work done in threads a little ahead of whoever needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from typing import TypeVar

from zoo.errors import OptionError

Item = TypeVar("Item")
Done = TypeVar("Done")


def map_ahead(pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, ahead: int) -> Iterator[Done]:
    """`map` in the pool, in order, with at most `ahead` items under way: memory stays flat."""
    waiting = iter(items)
    running: list[Future[Done]] = [pool.submit(work, item) for item in islice(waiting, ahead)]
    try:
        while running:
            yield running.pop(0).result()
            running += [pool.submit(work, item) for item in islice(waiting, 1)]
    finally:
        for future in running:
            future.cancel()


def map_for_model(
    pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, workers: int, on_cpu: bool
) -> Iterator[Done]:
    """`map` in the pool, in order, for a model that uses the results: by turns with it on the CPU, else ahead of it."""
    if on_cpu:
        return map_by_turns(pool, work, items, at_once=workers)
    return map_ahead(pool, work, items, ahead=workers + 1)


def map_by_turns(
    pool: Executor, work: Callable[[Item], Done], items: Iterable[Item], *, at_once: int
) -> Iterator[Done]:
    """`map` in the pool, in order: `at_once` items together, then nothing while what came of them is used.

    For users that want all cores themselves: an operation that is shared among all of them waits for the one that a
    worker has taken, so that working ahead slows both (docs/measurements.md).
    """
    waiting = iter(items)
    while running := [pool.submit(work, item) for item in islice(waiting, at_once)]:
        try:
            wait(running)
            yield from (future.result() for future in running)
        finally:
            for future in running:
                future.cancel()


def workers_of(asked: int | None) -> int:
    """Decoding threads: what is asked for, or the default. Raises OptionError for fewer than one."""
    if asked is not None and asked < 1:
        raise OptionError(f"--workers must be at least 1, got {asked}.")
    return default_workers() if asked is None else asked


def default_workers() -> int:
    """One decoding thread per core that this process may use, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
