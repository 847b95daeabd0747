"""Stages that a solver fits: what they end with, what they record, and a proof that notices each fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from zoo.data.decode import read_image
from zoo.data.transform import transform
from zoo.errors import CheckFailed
from zoo.events import EpochFinished, Event, Note, Progress
from zoo.probes.logistic import LogisticFit, LogisticProblem
from zoo.specs.run_result import Check
from zoo.training.solver_check import FLAT, check_solver

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}


def run(data: Path, out: Path, *settings: str, **arguments: Any) -> zoo.Result:
    result = zoo.finetune(**{**USUAL, **arguments}, data=data, out=out, set=settings)
    assert result.proof == "passed"
    return result


def head_of(result: zoo.Result) -> dict[str, Tensor]:
    state = load_file(result.artefact / "model.safetensors")
    return {name: tensor for name, tensor in state.items() if name.startswith("head.")}


def checks_of(result: zoo.Result) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads((result.path / "proof.json").read_text("utf-8"))["checks"]}


def record_of(result: zoo.Result) -> dict[str, Any]:
    record: dict[str, Any] = result.content["stages"][0]["solver"]
    return record


def features_of(result: zoo.Result, data: Path) -> tuple[Tensor, Tensor]:
    """Training features[N, F] of a finished run, and class indices[N]."""
    classifier = zoo.load(result.path)
    files = sorted((data / "train").rglob("*.jpg"))
    images = torch.stack([transform(read_image(file), classifier.model.preprocessing) for file in files])
    with torch.no_grad():
        features = classifier.model.features(images)
    return features, torch.tensor([classifier.classes.index(file.parent.name) for file in files])


@pytest.mark.long
def test_a_run_ends_with_the_minimum_of_the_objective_and_says_how_it_got_there(shapes: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = run(shapes, tmp_path / "run", on_event=events.append)
    record = record_of(result)
    assert set(record) >= {"name", "strength", "tried", "folds", "iterations", "gradient_norm"}
    assert record["folds"] == 5 and record["strength"] in [each["strength"] for each in record["tried"]]
    assert result.content["stages"][0]["epochs"] == 1
    lines = (result.path / "history.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["rates"] == {}
    assert [event for event in events if isinstance(event, EpochFinished)]
    check = checks_of(result)["solver"]
    assert check["verdict"] == "passed" and check["evidence"]["gradient"] < FLAT
    assert {"gradients", "loss_movement", "seeds", "optimizer_groups"}.isdisjoint(checks_of(result))
    assert checks_of(result)["frozen_unchanged"]["verdict"] == "passed"
    page = (result.path / "report.html").read_text("utf-8")
    assert f"chosen among {len(record['tried'])} by cross-validation in 5 folds of the training images" in page
    # The command in the report makes the same plan again.
    assert "head.solver" not in page.partition("zoo finetune")[2].partition("</pre>")[0]


@pytest.mark.long
def test_gradient_steps_cannot_go_below_the_solvers_loss(shapes: Path, tmp_path: Path) -> None:
    solved = run(shapes, tmp_path / "solved", head="linear")
    stepped = run(shapes, tmp_path / "stepped", "head.lr=1e-2", "head.weight_decay=0", head="linear")
    strength = record_of(solved)["strength"]
    features, targets = features_of(solved, shapes)
    deviation = features.double().std(0, unbiased=False)

    def objective(result: zoo.Result) -> float:
        weight, bias = (head_of(result)[f"head.fc.{name}"].double() for name in ("weight", "bias"))
        loss = functional.cross_entropy(features.double() @ weight.T + bias, targets)
        return float(loss + strength / 2 * (weight * deviation).square().sum())

    assert objective(solved) < objective(stepped)


def weights_of(result: zoo.Result) -> dict[str, Tensor]:
    """The backbone's tensors under upstream's names, as a user's file has them."""
    state = load_file(result.artefact / "model.safetensors")
    return {name.removeprefix("backbone."): each for name, each in state.items() if name.startswith("backbone.")}


@pytest.mark.long
def test_the_head_depends_on_neither_the_seed_nor_dropout(shapes: Path, tmp_path: Path) -> None:
    first = run(shapes, tmp_path / "first", head="linear")
    torch.save(weights_of(first), tmp_path / "weights.pth")
    for seed, head in ((1, "linear"), (2, "dropout_linear")):
        other = run(shapes, tmp_path / f"{seed}", head=head, seed=seed, weights=str(tmp_path / "weights.pth"))
        assert all(torch.equal(tensor, head_of(first)[name]) for name, tensor in head_of(other).items())


