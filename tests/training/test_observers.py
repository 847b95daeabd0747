"""Observers get every event and change nothing: with real runs and installed observers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from zoo.errors import Refused, Terminated, UnknownName
from zoo.events import Event

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "lp_ft", "epochs": 2}
Watch = Callable[..., tuple[Path, list[str]]]


@pytest.fixture(scope="module")
def registry(crowd: Path) -> zoo.Registry:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(crowd), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        known = zoo.Registry(report=lambda line: None)
        known.observers()
    return known


@pytest.fixture(scope="module")
def watch(few: Path, registry: zoo.Registry, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    """Run with these observers -> the run folder, the loud notes."""

    def run(*observers: str, **changed: Any) -> tuple[Path, list[str]]:
        loud: list[str] = []

        def report(event: Event) -> None:
            if isinstance(event, zoo.Note) and event.loud:
                loud.append(event.text)

        out = tmp_path_factory.mktemp("watched") / "run"
        arguments = {**TINY, "data": few, "out": out, **changed}
        return zoo.finetune(**arguments, observers=observers, registry=registry, on_event=report).path, loud

    return run


@pytest.fixture(scope="module")
def alone(watch: Watch) -> Path:
    """The run without observers."""
    return watch()[0]


def recorded(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "told.jsonl").read_text().splitlines()]


def bytes_of(run: Path) -> dict[str, Any]:
    """Everything in a run folder but times."""
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    timeless = {name: value for name, value in result.items() if name not in ("seconds", "stages")}
    return {
        "weights": (run / "model" / "model.safetensors").read_bytes(),
        "config": (run / "model" / "config.json").read_bytes(),
        "plan": (run / "plan.json").read_bytes(),
        "proof": (run / "proof.json").read_bytes(),
        "history": [{**line, "seconds": 0, "images_per_second": 0} for line in history],
        "result": timeless,
    }


def test_an_observer_gets_every_stage_epoch_batch_and_checkpoint(watch: Watch) -> None:
    run, loud = watch("recorder")
    events = recorded(run)
    names = [each["event"] for each in events]
    assert names[0] == "RunStarted" and names[-1] == "RunFinished" and loud == []
    assert len(events[0]["classes"]) == 2
    plan = json.loads((run / "plan.json").read_text())
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert names.count("StageStarted") == names.count("StageFinished") == len(plan["stages"]) == 2
    assert names.count("EpochStarted") == names.count("EpochFinished") == len(history)
    for stage in plan["stages"]:
        batches = [each for each in events if each.get("step") and each["stage"] == stage["settings"]["name"]]
        assert [each["step"] for each in batches] == [*range(1, stage["steps"] + 1)]
        assert all(each["of"] == stage["steps"] and set(each["rates"]) == set(stage["rates"]) for each in batches)
    saved = [each for each in events if each["event"] == "CheckpointSaved"]
    assert [each["stages"] for each in saved][-1] == 2 and all(each["there"] for each in saved)
    finished = events[-1]
    assert finished["accuracy"] == json.loads((run / "result.json").read_text())["metrics"]["val"]["accuracy"]
    confusion = finished["confusion"]
    right = sum(confusion[index][index] for index in range(2))
    assert sum(map(sum, confusion)) == 4 and right / 4 == finished["accuracy"]


@pytest.mark.parametrize("observers", [["recorder"], ["meddler", "quitter", "recorder"]])
@pytest.mark.long
def test_a_run_comes_to_the_same_bytes_with_and_without_observers(
    observers: Sequence[str], watch: Watch, alone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = watch(*observers)
    assert bytes_of(run) == bytes_of(alone)
    # Each has its own copy of what happened.
    batches = [each for each in recorded(run) if each["event"] == "BatchFinished"]
    assert all(each["rates"] for each in batches)
    assert capfd.readouterr().out == ""


def test_an_observer_that_raises_is_reported_once_and_dropped_and_the_others_go_on(watch: Watch) -> None:
    run, loud = watch("quitter", "recorder")
    assert loud == [
        "Observer 'quitter' of zoo-watchers 1.4 is dropped, the run goes on. At BatchFinished: SystemExit: had enough"
    ]
    assert recorded(run)[-1]["event"] == "RunFinished"


@pytest.mark.long
def test_a_slow_observer_is_reported_with_its_time(watch: Watch) -> None:
    _, loud = watch("sleeper", recipe="head_only", epochs=1)
    (line,) = loud
    assert line.startswith("Observer 'sleeper' of zoo-watchers 1.4 took 1.") and "for which training waited" in line


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), Terminated(143)])
def test_an_interruption_in_an_observer_ends_the_run(
    reason: BaseException, watch: Watch, registry: zoo.Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = sys.modules["zoo_watchers"]

    def interrupted(self: Any, event: Event) -> None:
        if isinstance(event, zoo.BatchFinished):
            raise reason

    monkeypatch.setattr(module.Meddler, "__call__", interrupted)
    with pytest.raises(type(reason)):
        watch("meddler", "recorder", out=tmp_path / "run")
    *_, last = recorded(tmp_path / "run")
    assert last["event"] == "RunStopped" and last["reason"]


def test_a_resumed_run_may_have_other_observers_and_says_that_it_goes_on(
    watch: Watch, registry: zoo.Registry, alone: Path, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, zoo.CheckpointSaved):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    plan = json.loads((alone / "plan.json").read_text())
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=plan["data"]["path"], out=out, registry=registry, on_event=stop)
    zoo.resume(out, observers=["recorder"], registry=registry)
    events = recorded(out)
    assert events[0]["event"] == "RunStarted" and events[0]["resumed"]
    assert [each["event"] for each in events].count("StageStarted") == 1
    assert bytes_of(out)["weights"] == bytes_of(alone)["weights"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needy", r"Observer 'needy' of zoo-watchers 1\.4 cannot be used here: it needs curves_of_nobody\.\nNext: pip"),
        ("crooked", r"must be built as a function of an event, got 'watching'"),
        ("recordr", r"There is no observer 'recordr'\. Did you mean 'recorder'\?\nNext: zoo list observers"),
        ("watchers/recorde", r"There is no observer 'watchers/recorde'\. Did you mean 'watchers/recorder'"),
    ],
)
def test_an_observer_that_cannot_be_is_refused_before_anything_runs(
    name: str, message: str, watch: Watch, tmp_path: Path
) -> None:
    with pytest.raises((Refused, UnknownName), match=message):
        watch("recorder", name, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_command_lists_and_takes_observers(among: Zoo, few: Path, tmp_path: Path) -> None:
    listed = among("list", "observers").stdout
    (line,) = [line for line in listed.splitlines() if line.startswith("watchers/recorder")]
    assert "Writes the names of events" in line and line.endswith("[zoo-watchers]")
    choice = ["--backbone", "timm/test_resnet", "--weights", "random", "--recipe", "head_only", "--epochs", "1"]
    done = among(
        "finetune", *choice, "--data", few, "--out", "run", "--observer", "recorder", "--observer", "quitter", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["proof"] == "passed"
    assert "RunFinished" in [each["event"] for each in recorded(tmp_path / "run")]
    refused = among("finetune", "--resume", "run", "--observer", "recorder")
    assert refused.returncode == 2 and "goes alone" not in refused.stderr


def test_a_report_that_is_broken_off_does_not_make_the_run_unfinished(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken_off(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.reporting.page.write_or_note", broken_off)
    with pytest.raises(KeyboardInterrupt):
        watch("recorder", out=tmp_path / "run")
    events = [each["event"] for each in recorded(tmp_path / "run")]
    assert "RunFinished" in events and (tmp_path / "run" / "result.json").exists()
