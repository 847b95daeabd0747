"""Real runs of real backbones with every head: forward, backward, freezing, saving, loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import zoo
from tests.numeric import FAMILIES, TINY, drawn, faults_of_a_run, pairs
from torch import nn
from zoo.model.build import build_outline
from zoo.model.measure import idle_parameters
from zoo.registry.registry import default_registry
from zoo.specs.options import build_options

# The others are run by `python -m tests.matrix`.
DRAWN = drawn()

pytestmark = pytest.mark.long


def test_the_set_is_whole() -> None:
    assert len(TINY) == 18 and len(FAMILIES) == 18
    assert {backbone for backbone, _ in DRAWN} >= set(TINY)
    own = {each.spec.name for each in default_registry().heads() if each.plugin.own}
    assert {head for _, head in DRAWN} == {head for _, head in pairs(TINY)} == own


@pytest.mark.parametrize(("backbone", "head"), DRAWN)
def test_a_run_holds(backbone: str, head: str, few: Path, tmp_path: Path) -> None:
    assert faults_of_a_run(backbone, head, few, tmp_path / "run") == []


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_pooled_features_are_upstreams_pre_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    state = {key: tensor for key, tensor in theirs.state_dict().items()}
    built = default_registry().backbone(f"timm/{name}").spec.build(tag=None, state=state)
    images = torch.randn(2, *theirs.pretrained_cfg["input_size"])
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        assert torch.allclose(built.pool(built.module.eval(), images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["timm/test_vit", "timm/test_resnet", "torchvision/mobilenet_v3_small"])
@pytest.mark.parametrize("head", ["linear", "gem"])
def test_idle_parameters_are_those_that_get_no_gradient(backbone: str, head: str) -> None:
    registry = default_registry()
    resolved, found = registry.backbone(backbone), registry.head(head)
    options = build_options(head, found.spec.options, {})
    outline = build_outline(resolved, found, options, classes=("a", "b"), tag=resolved.tag)
    model = zoo.create_model(backbone, head=head, classes=2, weights="random").eval()
    images = torch.randn(2, *model.preprocessing.input_size)
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    without = {name for name, each in model.named_parameters() if each.grad is None}
    assert without == idle_parameters(outline)
    assert bool(without) == (backbone.endswith("mobilenet_v3_small") and head == "gem")
