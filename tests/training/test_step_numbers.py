"""Losses of many steps read together: the same run as with those of every step, and no fault reaches what is saved."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from tests.kills import digest
from torch import Tensor, nn
from zoo.errors import CheckFailed
from zoo.events import BatchFinished, Event, Progress
from zoo.training import stage_watch
from zoo.training.checkpoint import Checkpoint
from zoo.training.objective import Objective
from zoo.training.optimizer import take_step
from zoo.training.step_numbers import Numbers, StepNumbers

STEPS = 9
NAMES = ("first", "second", "third")


def quick_if(quick: bool, *values: str) -> Any:
    return pytest.param(values, marks=() if quick else pytest.mark.long)


def read_after(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """Read after so many steps, as on a GPU."""
    monkeypatch.setattr(stage_watch, "steps_between_readings", lambda device: every)


def faults() -> Iterator[tuple[int, str]]:
    yield 0, "none"
    for step in range(1, STEPS + 1):
        for kind in ("first", "second", "loss", "inf"):
            yield step, kind


class Steps:
    """Steps on two tensors, one of which gets a gradient only later, with a fault in one of them."""

    def __init__(self, every: int, fault: int, kind: str, optimizer: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tensors = {name: nn.Parameter(torch.randn(3, generator=generator)) for name in NAMES}
        kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        self.optimizer = kinds[optimizer](self.tensors.values(), lr=0.1, fused=True)
        self.numbers = StepNumbers(every)
        self.read: list[Numbers] = []
        asked = set(self.tensors)
        for step in range(1, STEPS + 1):
            losses = [torch.rand((), generator=generator) for _ in range(2)]
            gradients = {name: torch.randn(3, generator=generator) for name in self.tensors}
            gradients["third"] *= 0
            if step < 4:  # from then on, another set of tensors has gradients
                del gradients["second"]
            if step == fault:
                self._spoil(kind, losses, gradients)
            for name, tensor in self.tensors.items():
                tensor.grad = gradients.get(name)
            found = self.numbers.add(step, losses, gradients, asked=frozenset(asked), now=step <= 2)
            self.read.append(found)
            asked -= found.moved
            if found.fault is not None:
                return
            take_step(self.optimizer, self.numbers.found)
        self.read.append(self.numbers.read())

    def _spoil(self, kind: str, losses: list[Tensor], gradients: dict[str, Tensor]) -> None:
        if kind == "loss":
            losses[1] = torch.tensor(math.nan)
        elif kind == "inf":
            for gradient in gradients.values():
                gradient[0] = -math.inf
        else:
            gradients[kind if kind in gradients else "first"][1] = math.nan

    def told(self) -> Any:
        """What was said in all readings, and what the steps left."""
        last = self.read[-1] if self.read[-1].fault is not None else Numbers()
        of_fault = last.fault, str(last.fault_loss), last.not_finite
        # A state of zeros is that before a tensor's first step.
        state = [tensor for each in self.optimizer.state.values() for tensor in each.values() if tensor.any()]
        left = [tensor.tolist() for tensor in (*self.tensors.values(), *state)]
        return [loss for each in self.read for loss in each.losses], of_fault, left


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_many_steps_read_together_tell_the_same_and_leave_the_same_as_each_by_itself(optimizer: str) -> None:
    for fault, kind in faults():
        expected = Steps(1, fault, kind, optimizer).told()
        assert (expected[1][0] or 0) == fault
        for every in (2, 3, 50):
            assert Steps(every, fault, kind, optimizer).told() == expected, (fault, kind, every)


def test_tensors_that_moved_are_known_after_the_reading() -> None:
    for every in (1, 4, 50):
        assert frozenset().union(*(each.moved for each in Steps(every, 0, "none", "sgd").read)) == {"first", "second"}


class Run:
    """A run in three epochs of four steps each, and what it told."""

    def __init__(self, few: Path, out: Path, **arguments: Any) -> None:
        self.batches: list[BatchFinished] = []
        self.path, self.error = out, ""
        usual = {"backbone": "timm/test_resnet", "recipe": "full", "weights": "random", "epochs": 3, "tune": False}
        try:
            zoo.finetune(**{**usual, **arguments}, data=few, out=out, batch_size=2, on_event=self._listen)
        except CheckFailed as error:
            self.error = str(error).replace(str(out), "RUN")

    def _listen(self, event: Event) -> None:
        if isinstance(event, BatchFinished):
            self.batches.append(event)

    def proof(self) -> list[dict[str, Any]]:
        """Its checks; how many passes the stage made depends on when a fault is read."""
        checks: list[dict[str, Any]] = json.loads((self.path / "proof.json").read_text("utf-8"))["checks"]
        return [check for check in checks if check["name"] != "frozen_in_evaluation_mode" or not self.error]

    def history(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.path / "history.jsonl").read_text("utf-8").splitlines()]
        return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def spoil(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the loss of a step be not a number, and with it all gradients."""
    original, count = Objective.micro_batch_loss, itertools.count(1)

    def spoiled(self: Objective, *arguments: Any) -> Tensor:
        return original(self, *arguments) * (math.nan if next(count) == step else 1)

    monkeypatch.setattr(Objective, "micro_batch_loss", spoiled)


