"""Copies of an image are one observation: they make no interval narrower, and no difference surer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from tests.conftest import Zoo
from zoo.artefact.views_effect import views_effect
from zoo.evaluation.copies import Copies, copies_among
from zoo.evaluation.metrics import assess, wilson_interval
from zoo.evaluation.significance import Outcomes, PairedOutcomes, bootstrap, mcnemar, smallest_shown

NAMES = [f"class{index}" for index in range(7)]


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(len(NAMES), (count,), generator=generator)
    logits = torch.randn(count, len(NAMES), generator=generator)
    return logits + torch.nn.functional.one_hot(targets, len(NAMES)), targets


def of_sizes(*sizes: int) -> Copies:
    """Copies of pictures that are there so many times."""
    return Copies(np.repeat(np.arange(len(sizes)), sizes))


def test_every_image_twice_has_the_intervals_of_every_image_once() -> None:
    logits, targets = drawn(90)
    # In any order: no copy lies beside the other.
    order = torch.randperm(180, generator=torch.Generator().manual_seed(1)) % 90
    copies = copies_among([str(index) for index in order.tolist()])
    once = assess(logits, targets, NAMES)
    twice = assess(logits[order], targets[order], NAMES, copies=copies)
    assert (twice.accuracy, twice.top5) == (once.accuracy, once.top5)
    for one, two in zip(once.classes, twice.classes, strict=True):
        assert (two.recall, two.precision) == (one.recall, one.precision)
    assert twice.copies is not None
    assert (twice.copies.images, twice.copies.pictures, twice.copies.effective_images) == (180, 90, 90)
    unaware = assess(logits[order], targets[order], NAMES).accuracy
    assert once.accuracy.high - once.accuracy.low > 1.35 * (unaware.high - unaware.low)


def test_images_that_all_differ_are_assessed_as_ever() -> None:
    logits, targets = drawn(90)
    found = assess(logits, targets, NAMES, copies=copies_among(map(str, range(90))))
    assert found == assess(logits, targets, NAMES) and found.copies is None and "copies" not in found.to_dict()
    assert found.accuracy == wilson_interval(round(found.accuracy.value * 90), 90)
    assert copies_among(["one", "", "", "two"]) is None, "of what is not known nothing is a copy"


def test_a_picture_with_many_copies_weighs_much_and_is_one_observation() -> None:
    # (1 + 1 + 2)^2 / (1 + 1 + 4), as Kish has it.
    assert of_sizes(1, 1, 2).effective() == pytest.approx(16 / 6)
    assert of_sizes(5).effective() == 1 and of_sizes(3, 3, 3).effective() == 3
    assert of_sizes(2, 2, 1).effective_of([0, 0, 0, 2, 2], 3) == pytest.approx([9 / 5, 0, 2])
    assert of_sizes(2, 1, 3).counted().to_dict() == {"images": 5, "pictures": 2, "effective_images": 36 / 14}
    told = of_sizes(2, 1, 3).counted().in_words(6)
    assert told.startswith("5 of the 6 images are copies of one another, byte for byte (2 different pictures), so ")
    assert "as wide as for 3 images without copies" in told


def test_intervals_hold_what_they_promise_however_unequal_the_copies_are() -> None:
    draws = np.random.default_rng(0)
    sizes = draws.integers(1, 9, 120)
    copies, trials = of_sizes(*sizes), int(sizes.sum())
    held = unaware = 0
    for _ in range(2000):
        successes = int(sizes[draws.random(120) < 0.8].sum())
        found = wilson_interval(successes, trials, effective=copies.effective())
        naive = wilson_interval(successes, trials)
        assert found is not None and naive is not None
        held += found.low <= 0.8 <= found.high
        unaware += naive.low <= 0.8 <= naive.high
    assert 0.93 < held / 2000 < 0.97 and unaware / 2000 < 0.75


def test_every_image_twice_makes_no_difference_surer() -> None:
    draws = np.random.default_rng(0)
    one, two = draws.random(150) < 0.75, draws.random(150) < 0.85
    once = PairedOutcomes(one, two)
    assert once.interval() == bootstrap(once.outcomes) and once.of_pictures == once.outcomes
    assert once.p == mcnemar(once.outcomes.only_first, once.outcomes.only_second)
    order = draws.permutation(300) % 150
    twice = PairedOutcomes(one[order], two[order], copies_among(map(str, order)))
    assert twice.outcomes.images == 300 and twice.outcomes.difference == once.outcomes.difference
    assert twice.of_pictures == once.outcomes and twice.p == once.p
    assert smallest_shown(twice.of_pictures) == smallest_shown(once.outcomes)
    interval, before = twice.interval(), once.interval()
    assert (interval.low, interval.high) == pytest.approx((before.low, before.high), abs=0.008)
    assert interval == twice.interval() != twice.interval(seed=1)
    assert PairedOutcomes(one[order], two[order]).p < once.p


def test_the_interval_of_a_difference_is_that_of_drawing_pictures_with_all_their_copies() -> None:
    draws = np.random.default_rng(0)
    sizes = draws.integers(1, 6, 80)
    one, two = (np.repeat(draws.random(80) < share, sizes) for share in (0.7, 0.8))
    found = PairedOutcomes(one, two, of_sizes(*sizes))
    gains = np.add.reduceat(two.astype(int) - one, np.cumsum([0, *sizes[:-1]]))
    rows = draws.integers(0, 80, (10_000, 80))
    low, high = np.quantile(gains[rows].sum(1) / sizes[rows].sum(1), [0.025, 0.975])
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.01)
    assert interval.low < found.outcomes.difference < interval.high


def test_a_picture_under_two_labels_goes_to_who_is_right_on_more_of_its_copies() -> None:
    found = PairedOutcomes([True, False, True, True], [False, True, False, True], of_sizes(2, 2))
    assert found.outcomes == Outcomes(both_right=1, only_first=2, only_second=1, both_wrong=0)
    assert found.of_pictures == Outcomes(both_right=1, only_first=1, only_second=0, both_wrong=0)


def test_views_on_every_image_twice_are_no_surer_to_help() -> None:
    (views, targets), plain = drawn(60), drawn(60)[0].roll(1, 1)
    of_all = views_effect("flip", plain, views, targets, seconds=(1.0, 2.0))
    twice = [torch.cat([each, each]) for each in (plain, views, targets)]
    copies = copies_among([str(index % 60) for index in range(120)])
    found = views_effect("flip", *twice, seconds=(2.0, 4.0), copies=copies)
    assert (found.p, found.outcomes.images) == (of_all.p, 120)
    assert found.interval.low == pytest.approx(of_all.interval.low, abs=0.01)


@pytest.fixture(scope="module")
def doubled(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The few images, with those of val twice."""
    data = Path(shutil.copytree(few, tmp_path_factory.mktemp("doubled") / "data"))
    for file in sorted((data / "val").rglob("*.jpg")):
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    return data


