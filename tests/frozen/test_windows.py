"""An epoch that is read from the disk in windows shows every row once, in an order that its key alone decides."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import silent
from zoo.frozen.inputs import CachedInputs
from zoo.frozen.windows import RUN, WindowedOrder
from zoo.planning.batch_sizes import batch_sizes
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import ReorderedTable, Table, block_of
from zoo.training import seeding


def flat(order: WindowedOrder) -> list[int]:
    return list(chain.from_iterable(order))


@pytest.mark.parametrize("seed", range(60))
def test_every_row_comes_once_whatever_the_sizes(seed: int) -> None:
    draw = random.Random(seed)
    count, window = draw.randrange(1, 3000), draw.randrange(1, 2500)
    sizes = batch_sizes(count, draw.randrange(1, 200))
    order = WindowedOrder(count, sizes, window, key=f"{seed}")
    assert sorted(flat(order)) == list(range(count))
    assert [len(batch) for batch in order] == list(sizes) and len(order) == len(sizes)
    begin = draw.randrange(len(order))
    assert list(chain.from_iterable(order.together(begin))) == list(range(begin, len(order)))
    # In any order of asking, as a run that is resumed asks.
    assert order[begin] == list(WindowedOrder(count, sizes, window, key=f"{seed}"))[begin] == order[begin - len(order)]


def test_the_key_alone_decides_and_another_one_draws_other_windows() -> None:
    def of(key: str) -> WindowedOrder:
        return WindowedOrder(2000, batch_sizes(2000, 64), 512, key=key)

    assert flat(of("0/head/1")) == flat(of("0/head/1"))
    first, second = flat(of("0/head/1")), flat(of("0/head/2"))
    assert first != second and set(first[:512]) != set(second[:512])
    # Rows of a window are of several runs, and do not stay beside their neighbours.
    together = Counter(row // RUN for row in first[:512])
    assert len(together) == 4
    assert sum(abs(one - other) == 1 for one, other in pairwise(first)) < 40


def test_the_order_stays_what_it_was_when_it_was_first_released() -> None:
    """Another order is another result for the same seed."""
    order = WindowedOrder(1000, batch_sizes(1000, 100), 256, key="order/0/head/1")
    assert [batch[:3] for batch in order][:4] == [[460, 99, 476], [384, 496, 472], [61, 470, 70], [246, 148, 600]]


def test_a_window_of_at_least_a_run_and_batches_of_another_length_are_what_they_are() -> None:
    tiny = WindowedOrder(300, [300], 1, key="k")
    assert {row // RUN for row in tiny[0][:RUN]} != {0, 1, 2}
    with pytest.raises(ValueError, match="299"):
        WindowedOrder(300, [299], 128, key="k")
    with pytest.raises(IndexError, match="3 batches"):
        WindowedOrder(300, [100] * 3, 128, key="k")[3]


def test_without_a_window_the_order_is_that_of_all_rows_and_balanced_draws_need_none() -> None:
    labels = [index % 3 for index in range(500)]
    plain = seeding.epoch_batches("shuffled", labels, 64, key="k")
    assert plain == seeding.shuffled_batches(500, 64, key="k")
    assert isinstance(seeding.epoch_batches("shuffled", labels, 64, key="k", window=128), WindowedOrder)
    balanced = seeding.epoch_batches("balanced", labels, 64, key="k")
    assert seeding.epoch_batches("balanced", labels, 64, key="k", window=128) == balanced


@pytest.mark.parametrize("seed", range(8))
def test_rows_read_ahead_from_files_are_those_that_are_drawn(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    count, length = draw.randrange(200, 1500), draw.choice([5, 32, 64, 128, 300])
    values = torch.randn(count, 3, 2).contiguous()
    if seed % 2:
        values = values.bfloat16().float()  # stored in half the bytes
    cache, key = FeatureCache(tmp_path, limit=10**9), CacheKey({"seed": seed})
    blocks = []
    for number, rows in enumerate(torch.split(values, length)):
        assert cache.keep(key, str(number), block_of(rows))
        stored = cache.stored(key, str(number))
        assert stored is not None
        blocks.append(stored)
    assert blocks[0].rows.dtype == (torch.bfloat16 if seed % 2 else torch.float32)
    table = Table(blocks, in_memory=False)
    inputs = CachedInputs((table,), table, MicroBatches(32, work="", report=silent, retries=[]))
    sizes = batch_sizes(count, draw.randrange(1, 90))
    windowed = WindowedOrder(count, sizes, draw.randrange(1, 700), key="k")
    monkeypatch.setattr("zoo.frozen.inputs.WINDOW", draw.randrange(1, 40_000))
    for order in (windowed, list(windowed), seeding.shuffled_batches(count, 50, key="k")):
        begin = draw.randrange(len(order))
        found = list(inputs.train_batches(order, "k", 1, begin))
        assert len(found) == len(order) - begin
        for batch, indices in zip(found, order[begin:], strict=True):
            assert torch.equal(batch, values[list(indices)]) and batch.is_contiguous()
    assert torch.equal(torch.cat(list(table.chunks(32))), values)
    # Rows that are stored in another order are asked for by their own numbers.
    numbers = draw.sample(range(count), count)
    renumbered = ReorderedTable(table, numbers)
    own = torch.empty_like(values)
    own[torch.tensor(numbers)] = values
    inputs = CachedInputs((renumbered,), table, MicroBatches(32, work="", report=silent, retries=[]))
    order = WindowedOrder(count, sizes, 300, key="k", stored=inputs.stored)
    assert sorted(flat(order)) == list(range(count))
    assert {numbers.index(row) // RUN for row in order[0]} <= {numbers.index(row) // RUN for row in flat(order)[:300]}
    for batch, indices in zip(inputs.train_batches(order, "k", 1), order, strict=True):
        assert torch.equal(batch, own[list(indices)])
    # A reader that stops early leaves no thread behind.
    batches = inputs.train_batches(windowed, "k", 1)
    next(batches)
    batches.close()
