"""`zoo plan --estimate`: its times and bytes, compared with real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import nn
from zoo.events import Event, Progress
from zoo.specs.estimated import Estimate
from zoo.specs.plan import Plan
from zoo.training.estimate.measure import shorten_epoch, spread_evenly
from zoo.training.estimate.memory import measure_peak

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "head": "linear", "tune": False}

pytestmark = pytest.mark.long


def estimate(data: Path, *settings: str, **arguments: Any) -> Estimate:
    found = zoo.plan(**{**TINY, **arguments}, data=data, set=settings, estimate=True).estimate
    assert found is not None
    return found


def test_the_estimate_is_within_a_factor_of_two_of_the_run(shapes: Path, tmp_path: Path) -> None:
    settings = ("head.epochs=40", "all.epochs=30", "all.batch_size=8")
    arguments: dict[str, Any] = {"recipe": "lp_ft", "input_size": (128, 128), "tune": True}
    # Once before and once after the run: another program on the machine may slow any of the three.
    found = [estimate(shapes, *settings, **arguments)]
    run = zoo.finetune(**{**TINY, **arguments}, data=shapes, set=settings, out=tmp_path / "run")
    found.append(estimate(shapes, *settings, **arguments))
    took = {stage["name"]: stage["seconds"] for stage in run.content["stages"]}
    assert max(took.values()) > 2  # or this test would compare nothing
    for index, (name, seconds) in enumerate(took.items()):
        said = [each.stages[index].seconds for each in found]
        assert [each.stages[index].stage for each in found] == [name, name]
        if seconds > 2:
            assert any(seconds / 2 < each < 2 * seconds for each in said), (name, seconds, said)


def test_seconds_add_up_and_features_are_computed_only_where_they_are_not_known(shapes: Path) -> None:
    found = estimate(shapes, "last.epochs=1", "all.train=head", "all.augment=none", "all.layer_decay=1", epochs=2)
    head, last, again = found.stages
    assert head.features > 0 and last.features == 0
    assert again.features == pytest.approx(head.features)  # the backbone has moved in between
    for stage in found.stages:
        assert stage.seconds == pytest.approx(stage.features + stage.training + stage.validation)
    assert found.test > 0 and found.decode > 0
    assert found.seconds == pytest.approx(found.decode + sum(stage.seconds for stage in found.stages) + found.test)
    assert max(stage.memory.total for stage in found.stages) + found.process == found.bytes == found.host_bytes


def test_time_goes_with_epochs_and_steps(shapes: Path) -> None:
    one = estimate(shapes, "all.epochs=1", recipe="full").stages[0]
    five = estimate(shapes, "all.epochs=50", recipe="full").stages[0]
    assert 15 < five.training / one.training < 160
    assert 15 < five.validation / one.validation < 160


def memory(data: Path, *settings: str, **arguments: Any) -> dict[str, int]:
    return estimate(data, *settings, **{"recipe": "full", "epochs": 1, **arguments}).stages[-1].memory.model_dump()


def test_memory_grows_with_the_batch_and_with_what_trains(shapes: Path) -> None:
    small, large = (memory(shapes, f"all.batch_size={size}") for size in (16, 32))
    # Activations go with the images; below 16, those of validation, 32 at a time and without a graph, are more.
    assert 1.8 < large["activations"] / small["activations"] < 2.2
    tiny, four = (memory(shapes, f"all.batch_size={size}") for size in (2, 4))
    assert tiny["activations"] == pytest.approx(four["activations"], rel=0.02)
    assert large["parameters"] == small["parameters"] and large["optimizer"] == small["optimizer"]
    last = memory(shapes, "all.batch_size=32", "all.train=head,last:1")
    assert last["activations"] < large["activations"] and last["gradients"] < large["gradients"]
    assert last["optimizer"] < large["optimizer"] and last["parameters"] == large["parameters"]


def test_memory_of_parameters_gradients_and_optimizer_is_counted(shapes: Path) -> None:
    model = zoo.create_model("timm/test_resnet", head="linear", classes=3, weights="random")
    trained = 4 * sum(each.numel() for each in model.parameters())
    held = sum(each.numel() * each.element_size() for each in [*model.parameters(), *model.buffers()])
    adam, sgd = memory(shapes), memory(shapes, "all.optimizer=sgd")
    assert adam["parameters"] == sgd["parameters"] == held and adam["gradients"] == sgd["gradients"] == trained
    tensors = len(list(model.parameters()))
    assert adam["optimizer"] == 2 * trained + 4 * tensors and sgd["optimizer"] == trained
    kept = memory(shapes, recipe="head_only", input_size=(64, 64))
    assert kept["features"] == 4 * model.shape.pooled * (36 + 18)
    assert memory(shapes, "all.l2_sp=0.1")["copies"] == 4 * sum(each.numel() for each in model.backbone.parameters())


def test_validation_images_go_through_what_is_frozen_once_where_it_is_kept(shapes: Path) -> None:
    settings = "all.train=head,last:1", "all.epochs=40", "all.augment=crop"
    kept, off = (
        estimate(shapes, *settings, f"all.prefix={prefix}", recipe="full").stages[0] for prefix in ("auto", "off")
    )
    assert kept.validation < 0.8 * off.validation
    assert kept.memory.features > 0 == off.memory.features


def test_the_peak_is_that_of_the_tensors_alive_at_once() -> None:
    known = torch.zeros(1000)
    with measure_peak(torch.device("cpu"), [known]) as peak:
        assert peak.peak == 0
        one = known + 1
        two = one.view(10, 100).add_(1)  # the same storage
        assert peak.peak == 4000
        three = two + 1
        assert peak.peak == 8000
        del one, two
        four = three + 1
        assert peak.peak == 8000 and four is not None
    module = nn.Sequential(*(nn.Sequential(nn.Linear(100, 100), nn.Sigmoid()) for _ in range(4)))
    images = torch.randn(50, 100)
    with measure_peak(torch.device("cpu"), [*module.parameters(), images]) as training:
        module(images).sum()
    with measure_peak(torch.device("cpu"), [*module.parameters(), images]) as resting, torch.inference_mode():
        module(images).sum()
    assert training.peak >= 4 * 50 * 100 * 4 > 3 * 50 * 100 * 4 >= resting.peak


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        ({"head": "prototype"}, 1),
        ({"head": "gem", "recipe": "head_only"}, 1),
        ({"head": "arcface", "recipe": "full"}, 1),
        ({"recipe": "norms"}, 2),
        ({"backbone": "timm/test_vit", "recipe": "bias"}, 2),
        ({"backbone": "timm/test_convnext", "recipe": "surgical"}, 2),
    ],
)
def test_every_kind_of_stage_is_measured(arguments: dict[str, Any], stages: int, few: Path) -> None:
    found = estimate(few, **arguments)
    assert len(found.stages) == stages
    for stage in found.stages:
        assert stage.training > 0 and stage.memory.activations > 0


def test_knobs_cost_what_they_cost(shapes: Path) -> None:
    arguments: dict[str, Any] = {"recipe": "head_only", "epochs": 4}
    plain = estimate(shapes, **arguments).stages[0]
    views = estimate(shapes, "head.views=3", "head.augment=crop", **arguments).stages[0]
    # 36 images are two batches of 32 for every view, and those to validate one.
    assert views.features > 1.3 * plain.features
    assert views.memory.features * (36 + 18) == plain.memory.features * (3 * 36 + 18)
    # Five trials before it; the machine may be slower or faster by then.
    tried = estimate(shapes, "head.lr=auto", **{**arguments, "epochs": 80}).stages[0]
    assert tried.training > 1.5 * estimate(shapes, **{**arguments, "epochs": 80}).stages[0].training
    full = memory(shapes, "all.batch_size=16")
    # Steps of 16 images two at a time, as if the batch were of 32: activations stay.
    added = memory(shapes, "all.batch_size=16", "all.accumulate=2")
    assert added["activations"] == pytest.approx(full["activations"], rel=0.1)
    assert memory(shapes, "all.batch_size=16", "all.ema=0.9")["activations"] > full["activations"]
    mixed = estimate(
        shapes, "all.mixup=0.4", "all.cutmix=1", "all.augment=rand", "all.sampling=balanced", recipe="full"
    )
    assert mixed.stages[0].training > 0


def test_an_estimate_downloads_writes_and_trains_nothing(zoo_command: Zoo, few: Path, tmp_path: Path) -> None:
    nowhere = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = zoo_command("plan", "--backbone", "timm/test_resnet", "--data", few, "--estimate", "--json", **nowhere)
    assert done.returncode == 0, done.stderr
    plan = Plan.model_validate_json(done.stdout)
    assert plan.weights.kind == "tag" and plan.estimate and len(plan.estimate.stages) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_is_printed_and_belongs_to_plan_alone(zoo_inside: Zoo, few: Path) -> None:
    arguments = ("--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--recipe", "lp_ft")
    done = zoo_inside("plan", *arguments, "--estimate")
    assert done.returncode == 0, done.stderr
    assert "Measured on cpu\nstage  features  training  validation  total  tensors\nhead " in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("about ")]
    assert line.endswith(" at most") and ("GB" in line or "MB" in line)
    without = zoo_inside("plan", *arguments)
    assert (
        "Measured" not in without.stdout
        and json.loads(zoo_inside("plan", *arguments, "--json").stdout)["estimate"] is None
    )
    assert "to estimate time and memory" in " ".join(zoo_inside("plan", "--help").stdout.split())
    refused = zoo_inside("finetune", *arguments, "--estimate")
    assert refused.returncode == 2 and "No such option: --estimate" in refused.stderr


def test_progress_is_reported_while_it_measures(few: Path) -> None:
    events: list[Event] = []
    zoo.plan(**TINY, data=few, recipe="lp_ft", estimate=True, on_event=events.append)
    tasks = {event.task for event in events if isinstance(event, Progress)}
    assert {"measure features", "measure head", "measure all"} <= tasks and "all" not in tasks
    for task in tasks:
        (*_, last) = [event for event in events if isinstance(event, Progress) and event.task == task]
        assert last.done == last.total


def test_a_short_epoch_has_the_usual_batches_and_the_same_last_one(few: Path) -> None:
    assert shorten_epoch([32] * 9 + [4], 3) == [32, 32, 32, 4]
    assert shorten_epoch([32, 32, 33], 3) == [32, 32, 33]
    assert spread_evenly(list("abcdef"), 3) == list("ace") and spread_evenly(list("ab"), 5) == list("ababa")  # type: ignore[arg-type]
