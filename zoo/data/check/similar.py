"""Which images of a data set are copies or near-duplicates of one another, as `zoo data check` finds them.

Groups of them must not be divided: a probe that was fitted to one of two frames of a film knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.data.check.bands import QUICK, near_pairs
from zoo.data.check.facts import read_facts
from zoo.data.dataset import ImageFile
from zoo.data.prefetch import prefetch, resolve_workers


def similar_images(
    files: Sequence[ImageFile],
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None],
    compared: Callable[[int, int], None] | None = None,
) -> tuple[int, ...]:
    """Return a number for each file, the same for files whose pictures are alike.

    Two pictures are alike if their pixels are the same or their perceptual hashes differ in at most `ALIKE` bits; so
    are two that are both alike to a third. A file that cannot be decoded is alike to none.

    Args:
        files: Each is opened once.
        workers: Number of threads. None: one per core, at most eight.
        progress: Called with (done, total) while files are opened.
        compared: Called with (done, total) while their hashes are compared, if these are many.
    """
    looks = looks_of(files, workers=workers, progress=progress)
    return joined_groups([each.pixels for each in looks], [each.hash for each in looks], compared)


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
        for facts in prefetch(pool, read_facts, files, pending=4 * threads):
            found.append(Looks(facts.pixels, facts.fingerprint))
            progress(len(found), len(files))
    return found


def joined_groups(
    pixels: Sequence[str], hashes: Sequence[int | None], progress: Callable[[int, int], None] | None = None
) -> tuple[int, ...]:
    """Return the number of the group of each picture, counted from 0 in the order of their first pictures.

    Args:
        pixels: A digest of each picture's pixels; empty where it has none.
        hashes: Its perceptual hash, 64 bits; None where it has none.
        progress: Called with (hashes compared with all others, different hashes); not for so few that it takes no
            time.
    """
    seen: dict[str, int] = {}
    # A text that is empty is no digest, so it is the first of its kind everywhere.
    firsts = [seen.setdefault(text, row) if text else row for row, text in enumerate(pixels)]
    rows = [row for row, value in enumerate(hashes) if value is not None]
    values = np.array([value for value in hashes if value is not None], np.uint64)
    groups = Groups(len(firsts))
    groups.join(np.arange(len(firsts)), np.array(firsts, np.int64))
    join_alike(groups, np.array(rows, np.int64), values, progress)
    return tuple(groups.numbers().tolist())


def join_alike(
    groups: Groups,
    rows: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Join all rows whose hashes differ in at most `ALIKE` bits: `hashes[P]` of the rows `rows[P]`."""
    values, firsts, places = np.unique(hashes, return_index=True, return_inverse=True)
    groups.join(rows, rows[firsts[places]])
    for done, one, other in near_pairs(values):
        groups.join(rows[firsts[one]], rows[firsts[other]])
        if progress is not None and len(values) > QUICK:
            progress(done, len(values))


class Groups:
    """Rows that are joined pair by pair; what is joined to the same row is one group."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        """Join row `one[i]` and row `other[i]`, for every i."""
        while (apart := one != other).any():
            one, other = self._roots(one[apart]), self._roots(other[apart])
            # Of several that a root should be joined to it takes the least, and the others come again. A root's parent
            # is never greater than itself, so there are no circles.
            np.minimum.at(self._parents, np.maximum(one, other), np.minimum(one, other))

    def numbers(self) -> NDArray[np.int64]:
        """Return the number of each row's group, counted from 0 in the order of their first rows."""
        roots = self._roots(np.arange(len(self._parents)))
        # The root is the first row of its group.
        is_first = roots == np.arange(len(roots))
        return (np.cumsum(is_first) - 1)[roots]

    def _roots(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        roots = rows
        # Each look shortens the ways to the roots, so that a chain of N rows takes log N looks.
        while not np.array_equal(above := self._parents[parents := self._parents[roots]], parents):
            self._parents[roots] = roots = above
        self._parents[rows] = parents
        return parents
