"""Which images of a data set are copies or near-duplicates of one another, as `zoo data check` finds them.

Groups of them must not be divided: a probe that was fitted to one of two frames of a film knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zoo.data.check.duplicates import ALIKE
from zoo.data.check.facts import FileFacts, read_facts
from zoo.data.dataset import ImageFile
from zoo.data.prefetch import prefetch, resolve_workers

_BLOCK = 1 << 22
"""Pairs of hashes that are compared at a time: 32 MiB of differences."""


def similar_images(
    files: Sequence[ImageFile], *, workers: int | None = None, progress: Callable[[int, int], None]
) -> tuple[int, ...]:
    """Return a number for each file, the same for files whose pictures are alike.

    Two pictures are alike if their pixels are the same or their perceptual hashes differ in at most `ALIKE` bits; so
    are two that are both alike to a third. A file that cannot be decoded is alike to none.

    Args:
        files: Each is opened once.
        workers: Number of threads. None: one per core, at most eight.
        progress: Called with (done, total).
    """
    threads = resolve_workers(workers)
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="zoo-check") as pool:
        facts: list[FileFacts] = []
        for each in prefetch(pool, read_facts, files, ahead=4 * threads):
            facts.append(each)
            progress(len(facts), len(files))
    return joined_groups([each.pixels for each in facts], [each.fingerprint for each in facts])


def joined_groups(pixels: Sequence[str], hashes: Sequence[int | None]) -> tuple[int, ...]:
    """Return the number of the group of each picture, counted from 0 in the order of their first pictures.

    Args:
        pixels: A digest of each picture's pixels; empty where it has none.
        hashes: Its perceptual hash, 64 bits; None where it has none.
    """
    parents = list(range(len(pixels)))

    def root(member: int) -> int:
        while parents[member] != member:
            parents[member] = member = parents[parents[member]]
        return member

    for one, other in [*_same(pixels), *_alike(hashes)]:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(root(member), len(numbers)) for member in range(len(parents)))


def _same(pixels: Sequence[str]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for index, digest in enumerate(pixels):
        if digest:
            yield first.setdefault(digest, index), index


def _alike(hashes: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Yield (earlier, later) for all pairs of hashes that differ in few bits."""
    known = [index for index, value in enumerate(hashes) if value is not None]
    values = np.array([hashes[index] for index in known], np.uint64)
    size = max(1, _BLOCK // max(1, len(values)))
    for start in range(0, len(values), size):
        stop = min(start + size, len(values))
        near = np.bitwise_count(values[start:stop, None] ^ values[None, :stop]) <= ALIKE
        for row, column in zip(*near.nonzero(), strict=True):
            if column < row + start:
                yield known[int(column)], known[int(row) + start]