@pytest.mark.long
def test_views_are_no_surer_to_help_on_images_that_are_there_several_times(
    runs: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    # Pictures of both classes side by side, with more and more of the other: crops change what is said of some.
    one, other = (Image.open(few / "val" / name / "0.jpg").resize((96, 64)) for name in ("a", "b"))
    for number in range(40):
        both = one.copy()
        both.paste(other.crop((0, 0, 2 * number + 8, 64)), (0, 0))
        for data, times in (("once", 1), ("often", 2)):
            folder = tmp_path / data / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(times):
                both.save(folder / f"{number}-{copy}.png")
    once, often = (zoo.evaluate(runs[0], data=tmp_path / data, views="five").views for data in ("once", "often"))
    assert once is not None and often is not None and once.outcomes.discordant > 0
    assert often.outcomes.discordant == 2 * once.outcomes.discordant and often.p == once.p
    assert often.interval.high == pytest.approx(once.interval.high, abs=0.01)


def trained(data: Path, out: Path) -> Path:
    usual = {"weights": "random", "recipe": "head_only", "input_size": (64, 64)}
    return zoo.finetune("timm/test_resnet", data=data, out=out, **usual).path


@pytest.fixture(scope="module")
def runs(few: Path, doubled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs on the few images, and on these with copies."""
    folder = tmp_path_factory.mktemp("runs")
    return trained(few, folder / "once"), trained(doubled, folder / "twice")


def test_a_run_on_copies_has_the_intervals_of_one_without_and_says_so(runs: tuple[Path, Path]) -> None:
    once, twice = (json.loads((run / "evaluation.json").read_text("utf-8"))["val"] for run in runs)
    assert "copies" not in once and twice["images"] == 2 * once["images"] == 8
    assert twice["accuracy"] == once["accuracy"]
    assert twice["copies"] == {"images": 8, "pictures": 4, "effective_images": 4.0}
    told = "8 of the 8 images are copies of one another, byte for byte (4 different pictures)"
    reports = [(run / "report.html").read_text("utf-8") for run in runs]
    assert told in reports[1] and "copies of one another" not in reports[0]


def test_evaluating_on_copies_gives_the_intervals_without_and_says_so(
    runs: tuple[Path, Path], few: Path, doubled: Path, zoo_inside: Zoo
) -> None:
    once, twice = (zoo.evaluate(runs[0], data=data) for data in (few, doubled))
    assert once.assessment.copies is None and twice.images == 2 * once.images
    assert twice.assessment.accuracy == once.assessment.accuracy
    done = zoo_inside("evaluate", runs[0], "--data", doubled)
    assert "8 of the 8 images are copies of one another, byte for byte (4 different pictures)" in done.stdout
    done = zoo_inside("evaluate", runs[0], "--data", doubled, "--json")
    assert json.loads(done.stdout)["assessment"]["copies"]["effective_images"] == 4
    assert "copies" not in zoo_inside("evaluate", runs[0], "--data", few).stdout
