"""A drawn part has every split and every class in it, as far as it reaches, and depends on the seed alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.drawn_part import draw_part, shared_out
from zoo.specs.data import Split

COUNTS: dict[Split, list[int]] = {"train": [700, 30, 1], "val": [90, 5, 1], "test": [2, 0, 1]}


def a_dataset(counts: dict[Split, list[int]]) -> Dataset:
    splits = {
        split: tuple(
            ImageFile(Path(f"{split}/{label}/{number}.jpg"), f"{split}/{label}/{number}.jpg", label)
            for label, count in enumerate(of_split)
            for number in range(count)
        )
        for split, of_split in counts.items()
    }
    return Dataset(source="numbers", classes=("a", "b", "c"), splits=splits)


def test_shares_add_up_to_what_is_asked_for_and_leave_nobody_out() -> None:
    for seed in range(500):
        chance = random.Random(seed)
        sizes = {part: chance.choice([0, 1, 2, 5, 100, 10_000]) for part in range(chance.randint(1, 30))}
        count = chance.randint(0, 2000)
        shares = shared_out(count, sizes)
        assert sum(shares.values()) == min(count, sum(sizes.values()))
        assert all(0 <= shares[part] <= size for part, size in sizes.items())
        if count >= sum(1 for size in sizes.values() if size):
            assert all(shares[part] for part, size in sizes.items() if size)
    assert shared_out(100, {"large": 9_000, "small": 1_000}) == {"large": 90, "small": 10}


def test_every_split_and_class_is_in_a_part_once_and_in_order() -> None:
    dataset = a_dataset(COUNTS)
    drawn = draw_part(dataset, 60, seed=0)
    assert sum(map(len, drawn.values())) == 60
    for split, files in drawn.items():
        assert set(files) <= set(dataset.splits[split]) and len(set(files)) == len(files)
        assert list(files) == sorted(files, key=dataset.splits[split].index)
        classes = {file.label for file in dataset.splits[split]}
        assert len({file.label for file in files}) == min(len(classes), len(files)) > 0
    of_train = Counter(file.label for file in drawn["train"])
    assert of_train[0] > 10 * of_train[1] > 0


def test_the_seed_decides_and_all_are_drawn_where_there_are_no_more() -> None:
    dataset = a_dataset(COUNTS)
    assert draw_part(dataset, 60, seed=1) == draw_part(dataset, 60, seed=1) != draw_part(dataset, 60, seed=2)
    assert draw_part(dataset, 830, seed=0) == draw_part(dataset, 1_000, seed=3) == dict(dataset.splits)
