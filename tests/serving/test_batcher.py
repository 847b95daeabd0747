"""Jobs of many threads, gathered into batches that one thread computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from zoo.serving.batcher import Batch, Batcher, QueueFull


class Doubling:
    """Computes twice the job, and remembers the batches. `gate` holds the thread until it is set."""

    def __init__(self) -> None:
        self.batches: list[Batch[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, batch: Batch[int]) -> Sequence[int | Exception]:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(batch)
        if any(job == -666 for job in batch.jobs):
            raise ValueError("no")
        return [ValueError("odd") if job == -13 else 2 * job for job in batch.jobs]


def done() -> Future[None]:
    future = Future[None]()
    future.set_result(None)
    return future


@contextmanager
def batching(work: Doubling, *, most: int = 4, queue: int = 1000, gather: float = 0.005) -> Iterator[Batcher[int, int]]:
    made = Batcher[int, int](
        work, largest=lambda kind: 1 if kind == "single" else most, queue=queue, gather_seconds=gather
    )
    try:
        yield made
    finally:
        work.gate.set()
        made.close()


def test_every_job_of_many_threads_is_computed_once_in_batches_that_are_not_too_large() -> None:
    work = Doubling()
    with batching(work) as batcher, ThreadPoolExecutor(8) as pool:
        several = pool.map(lambda number: batcher.submit([number, number + 1000], "double"), range(200))
        answers = [future.result(10) for futures in several for future in futures]
    assert answers == [2 * job for number in range(200) for job in (number, number + 1000)]
    assert sorted(job for batch in work.batches for job in batch.jobs) == sorted([*range(200), *range(1000, 1200)])
    assert [batch.number for batch in work.batches] == list(range(1, len(work.batches) + 1))
    assert max(len(batch.jobs) for batch in work.batches) <= 4


def test_what_comes_while_a_batch_is_computed_shares_the_next_one() -> None:
    work = Doubling()
    work.gate.clear()
    with batching(work, gather=0.0) as batcher:
        first = batcher.submit([1], "double")
        assert work.entered.wait(10)
        rest = [future for job in (2, 3, 4) for future in batcher.submit([job], "double")]
        assert batcher.waiting == 3
        work.gate.set()
        assert [future.result(10) for future in [*first, *rest]] == [2, 4, 6, 8]
    assert [batch.jobs for batch in work.batches] == [[1], [2, 3, 4]]


def test_a_lonely_job_waits_no_longer_than_it_must() -> None:
    with batching(Doubling(), gather=0.2) as batcher:
        began = time.monotonic()
        batcher.submit([1], "double")[0].result(10)
        assert 0.19 <= time.monotonic() - began < 5
        began = time.monotonic()
        for future in batcher.submit([1, 2, 3, 4], "double"):  # a full batch waits for nobody
            future.result(10)
        assert time.monotonic() - began < 0.19


def test_kinds_are_never_mixed_and_none_is_overtaken() -> None:
    work = Doubling()
    work.gate.clear()
    with batching(work) as batcher:
        batcher.submit([0], "double")
        assert work.entered.wait(10)
        kinds = ("double", "double", "single", "single", "double")
        waiting = [batcher.submit([job], kind)[0] for job, kind in enumerate(kinds, start=1)]
        work.gate.set()
        assert [future.result(10) for future in waiting] == [2, 4, 6, 8, 10]
    assert [batch.jobs for batch in work.batches] == [[0], [1, 2], [3], [4], [5]]


def test_a_fault_is_that_of_its_job_or_of_its_batch_and_the_thread_lives_on() -> None:
    with batching(Doubling()) as batcher:
        good, odd = batcher.submit([12, -13], "double")
        assert good.result(10) == 24 and isinstance(odd.exception(10), ValueError)
        assert all(str(future.exception(10)) == "no" for future in batcher.submit([1, -666], "double"))
        assert batcher.submit([3], "double")[0].result(10) == 6 and batcher.is_alive


def test_a_full_queue_takes_all_of_a_request_or_nothing() -> None:
    work = Doubling()
    work.gate.clear()
    with batching(work, queue=3) as batcher:
        batcher.submit([0], "double")
        assert work.entered.wait(10)
        batcher.submit([1, 2], "double")
        with pytest.raises(QueueFull):
            batcher.submit([3, 4], "double")
        assert batcher.waiting == 2 and batcher.seconds_to_empty >= 1
        last = batcher.submit([5], "double")
        work.gate.set()
        assert last[0].result(10) == 10
    assert [job for batch in work.batches for job in batch.jobs] == [0, 1, 2, 5]


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    work = Doubling()
    work.gate.clear()
    with batching(work) as batcher:
        batcher.submit([0], "double")
        assert work.entered.wait(10)
        one, other = batcher.submit([1, 2], "double")
        assert one.cancel()
        work.gate.set()
        assert other.result(10) == 4
    assert [batch.jobs for batch in work.batches] == [[0], [2]]


def test_closing_computes_what_waits_and_takes_no_more() -> None:
    work = Doubling()
    with batching(work, gather=5) as batcher:
        waiting = batcher.submit([1, 2], "double")
        began = time.monotonic()
        batcher.close()
        assert [future.result(0) for future in waiting] == [2, 4] and time.monotonic() - began < 4
        with pytest.raises(RuntimeError):
            batcher.submit([3], "double")
        assert not batcher.is_alive


def test_a_job_is_begun_once_while_its_batch_gathers_and_never_while_another_is_computed() -> None:
    work, begun = Doubling(), list[int]()

    def begin(job: int) -> Future[None]:
        begun.append(job)
        return done()

    made = Batcher[int, int](work, largest=lambda kind: 2, queue=10, begin=begin, gather_seconds=20)
    first = made.submit([1], "double")
    until = time.monotonic() + 5
    while not begun and time.monotonic() < until:
        time.sleep(0.001)
    assert begun == [1] and not work.batches, "begun before the batch was closed"
    work.gate.clear()
    second = made.submit([2], "double")  # the batch is full
    assert work.entered.wait(10)
    others = made.submit([3, 4], "double")
    time.sleep(0.05)
    assert begun == [1, 2], "a batch is being computed"
    work.gate.set()
    answers = [each.result(10) for each in [*first, *second, *others]]
    made.close()
    assert answers == [2, 4, 6, 8]
    assert begun == [1, 2, 3, 4]


def test_a_batch_waits_for_what_it_prepares_and_others_join_for_a_while() -> None:
    work, slow = Doubling(), Future[None]()
    begins = iter([slow])
    made = Batcher[int, int](
        work, largest=lambda kind: 9, queue=10, begin=lambda job: next(begins, done()), gather_seconds=0.02
    )
    first = made.submit([1], "double")
    time.sleep(0.2)  # ten times as long as a batch gathers, and half as long as others may join
    joins = made.submit([2], "double")
    time.sleep(0.6)
    late = made.submit([3], "double")
    time.sleep(0.05)
    assert not work.batches, "its image is still being prepared"
    slow.set_result(None)
    assert [each.result(10) for each in [*first, *joins, *late]] == [2, 4, 6]
    made.close()
    assert [batch.jobs for batch in work.batches] == [[1, 2], [3]]


def test_a_batch_stays_open_while_those_of_the_one_before_get_their_answers() -> None:
    work = Doubling()
    made = Batcher[int, int](work, largest=lambda kind: 99, queue=999, gather_seconds=0.4)
    futures = made.submit([1], "double")
    for _ in range(7):  # one every 0.1 s, and so without 0.4 s of quiet
        time.sleep(0.1)
        made.note_answered()
    assert not work.batches
    futures += made.submit([2], "double")
    assert [each.result(10) for each in futures] == [2, 4]
    made.close()
    assert [batch.jobs for batch in work.batches] == [[1, 2]]


def test_who_comes_while_a_batch_gathers_keeps_it_open_for_a_while() -> None:
    work = Doubling()
    made = Batcher[int, int](work, largest=lambda kind: 99, queue=999, gather_seconds=0.3)
    futures = []
    for job in range(20):  # one every 0.05 s, so that 0.3 s never pass without one
        futures += made.submit([job], "double")
        time.sleep(0.05)
    assert [each.result(10) for each in futures] == [2 * job for job in range(20)]
    made.close()
    assert len(work.batches) <= 4


def test_a_job_that_cannot_be_begun_is_left_to_the_computation() -> None:
    def begin(job: int) -> Future[None]:
        raise RuntimeError("can't start new thread")

    made = Batcher[int, int](Doubling(), largest=lambda kind: 9, queue=10, begin=begin)
    assert made.submit([21], "double")[0].result(10) == 42 and made.is_alive
    made.close()
