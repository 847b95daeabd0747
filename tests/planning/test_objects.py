"""Objects in place of names: what they are called, and what is refused before anything runs."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import zoo
from torch import Tensor, nn
from zoo.errors import OptionError, RecipeError, UnknownName
from zoo.planning.objects import name_objects
from zoo.registry.registry import default_registry

STAGE = {"name": "head", "train": ["head"], "epochs": 2, "lr": 0.01}


def my_head(shape: zoo.FeatureShape, classes: int) -> nn.Module:
    return nn.Linear(shape.pooled, classes)


class MyHead(nn.Module):
    def __init__(self, shape: zoo.FeatureShape, classes: int, hidden: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shape.pooled, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, classes))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)
        return logits


class Maker:
    def __call__(self, shape: zoo.FeatureShape, classes: int) -> nn.Module:
        return my_head(shape, classes)


def model(head: Any, **arguments: Any) -> Any:
    return zoo.create_model("timm/test_resnet", head=head, classes=5, weights="random", **arguments)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (my_head, "my_head"),
        (MyHead, "MyHead"),
        (lambda shape, classes: my_head(shape, classes), "lambda"),
        (functools.partial(MyHead, hidden=3), "MyHead"),
        (Maker(), "Maker"),
    ],
)
def test_a_callable_is_a_head_under_its_own_name(head: Any, name: str) -> None:
    named = name_objects(default_registry(), backbone="resnet18", head=head)

    assert named.head == f"session/{name}" and named.backbone == "resnet18"
    assert named.registry.head(named.head).spec.needs == "pooled"
    assert model(head)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(UnknownName):
        default_registry().head(named.head)


def test_a_spec_says_what_a_head_needs_and_has_options() -> None:
    class OnMap(nn.Module):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.last = nn.Conv2d(channels, classes, 1)

        def forward(self, maps: Tensor) -> Tensor:
            logits: Tensor = self.last(maps).amax((2, 3))
            return logits

    spec = zoo.HeadSpec(
        name="on_map", summary="", needs="map", build=lambda shape, classes, _: OnMap(shape.map or 0, classes)
    )
    assert model(spec)(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(OptionError, match=r"on_map(?s:.*)p: unknown option"):
        model(spec, head_options={"p": 1})


def test_what_an_installed_plugin_has_keeps_its_name() -> None:
    base = default_registry()
    named = name_objects(
        base,
        backbone=base.backbone("timm/test_resnet").spec,
        head=base.head("linear").spec,
        recipe=base.recipe("lp_ft").spec,
    )
    assert (named.backbone, named.head, named.recipe) == ("timm/test_resnet", "heads/linear", "recipes/lp_ft")
    assert named.registry is base

    other = replace(base.head("linear").spec, summary="Another one.")
    changed = replace(base.backbone("timm/test_resnet").spec, summary="Another one.")
    named = name_objects(base, backbone=changed, head=other)
    assert (named.backbone, named.head) == ("session/test_resnet", "session/linear")


def test_a_module_that_states_its_preprocessing_needs_nothing_else() -> None:
    module = timm.create_model("test_resnet", num_classes=0)

    assert name_objects(default_registry(), backbone=module).backbone == "session/test_resnet"
    assert zoo.create_model(module, classes=2)(torch.zeros(2, 3, 64, 64)).shape == (2, 2)


def test_a_head_is_built_as_a_copy_and_never_draws_the_runs_random_numbers() -> None:
    kept = nn.Linear(96, 5)
    before = kept.weight.detach().clone()

    one, other = model(lambda shape, classes: kept).head, model(lambda shape, classes: kept).head
    with torch.no_grad():
        one.weight.zero_()
    assert torch.equal(other.weight, before) and torch.equal(kept.weight, before)

    torch.manual_seed(0)
    by_name = model("linear").head[0].weight
    torch.manual_seed(0)
    assert torch.equal(model(my_head).head.weight, by_name)


class Frozen(nn.Linear):
    def __init__(self, shape: zoo.FeatureShape, classes: int) -> None:
        super().__init__(shape.pooled, classes)
        self.bias.requires_grad_(False)


class Views(nn.Module):
    def __init__(self, shape: zoo.FeatureShape, classes: int) -> None:
        super().__init__()
        self.one, self.other = my_head(shape, classes), my_head(shape, classes)
        self.other.weight = nn.Parameter(self.one.weight.detach())  # type: ignore[operator]

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.one(features) + self.other(features)
        return logits


class Several(nn.Linear):
    def forward(self, features: Tensor) -> Any:
        return super().forward(features), 1


class Auxiliary(nn.Linear):
    """A head that gives something else while it is trained."""

    def forward(self, features: Tensor) -> Any:
        logits = super().forward(features)
        return (logits, features) if self.training else logits


class Noisy(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(features))


def failing(shape: zoo.FeatureShape, classes: int) -> nn.Module:
    raise KeyError("width")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (nn.Linear(96, 5), r"this is a finished Linear"),
        (3, r"a function, and this is a int"),
        (lambda shape: my_head(shape, 5), r"takes \(shape\): too many positional arguments"),
        (lambda shape, classes, hidden: my_head(shape, 5), r"takes \(shape, classes, hidden\): missing"),
        (lambda shape, classes: None, r"called with \(FeatureShape\(pooled=96.*\), 2\) and returned a NoneType"),
        (lambda shape, classes: nn.Linear, r"returned the class Linear, not a torch module"),
        (failing, r"The head failing was called with \(FeatureShape\(.*\), 2\) and raised KeyError: 'width'"),
        (lambda shape, classes: nn.Linear(shape.pooled, 7), r"gave \[2, 7\] for features \[2, 96\] and 2 .* \[2, 2\]"),
        (lambda shape, classes: nn.Linear(10, classes), r"was run on features \[2, 96\] and raised RuntimeError"),
        (lambda shape, classes: Several(shape.pooled, classes), r"gave a tuple for"),
        (lambda shape, classes: Auxiliary(shape.pooled, classes), r"gave a tuple for features \[2, 96\], in training"),
        (lambda shape, classes: Noisy(shape.pooled, classes), r"gave other logits when it was run again"),
        (lambda shape, classes: nn.Sequential(my_head(shape, classes), nn.Softmax(1)), r"gives probabilities, which"),
        (lambda shape, classes: my_head(shape, classes).double(), r"raised RuntimeError|of torch.float64"),
        (lambda shape, classes: nn.LazyLinear(classes), r"is lazy: 'weight' has no shape yet"),
        (lambda shape, classes: nn.Flatten(), r"has no parameters, so there is nothing to train"),
        (Frozen, r"has requires_grad=False on 'bias'"),
        (Views, r"two tensors, 'one.weight' and 'other.weight', in one piece of memory"),
    ],
)
def test_what_cannot_be_a_head_is_refused_before_anything_runs(head: Any, said: str, tmp_path: Path, few: Path) -> None:
    with pytest.raises(OptionError, match=f"(?s){said}.*\nNext: "):
        zoo.finetune("timm/test_resnet", weights="random", head=head, data=few, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_step_that_the_messages_name_is_a_head() -> None:
    from zoo.planning.head_object import HOW

    assert model(eval(HOW.removeprefix("head=")))(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_a_dictionary_is_a_recipe_with_the_content_of_a_file() -> None:
    plain = name_objects(default_registry(), recipe={"stages": [STAGE]})
    assert plain.recipe == "session/recipe"
    named = name_objects(default_registry(), recipe={"name": "mine", "summary": "Short.", "stages": [STAGE]})
    found = named.registry.recipe("session/mine").spec
    written = zoo.recipe_from_toml(found.to_toml(), "mine")
    assert named.recipe == "session/mine" and found == written
    assert name_objects(default_registry(), recipe=found).recipe == "session/mine"
    assert name_objects(default_registry(), recipe=Path("mine.toml")).recipe == "mine.toml"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"stages": [{**STAGE, "lrr": 1}]}, r"stages\[0\]\.lrr: unknown key; did you mean 'lr'\?"),
        ({"stages": [{**STAGE, "epochs": 0}]}, r"stages\[0\]\.epochs: should be at least 1, got 0"),
        ({"stage": [STAGE]}, r"stage: unknown key; did you mean 'stages'\?"),
        ({}, r"stages: missing"),
    ],
)
def test_faults_of_a_dictionary_name_the_key_as_for_a_file(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        zoo.plan("timm/test_resnet", weights="random", recipe=recipe)


@pytest.mark.parametrize("recipe", [[STAGE], 3])
def test_what_cannot_be_a_recipe_is_refused_with_one_that_is(recipe: Any) -> None:
    with pytest.raises(OptionError, match="a dictionary, and this is a") as refused:
        name_objects(default_registry(), recipe=recipe)
    step = str(refused.value).rpartition("Next: recipe=")[2]
    assert name_objects(default_registry(), recipe=eval(step)).recipe == "session/recipe"
