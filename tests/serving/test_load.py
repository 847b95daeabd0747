"""The benchmark of the server, small: its clients, its mix, and that it would notice what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from benchmarks import load
from benchmarks.serving import Mix, mixed, throughput
from tests.serving.conftest import Served


def test_a_mix_has_every_kind_equally_often_in_an_order_of_its_own() -> None:
    mix = load.plan_mix(30, 2 * len(load.HOSTILE), seed=1)
    kinds = Counter(kind.name if kind else "" for kind in mix)
    assert kinds.pop("") == 30 and set(kinds.values()) == {2} and len(kinds) == len(load.HOSTILE)
    assert mix == load.plan_mix(30, 2 * len(load.HOSTILE), seed=1) != load.plan_mix(30, 2 * len(load.HOSTILE), seed=2)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert load.percentile([3, 1, 2], 0.5) == 2 and load.percentile([3, 1, 2], 0.99) == 3 == load.percentile([3], 0)


def test_every_image_is_asked_for_once(served: Served, pictures: list[Path]) -> None:
    rate, latencies = throughput(served.port, [picture.read_bytes() for picture in pictures], 4)
    assert len(latencies) == len(pictures) and rate > 0


def test_batches_are_put_together_again_and_what_nobody_knows_is_filled_in() -> None:
    mix = Mix()
    for number, size, index in ((1, 2, 1), (2, 1, 0), (1, 2, 0), (3, 3, 2)):
        said = {"label": f"l{index}", "probability": 0.5, "batch": {"number": number, "size": size, "index": index}}
        mix.note(Path(f"f{number}{index}"), said)
    unknown = ("any", None, None)
    assert mix.all_batches(Path("any")) == [
        [("f10", "l0", 0.5), ("f11", "l1", 0.5)],
        [("f20", "l0", 0.5)],
        [unknown, unknown, ("f32", "l2", 0.5)],
    ]
    assert mix.good == 4 and json.dumps(mix.all_batches(Path("any")))


@pytest.mark.long
def test_a_small_mix_goes_as_it_must(served: Served, pictures: list[Path]) -> None:
    # Without slow ones: the served classifier of these tests has more patience than a test.
    outcome = mixed(served.port, served.process.pid, pictures, 60, len(load.HOSTILE) - 2, 8)
    assert outcome.failed == [] and outcome.good == 60 and outcome.memory
    assert len(outcome.statuses) == len(load.HOSTILE) - 3, "all but the one that leaves are answered"