@pytest.mark.parametrize(
    "settings",
    [
        quick_if(False),
        quick_if(False, "all.ema=0.5", "all.clip=1", "all.keep_epoch=best"),
        quick_if(False, "all.optimizer=sgd", "all.lr=0.01"),
    ],
    ids=["usual", "average", "sgd"],
)
def test_a_run_comes_to_the_same_bytes_however_seldom_its_steps_are_read(
    settings: tuple[str, ...], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for every in (1, 50):
        with monkeypatch.context() as patch:
            read_after(patch, every)
            runs.append(Run(few, tmp_path / f"run{every}", set=settings))
    each_step, seldom = runs
    assert not each_step.error and len(each_step.batches) == 12
    assert digest(seldom.path) == digest(each_step.path)
    assert seldom.batches == each_step.batches
    assert (seldom.proof(), seldom.history()) == (each_step.proof(), each_step.history())


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step == 7 else pytest.mark.long) for step in range(1, 13)]
)
def test_a_step_that_is_not_finite_is_named_by_its_number_and_never_saved(
    step: int, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for every in (1, 50):
        with monkeypatch.context() as patch:
            read_after(patch, every)
            spoil(patch, step)
            due = itertools.count(1)  # a checkpoint after every fifth step or epoch
            patch.setattr(Checkpoint, "due", lambda self, moment, due=due: next(due) % 5 == 0)
            runs.append(Run(few, tmp_path / f"run{every}"))
    each_step, seldom = runs
    assert f"Stage 'all', step {step}: the gradient of " in each_step.error and "(loss nan)" in each_step.error
    assert (seldom.error, seldom.proof()) == (each_step.error, each_step.proof())
    assert seldom.batches == each_step.batches and len(seldom.batches) == step - 1
    for run in runs:
        assert not (run.path / "model").exists() and not (run.path / "result.json").exists()
    saved = [{path.name: load_file(path) for path in run.path.rglob("*.safetensors")} for run in (each_step, seldom)]
    assert saved[0].keys() == saved[1].keys() and bool(saved[0]) == (step > 4)
    for name, tensors in saved[0].items():
        for key, tensor in tensors.items():
            assert bool(torch.isfinite(tensor.double()).all()), (name, key)
            assert torch.equal(tensor, saved[1][name][key]), (name, key)


@pytest.mark.long
def test_a_run_that_is_stopped_between_two_readings_is_resumed_to_the_same_bytes(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_after(monkeypatch, 50)
    unbroken = Run(few, tmp_path / "unbroken")
    due = itertools.count(1)
    monkeypatch.setattr(Checkpoint, "due", lambda self, moment: next(due) == 7)  # in the middle of the second epoch
    steps = itertools.count(1)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "all" and next(steps) == 8:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(
            backbone="timm/test_resnet",
            recipe="full",
            weights="random",
            epochs=3,
            tune=False,
            data=few,
            out=run,
            batch_size=2,
            on_event=stop,
        )
    facts = json.loads((run / "checkpoint" / "checkpoint.json").read_text("utf-8"))["facts"]
    assert facts["stage"]["position"]["steps"] == 6 and facts["stage"]["position"]["loss"] > 0
    zoo.resume(run)
    assert digest(run) == digest(unbroken.path)


def test_without_the_brake_a_fault_would_be_in_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `found` is for: without it the same steps leave weights that are not numbers."""
    expected = Steps(1, 4, "first", "adamw").told()
    assert Steps(50, 4, "first", "adamw").told() == expected
    monkeypatch.setattr(StepNumbers, "add", _without_found(StepNumbers.add))
    spoiled = Steps(50, 4, "first", "adamw").told()
    assert spoiled[1][0] == expected[1][0] == 4
    assert "nan" in str(spoiled[2]) and "nan" not in str(expected[2])


def _without_found(original: Callable[..., Numbers]) -> Callable[..., Numbers]:
    def add(self: StepNumbers, *arguments: Any, **named: Any) -> Numbers:
        numbers = original(self, *arguments, **named)
        if self.found is not None:
            self.found.zero_()
        return numbers

    return add
