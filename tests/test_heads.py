"""Every registered head, as the registry offers it: shapes, gradients, dropout, loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn import functional
from zoo.registry import default_registry

HEADS: dict[str, zoo.HeadSpec] = {
    found.spec.name: found.spec for found in default_registry().heads() if found.plugin.own
}
WITH_DROPOUT = {"dropout_linear", "mlp"}


def build(name: str, features: int, classes: int, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return HEADS[name].build(zoo.FeatureShape(pooled=features), classes, HEADS[name].options(**options))


def loss_of(spec: zoo.HeadSpec, module: nn.Module, features: Tensor, targets: Tensor) -> Tensor:
    return spec.loss(module, features, targets) if spec.loss else functional.cross_entropy(module(features), targets)


def test_the_bundled_heads_are_these() -> None:
    assert sorted(HEADS) == ["dropout_linear", "linear", "mlp"]


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize("features", [1, 33, 2048])
@pytest.mark.parametrize("name", HEADS)
def test_features_become_one_logit_a_class(name: str, features: int, classes: int) -> None:
    module = build(name, features, classes)
    for images in (1, 5):
        logits = module(torch.randn(images, features))
        assert logits.shape == (images, classes) and logits.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter_and_a_step_lowers_the_loss(name: str) -> None:
    module = build(name, 16, 3).eval()
    features, targets = torch.randn(24, 16), torch.arange(24) % 3
    before = loss_of(HEADS[name], module, features, targets)
    before.backward()
    without = [
        parameter for parameter, value in module.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert not without
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert loss_of(HEADS[name], module, features, targets) < before


@pytest.mark.parametrize("name", HEADS)
def test_dropout_acts_in_training_alone(name: str) -> None:
    module, features = build(name, 64, 4), torch.randn(8, 64)
    assert torch.equal(module.eval()(features), module(features))
    same = torch.equal(module.train()(features), module(features))
    assert same == (name not in WITH_DROPOUT)


@pytest.mark.parametrize("name", sorted(WITH_DROPOUT))
def test_option_p_is_the_share_that_is_dropped(name: str) -> None:
    (dropout,) = [each for each in build(name, 8, 2, p=0.75).modules() if isinstance(each, nn.Dropout)]
    kept = dropout(torch.ones(100_000)).count_nonzero() / 100_000
    assert abs(kept - 0.25) < 0.01


def test_option_hidden_is_the_width_of_the_hidden_layer() -> None:
    shapes = {name: tuple(value.shape) for name, value in build("mlp", 8, 3, hidden=5).named_parameters()}
    assert shapes == {"hidden.weight": (5, 8), "hidden.bias": (5,), "fc.weight": (3, 5), "fc.bias": (3,)}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_built_on_the_meta_device_where_shapes_are_all_that_is_asked(name: str) -> None:
    with torch.device("meta"):
        module = build(name, 512, 10)
    assert {value.device.type for value in module.state_dict().values()} == {"meta"}
