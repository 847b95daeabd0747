"""A drawn part of the support matrix; `python -m tests.matrix` does all of it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import matrix
from zoo.registry.registry import default_registry
from zoo.specs.backbone import Backbone, BackboneSpec, FeatureShape

REGISTRY = default_registry()
HEADS = matrix.own_heads(REGISTRY)
EVERY = [spec.name for spec in matrix.specs(REGISTRY)]
REFUSED = {"timm/crossvit_9_240": {"concat_pool", "gem", "attention_pool"}, "timm/efficientformer_l1": {"layers"}}
DRAWN = [*REFUSED, "timm/mobilenetv5_300m_enc", *random.Random(3).sample(EVERY, 4)]


def test_every_backbone_and_every_head_is_in_it() -> None:
    assert {provider: sum(name.startswith(provider) for name in EVERY) for provider in matrix.PROVIDERS} == (
        matrix.PROVIDERS
    )
    assert len(HEADS) == 10


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.long
def test_every_head_works_on_it_or_says_why_not_and_the_document_says_the_same(name: str) -> None:
    row = matrix.examine(REGISTRY.backbone(name).spec, HEADS)
    assert row.faults == []
    assert {head for head, reason in row.heads.items() if reason} == REFUSED.get(name, set())
    _, line = matrix._table([row])[1:]
    assert line in matrix.DOCUMENT.read_text("utf-8").splitlines()


@pytest.mark.long
@pytest.mark.parametrize("name", ["timm/vit_srelpos_small_patch16_224", "timm/pit_xs_distilled_224"])
def test_the_layouts_of_one_of_its_class_are_those_of_another(name: str) -> None:
    # The first has a table of relative positions of as many dimensions as tokens, the second two class tokens.
    of_class = {"timm/vit_srelpos_small_patch16_224": "timm/vit_relpos_small_patch16_224"}
    matrix.examine(REGISTRY.backbone(of_class.get(name, "timm/pit_xs_224")).spec, HEADS)
    spec = REGISTRY.backbone(name).spec
    quick, thorough = matrix.examine(spec, HEADS), matrix.examine(spec, HEADS, thorough=True)
    assert quick == thorough and quick.layers > quick.pooled


def _changed(**changes: Any) -> BackboneSpec:
    spec = REGISTRY.backbone("timm/test_resnet").spec

    def build(**arguments: Any) -> Backbone:
        return replace(spec.build(**arguments), **changes)

    return replace(spec, build=build)


def test_what_breaks_its_promise_is_a_fault() -> None:
    spec = REGISTRY.backbone("timm/test_resnet").spec
    assert matrix.examine(spec, HEADS).faults == []
    shape = spec.build(tag=None, state=None).shape
    wide = matrix.examine(_changed(shape=FeatureShape(pooled=shape.pooled + 1, map=shape.map)), HEADS)
    assert wide.faults[0].startswith("pooled are torch.float32 [")
    thin = matrix.examine(_changed(shape=FeatureShape(pooled=shape.pooled, map=1)), HEADS)
    assert any(fault.startswith("the map is") for fault in thin.faults)
    gem = [each for each in HEADS if each.spec.name == "gem"]
    silent = matrix.examine(_changed(shape=FeatureShape(pooled=shape.pooled), map=None), gem)
    assert "gem: refused without a reason" in silent.faults
    assert spec.facts is not None
    stale = matrix.examine(replace(spec, facts=replace(spec.facts, groups=99)), HEADS)
    assert stale.faults[0].startswith("the index says")


def test_the_document_has_a_line_for_each(tmp_path: Path) -> None:
    lines = matrix.DOCUMENT.read_text("utf-8").splitlines()
    assert sum(line.startswith("| ") and line.count("|") == 8 for line in lines) == len(EVERY) + len(matrix.PROVIDERS)
