"""What is known of opened images is the same in columns as in dictionaries, whatever was found, in whatever order."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from zoo.data.dataset import Dataset
from zoo.data.lost_values import Loss
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.data.opened_images import OpenedImages
from zoo.data.readings import PLAIN, Reading, Readings
from zoo.data.spool import SpoolPlace
from zoo.specs.data import Split

KINDS = (PLAIN, PLAIN, PLAIN, None, Reading("2"), Reading("", Loss("few_levels", "9 levels")))


def listed(count: int) -> Dataset:
    manifest = ImageManifest.of_names([f"{'ab'[number % 2]}/{number}.jpg" for number in range(count)], Path("/data"))
    order = np.random.default_rng(0).permutation(count)
    train, val = (ImageRows(manifest, rows, rows % 2, ("a", "b")) for rows in np.split(order, [count // 2]))
    splits: dict[Split, ImageRows] = {"train": train, "val": val}
    return Dataset(source="made up", classes=("a", "b"), splits=splits)


@pytest.mark.parametrize("seed", range(20))
def test_columns_know_what_dictionaries_know(seed: int) -> None:
    draw, dataset = random.Random(seed), listed(60)
    columns, plain = OpenedImages(), OpenedImages()
    files = [file for split in dataset.splits.values() for file in split]
    names = [file.relative for file in files] + ["no/row.jpg", "nor/this.jpg"]
    before = draw.randint(0, 10)
    for number, name in enumerate(draw.choices(names, k=80)):
        if number == before:
            columns.expect(dataset)
        content = draw.randrange(30)  # some files are copies
        reading = KINDS[content % len(KINDS)]
        place = SpoolPlace(draw.randrange(2**40), draw.randint(1, 99), draw.randint(1, 99))
        digest = hashlib.sha256(b"%d" % content).hexdigest()
        if reading is None:
            digest = draw.choice([digest, ""])
        for each in (columns, plain):
            each.put(name, digest, reading)
            if number >= before:
                each.put_place(name, place)
    for name in [*names, "nobody/opened.jpg"]:
        assert columns.digest(name) == plain.digest(name) and columns.reading(name) == plain.reading(name)
    assert columns.losses() == plain.losses()
    assert dict(columns.readings()) == dict(plain.readings())
    opened = [file for file in files if columns.digest(file.relative) is not None]
    readable = [file for file in opened if columns.reading(file.relative) is not None]
    for some in (opened, readable):
        absent = {file.relative: "" for file in files if file not in some}
        views = dataset.without(absent).splits.values()
        assert columns.contents(views) == plain.contents(views) == plain.contents([some]) == columns.contents([some])
        assert len(columns.contents(views)) == len(some)
    assert {name: columns.place(name) for name in names} == {name: plain.place(name) for name in names}


def test_what_is_found_later_is_not_in_contents_and_what_was_not_opened_is_refused() -> None:
    opened, dataset = OpenedImages(), listed(4)
    opened.expect(dataset)
    for split in dataset.splits.values():
        with pytest.raises(KeyError, match=r"[ab]/\d\.jpg"):
            opened.contents([split])
    for file in dataset.splits["train"]:
        opened.put(file.relative, "ab" * 32, PLAIN)
    contents = opened.contents([dataset.splits["train"]])
    for file in dataset.splits["val"]:
        opened.put(file.relative, "cd" * 32, PLAIN)
    assert dict(contents) == {file.relative: "ab" * 32 for file in dataset.splits["train"]}
    assert len(opened.contents(dataset.splits.values())) == 4


def test_images_of_another_data_set_are_known_by_name_too() -> None:
    opened, first, second = OpenedImages(), listed(4), listed(6)
    opened.expect(first)
    opened.expect(second)
    for split in second.splits.values():
        for file in split:
            opened.put(file.relative, hashlib.sha256(file.relative.encode()).hexdigest(), PLAIN)
    contents = opened.contents(second.splits.values())
    assert len(contents) == 6 and second.digest(contents) == replace(second).digest(dict(contents))


def test_of_a_file_that_two_records_know_the_later_one_counts() -> None:
    one, other = (hashlib.sha256(name).hexdigest() for name in (b"1", b"2"))
    lost = Reading("2", Loss("lost_values", "1 level"))
    first, second = Readings.of({one: lost, other: PLAIN}), Readings.of({one: PLAIN})
    assert dict(first | second) == {one: PLAIN, other: PLAIN} and dict(second | first) == {one: lost, other: PLAIN}
    assert first.covers(second) and not second.covers(first) and first.covers(Readings(b"", {}))
    assert not Readings(b"", {}).covers(second) and "" not in first and "no digest" not in first
