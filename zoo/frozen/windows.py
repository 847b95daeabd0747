"""The order of an epoch whose rows are read from the disk: shuffled in windows, so that each row is read once.

Neighbouring rows lie in one file, and rows drawn one by one from all files would be one read each. So runs of
neighbours are drawn at random, a window's worth at a time, and the rows of a window are shuffled. Another epoch has
other windows. Only the window that is at hand is in memory, of the order as of the rows.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

RUN = 128
"""Neighbouring rows that stay in one window. Another number is another order, and another result."""
_REMEMBERED = 4


class WindowedOrder(Sequence[Sequence[int]]):
    """The indices 0 to count - 1, each once, in batches; the key alone decides the order."""

    def __init__(
        self, count: int, sizes: Sequence[int], window: int, *, key: str, stored: Sequence[int] | None = None
    ) -> None:
        """Draw the runs of each window.

        Args:
            count: Number of rows.
            sizes: The length of each batch; their sum is `count`.
            window: Number of rows that are shuffled together; at least one run of `RUN`.
            key: Names the draws, as that of an epoch.
            stored: The rows by number in the order in which they lie on the disk, of which runs are made. None: in the
                order of their numbers.
        """
        if sum(sizes) != count:
            raise ValueError(f"batches of {sum(sizes)} rows in all cannot be made of {count} rows")
        # Runs are drawn whole: their rows are neighbours in one file, or in a few where memory was short.
        runs = list(range(-(-count // RUN)))
        random.Random(f"runs/{key}").shuffle(runs)
        together = max(1, window // RUN)
        self._windows = [runs[begin : begin + together] for begin in range(0, len(runs), together)]
        self._count = count
        self._key = key
        self._stored = range(count) if stored is None else stored
        self._begins = list(accumulate(map(self._rows_in, range(len(self._windows))), initial=0))
        self._bounds = list(accumulate(sizes, initial=0))
        self._drawn: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, number: int) -> Sequence[int]: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Sequence[int]]: ...

    def __getitem__(self, number: int | slice) -> Sequence[int] | Sequence[Sequence[int]]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} batches, and no number {number}")
        begin, end = self._bounds[number % len(self)], self._bounds[number % len(self) + 1]
        found: list[int] = []
        while begin < end:
            window = self.window_at(begin)
            first = self._begins[window]
            part = self._rows(window)[begin - first : end - first]
            found += part
            begin += len(part)
        return found

    def window_at(self, position: int) -> int:
        """The number of the window that a position in the order is in."""
        return bisect_right(self._begins, position) - 1

    def together(self, begin: int) -> Iterator[range]:
        """Yield the numbers of the batches, from number `begin` on, that begin in the same window."""
        while begin < len(self):
            limit = self._begins[self.window_at(self._bounds[begin]) + 1]
            end = bisect_right(self._bounds, limit - 1, begin + 1, len(self))
            yield range(begin, end)
            begin = end

    def _rows_in(self, window: int) -> int:
        return sum(len(self._run(run)) for run in self._windows[window])

    def _run(self, run: int) -> range:
        return range(run * RUN, min((run + 1) * RUN, self._count))

    def _rows(self, window: int) -> list[int]:
        """The rows of a window, shuffled. The last ones are remembered, for one thread trains and one reads ahead."""
        with self._lock:
            if window not in self._drawn:
                rows = [self._stored[place] for run in self._windows[window] for place in self._run(run)]
                # A generator for each window, as they are asked for in any order: a resumed run begins in the middle.
                random.Random(f"window {window}/{self._key}").shuffle(rows)
                while len(self._drawn) >= _REMEMBERED:
                    self._drawn.pop(next(iter(self._drawn)))
                self._drawn[window] = rows
            return self._drawn[window]
