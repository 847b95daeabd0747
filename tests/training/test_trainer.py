"""The knobs of the training loop: accumulation, averages, early stopping, what is kept, checkpointing, rate search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from tests.conftest import Zoo
from torch import Tensor
from zoo.model.model import ZooModel
from zoo.specs.recipe import RecipeSpec, Stage
from zoo.training.optimizer import Average

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "head": "linear", "weights": "random", "tune": False}


def run(data: Path, out: Path, *settings: str, **arguments: Any) -> zoo.Result:
    result = zoo.finetune(**{**USUAL, "recipe": "full", "epochs": 3, **arguments}, data=data, out=out, set=settings)
    assert result.proof == "passed"
    return result


def state(result: zoo.Result) -> dict[str, Tensor]:
    return load_file(result.artefact / "model.safetensors")


def history(result: zoo.Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.path / "history.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.long
def test_accumulated_batches_equal_one_large_batch_where_there_is_no_batch_norm(few: Path, tmp_path: Path) -> None:
    usual = {"backbone": "timm/test_vit", "epochs": 2}
    large = run(few, tmp_path / "large", batch_size=8, **usual)
    small = run(few, tmp_path / "small", "all.accumulate=4", batch_size=2, **usual)
    plans = [json.loads((each.path / "plan.json").read_text("utf-8")) for each in (large, small)]
    assert plans[0]["stages"][0]["steps"] == plans[1]["stages"][0]["steps"] == 2
    for name, tensor in state(large).items():
        torch.testing.assert_close(state(small)[name], tensor, atol=2e-3, rtol=1e-2)
    separate = run(few, tmp_path / "separate", batch_size=2, **usual)
    assert len(history(separate)) == 2 and not torch.equal(
        state(separate)["head.fc.weight"], state(large)["head.fc.weight"]
    )


def test_the_average_is_exponential_over_the_steps_and_leaves_the_rest_alone() -> None:
    model = zoo.create_model("timm/test_resnet", head="linear", classes=2, weights="random")
    frozen = {name: each.detach().clone() for name, each in model.backbone.named_parameters()}
    average = Average(model, 0.5)
    values = []
    for value in (1.0, 3.0, 7.0):
        with torch.no_grad():
            model.head.fc.bias.fill_(value)  # type: ignore[union-attr, operator]
        average.update(model)
        values.append(float(average.model.head.fc.bias.detach()[0]))  # type: ignore[union-attr, index]
    assert values == [1.0, 2.0, 4.5]
    assert all(torch.equal(each, frozen[name]) for name, each in average.model.backbone.named_parameters())


@pytest.mark.long
def test_a_stage_with_an_average_ends_with_it_and_is_judged_by_it(few: Path, tmp_path: Path) -> None:
    settings = ("all.optimizer=sgd", "all.lr=0.05", "all.schedule=constant")
    plain = run(few, tmp_path / "plain", *settings, batch_size=2)
    averaged = run(few, tmp_path / "averaged", *settings, "all.ema=0.9", batch_size=2)
    start = run(few, tmp_path / "start", recipe="head_only", epochs=1)

    def moved(result: zoo.Result) -> float:
        names = [name for name in state(start) if name.startswith("backbone.") and state(start)[name].ndim > 1]
        return sum(float((state(result)[name] - state(start)[name]).norm()) for name in names)

    assert 0 < moved(averaged) < moved(plain)
    # Training itself is the same: only what is judged and kept differs.
    assert [each["train_loss"] for each in history(averaged)] == [each["train_loss"] for each in history(plain)]
    assert zoo.evaluate(averaged.path, data=few / "val").scores.to_dict() == averaged.metrics["val"]


def test_a_stage_stops_when_patience_is_over(few: Path, tmp_path: Path) -> None:
    # At a rate of nearly nothing no epoch is better than the first.
    stopped = run(few, tmp_path / "run", "all.patience=2", "all.lr=1e-30", "all.batch_norm=frozen", epochs=9)
    assert stopped.content["stages"][0]["epochs"] == len(history(stopped)) == 3


@pytest.mark.long
def test_the_best_epoch_is_kept_where_it_is_asked_for(shapes: Path, tmp_path: Path) -> None:
    # A rate that destroys what the first epochs learned.
    settings = ("all.optimizer=sgd", "all.lr=3", "all.schedule=constant", "all.warmup=0.9", "all.clip=1")
    last = run(shapes, tmp_path / "last", *settings, epochs=6, seed=1)
    best = run(shapes, tmp_path / "best", *settings, "all.keep_epoch=best", epochs=6, seed=1)
    accuracies = [epoch["val"]["accuracy"] for epoch in history(best)]
    assert accuracies == [epoch["val"]["accuracy"] for epoch in history(last)]
    assert accuracies[-1] < max(accuracies), "the run shows nothing"
    assert best.accuracy == max(accuracies) and last.accuracy == accuracies[-1]
    assert best.content["selection"]["candidates"] == 6 and last.content["selection"]["candidates"] == 1


def test_the_last_stage_is_kept_where_it_is_asked_for(few: Path, tmp_path: Path) -> None:
    result = run(few, tmp_path / "run", "keep=last", recipe="staged", epochs=1)
    selection = result.content["selection"]
    assert (selection["on"], selection["candidates"], selection["kept"]) == ("the last stage", 1, "all")
    assert (selection["optimism"], selection["optimism_candidates"]) == (0, 1), "nothing was chosen"


def test_checkpointing_keeps_fewer_activations_and_gives_the_same_gradients() -> None:
    model = zoo.create_model("timm/test_vit", head="linear", classes=2, weights="random").train()
    images = torch.rand(4, *model.preprocessing.input_size)
    kept, gradients = [], []
    for on in (False, True):
        model.checkpoint_gradients(on)
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(images).sum()
        model.zero_grad()
        loss.backward()
        kept.append(sum(sizes))
        gradients.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    assert kept[1] < kept[0] / 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_run_with_checkpointing_gives_the_same_weights(few: Path, tmp_path: Path) -> None:
    plain = run(few, tmp_path / "plain", backbone="timm/test_vit", epochs=1)
    spared = run(few, tmp_path / "spared", "all.gradient_checkpointing=true", backbone="timm/test_vit", epochs=1)
    for name, tensor in state(plain).items():
        torch.testing.assert_close(state(spared)[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_rate_search_takes_the_best_rate_and_the_stage_is_as_if_it_had_been_given(
    shapes: Path, tmp_path: Path
) -> None:
    usual = {"recipe": "head_only", "epochs": 5}
    searched = run(shapes, tmp_path / "searched", "head.lr=auto", **usual)
    (stage,) = searched.content["stages"]
    assert stage["tried"][f"{stage['lr']:g}"] == max(stage["tried"].values()) == searched.accuracy
    assert len(stage["tried"]) == 5
    given = run(shapes, tmp_path / "given", f"head.lr={stage['lr']}", **usual)
    assert all(torch.equal(tensor, state(given)[name]) for name, tensor in state(searched).items())


def test_every_new_knob_reads_back_from_a_file() -> None:
    stage = Stage(name="s", train=("head",), epochs=1, lr="auto", ema=0.5, patience=2, keep_epoch="best", accumulate=3)
    recipe = RecipeSpec(name="r", summary="x", keep="last", stages=(stage,))
    assert zoo.recipe_from_toml(recipe.to_toml(), name="r") == recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "last.lr=auto"], "stages[1].lr: 'auto' tries rates on features computed once, and this stage"),
        (["--set", "head.gradient_checkpointing=true"], "gradient_checkpointing: would do nothing, this stage leaves"),
        (
            ["--set", "last.gradient_checkpointing=true", "--backbone", "resnet18"],
            "gradient_checkpointing: would do nothing, torchvision/resnet18",
        ),
        (["--set", "keep=first"], "keep: should be 'best' or 'last', got 'first'"),
        (["--set", "last.keep_epoch=first"], "(--set last.keep_epoch): should be 'best' or 'last'"),
        (["--set", "last.ema=1"], "(--set last.ema): should be less than 1"),
        (["--set", "last.accumulate=0"], "(--set last.accumulate): should be at least 1"),
        (["--set", "head.lr=fast"], "(--set head.lr): should be a valid number"),
        (["--set", "keep=best", "--set", "keep=last"], "--set keep is given twice"),
    ],
)
def test_values_that_cannot_be_or_would_do_nothing_are_refused(
    arguments: list[str], message: str, few: Path, zoo_inside: Zoo
) -> None:
    usual = ["plan", "--weights", "random", "--data", str(few), "--no-tune"]
    backbone = [] if "--backbone" in arguments else ["--backbone", "timm/test_resnet"]
    done = zoo_inside(*usual, *backbone, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_model_says_whether_it_can_checkpoint() -> None:
    can: dict[str, bool] = {}
    for name in ("timm/test_vit", "timm/test_resnet", "timm/selecsls42b", "torchvision/resnet18"):
        with torch.device("meta"):
            model: ZooModel = zoo.create_model(name, classes=2, weights="random")
        can[name] = model.can_checkpoint
    assert can == {
        "timm/test_vit": True,
        "timm/test_resnet": True,
        "timm/selecsls42b": False,
        "torchvision/resnet18": False,
    }
