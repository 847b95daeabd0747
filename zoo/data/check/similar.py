"""Which images of a data set are copies or near-duplicates of one another, as `zoo data check` finds them.

Groups of them must not be divided: a probe that was fitted to one of two frames of a film knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from zoo.data.check.duplicates import ALIKE
from zoo.data.check.facts import read_facts
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
    looks = looks_of(files, workers=workers, progress=progress)
    return joined_groups([each.pixels for each in looks], [each.hash for each in looks])


@dataclass(frozen=True, slots=True)
class Looks:
    """What a picture is compared by."""

    pixels: str
    """A digest of size and pixels; empty for a file that cannot be decoded."""
    hash: int | None
    """Perceptual hash, 64 bits; None where it has none."""


def looks_of(
    files: Sequence[ImageFile], *, workers: int | None = None, progress: Callable[[int, int], None]
) -> list[Looks]:
    """Open each file once, and return what it is compared by. The arguments are those of `similar_images`."""
    threads = resolve_workers(workers)
    found: list[Looks] = []
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="zoo-check") as pool:
        for facts in prefetch(pool, read_facts, files, ahead=4 * threads):
            found.append(Looks(facts.pixels, facts.fingerprint))
            progress(len(found), len(files))
    return found


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

    for pairs in (_same(pixels), _same(hashes), _alike(hashes)):
        for one, other in pairs:
            low, high = sorted((root(one), root(other)))
            parents[high] = low
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(root(member), len(numbers)) for member in range(len(parents)))


def _same(values: Sequence[str | int | None]) -> Iterator[tuple[int, int]]:
    """Yield (first, index) for all that have the same value; an empty text or None is no value."""
    first: dict[str | int, int] = {}
    for index, value in enumerate(values):
        if value not in ("", None):
            yield first.setdefault(value, index), index


def _alike(hashes: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Yield (earlier, later) for all pairs of different hashes that differ in few bits, by the first that has each."""
    firsts: dict[int, int] = {}
    for index, value in enumerate(hashes):
        if value is not None:
            firsts.setdefault(value, index)
    known = list(firsts.values())
    values = np.array([hashes[index] for index in known], np.uint64)
    size = max(1, _BLOCK // max(1, len(values)))
    for start in range(0, len(values), size):
        stop = min(start + size, len(values))
        near = np.bitwise_count(values[start:stop, None] ^ values[None, :stop]) <= ALIKE
        for row, column in zip(*near.nonzero(), strict=True):
            if column < row + start:
                yield known[int(column)], known[int(row) + start]
