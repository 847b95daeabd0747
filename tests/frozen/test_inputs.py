"""A stage whose rows are read from the disk ends where one ends whose rows are in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from zoo.events import Event, Progress

TINY: dict[str, Any] = {
    "backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "batch_size": 5, "epochs": 3
}  # fmt: skip


@pytest.fixture
def streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every set is read in windows, of one run of four rows."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "0")
    for place in ("zoo.frozen.windows.RUN", "zoo.frozen.decision.RUN"):
        monkeypatch.setattr(place, 4)
    monkeypatch.setattr("zoo.frozen.decision.WINDOW", 1)
    monkeypatch.setattr("zoo.frozen.outputs.BLOCK", 1)
    return monkeypatch


def weights_of(result: zoo.Result) -> bytes:
    return (result.path / "model" / "model.safetensors").read_bytes()


def stage_of(result: zoo.Result) -> dict[str, Any]:
    stage: dict[str, Any] = json.loads((result.path / "plan.json").read_text("utf-8"))["stages"][0]
    return stage


def test_rows_from_the_disk_train_to_the_bytes_of_rows_in_memory_from_cold_and_warm_caches(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    in_memory = zoo.finetune(**TINY, data=shapes, out=tmp_path / "memory")
    assert stage_of(in_memory)["window"] == 4 and in_memory.proof == "passed"
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    warm = zoo.finetune(**TINY, data=shapes, out=tmp_path / "warm")
    streaming.setenv("ZOO_CACHE_DIR", str(tmp_path / "other"))
    cold = zoo.finetune(**TINY, data=shapes, out=tmp_path / "cold")
    assert weights_of(cold) == weights_of(warm) == weights_of(in_memory)
    # The order is another one than that of all rows.
    streaming.delenv("ZOO_STREAM_ABOVE")
    plain = zoo.finetune(**TINY, data=shapes, out=tmp_path / "plain")
    assert stage_of(plain)["window"] == 0 and weights_of(plain) != weights_of(cold)


@pytest.mark.long
def test_a_run_that_was_stopped_in_the_middle_of_a_window_goes_on_in_its_own_order(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    streaming.setattr("zoo.training.checkpoint.SECONDS_BETWEEN", {"step": 0, "epoch": 0, "stage": 0})
    whole = zoo.finetune(**TINY, data=shapes, out=tmp_path / "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "head" and event.done == 36 + 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "stopped", on_event=stop)
    # Whatever this machine would choose now.
    streaming.delenv("ZOO_STREAM_ABOVE")
    assert weights_of(zoo.resume(tmp_path / "stopped")) == weights_of(whole)


@pytest.mark.long
def test_features_that_were_interrupted_are_gone_on_with(
    shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch
) -> None:
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)

    def computed(events: list[Event]) -> int:
        return sum(isinstance(event, Progress) and event.task.startswith("features") for event in events)

    first: list[Event] = []

    def stop(event: Event) -> None:
        first.append(event)
        if computed(first) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, data=shapes, out=tmp_path / "stopped", on_event=stop)
    events: list[Event] = []
    resumed = zoo.resume(tmp_path / "stopped", on_event=events.append)
    streaming.setenv("ZOO_CACHE_DIR", str(tmp_path / "other"))
    unbroken: list[Event] = []
    whole = zoo.finetune(**TINY, data=shapes, out=tmp_path / "whole", on_event=unbroken.append)
    assert weights_of(resumed) == weights_of(whole)
    assert computed(events) == computed(unbroken) - 1


@pytest.mark.long
def test_a_bfloat16_run_stores_half_and_ends_alike(shapes: Path, tmp_path: Path, streaming: pytest.MonkeyPatch) -> None:
    usual = {**TINY, "data": shapes, "precision": "bfloat16"}
    streaming.delenv("ZOO_STREAM_ABOVE")
    cold = zoo.finetune(**usual, out=tmp_path / "cold")
    warm = zoo.finetune(**usual, out=tmp_path / "warm")
    streaming.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    from_disk = zoo.finetune(**usual, out=tmp_path / "disk")
    assert weights_of(warm) == weights_of(cold) == weights_of(from_disk)
    assert stage_of(cold)["kept_as"] == "bfloat16 where exact" and cold.proof == "passed"
    files = list((tmp_path / "cache").glob("features/*/*.safetensors"))
    stored = sum(path.stat().st_size for path in files)
    assert stored < stage_of(cold)["kept_bytes"] / 2 + 400 * len(files)


def test_the_plan_says_in_which_order_rows_are_read(
    few: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--recipe", "head_only")
    steps = ("--epochs", "3")
    assert "read in windows" not in zoo_inside(*usual, *steps).stdout
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "1KB")
    assert "read in windows of" in " ".join(zoo_inside(*usual, *steps).stdout.split())
    # The solver takes all rows at once, so there is no order.
    assert json.loads(zoo_inside(*usual, "--json").stdout)["stages"][0]["window"] == 0
    monkeypatch.setenv("ZOO_STREAM_ABOVE", "plenty")
    refused = zoo_inside(*usual)
    assert refused.returncode == 2 and "ZOO_STREAM_ABOVE is 'plenty', which is not a size" in refused.stderr
