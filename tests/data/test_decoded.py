"""The record of files that were decoded before stays small, and is counted among what is cached."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from zoo.data import decoded
from zoo.data.decoded import DecodedFiles
from zoo.data.lost_values import Loss
from zoo.data.readings import Reading, Readings
from zoo.storage.eviction import cached_items

PREPROCESSING = zoo.Preprocessing(
    input_size=(3, 32, 32), resize_size=(40, 40), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
LINE = 65  # bytes of a digest and a line feed


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "MOST", 40 * LINE)


def images(name: str, count: int = 10) -> Readings:
    digests = (hashlib.sha256(f"{name}/{number}".encode()).hexdigest() for number in range(count))
    return Readings.of(dict.fromkeys(digests, Reading()))


def sized(side: int) -> zoo.Preprocessing:
    return replace(PREPROCESSING, resize_size=(side, side))


def known(side: int, readings: Readings) -> int:
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


def test_a_record_of_an_earlier_run_is_read_and_written_again_as_it_was(tmp_path: Path) -> None:
    DecodedFiles(PREPROCESSING).add(images("a", 3))
    (path,) = (tmp_path / "cache").rglob("*.txt")
    # Digests that end, and begin, with bytes of zeros; what is known of a file follows its digest.
    digests = ["00" * 32, "0a" * 31 + "00", "ab" * 32, "ff" * 32, *images("a", 3)]
    known = {
        digests[1]: "\trule 1",
        digests[2]: "\t\tfew_levels\t9 levels are left",
        digests[3]: "\t2\tlost_values\tone",
    }
    lines = "".join(f"{digest}{known.get(digest, '')}\n" for digest in sorted(digests))
    path.write_text(lines)
    record = DecodedFiles(PREPROCESSING)
    assert [record.get(digest) for digest in digests[:4]] == [
        Reading(),
        Reading("rule 1"),
        Reading("", Loss("few_levels", "9 levels are left")),
        Reading("2", Loss("lost_values", "one")),
    ]
    assert record.get("ab" * 31 + "00") is None and record.get("") is None
    later = "cd" * 32
    record.add(Readings.of({later: Reading()}))
    assert path.read_text() == "".join(sorted([*lines.splitlines(keepends=True), f"{later}\n"]))
    path.write_text(f"half a lin\n{later}\n{'é' * 64}\n")
    assert DecodedFiles(PREPROCESSING).get(later) == Reading()
    path.write_bytes(b"\xff\xfe")
    assert DecodedFiles(PREPROCESSING).get(later) is None
