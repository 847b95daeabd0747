"""Every bundled recipe on real backbones: it trains what it says, and is refused where it matches nothing."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.model.model import HEAD, ZooModel
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan, StagePlan
from zoo.training import seeding

RECIPES = [recipe.spec.name for recipe in default_registry().recipes() if recipe.plugin.own]
BACKBONES = ["timm/test_vit", "timm/test_convnext", "squeezenet1_1", "resnet18"]
SIZE = (64, 64)
"""(height, width) that every one of them accepts, and that is quick."""
REFUSED = {("norms", "squeezenet1_1")}
WITHOUT_NORMS = "stages[1].train: 'norm' matches nothing, this backbone has no normalisation layers with parameters"
PAIRS = [(recipe, backbone) for recipe in RECIPES for backbone in BACKBONES if (recipe, backbone) not in REFUSED]


def test_the_bundled_recipes_are_these() -> None:
    assert RECIPES == [
        "bias",
        "classic",
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
    assert len(PAIRS) == 4 * len(RECIPES) - len(REFUSED)


@functools.cache
def start_of(backbone: str) -> ZooModel:
    """Return the untrained model that every run here starts from; it has the same seed."""
    seeding.seed_torch("0/initialisation")
    return zoo.create_model(backbone, classes=("a", "b"), weights="random", input_size=SIZE)


@pytest.mark.parametrize(
    ("recipe", "backbone"),
    [
        pair if "timm/test_resnet" in pair[1] or pair[0] == "norms" else pytest.param(*pair, marks=pytest.mark.long)
        for pair in PAIRS
    ],
)
def test_every_recipe_changes_exactly_what_it_selects_and_its_proof_passes(
    recipe: str, backbone: str, few: Path, tmp_path: Path
) -> None:
    result = zoo.finetune(
        backbone=backbone,
        weights="random",
        recipe=recipe,
        data=few,
        epochs=1,
        input_size=SIZE,
        tune=False,
        set=["keep=last"],
        out=tmp_path / "run",
    )
    assert result.proof == "passed"
    plan = Plan.model_validate_json((result.path / "plan.json").read_text("utf-8"))
    start = start_of(backbone)
    before, after = start.state_dict(), zoo.load(result.path).model.state_dict()
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    selected = [names for stage in plan.stages for names in selected_by(stage, start)]
    assert all(names & changed for names in selected)
    assert changed <= frozenset().union(*selected)
    checks = json.loads((result.path / "proof.json").read_text("utf-8"))["checks"]
    passed = {(check["stage"], check["name"]) for check in checks if check["verdict"] == "passed"}
    for stage in plan.stages:
        check_counts(stage, plan)
        merged = (stage.settings.name, "adapters_merged") in passed
        assert merged == bool(stage.adapters)


def selected_by(stage: StagePlan, model: ZooModel) -> list[set[str]]:
    """Return the tensors of each group, of each kind and of all adapters that the stage trains."""
    names = list(model.state_dict())
    groups = [{name for name in names if model.group_of(name) == group} for group in stage.trains]
    kinds = [{name for name in names if kind in model.kinds_of(name)} for kind in stage.tensors if kind != "adapters"]
    adapted = [{f"{layer}.weight" for layer in stage.adapters}] if stage.adapters else []
    return [*groups, *kinds, *adapted]


def check_counts(stage: StagePlan, plan: Plan) -> None:
    total = stage.trainable_parameters + stage.frozen_parameters
    without_adapters = sum(group.parameters for group in plan.backbone.groups) + plan.head.parameters
    assert total > without_adapters if stage.adapters else total == without_adapters
    assert 0 < stage.trainable_parameters <= total
    assert HEAD in stage.trains


@pytest.mark.parametrize(("recipe", "backbone"), sorted(REFUSED))
def test_a_recipe_that_matches_nothing_in_a_backbone_is_refused_with_the_reason(
    recipe: str, backbone: str, few: Path, zoo_inside: Zoo
) -> None:
    done = zoo_inside("plan", "--backbone", backbone, "--weights", "random", "--recipe", recipe, "--data", few)
    assert done.returncode == 2 and WITHOUT_NORMS in done.stderr


def test_norms_and_biases_are_recognised_in_transformers_and_resnets() -> None:
    model = zoo.create_model("timm/test_vit", classes=2, weights="random")
    norms = {name for name, _ in model.named_parameters() if "norm" in model.kinds_of(name)}
    assert norms == {name for name, tensor in model.named_parameters() if ".norm" in name and tensor.ndim == 1}
    biases = {name for name, _ in model.named_parameters() if "bias" in model.kinds_of(name)}
    assert biases == {name for name, _ in model.backbone.named_parameters(prefix="backbone") if name.endswith("bias")}
    resnet = zoo.create_model("resnet18", classes=2, weights="random")
    norms = {name for name, _ in resnet.named_parameters() if "norm" in resnet.kinds_of(name)}
    assert (
        len(norms) == 40 and "backbone.layer1.0.bn1.weight" in norms and "backbone.layer2.0.downsample.1.bias" in norms
    )
