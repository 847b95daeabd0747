"""Low-rank adapters: they train beside frozen weights, are merged into them, and leave upstream's own modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import nn
from zoo.errors import CheckFailed, RecipeError, Refused
from zoo.events import Event, Progress
from zoo.model import adapters
from zoo.model.adapters import adaptable_layers
from zoo.model.groups import AdaptedNames
from zoo.training import checkpoint

LORA: dict[str, Any] = {"weights": "random", "recipe": "lora", "epochs": 2, "seed": 3}
BACKBONES = ["timm/test_vit", "timm/test_convnext", "squeezenet1_1", "resnet18"]


def checks_of(run: Path) -> dict[str, Any]:
    """Checks on that stage, by name."""
    proof = json.loads((run / "proof.json").read_text("utf-8"))
    return {check["name"]: check for check in proof["checks"] if check["stage"] == "adapters"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_go_to_linear_layers_and_ordinary_convolutions(backbone: str) -> None:
    # That they move these layers and no others is proved with all other recipes in test_recipes_in_runs.py.
    with torch.device("meta"):
        model = zoo.create_model(backbone, classes=2, weights="random")
    layers = [model.get_submodule(name) for name in adaptable_layers(model, model.active_groups(), rank=8)]
    assert layers and all(type(layer) in (nn.Linear, nn.Conv2d) for layer in layers)
    assert all(layer.__dict__.get("groups", 1) == 1 for layer in layers)


def test_the_plan_counts_adapters_and_says_where_they_go(few: Path, zoo_inside: Zoo) -> None:
    words = ("plan", "--backbone", "timm/test_vit", "--weights", "random", "--recipe", "lora", "--data", few)
    done = zoo_inside(*words)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    plan = json.loads(zoo_inside(*words, "--json").stdout)
    stage = plan["stages"][1]
    assert f"adapters of rank 8 on {len(stage['adapters'])} layers" in " ".join(shown.split())
    assert stage["frozen_parameters"] == sum(group["parameters"] for group in plan["backbone"]["groups"])
    assert stage["trainable_parameters"] > plan["head"]["parameters"]
    assert "peft" in plan["versions"] and set(stage["rates"]) > {"head"}


def test_groups_that_train_as_a_whole_need_no_adapters(few: Path) -> None:
    plan = zoo.plan(**LORA, backbone="resnet18", data=few, set=["adapters.train=head,adapters,last:1"])
    layers = plan.stages[1].adapters
    assert layers and not any("layer4" in name for name in layers)


@pytest.mark.parametrize("how", [["adapters.ema=0.5"], ["adapters.keep_epoch=best", "adapters.accumulate=2"]])
@pytest.mark.long
def test_averages_the_best_epoch_and_accumulation_work_with_adapters(how: list[str], few: Path, tmp_path: Path) -> None:
    usual = ["adapters.lr=1e-2", "adapters.batch_size=4", "keep=last", "adapters.train=head,adapters,bias"]
    result = zoo.finetune(
        **LORA, backbone="timm/test_vit", data=few, set=[*usual, "adapters.l2_sp=0.1", *how], out=tmp_path / "run"
    )
    assert result.proof == "passed"


class Interrupting:
    """Presses Ctrl-C in the middle of the stage with adapters."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.task == "adapters":
            self.steps += 1
            if self.steps == 4:
                raise KeyboardInterrupt


@pytest.mark.long
def test_a_run_interrupted_while_adapters_train_ends_in_the_bytes_of_an_uninterrupted_one(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", {"step": 0.0, "epoch": 0.0, "stage": 0.0})
    recipe = tmp_path / "twice.toml"
    recipe.write_text(TWICE)
    given = {**LORA, "epochs": None, "recipe": str(recipe), "backbone": "timm/test_vit", "data": few}
    whole = zoo.finetune(**given, out=tmp_path / "whole").path
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**given, out=broken, on_event=Interrupting())
    zoo.resume(broken)
    artefacts = [(run / "model" / "model.safetensors").read_bytes() for run in (whole, broken)]
    assert artefacts[0] == artefacts[1]