@pytest.mark.parametrize(
    "setting",
    [
        "head.label_smoothing=0.3",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("head.class_weights=balanced", "head.views=2")),
    ],
)
def test_what_the_solver_honours_changes_the_head(shapes: Path, tmp_path: Path, setting: str) -> None:
    data = shapes
    if "balanced" in setting:
        data = tmp_path / "data"
        for file in shapes.rglob("*.jpg"):
            if file.parent.name != "red" or int(file.stem) % 3 == 0:
                target = data / file.relative_to(shapes)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    more = ["head.augment=flip"] if "views" in setting else []
    plain = run(data, tmp_path / "plain", head="linear")
    other = run(data, tmp_path / "other", setting, *more, head="linear")
    assert record_of(other)["folds"] == 5
    assert not torch.allclose(head_of(plain)["head.fc.weight"], head_of(other)["head.fc.weight"])


def test_copies_of_an_image_are_in_one_fold(few: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for file in few.rglob("*.jpg"):
        target = data / file.relative_to(few)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        if "train" in target.parts:
            target.with_name(f"copy_{file.name}").write_bytes(file.read_bytes())
    # Four pictures of each class, each twice: of eight different ones there would be five folds.
    assert record_of(run(data, tmp_path / "run"))["folds"] == 4


@pytest.mark.long
def test_a_class_with_one_image_is_never_held_out(few: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for file in few.rglob("*.jpg"):
        target = data / file.relative_to(few)
        if not ("train" in target.parts and file.parent.name == "b" and file.stem != "0"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    record = record_of(run(data, tmp_path / "run"))
    assert (record["folds"], record["classes_never_held_out"]) == (4, 1)


@pytest.mark.long
def test_a_run_that_was_killed_while_a_later_stage_trained_goes_on_with_the_same_bits(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"recipe": "lp_ft", "epochs": 1, "data": few, "set": ("keep=last",)}
    whole = zoo.finetune(**{**USUAL, **arguments}, out=tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "all":
            raise Killed

    with pytest.raises(Killed):
        zoo.finetune(**{**USUAL, **arguments}, out=tmp_path / "stopped", on_event=kill)
    resumed = zoo.resume(tmp_path / "stopped")
    assert head_of(resumed).keys() == head_of(whole).keys()
    for name, tensor in head_of(whole).items():
        assert torch.equal(head_of(resumed)[name], tensor)
    assert resumed.content["stages"][0]["solver"] == whole.content["stages"][0]["solver"]


def test_a_head_on_all_layers_says_how_much_more_the_groups_were_held_back(few: Path, tmp_path: Path) -> None:
    result = run(few, tmp_path / "run", backbone="timm/test_vit", head="layers")
    groups = record_of(result)["groups"]
    assert groups["penalty_factor"] == min(groups["tried"], key=lambda each: each["loss"])["factor"]
    plan = json.loads((result.path / "plan.json").read_text("utf-8"))
    assert "how much more the groups' means are held back" in json.dumps(plan["stages"][0])
    assert "The weights of the groups' means are held back" in zoo.report(result.path).read_text("utf-8")
    pooled = run(few, tmp_path / "pooled", backbone="timm/test_vit", head="linear")
    assert "groups" not in record_of(pooled)
    assert "was fitted by logistic regression" in zoo.report(pooled.path).read_text("utf-8")


def test_verify_fits_again(few: Path, tmp_path: Path) -> None:
    result = run(few, tmp_path / "run")
    found = {check.name: check for check in zoo.verify(result.path).checks}
    assert found["first_steps"].verdict == "passed"
    assert "fitting again gives the same" in found["first_steps"].summary
    proof = json.loads((result.path / "proof.json").read_text("utf-8"))
    (check,) = (each for each in proof["checks"] if each["name"] == "solver")
    check["evidence"]["digest"] = "0" * 64
    (result.path / "proof.json").write_text(json.dumps(proof), "utf-8")
    assert {check.name: check for check in zoo.verify(result.path).checks}["first_steps"].verdict == "failed"
    # Rounding excuses a backbone in parts alone, never a head that was fitted.
    plan = json.loads((result.path / "plan.json").read_text("utf-8"))
    (result.path / "plan.json").write_text(json.dumps({**plan, "shard_backbone": True}), "utf-8")
    assert {check.name: check for check in zoo.verify(result.path).checks}["first_steps"].verdict == "failed"


def test_an_estimate_counts_one_fit(few: Path) -> None:
    made = zoo.plan(**USUAL, data=few, estimate=True)
    assert made.estimate is not None
    (stage,) = made.estimate.stages
    assert 0 < stage.training < 60 and stage.validation == 0


# The proof


@pytest.fixture
def fitted() -> tuple[nn.Linear, Tensor, Tensor, LogisticFit]:
    """A layer, features[N, F] far from zero, class indices[N] and what the solver says."""
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(40, 6, generator=generator) * 3 + 50, torch.arange(40) % 3
    fit = LogisticProblem(features, targets, 3).fit(0.1)
    layer = nn.Linear(6, 3)
    with torch.no_grad():
        layer.weight.copy_(fit.weight)
        layer.bias.copy_(fit.bias)
    return layer, features, targets, fit


def check(
    layer: nn.Linear, features: Tensor, targets: Tensor, fit: LogisticFit, states: Any = None, **changed: Any
) -> Check:
    return check_solver(
        layer,
        features,
        targets,
        **{
            "fit": fit,
            "states": states or [layer.state_dict(), layer.state_dict()],
            "penalties": torch.ones(features.shape[1]),
            "class_weights": None,
            "label_smoothing": 0.0,
            "stage": "head",
            **changed,
        },
    )


Fitted = tuple[nn.Linear, Tensor, Tensor, LogisticFit]


def test_the_check_passes_what_is_right_and_its_numbers_are_far_from_the_limits(fitted: Fitted) -> None:
    found = check(*fitted)
    assert found.verdict == "passed"
    assert found.evidence["gradient"] < FLAT / 10


def test_a_head_that_came_out_differently_is_found(fitted: Fitted) -> None:
    layer, *_ = fitted
    other = {name: tensor + 1e-7 for name, tensor in layer.state_dict().items()}
    found = check(*fitted, states=[other, layer.state_dict()])
    assert found.verdict == "failed" and "weight came out differently when fitted again" in found.summary


def test_a_solver_that_stops_too_early_is_found(fitted: Fitted) -> None:
    layer, features, targets, fit = fitted
    with torch.no_grad():
        layer.weight.mul_(0.99)
        layer.bias.copy_(fit.standardised_bias - fit.mean @ layer.weight.double().T)
    shrunk = replace(fit, standardised_weight=fit.standardised_weight * 0.99)
    found = check(layer, features, targets, shrunk)
    assert found.verdict == "failed" and found.summary.startswith("the gradient at the end is")


def test_another_objective_than_the_stages_is_found(fitted: Fitted) -> None:
    for changed in (
        {"class_weights": torch.tensor([1.0, 2.0, 1.0])},
        {"label_smoothing": 0.1},
        {"penalties": torch.tensor([1.0, 1, 1, 4, 4, 4])},
    ):
        assert check(*fitted, **changed).verdict == "failed"
    layer, features, targets, fit = fitted
    assert check(layer, features, targets, replace(fit, strength=0.2)).verdict == "failed"


def test_a_mean_that_was_not_folded_into_the_layer_is_found(fitted: Fitted) -> None:
    layer, features, targets, fit = fitted
    with torch.no_grad():
        layer.bias.copy_(fit.standardised_bias)
    found = check(layer, features, targets, fit)
    assert found.verdict == "failed" and "the layer gives other logits than its standardised form" in found.summary


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_head_that_is_not_finite_is_found(fitted: Fitted, number: float) -> None:
    layer, *_ = fitted
    with torch.no_grad():
        layer.weight[0, 0] = number
    assert check(*fitted).verdict == "failed"


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ([], {}, "Stage 'head': The features of 8 of 8 images are not finite"),
        ([], {"head": "prototype"}, "Stage 'head': The features of 8 of 8 images are not finite"),
        (["head.lr=1e-2"], {}, "the frozen outputs of the backbone are not finite for 8 of 8 training images"),
        (["head.lr=auto"], {}, "the frozen outputs of the backbone are not finite for 8 of 8 training images"),
        ([], {"recipe": "full", "epochs": 1}, "is not finite (loss nan), before the stage trained anything"),
    ],
    ids=["solver", "closed form", "gradient", "search", "images"],
)
def test_features_that_are_not_finite_stop_the_stage_and_no_rate_is_blamed(
    settings: list[str], arguments: dict[str, Any], said: str, few: Path, tmp_path: Path
) -> None:
    weights = zoo.create_model("timm/test_resnet", head="linear", classes=2, weights="random").backbone.state_dict()
    first = next(name for name in weights if name.endswith("weight"))
    torch.save({**weights, first: torch.full_like(weights[first], torch.nan)}, tmp_path / "broken.pth")
    with pytest.raises(CheckFailed) as raised:
        run(few, tmp_path / "run", *settings, weights=str(tmp_path / "broken.pth"), **arguments)
    message = str(raised.value)
    assert said in message and "1 check of the proof failed" in message
    assert "Next: --precision float32" in message and "lr=" not in message


def test_constant_features_are_told(few: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    run(few, tmp_path / "run", on_event=events.append)
    texts = [event.text for event in events if isinstance(event, Note) and "the same for every" in event.text]
    assert texts and texts[0].endswith("they get no weight.")
