"""A run made ready: in an order in which what is refused is refused for its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from zoo.errors import Refused
from zoo.events import silent
from zoo.planning.resolved_model import ResolvedModel
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan
from zoo.training.prepare import prepare

TINY = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only"}


def test_another_plan_is_refused_before_a_model_is_built(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = zoo.plan(**TINY, data=few)
    monkeypatch.setattr(ResolvedModel, "build", lambda *_: pytest.fail("a model was built"))

    def refuse(found: Plan) -> None:
        assert found.data.digest == stored.data.digest
        raise Refused("another plan")

    with pytest.raises(Refused, match="another plan"), prepare(stored, default_registry(), silent, accept=refuse):
        pass


def test_opening_images_is_timed_by_itself(few: Path) -> None:
    stored = zoo.plan(**TINY, data=few)
    with prepare(stored, default_registry(), silent, load="nothing", trains=False) as prepared:
        assert prepared.model is None
        assert 0 < prepared.decode_seconds <= prepared.clock.seconds()["data"]
