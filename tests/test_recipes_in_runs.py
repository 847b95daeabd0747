"""Every bundled recipe on real backbones: it trains what it says, and is refused where it makes no sense."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.planning.plan import Plan
from zoo.registry import default_registry

RECIPES = [each.spec.name for each in default_registry().recipes() if each.plugin.own]
BACKBONES = ["timm/test_vit", "timm/test_convnext", "squeezenet1_1", "resnet18"]
WITHOUT_NORMS = "stages[1].train: 'norm' matches nothing, this backbone has no normalisation layers with parameters"


def test_the_bundled_recipes_are_these() -> None:
    assert RECIPES == [
        "bias",
        "full",
        "gradual",
        "head_only",
        "layer_decay",
        "lora",
        "lp_ft",
        "norms",
        "staged",
        "surgical",
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_planned_or_is_refused_with_the_reason(
    recipe: str, backbone: str, shapes: Path, zoo_inside: Zoo
) -> None:
    done = zoo_inside(
        *("plan", "--backbone", backbone, "--weights", "random", "--recipe", recipe, "--data", shapes, "--json")
    )
    if (recipe, backbone) == ("norms", "squeezenet1_1"):
        assert done.returncode == 2 and WITHOUT_NORMS in done.stderr
        return
    plan = Plan.model_validate_json(done.stdout)
    for stage in plan.stages:
        total = stage.trainable_parameters + stage.frozen_parameters
        without_adapters = sum(group.parameters for group in plan.backbone.groups) + plan.head.parameters
        assert total > without_adapters if stage.adapters else total == without_adapters
        assert 0 < stage.trainable_parameters <= total


@pytest.mark.parametrize(
    ("recipe", "backbone"), list(zip(RECIPES, cycle(["timm/test_vit", "timm/test_convnext"]), strict=False))
)
def test_every_recipe_runs_and_its_proof_passes(recipe: str, backbone: str, few: Path, tmp_path: Path) -> None:
    result = zoo.finetune(backbone=backbone, weights="random", recipe=recipe, data=few, epochs=1, out=tmp_path / "run")
    assert result.proof == "passed"


ONE_KIND = """
summary = "The head and one kind of tensors."
[[stages]]
name = "kind"
train = ["head", "{kind}"]
epochs = 2
lr = 1e-3
"""


@pytest.mark.parametrize("kind", ["norm", "bias"])
@pytest.mark.parametrize("backbone", ["timm/test_vit", "timm/test_resnet"])
def test_a_kind_of_tensors_trains_and_nothing_else_of_the_backbone(
    kind: str, backbone: str, few: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "kind.toml"
    recipe.write_text(ONE_KIND.format(kind=kind))
    usual = {"backbone": backbone, "weights": "random", "data": few, "seed": 3}
    start = zoo.load(zoo.finetune(**usual, recipe="head_only", epochs=1, out=tmp_path / "start").path)
    trained = zoo.load(zoo.finetune(**usual, recipe=str(recipe), out=tmp_path / "run").path)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))
    assert plan["stages"][0]["tensors"] == [kind] and plan["stages"][0]["trains"] == ["head"]
    before = start.model.state_dict()
    moved = {name for name, tensor in trained.model.state_dict().items() if not torch.equal(tensor, before[name])}
    of_backbone = {name for name in moved if name.startswith("backbone.")}
    assert of_backbone and all(kind in start.model.kinds_of(name) for name in of_backbone)


def test_norms_and_biases_are_found_by_what_they_are() -> None:
    model = zoo.create_model("timm/test_vit", classes=2, weights="random")
    norms = {name for name, _ in model.named_parameters() if "norm" in model.kinds_of(name)}
    assert norms == {name for name, each in model.named_parameters() if ".norm" in name and each.ndim == 1}
    biases = {name for name, _ in model.named_parameters() if "bias" in model.kinds_of(name)}
    assert biases == {name for name, _ in model.backbone.named_parameters(prefix="backbone") if name.endswith("bias")}
    resnet = zoo.create_model("resnet18", classes=2, weights="random")
    norms = {name for name, _ in resnet.named_parameters() if "norm" in resnet.kinds_of(name)}
    assert (
        len(norms) == 40 and "backbone.layer1.0.bn1.weight" in norms and "backbone.layer2.0.downsample.1.bias" in norms
    )