TWICE = """
summary = "Adapters after adapters: the first have been merged when the run is interrupted."
keep = "last"
[[stages]]
name = "first"
train = ["head", "adapters"]
epochs = 1
lr = 1e-2

[[stages]]
name = "adapters"
train = ["head", "adapters"]
epochs = 3
lr = 1e-2
ema = 0.5
batch_size = 4
augment = "flip"
adapter_rank = 2
"""


def test_adapters_merged_at_another_scale_are_found(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = adapters.merge

    def merge_louder(model: zoo.ZooModel) -> None:
        for name in model.adapted.layers:
            model.get_submodule(name).scaling["default"] *= 3  # type: ignore[union-attr, index, operator]
        original(model)

    monkeypatch.setattr(adapters, "merge", merge_louder)
    run = tmp_path / "run"
    with pytest.raises(CheckFailed, match="adapters_merged"):
        zoo.finetune(**LORA, backbone="timm/test_vit", data=few, set=["adapters.lr=1e-2"], out=run)
    failed = {name for name, check in checks_of(run).items() if check["verdict"] == "failed"}
    assert failed == {"adapters_merged"}


def test_a_layer_whose_weight_is_read_without_calling_it_gets_no_adapter() -> None:
    backbone = zoo.create_model("timm/test_vit", classes=2, weights="random").to("meta")
    groups = backbone.active_groups()
    assert "backbone.blocks.0.mlp.fc1" in adaptable_layers(backbone, groups, rank=2)
    layer = backbone.get_submodule("backbone.blocks.0.mlp")

    def reads(images: torch.Tensor) -> torch.Tensor:
        return layer.fc2(nn.functional.linear(images, layer.fc1.weight, layer.fc1.bias).relu())  # type: ignore[operator, union-attr, arg-type]

    layer.forward = reads  # type: ignore[method-assign]
    layers = adaptable_layers(backbone, groups, rank=2)
    assert "backbone.blocks.0.mlp.fc1" not in layers and "backbone.blocks.0.mlp.fc2" in layers
    assert not hasattr(backbone.backbone, "peft_config") and backbone.adapted == AdaptedNames()


def test_names_mean_the_same_with_adapters_in() -> None:
    names = AdaptedNames(frozenset(["backbone.a.fc"]))
    assert names.upstream("backbone.a.fc.base_layer.weight") == "backbone.a.fc.weight"
    assert names.upstream("backbone.a.fc.base_layer") == "backbone.a.fc"
    assert names.adapted_by("backbone.a.fc.lora_A.default.weight") == "backbone.a.fc"
    # DLA has a part of that name by itself.
    for own in ("backbone.base_layer.0.weight", "backbone.a.fc", "backbone.a.fc2.weight", "backbone", "head"):
        assert names.upstream(own) == own and names.adapted_by(own) is None


def test_what_adapters_cannot_do_is_refused(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**LORA, "backbone": "timm/test_vit", "data": few}
    for setting, reason in (
        ("head.adapter_rank=4", "stages[0].adapter_rank: would do nothing, this stage trains no adapters"),
        ("head.adapter_alpha=4", "stages[0].adapter_alpha: would do nothing, this stage trains no adapters"),
        ("adapters.l2_sp=0.1", "stages[1].l2_sp: would do nothing, adapters begin at nothing"),
        ("adapters.train=all,adapters", "stages[1].train: 'adapters' matches nothing, this backbone has no linear"),
        ("adapters.lr=auto", "stages[1].lr: 'auto' tries rates on features"),
        ("adapters.adapter_rank=0", "adapter_rank"),
    ):
        with pytest.raises(RecipeError) as caught:
            zoo.plan(**given, set=[setting])
        assert reason in str(caught.value)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Refused, match=r"pip install 'zoo-registry\[lora\]'"):
        zoo.plan(**given)


@pytest.mark.long
def test_a_plan_without_adapters_does_not_import_peft(few: Path) -> None:
    code = (
        "import sys, zoo\n"
        "for recipe in ('staged', 'lora'):\n"
        "    zoo.plan(backbone='timm/test_vit', weights='random', recipe=recipe, data=sys.argv[1])\n"
        "    print('peft' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(few)], capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.long
def test_a_plan_with_adapters_is_estimated(few: Path) -> None:
    plan = zoo.plan(**LORA, backbone="timm/test_vit", data=few, estimate=True)
    assert plan.estimate is not None and plan.estimate.stages[1].memory.gradients > 0
