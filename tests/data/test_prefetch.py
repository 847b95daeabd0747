"""Prefetching in threads: results in order, a bounded number in the works, and lockstep with the consumer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from zoo.data.prefetch import map_for_model, map_lockstep, prefetch


class Watched:
    """Squares numbers, and counts how many have begun and how many are running."""

    def __init__(self) -> None:
        self.begun = self.under_way = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, number: int) -> int:
        with self._lock:
            self.begun += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        try:
            time.sleep(0.002 * (number % 3))  # the items of a turn end at different times
            if number < 0:
                raise ValueError(number)
            return number**2
        finally:
            with self._lock:
                self.under_way -= 1


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_both_ways_give_what_map_gives(pool: ThreadPoolExecutor) -> None:
    for count, at_once in itertools.product(range(12), range(1, 6)):
        squares = [number**2 for number in range(count)]
        assert list(map_lockstep(pool, Watched(), range(count), at_once=at_once)) == squares
        assert list(prefetch(pool, Watched(), range(count), pending=at_once)) == squares


def test_by_turns_nothing_runs_while_a_result_is_used(pool: ThreadPoolExecutor) -> None:
    work = Watched()
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            drawn.append(number)
            yield number

    for done, _ in enumerate(map_lockstep(pool, work, numbers(), at_once=3), start=1):
        whole_turns = min(10, -(-done // 3) * 3)
        assert (len(drawn), work.begun, work.under_way) == (whole_turns, whole_turns, 0)
    assert work.most <= 3


@pytest.mark.parametrize(("on_cpu", "begun"), [(True, 2), (False, 3)])
def test_only_beside_a_gpu_is_there_work_ahead(pool: ThreadPoolExecutor, on_cpu: bool, begun: int) -> None:
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            drawn.append(number)
            yield number

    results = map_for_model(pool, Watched(), numbers(), workers=2, on_cpu=on_cpu)
    next(results)
    assert len(drawn) == begun


def test_an_error_comes_where_its_item_stands_and_leaves_the_pool_usable(pool: ThreadPoolExecutor) -> None:
    results = map_lockstep(pool, Watched(), [1, 2, 3, -1, 5], at_once=2)
    assert [next(results), next(results), next(results)] == [1, 4, 9]
    with pytest.raises(ValueError, match="-1"):
        next(results)
    assert list(map_lockstep(pool, Watched(), [7], at_once=2)) == [49]
