"""Layer decay acts on every group that trains, whatever the optimizer, the schedule and what is frozen in between."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.training.learning_rate import set_rates
from zoo.training.optimizer import make_optimizer

DECAY, RATE, WARMUP = 0.5, 0.02, 0.3
FACTORS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
# What trains, on which backbone.
SELECTIONS = [
    ("timm/test_resnet", "all"),
    ("timm/test_resnet", "head,last:2"),
    ("timm/test_resnet", "head,first:1,last:1"),  # frozen groups in between
    ("timm/test_resnet", "first:2"),
    ("timm/test_vit", "head,norm"),
    ("timm/test_vit", "head,bias,last:1"),
    ("timm/test_convnext", "head,middle:1"),
    ("timm/test_convnext", "norm,first:1"),
]


def stage_of(data: Path, backbone: str, train: str, **settings: Any) -> StagePlan:
    given = {"train": train, "layer_decay": DECAY, "lr": RATE, "warmup": WARMUP, "epochs": 6, "batch_size": 4}
    assignments = [f"all.{key}={value}" for key, value in {**given, **settings}.items()]
    (stage,) = zoo.plan(
        backbone=backbone, head="linear", weights="random", data=data, recipe="full", set=assignments, tune=False
    ).stages
    return stage


@functools.cache
def planned(data: Path, backbone: str, train: str) -> StagePlan:
    """Rates and steps are the same whatever the optimizer and the schedule: planned once."""
    return stage_of(data, backbone, train, weight_decay=0)


def model_of(stage: StagePlan, backbone: str) -> ZooModel:
    torch.manual_seed(0)
    model = zoo.create_model(backbone, head="linear", classes=2, weights="random")
    model.freeze_all_but(stage.trains, stage.tensors, stage.batch_norm)
    return model


def factors(stage: StagePlan) -> list[float]:
    """Of the peak rate in every step, written down anew: a rise in steps of one, then the schedule."""
    rising = math.ceil(WARMUP * stage.steps)
    shape = FACTORS[stage.settings.schedule]
    falling = [shape(step / (stage.steps - rising)) for step in range(stage.steps - rising)]
    return [(step + 1) / (rising + 1) for step in range(rising)] + falling


def expected_rate(model: ZooModel, name: str) -> float:
    """Peak rate of a tensor, from its place in the backbone alone."""
    group = model.group_of(name)
    distance = 0 if group == "head" else len(model.groups.names) - 1 - model.groups.names.index(group)
    return RATE * DECAY**distance


@pytest.mark.parametrize(("backbone", "train"), SELECTIONS)
@pytest.mark.parametrize("schedule", list(FACTORS))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_tensors_move_as_far_as_their_groups_rate_and_the_schedule_say(
    backbone: str, train: str, schedule: str, optimizer: str, few: Path
) -> None:
    stage = planned(few, backbone, train)
    turned = {"schedule": schedule, "optimizer": optimizer}
    stage = stage.model_copy(update={"settings": stage.settings.model_copy(update=turned)})
    model = model_of(stage, backbone)
    made = make_optimizer(model, stage)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    frozen = {name: each.detach().clone() for name, each in model.named_parameters() if name not in trained}
    assert trained and {model.group_of(name) for name in trained} == set(stage.rates)
    with torch.no_grad():
        for each in trained.values():
            each.zero_()
    before = {name: 0.0 for name in trained}
    momentum = 0.0
    for number, factor in enumerate(factors(stage)):
        set_rates(made, stage, number)
        # Gradients of one: AdamW goes its rate, SGD its rate times what Nesterov's momentum has piled up.
        for each in trained.values():
            each.grad = torch.ones_like(each)
        made.step()
        momentum = 0.9 * momentum + 1
        way = 1.0 if optimizer == "adamw" else 1 + 0.9 * momentum
        for name, each in trained.items():
            assert stage.rates[model.group_of(name)] == pytest.approx(expected_rate(model, name))
            step = expected_rate(model, name) * factor * way
            now = float(each.detach().flatten()[0])
            assert before[name] - now == pytest.approx(step, rel=1e-3, abs=1e-6), name
            before[name] = now
    for name, each in model.named_parameters():
        assert name in trained or torch.equal(each, frozen[name])


@pytest.mark.parametrize("schedule", list(FACTORS))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay_follows_the_rate_of_the_group_that_it_acts_on(
    everything: bool, optimizer: str, schedule: str, few: Path
) -> None:
    backbone, decay = "timm/test_resnet", 0.1
    stage = stage_of(
        *(few, backbone, "head,first:1,last:1"),
        schedule=schedule,
        optimizer=optimizer,
        weight_decay=decay,
        decay_all=str(everything).lower(),
    )
    model = model_of(stage, backbone)
    made = make_optimizer(model, stage)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    decayed = [name for name, each in trained.items() if everything or each.ndim > 1]
    assert stage.decayed_parameters == sum(trained[name].numel() for name in decayed)
    with torch.no_grad():
        for each in trained.values():
            each.fill_(1.0)
    known: dict[str, tuple[float, float]] = {name: (1.0, 0.0) for name in trained}
    for number, factor in enumerate(factors(stage)):
        set_rates(made, stage, number)
        for each in trained.values():
            each.grad = torch.zeros_like(each)
        made.step()
        for name, each in trained.items():
            value, momentum = known[name]
            rate = expected_rate(model, name) * factor
            gradient = decay * value if name in decayed else 0.0
            momentum = 0.9 * momentum + gradient
            # AdamW's is decoupled, SGD's goes the way of the gradient.
            value -= rate * (gradient if optimizer == "adamw" else gradient + 0.9 * momentum)
            known[name] = value, momentum
            assert float(each.detach().flatten()[0]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "cosine"), ("sgd", "linear")])
@pytest.mark.long
def test_a_run_uses_the_rates_of_its_plan(optimizer: str, schedule: str, few: Path, tmp_path: Path) -> None:
    settings = {
        "train": "head,first:1,last:1",
        "layer_decay": DECAY,
        "lr": RATE,
        "warmup": WARMUP,
        "epochs": 4,
        "batch_size": 4,
        "schedule": schedule,
        "optimizer": optimizer,
    }
    run = zoo.finetune(
        backbone="timm/test_resnet",
        head="linear",
        weights="random",
        data=few,
        recipe="full",
        out=tmp_path / "run",
        set=[f"all.{key}={value}" for key, value in settings.items()],
        tune=False,
    )
    stage = stage_of(few, "timm/test_resnet", "head,first:1,last:1", epochs=4, schedule=schedule)
    history = [json.loads(line) for line in (run.path / "history.jsonl").read_text("utf-8").splitlines()]
    begins = factors(stage)[:: stage.steps // 4]
    assert len(history) == len(begins) == 4 and stage.steps == 8
    for epoch, factor in zip(history, begins, strict=True):
        assert epoch["rates"] == pytest.approx({group: rate * factor for group, rate in stage.rates.items()})


def test_distance_counts_frozen_groups(few: Path) -> None:
    stage = stage_of(few, "timm/test_resnet", "head,first:1,last:1")
    model: ZooModel = zoo.create_model("timm/test_resnet", classes=2, weights="random")
    first, *between, last = model.groups.names
    assert len(between) >= 2 and list(stage.rates) == [first, last, "head"]
    assert stage.rates == pytest.approx({first: RATE * DECAY ** (len(between) + 1), last: RATE, "head": RATE})


def test_layer_decay_for_the_head_alone_is_refused(zoo_inside: Zoo, few: Path) -> None:
    usual = ("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few)
    done = zoo_inside(*usual, "--set", "head.layer_decay=0.5")
    assert done.returncode == 2 and "layer_decay: would do nothing, this stage leaves the backbone alone" in done.stderr
