"""Every knob of a stage has its effect, and is refused where it would have none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, AdamW
from zoo.evaluation.metrics import Scores
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Stage
from zoo.training.learning_rate import RATES, choose_rate, set_rates
from zoo.training.objective import Objective, anchors_of, balanced_weights
from zoo.training.optimizer import make_optimizer, take_step
from zoo.training.stage_watch import NotFinite


def model_of(backbone: str = "timm/test_resnet") -> ZooModel:
    torch.manual_seed(0)
    return zoo.create_model(backbone, head="linear", classes=3, weights="random")


def plan_of(model: ZooModel, *, steps: int = 10, **settings: Any) -> StagePlan:
    stage = Stage(**{"name": "all", "train": ("all",), "epochs": 1, "lr": 1e-3, **settings})
    groups = ("head", *model.groups.names)
    model.freeze_all_but(groups, (), stage.batch_norm)
    return StagePlan(
        settings=stage,
        trains=groups,
        freezes=(),
        trainable_parameters=0,
        frozen_parameters=0,
        rates=dict.fromkeys(groups, stage.lr),
        steps=steps,
        inputs="images",
        batch_norms_frozen=0,
        batch_norms_training=0,
    )


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_the_optimizer_is_the_one_named(name: str, kind: type) -> None:
    model = model_of()
    optimizer = make_optimizer(model, plan_of(model, optimizer=name))
    assert type(optimizer) is kind
    held = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    if kind is SGD:
        assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.9, True)}


@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay_spares_scales_shifts_and_biases_unless_told_otherwise(everything: bool) -> None:
    model = model_of()
    optimizer = make_optimizer(model, plan_of(model, weight_decay=0.5, decay_all=everything))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.5 if everything or parameter.ndim > 1 else 0.0)
    # With gradients of zero only decay moves anything.
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    nonzero = {name for name, each in before.items() if each.any()}
    assert moved == {name for name in nonzero if everything or before[name].ndim > 1}


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("cosine", lambda done: 0.5 * (1 + math.cos(math.pi * done))),
        ("linear", lambda done: 1 - done),
        ("constant", lambda done: 1.0),
    ],
)
def test_the_rate_goes_as_the_schedule_says(schedule: str, factor: Any) -> None:
    model = model_of()
    plan = plan_of(model, steps=20, schedule=schedule, warmup=0.2)
    optimizer = make_optimizer(model, plan)
    rates = []
    for step in range(20):
        set_rates(optimizer, plan, step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([1e-3 * (step + 1) / 5 for step in range(4)])
    assert rates[4:] == pytest.approx([1e-3 * factor(step / 16) for step in range(16)])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_torchs_whatever_the_micro_batches(smoothing: float, weighted: bool) -> None:
    model = model_of().eval()
    features, targets = torch.randn(7, model.shape.pooled), torch.tensor([0, 0, 0, 0, 1, 2, 2])
    weights = balanced_weights(targets, 3) if weighted else None
    expected = functional.cross_entropy(model.head(features), targets, weight=weights, label_smoothing=smoothing)
    settings = Stage(name="s", train=("all",), epochs=1, lr=1, label_smoothing=smoothing)
    objective = Objective(settings, weights)
    for parts in (1, 2, 7):
        total = sum(
            objective.micro_batch_loss(model, part, some, targets)
            for part, some in zip(features.tensor_split(parts), targets.tensor_split(parts), strict=True)
        )
        assert isinstance(total, Tensor) and torch.allclose(total, expected, atol=1e-6)


def test_balanced_weights_let_every_class_count_the_same() -> None:
    targets = torch.tensor([0] * 8 + [1] * 2)
    weights = balanced_weights(targets, 3)
    assert torch.allclose(weights, torch.tensor([10 / 24, 10 / 6, 0.0]))
    totals = [weights[targets][targets == label].sum() for label in (0, 1)]
    assert torch.allclose(totals[0], totals[1])


def test_the_penalty_is_half_the_squared_distance_from_the_start() -> None:
    model = model_of()
    model.freeze_all_but([model.groups.names[-1], "head"])
    anchors = anchors_of(model)
    objective = Objective(Stage(name="s", train=("all",), epochs=1, lr=1, l2_sp=0.4), None, anchors)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    penalty = objective.penalty(model)
    assert penalty is not None
    penalty.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.") and parameter.requires_grad:
            assert parameter.grad is not None and torch.allclose(parameter.grad, 0.4 * (parameter - anchors[name]))
        else:
            assert parameter.grad is None
    without = Objective(Stage(name="s", train=("all",), epochs=1, lr=1), None, anchors)
    assert without.penalty(model) is None


def run(data: Path, out: Path, *settings: str, **arguments: Any) -> dict[str, Tensor]:
    """Return the state dict after a run of `full`, which has one stage."""
    usual = {"backbone": "timm/test_resnet", "head": "linear", "weights": "random", "recipe": "full", "epochs": 1}
    result = zoo.finetune(**{**usual, **arguments}, data=data, out=out, set=settings)
    assert result.proof == "passed"
    return zoo.load(result.path).model.state_dict()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    names = [name for name in one if name.startswith("backbone.") and one[name].ndim > 1]
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in names))


@pytest.mark.long
def test_clipping_and_l2_sp_keep_the_weights_near_their_start(few: Path, tmp_path: Path) -> None:
    usual = ("all.optimizer=sgd", "all.lr=0.05", "all.weight_decay=0")
    start = run(few, tmp_path / "start", *usual, "all.clip=1e-9")
    free = distance(run(few, tmp_path / "free", *usual, epochs=4), start)
    clipped = distance(run(few, tmp_path / "clip", *usual, "all.clip=0.01", epochs=4), start)
    pulled = distance(run(few, tmp_path / "pull", *usual, "all.l2_sp=5", epochs=4), start)
    assert 0 < clipped < free / 5 and pulled < 0.9 * free


@pytest.mark.parametrize(
    ("policy", "statistics_move", "scales_move"),
    [("train", True, True), ("adapt", True, False), ("frozen", False, False)],
)
@pytest.mark.long
def test_batch_norms_do_as_they_are_told(
    policy: str, statistics_move: bool, scales_move: bool, few: Path, tmp_path: Path
) -> None:
    start = run(few, tmp_path / "start", recipe="head_only")
    state = run(few, tmp_path / "run", f"all.batch_norm={policy}")
    model = model_of()
    scales = {name for name, _ in model.named_parameters() if "norm" in model.kinds_of(name)}
    statistics = {name for name in state if "running_" in name}
    assert scales and statistics
    assert any(not torch.equal(state[name], start[name]) for name in statistics) == statistics_move
    assert any(not torch.equal(state[name], start[name]) for name in scales) == scales_move
    assert any(not torch.equal(state[name], start[name]) for name in state if state[name].ndim > 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "arcface", "--set", "head.label_smoothing=0.1"], "label_smoothing: would do nothing, this head"),
        (["--head", "arcface", "--set", "last.class_weights=balanced"], "class_weights: would do nothing, this head"),
        (["--set", "head.l2_sp=0.1"], "l2_sp: would do nothing, this stage leaves the backbone alone"),
        (["--set", "head.batch_norm=frozen"], "batch_norm: would do nothing, this stage leaves the backbone alone"),
        (
            ["--set", "last.train=head,norm", "--set", "last.batch_norm=adapt"],
            "batch_norm: would do nothing, it is about groups that train as a whole, and this stage trains none",
        ),
        (["--set", "head.label_smoothing=1"], "(--set head.label_smoothing): should be less than 1"),
        (["--set", "head.clip=-1"], "(--set head.clip): should be at least 0"),
        (["--set", "head.optimizer=adam"], "(--set head.optimizer): should be 'adamw' or 'sgd'"),
        (["--set", "head.schedule=step"], "(--set head.schedule): should be 'cosine', 'linear' or 'constant'"),
        (["--set", "last.layer_decay=0"], "(--set last.layer_decay): should be greater than 0"),
        (["--set", "last.layer_decay=2"], "(--set last.layer_decay): should be at most 1"),
        (["--set", "last.train=last:9"], "'last:9' asks for 9 groups, this backbone has"),
        (["--set", "last.train=group:layer9"], "'group:layer9' matches no group"),
        (["--set", "last.epochs=0"], "(--set last.epochs): should be at least 1"),
    ],
)
def test_values_that_cannot_be_or_would_do_nothing_are_refused(
    arguments: list[str], message: str, shapes: Path, zoo_inside: Zoo
) -> None:
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", shapes, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_gradient_of_another_layout_than_its_parameter_gives_the_same_step(name: str) -> None:
    """Fused optimizers read both as if they had the same memory layout."""
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = zoo.create_model("timm/test_resnet", head="linear", classes=2, weights="random")
        optimizer = make_optimizer(model, plan_of(model, optimizer=name))
        torch.manual_seed(1)
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape)
            parameter.grad = drawn.contiguous(memory_format=layout) if drawn.ndim == 4 else drawn
        take_step(optimizer)
        ends.append([each.detach().clone() for each in model.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


def test_the_search_for_a_rate_leaves_out_those_without_numbers() -> None:
    """Logits that are no numbers have an accuracy, too, and by chance the highest."""
    plan = plan_of(model_of())

    def train(stage: StagePlan) -> Scores:
        diverged = stage.rates["head"] == RATES[0] or stage.rates["head"] >= RATES[3]
        return Scores(accuracy=0.9, macro_f1=0.5, loss=math.nan) if diverged else Scores(0.8, 0.8, stage.rates["head"])

    assert choose_rate(plan, train).tried == {f"{rate:g}": 0.8 for rate in RATES[1:3]}
    assert choose_rate(plan, train).rate == RATES[1], "of equal accuracy, the lowest loss"
    with pytest.raises(NotFinite, match="loss is not finite with any learning rate"):
        choose_rate(plan, lambda stage: Scores(0.9, 0.9, math.nan))
