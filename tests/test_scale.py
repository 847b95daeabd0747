"""What many images cost: the arithmetic, the simulation on few images, and the page that shows both."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from benchmarks import scale, scale_shards
from benchmarks.scale import MACHINES, Rates, costs
from benchmarks.scale_parts import PartTaken, parts

RATES = Rates(
    photographs="flowers5",
    photo_kb=100.0,
    small_kb=25.0,
    read_mb=1000.0,
    decode=200.0,
    decode_small=800.0,
    check=150.0,
    squeezenet=50.0,
    lite0=20.0,
    features=100_000.0,
    hashes=200_000.0,
)
ONE, EIGHT, MANY = MACHINES


def test_costs_are_what_a_hand_reckons() -> None:
    cost = costs(RATES, 10_000_000, ONE, train=False)
    assert cost.read_gb == 1000 and cost.sent_gb == 0
    assert cost.core_hours == pytest.approx(10_000_000 / 200 / 3600)
    assert cost.gpu_hours == pytest.approx(10_000_000 / 4300 / 3600)
    # 16 cores decode 3,200 a second, the GPU takes 4,300, and 2 GB/s are 20,000 files.
    assert cost.hours["reading"] == pytest.approx(500 / 3600) and cost.first == "decoding"
    assert cost.longest == pytest.approx(10_000_000 / 3200 / 3600)


def test_smaller_photographs_move_what_gives_first_from_decoding_to_the_gpu() -> None:
    assert costs(RATES, 1_000_000, ONE, train=False).first == "decoding"
    small = costs(RATES, 1_000_000, ONE, train=False, small=True)
    assert small.first == "GPU" and small.read_gb == 25 and small.longest == pytest.approx(small.gpu_hours)


def test_training_on_many_gpus_sends_gradients_and_takes_less_time_but_more_gpu_hours() -> None:
    one, eight, many = (costs(RATES, 100_000_000, machines, train=True) for machines in MACHINES)
    assert one.sent_gb == 0 and one.first == "GPU"
    # 48,828 steps, each sends twice 102.4 MB to and from seven more.
    assert eight.sent_gb == pytest.approx(100_000_000 / 2048 * 2 * 7 * 0.1024)
    assert one.gpu_hours < eight.gpu_hours == pytest.approx(many.gpu_hours)
    assert one.longest > 6 * eight.longest > 40 * many.longest
    assert costs(RATES, 100_000_000, EIGHT, train=True).hours == eight.hours, "of the arguments alone"


def test_a_slow_disk_gives_first() -> None:
    slow = scale.Machines(name="slow", gpus=1, cores=64, disk_mb=50)
    assert costs(RATES, 1_000_000, slow, train=False).first == "reading"
    assert set(scale.ADVICE) == set(costs(RATES, 1, ONE, train=False).hours)


def test_the_simulation_goes_through_every_part_of_few_images() -> None:
    taken = list(parts(3000))
    names = [each.part for each in taken]
    assert len(set(names)) == len(names) == 11
    assert all(each.images == 3000 and each.seconds >= 0 and each.peak_mb > 10 for each in taken)


def measured(*, peak: float = 900.0, slower: float = 10.0) -> list[dict[str, Any]]:
    def row(part: str, images: int, seconds: float, most: float) -> dict[str, Any]:
        return asdict(PartTaken(part=part, images=images, seconds=seconds, cpu_seconds=seconds, peak_mb=most))

    small = [row("imported", 100, 0, 500), row("list", 100, 2, 520), row("split", 100, 1, 540)]
    large = [row("imported", 1000, 0, 500), row("list", 1000, 2 * slower, peak), row("split", 1000, slower, peak)]
    return small + large


@pytest.mark.long
def test_shards_are_listed_for_a_bounded_price(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    for kind in scale_shards.KINDS:
        found = scale_shards.measure(kind, 20_000)
        assert found["images"] == 20_000 and 0 < found["held"] < 1_500 * 20_000 and found["seconds"] > 0
    made_up = {"images": 1_000, "seconds": 0.06, "held": 500_000, "peak": 750_000}
    assert scale_shards.row("tar", made_up) == "| tar | 60 | 500 | 750 | 10 min | 5.0 GB | 7.5 GB |"
    with pytest.raises(SystemExit):
        scale_shards.main(["--images", "5"])
    assert "must be at least 1,000, got 5" in capsys.readouterr().err


def test_a_promise_that_is_broken_is_named() -> None:
    assert scale.broken_promises(measured()) == []
    assert scale.broken_promises(measured(peak=4001)) == ["the peak is 4,001 MB, more than 4,000"]
    assert scale.broken_promises(measured(slower=11.2)) == ["ten times the images take 11.2 times as long"]


def test_the_table_of_parts_says_how_far_each_would_come() -> None:
    rows = [line.strip("| ").split(" | ") for line in scale.parts_table(measured()).splitlines()]
    # 400 MB for 1,000 images: 63,500 MB for 160,000. 20 seconds: 180,000 in an hour.
    assert rows[3] == ["list", "2.0", "20.0", "10.0", "900", "0.16 million", "0.18 million"]
    assert rows[2][0] == "imported" and rows[-1][:4] == ["all", "3.0", "30.0", "10.0"]


def test_the_page_shows_what_was_kept_and_its_arithmetic() -> None:
    """Red after a change of the arithmetic or of the page: `python -m benchmarks.scale --images 10_000_000 --write`."""
    kept, page = json.loads(scale.KEPT.read_text("utf-8")), scale.PAGE.read_text("utf-8")
    tables = scale.sections(kept)
    assert scale.put_in(page, tables) == page
    # It would be noticed: another rate is another page.
    other = scale.sections({**kept, "rates": {**kept["rates"], "decode": kept["rates"]["decode"] / 2}})
    assert scale.put_in(page, other) != page
    with pytest.raises(ValueError, match="there is no <!-- rates -->"):
        scale.put_in(page.replace("<!-- rates -->", ""), tables)


def test_what_was_kept_is_of_ten_million_images_within_four_gigabytes(capsys: pytest.CaptureFixture[str]) -> None:
    """Time is judged where it is measured, for the machine may have been busy; the page says what came of it."""
    kept = json.loads(scale.KEPT.read_text("utf-8"))["parts"]
    assert {row["images"] for row in kept} == {1_000_000, 10_000_000}
    assert max(row["peak_mb"] for row in kept) < scale.MOST_MB
    broken = scale.broken_promises(kept)
    assert scale.main(["--kept"]) == bool(broken)
    shown = capsys.readouterr().out
    assert all(each in shown for each in broken) and ("times the time: kept." in shown) == (not broken)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", "10"], "--images must be 100,000 to 100,000,000, got 10"),
        (["--images", "many"], "invalid int value: 'many'"),
        (["--kept", "--write"], "leave one of them out"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        scale.main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err
