"""The record of files that were decoded before stays small, and is counted among what is cached."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from zoo.data import decoded
from zoo.data.decoded import DecodedFiles, Reading
from zoo.storage.eviction import cached_items

PREPROCESSING = zoo.Preprocessing(
    input_size=(3, 32, 32), resize_size=(40, 40), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
LINE = 65  # bytes of a digest and a line feed


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "MOST", 40 * LINE)


def images(name: str, count: int = 10) -> dict[str, Reading]:
    return {hashlib.sha256(f"{name}/{number}".encode()).hexdigest(): Reading() for number in range(count)}


def sized(side: int) -> zoo.Preprocessing:
    return replace(PREPROCESSING, resize_size=(side, side))


def known(side: int, readings: dict[str, Reading]) -> int:
    record = DecodedFiles(sized(side))
    return sum(record.get(digest) is not None for digest in readings)


def recorded_bytes() -> int:
    return sum(item.bytes for item in cached_items())


def test_records_of_sizes_that_were_used_longest_ago_are_removed_where_all_are_too_many(tmp_path: Path) -> None:
    flowers = images("flowers")
    for number, side in enumerate(range(40, 44)):
        before = {*(tmp_path / "cache").rglob("*.txt")}
        DecodedFiles(sized(side)).add(flowers)
        (new,) = {*(tmp_path / "cache").rglob("*.txt")} - before
        os.utime(new, (number + 1, number + 1))
    DecodedFiles(sized(40)).add(flowers)  # nothing new, but of use
    for side in (44, 45):
        DecodedFiles(sized(side)).add(flowers)
    assert recorded_bytes() == 40 * LINE
    assert [known(side, flowers) for side in range(40, 46)] == [10, 0, 0, 10, 10, 10]


def test_other_data_sets_are_forgotten_where_they_are_too_many_and_never_the_one_in_use() -> None:
    for name in ("a", "b", "c", "d"):
        DecodedFiles(PREPROCESSING).add(images(name))
    assert recorded_bytes() == 40 * LINE and known(40, images("a")) == 10
    DecodedFiles(PREPROCESSING).add(images("e", 50))
    assert known(40, images("e", 50)) == 50 and known(40, images("a")) == 0
    assert recorded_bytes() == 50 * LINE
