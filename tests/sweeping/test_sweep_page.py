"""The page and the tables of a sweep, from rows: what stands first, what the intervals are, in a real browser."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats
from tests.browser import CHROMIUM, browser
from zoo.sweeping.sweep_folder import TrialRow
from zoo.sweeping.sweep_page import render_sweep
from zoo.sweeping.sweep_record import Sweep, put_together


def row(candidate: int, seed: int, accuracy: float | None, **settings: str) -> TrialRow:
    val = {} if accuracy is None else {"accuracy": accuracy, "macro_f1": accuracy, "loss": 1 - accuracy}
    return TrialRow(
        trial=3 * (candidate - 1) + seed + 1,
        candidate=candidate,
        seed=seed,
        settings={"backbone": "timm/test_resnet", **settings},
        status="failed" if accuracy is None else "done",
        val=val,
        kept="head",
        seconds=0.5,
        run=None,
        fault="<b>it diverged" if accuracy is None else "",
    )


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    rows = []
    for candidate in range(1, 21):
        settings = {
            "head": ["linear", "<script>alert(1)"][candidate % 2],
            "head.lr": f"{10 ** (-4 + candidate / 10):.4g}",
        }
        for seed in range(3):
            accuracy = 0.9 - 0.01 * abs(candidate - 12) + 0.004 * seed
            rows.append(row(candidate, seed, None if (candidate, seed) == (12, 1) else accuracy, **settings))
    return Sweep(
        folder=Path("sweeps/one"),
        settings={"data": "photos", "over": {"backbone": ["x"], "head": ["linear"], "head.lr": "0.0001..0.01"}},
        division={"train": 400, "val": 200, "judged": 100, "judged_by": "a holdout", "chosen_by": "val", "skipped": 2},
        candidates=tuple(put_together(rows, frozenset())),
        winner_run=Path("sweeps/one/winner"),
        winner_val={"accuracy": 0.9, "macro_f1": 0.9, "loss": 0.1},
        judged={"images": 100, "accuracy": {"value": 0.87, "low": 0.79, "high": 0.92}, "macro_f1": 0.8, "loss": 0.5},
        seconds=60.0,
    )


def test_the_best_mean_comes_first_ties_go_to_the_lower_loss_and_failures_come_last(sweep: Sweep) -> None:
    assert sweep.best.candidate == 11 and sweep.candidates[1].candidate == 13, "as good, and later in the grid"
    assert sweep.candidates[-1].candidate == 12 and math.isnan(sweep.candidates[-1].mean())
    means = [each.mean() for each in sweep.candidates[:-1]]
    assert means == sorted(means, reverse=True)


def test_copies_among_the_judged_images_are_told(sweep: Sweep) -> None:
    copies = {"images": 40, "pictures": 20, "effective_images": 71.4}
    twice = replace(sweep, judged={**sweep.judged, "copies": copies})
    told = "40 of the 100 images are copies of one another, byte for byte (20 different pictures)"
    for each, there in ((twice, True), (sweep, False)):
        assert (told in "\n".join(map(str, each.conclusion()))) is there
        assert (told in render_sweep(each)) is there


def test_the_mean_that_chose_is_told_beside_the_accuracy_of_the_first_seed(sweep: Sweep) -> None:
    said = "\n".join(str(block) for block in sweep.conclusion())
    assert (
        "val accuracy 90.0 %" in said
        and "as the best of 20 candidates (60 trials), by the mean of 3 seeds, 89.4 %." in said
    )
    assert "the winner was chosen by the mean of 3 seeds, 89.4 %" in render_sweep(sweep)
    alike = replace(sweep, winner_val={**sweep.winner_val, "accuracy": 0.894})
    assert "candidates (60 trials)." in "\n".join(str(block) for block in alike.conclusion())


def test_of_a_single_candidate_nothing_was_chosen_and_no_number_is_called_too_good(sweep: Sweep) -> None:
    alone = replace(sweep, candidates=sweep.candidates[:1])
    said = "\n".join(str(block) for block in alone.conclusion())
    assert "val accuracy 90.0 % on the 200 validation images (the mean of 3 seeds, 89.4 %); nothing was chosen" in said
    assert "too good" not in said and "too good" not in render_sweep(alone)


def test_means_that_differ_by_their_rounding_alone_are_a_tie_and_the_loss_decides() -> None:
    # The same number of images: 0.1 + 0.7 is less than 0.4 + 0.4 in the last bit.
    rows = [row(1, 0, 0.4), row(1, 1, 0.4), row(2, 0, 0.1), row(2, 1, 0.7)]
    rows = [replace(each, val={**each.val, "loss": 1.0 / each.candidate}) for each in rows]
    assert [each.candidate for each in put_together(rows, frozenset())] == [2, 1]


def balanced(rows: list[TrialRow], *accuracies: float) -> list[TrialRow]:
    """The rows of trials with a balanced `choose_by`."""
    return [
        replace(each, val={**each.val, "balanced_accuracy": accuracy, "balanced_loss": 2 - accuracy})
        for each, accuracy in zip(rows, accuracies, strict=True)
    ]


def test_candidates_are_compared_by_balanced_accuracy_where_all_trials_ask_for_it(sweep: Sweep) -> None:
    rows = [row(1, 0, 0.9), row(1, 1, 0.92), row(2, 0, 0.8), row(2, 1, 0.81)]
    assert [each.candidate for each in put_together(rows, frozenset())] == [1, 2]
    fair = put_together(balanced(rows, 0.5, 0.51, 0.7, 0.72), frozenset())
    assert [each.candidate for each in fair] == [2, 1] and fair[0].mean() == pytest.approx(0.71)
    assert fair[0].mean("loss") == pytest.approx(1.29) and fair[0].interval is not None
    failed = [*balanced(rows, 0.5, 0.51, 0.7, 0.72), row(3, 0, None)]
    assert put_together(failed, frozenset())[0].candidate == 2, "what failed says nothing of what is asked for"
    # Not where a trial does not ask for it, or an older zoo wrote its row: only plain numbers can be compared.
    some = [*rows[:1], *balanced(rows, 0.5, 0.51, 0.7, 0.72)[1:]]
    assert [each.candidate for each in put_together(some, frozenset())] == [1, 2]
    found = replace(
        sweep,
        candidates=tuple(fair),
        winner_val=fair[0].rows[0].val,
        judged={**sweep.judged, "balanced_accuracy": 0.66},
    )
    said = "\n".join(str(block) for block in found.conclusion())
    assert "balanced accuracy 66.0 %, accuracy 87.0 %" in said and "val balanced accuracy 70.0 % on" in said
    assert "val balanced accuracy" in found.table().columns and "val balanced accuracy" in render_sweep(found)
    stored = found.to_dict()
    assert stored["chosen_by"] == "mean val balanced accuracy over the seeds, ties by mean val balanced loss"
    assert stored["ranking"][0]["mean_val_accuracy"] == pytest.approx(0.805)
    assert stored["ranking"][0]["mean_val_balanced_accuracy"] == pytest.approx(0.71)
    (first, *_) = csv.DictReader(io.StringIO(found.to_csv()))
    assert first["val_balanced_accuracy"] == "0.5" and "val_balanced_accuracy" not in sweep.to_csv()


@pytest.mark.parametrize(
    "accuracies",
    [[0.5, 0.6], [0.71, 0.74, 0.69], *([0.5 + 0.1 * (n % 5) for n in range(seeds)] for seeds in (16, 17, 18, 40))],
)
def test_intervals_over_seeds_are_those_of_students_t(accuracies: list[float]) -> None:
    (found,) = put_together([row(1, seed, accuracy) for seed, accuracy in enumerate(accuracies)], frozenset())
    spread = statistics.stdev(accuracies) / math.sqrt(len(accuracies))
    low, high = stats.t.interval(0.95, len(accuracies) - 1, statistics.mean(accuracies), spread)
    assert found.interval == pytest.approx((max(0, low), min(1, high)), abs=1e-4)


def test_seeds_that_agree_give_no_interval_without_width() -> None:
    (found,) = put_together([row(1, seed, 7 / 12) for seed in range(2)], frozenset())
    assert found.interval is None and found.mean() == 7 / 12


def test_the_page_says_what_the_numbers_are_worth_and_names_stay_text(sweep: Sweep) -> None:
    page = render_sweep(sweep)
    for said in (
        "100 images that nobody selected on",
        "too good",
        "candidates looked at",
        "2 files of the",
        "on a logarithmic scale",
    ):
        assert said in page, said
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "&lt;b&gt;it diverged" in page
    assert not re.findall(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:)|<img", page)
    assert len(re.findall('<svg class="chart', page)) == 2 * 2, "head and head.lr, for two widths each"
    dots = len(re.findall(r'<circle[^>]*class="dot c1 soft"', page)) + len(re.findall(r'class="dot c2"', page))
    assert dots == 4 * 3 * 19, "every trial of candidates without failures"


def test_what_features_took_stands_apart_from_the_seconds_of_trials(sweep: Sweep) -> None:
    (first, *others) = sweep.candidates
    counted = replace(first, rows=(replace(first.rows[0], feature_seconds=75.0), *first.rows[1:]))
    found = replace(sweep, candidates=(counted, *others))
    assert "Computing the features that trials share took 1 min 15 s" in render_sweep(found)
    assert found.to_dict()["feature_seconds"] == 75 and "trials share" not in render_sweep(sweep)
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["seconds"] for row in table if float(row["feature_seconds"])] == ["0.5"]


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_a_real_browser_shows_it_on_a_phone_and_in_the_dark(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render_sweep(sweep), "utf-8")
    with browser(tmp_path / "profile") as page:
        page.open((tmp_path / "page.html").as_uri())
        for width in (400, 1200):
            page.look(width=width, dark=width == 400, phone=width == 400)
            assert page.sticks_out() == [] and page.js("document.documentElement.scrollWidth") <= width
            style = "getComputedStyle(document.querySelector('svg .dot.soft'))"
            assert page.js(f"{style}.opacity * {style}.fillOpacity") >= 0.7, "a dot is seen on a dark page, too"
        assert page.messages == [] and len(page.requests) == 1
