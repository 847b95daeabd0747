"""What plugins may rely on: a plugin of the first days still works, and no hook is left untold or untried."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import zoo
from zoo.registry import hooks
from zoo.registry.entry_points import COMMANDS, PLUGINS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
HOOKS = sorted(name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec"))


@pytest.fixture(scope="module")
def registry(crowd: Path) -> zoo.Registry:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(crowd), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)
        return zoo.Registry(report=lambda line: None)


def test_a_plugin_written_against_the_first_version_works_unchanged(
    registry: zoo.Registry, few: Path, tmp_path: Path
) -> None:
    (plugin,) = [each for each in registry.plugins() if each.distribution == "zoo-first-surface"]
    assert (plugin.state, plugin.error, plugin.notes) == ("loaded", None, [])
    assert plugin.brings == {
        "backbones": ["first (2)"], "heads": ["first_scaled", "first_plain"], "recipes": ["first_recipe"]
    }  # fmt: skip
    result = zoo.finetune(
        backbone="first/tiny_net",
        weights="random",
        head="first_scaled",
        head_options={"scale": 2},
        recipe="first_recipe",
        data=few,
        out=tmp_path / "run",
        registry=registry,
    )
    assert result.proof == "passed"
    assert result.content["backbone"] == "first/tiny_net.first" and result.content["head"] == "first/first_scaled"
    assert [stage["name"] for stage in result.content["stages"]] == ["head", "last"]
    model = zoo.create_model("bare_net", head="first_plain", classes=3, weights="random", registry=registry)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_told_in_the_guide_and_tried_by_a_test(hook: str) -> None:
    assert f"`{hook}()`" in GUIDE
    sources = [
        path
        for path in [*(ROOT / "tests").rglob("*.py")]
        if re.search(rf"@zoo\.hookimpl\ndef {hook}\(", path.read_text("utf-8"))
    ]
    assert sources


def test_both_groups_of_entry_points_are_told_in_the_guide() -> None:
    for group in (PLUGINS, COMMANDS):
        assert re.search(rf"^\[project\.entry-points\.\"?{re.escape(group)}\"?\]$", GUIDE, re.MULTILINE)


def test_what_plugins_make_and_get_is_frozen() -> None:
    described = [value for name in zoo.__all__ if hasattr(value := getattr(zoo, name), "__dataclass_params__")]
    assert {zoo.HeadSpec, zoo.ObserverSpec, zoo.RunStarted, zoo.RunFinished} <= set(described)
    assert [each for each in described if not each.__dataclass_params__.frozen] == []
