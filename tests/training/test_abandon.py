"""A stage is given up only when it cannot become the best, and leaves no trace in what follows."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.kills import digest
from zoo.evaluation.metrics import Scores
from zoo.events import EpochFinished, Event, Progress, StageFinished, StageStarted
from zoo.training import abandon, checkpoint, first_look
from zoo.training.abandon import FEW_STEPS, Rival, broken, hopeless, stage_gain

HEAD = Rival("head", Scores(accuracy=0.9, macro_f1=0.9, loss=0.3))
RECIPE = """
summary = "A head, a stage that spoils everything, and one that does not."
[[stages]]
name = "head"
train = ["head"]
epochs = 30
lr = 3e-3
{spoils}
[[stages]]
name = "all"
train = ["all"]
epochs = 2
lr = 1e-4
"""
SPOILS = """
[[stages]]
name = "spoils"
train = ["head", "last:1"]
epochs = 6
lr = 1e-3
weight_decay = 1000
schedule = "constant"
warmup = 0
abandon = true
"""
"""Every step takes all that decays to zero, so that the stage guesses and goes on guessing."""


def scores(*pairs: tuple[float, float]) -> list[Scores]:
    return [Scores(accuracy=accuracy, macro_f1=accuracy, loss=loss) for accuracy, loss in pairs]


@pytest.mark.parametrize(
    ("epochs", "of", "given_up"),
    [
        (scores((0.2, 3.0)), 4, False),  # one epoch is no trend
        (scores((0.2, 3.0), (0.2, 2.9)), 4, True),
        (scores((0.2, 3.0), (0.2, 2.9)), 5, False),  # not yet half of its epochs
        (scores((0.2, 3.0), (0.6, 2.9)), 4, False),  # accuracy may still come
        (scores((0.2, 3.0), (0.2, 1.5)), 4, False),  # loss may still come
        (scores((0.95, 0.9), (0.5, 0.9)), 4, False),  # it was better once
        (scores((0.86, 0.9), (0.86, 0.9)), 4, False),  # so little lower that a blend may be the best
        (scores((0.2, 3.0), (0.2, 2.9), (0.2, 2.9), (0.2, 2.9)), 4, False),  # nothing is left to save
        (scores((0.2, float("nan")), (0.2, float("nan"))), 4, False),
    ],
)
def test_a_stage_is_given_up_when_no_trend_leads_to_the_best(epochs: list[Scores], of: int, given_up: bool) -> None:
    assert bool(hopeless(HEAD, epochs, of=of)) == given_up


def test_a_better_stage_a_worse_rival_and_more_time_never_end_a_stage() -> None:
    draw = random.Random(0)
    ended = 0
    for _ in range(2000):
        of = draw.randint(2, 12)
        accuracy, loss, noise = draw.random(), 3 * draw.random(), draw.choice([0.01, 0.1])
        walk = (
            (accuracy + noise * draw.random(), loss + noise * draw.random()) for _ in range(draw.randint(1, of - 1))
        )
        epochs = scores(*walk)
        rival = Rival("head", *scores((draw.random(), 2 * draw.random())))
        if hopeless(rival, epochs, of=of):
            ended += 1
            end = epochs[-1]
            assert end.accuracy <= rival.scores.accuracy and end.loss > rival.scores.loss
            continue
        worse = Rival("head", replace(rival.scores, accuracy=rival.scores.accuracy / 2, loss=rival.scores.loss * 2))
        assert not hopeless(worse, epochs, of=of)
        assert not hopeless(rival, epochs, of=of + 1)
    assert ended > 100


@pytest.mark.parametrize(
    ("at_rest", "in_training", "steps", "given_up"),
    [
        (1.0, 3.0, FEW_STEPS, True),
        (1.0, 3.0, FEW_STEPS + 1, False),
        (1.0, 1.5, 1, False),
        (1.0, float("nan"), 1, False),
    ],
)
def test_only_short_stages_that_begin_broken_are_given_up_before_they_begin(
    at_rest: float, in_training: float, steps: int, given_up: bool
) -> None:
    assert bool(broken(at_rest, in_training, steps=steps)) == given_up


def test_what_a_stage_brought() -> None:
    (end,) = scores((0.92, 0.4))
    assert stage_gain(end, None) == {}
    assert stage_gain(end, HEAD.scores) == {"gain": pytest.approx(0.02), "loss_gain": pytest.approx(-0.1)}
    assert stage_gain(replace(end, loss=float("inf")), HEAD.scores)["loss_gain"] is None


@pytest.fixture(scope="module")
def usual(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "with.toml").write_text(RECIPE.format(spoils=SPOILS), "utf-8")
    (folder / "without.toml").write_text(RECIPE.format(spoils=""), "utf-8")
    return {
        "backbone": "timm/test_resnet",
        "weights": "random",
        "data": shapes,
        "recipe": str(folder / "with.toml"),
        "batch_size": 12,
        "tune": False,
    }


@pytest.fixture(scope="module")
def finished(usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[zoo.Result, list[Event]]:
    events: list[Event] = []
    result = zoo.finetune(**usual, out=tmp_path_factory.mktemp("runs") / "with", on_event=events.append)
    return result, events


def history(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def test_a_stage_that_is_given_up_is_no_candidate_and_says_why(
    finished: tuple[zoo.Result, list[Event]], zoo_inside: Zoo
) -> None:
    result, events = finished
    _, record, last = result.content["stages"]
    assert record["abandoned"] is True and record["epochs"] == 3 and record["gain"] < 0
    assert "more than it can catch up" in record["abandoned_why"] and "abandoned" not in last
    assert result.content["selection"]["candidates"] == 2 and result.proof == "passed"
    told = [event.abandoned for event in events if isinstance(event, StageFinished)]
    assert told == ["", record["abandoned_why"], ""]
    page = (result.path / "report.html").read_text("utf-8")
    assert "spoils (given up)" in page and "spoils was given up after" in page
    assert zoo_inside("verify", result.path).returncode == 0


@pytest.mark.long
def test_what_follows_is_as_if_the_stage_had_not_been(
    finished: tuple[zoo.Result, list[Event]], usual: dict[str, Any], tmp_path: Path
) -> None:
    recipe = str(Path(usual["recipe"]).with_name("without.toml"))
    without = zoo.finetune(**{**usual, "recipe": recipe}, out=tmp_path / "run")
    result, _ = finished
    assert history(without.path) == [line for line in history(result.path) if line["stage"] != "spoils"]
    assert digest(without.path) == digest(result.path)


class Stopping:
    """Ends the run, as Ctrl-C does, after so many steps and epochs of a stage."""

    def __init__(self, stage: str, number: int) -> None:
        self._stage, self._left, self._inside = stage, number, False

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._inside = event.stage == self._stage
        if self._inside and isinstance(event, (Progress, EpochFinished)):
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("spoils", 6),
        *(pytest.param(*where, marks=pytest.mark.long) for where in (("spoils", 0), ("all", 0), ("all", 3))),
    ],
)
@pytest.mark.long
def test_a_run_stopped_in_or_after_such_a_stage_is_resumed_to_the_same_bytes(
    stage: str,
    number: int,
    finished: tuple[zoo.Result, list[Event]],
    usual: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for moment in ("step", "epoch"):
        monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, moment, 0.0)
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**usual, out=tmp_path / "run", on_event=Stopping(stage, number))
    resumed = zoo.resume(tmp_path / "run")
    whole, _ = finished
    assert digest(resumed.path) == digest(whole.path) and history(resumed.path) == history(whole.path)
    assert [stage["epochs"] for stage in resumed.content["stages"]] == [
        stage["epochs"] for stage in whole.content["stages"]
    ]


@pytest.mark.long
def test_a_stage_may_be_given_up_before_its_first_step(
    usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo
) -> None:
    """Whatever batch norms do in training mode counts as broken here; the stages that follow are as without it."""
    monkeypatch.setattr(abandon, "BROKEN", 0.0)
    for module in (abandon, first_look):
        monkeypatch.setattr(module, "FEW_STEPS", 1000)
    words = ["--backbone", "timm/test_resnet", "--weights", "random", "--data", usual["data"], "--batch-size", "12"]
    run = tmp_path / "run"
    done = zoo_inside("finetune", *words, "--recipe", usual["recipe"], "--out", run)
    assert done.returncode == 0, done.stderr
    assert "spoils was given up after 0 epochs: batch norms in training mode" in " ".join(done.stdout.split())
    assert "spoils (given up)" in done.stdout
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert result["stages"][1]["epochs"] == 0 and result["stages"][1]["metrics"] == {}
    assert result["proof"] == "passed" and {line["stage"] for line in history(run)} == {"head", "all"}
    again = zoo_inside("report", run)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["keep=last", "all.abandon=true"], "abandon: with keep 'last' the run ends with its last stage"),
        (["head.abandon=true"], "abandon: would do nothing, there is no stage before the first"),
        (["all.abandon=7"], "abandon"),
    ],
)
def test_where_it_would_do_nothing_it_is_refused(
    assignments: list[str], message: str, few: Path, zoo_inside: Zoo
) -> None:
    settings = [word for each in assignments for word in ("--set", each)]
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, *settings)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_the_plan_says_that_a_stage_may_be_stopped_early(few: Path, zoo_inside: Zoo) -> None:
    words = ["plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few]
    told = zoo_inside(*words, "--set", "last.abandon=false")
    assert "all: may be stopped early" in told.stdout and "last: may be stopped early" not in told.stdout
