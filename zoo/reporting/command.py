"""The command that repeats a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from zoo.errors import ZooError
from zoo.planning.plan import Plan
from zoo.recipes import RecipeSpec, recipe_from_file
from zoo.registry import Registry

RECIPE_FILE = "recipe.toml"


def recipe_of(plan: Plan) -> RecipeSpec:
    """The recipe as the run used it: every `--set` and shorthand applied."""
    stages = tuple(stage.settings for stage in plan.stages)
    return RecipeSpec(name="stored", summary=plan.recipe_summary, keep=plan.keep, stages=stages)


def command_of(plan: Plan, registry: Registry) -> list[str]:
    """The words of `zoo finetune ...` that make this plan again, on the same data and machine.

    A recipe that is not registered, or has changed its stages since, is named `RECIPE_FILE`: it is to be written from
    `recipe_of`.
    """
    words = ["zoo", "finetune", "--backbone", plan.backbone.name, "--head", plan.head.name]
    for key, value in _head_options(plan, registry).items():
        words += ["--head-option", f"{key}={_written(value)}"]
    words += ["--weights", {"tag": plan.weights.label, "random": "random"}.get(plan.weights.kind) or _file(plan)]
    words += ["--classes", str(len(plan.classes))] if plan.data.sample else ["--data", plan.data.argument]
    words += _recipe(plan, registry)
    height, width = plan.preprocessing["input_size"][1:]
    if (height, width) != native_size(plan, registry):
        words += ["--input-size", f"{height}x{width}"]
    words += ["--seed", str(plan.seed), "--device", plan.device, "--precision", plan.precision]
    words += [] if plan.speeds else ["--no-tune"]
    return [*words, "--workers", str(plan.workers)]


def as_lines(words: list[str]) -> str:
    """One option a line, quoted for a shell."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--"):
            lines.append(word)
        elif lines:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines).replace("zoo finetune \\\n  --backbone", "zoo finetune --backbone", 1)


def named_recipe(plan: Plan, registry: Registry) -> RecipeSpec | None:
    """The recipe that the plan names, before anything was set; None where it cannot be had or has other stages by
    now."""
    try:
        named = recipe_from_file(plan.recipe) if plan.recipe.endswith(".toml") else registry.recipe(plan.recipe).spec
    except ZooError:
        return None
    same = [stage.name for stage in named.stages] == [stage.settings.name for stage in plan.stages]
    return named if same else None


def native_size(plan: Plan, registry: Registry) -> tuple[int, int] | None:
    """(height, width) in pixels that the plan's weights are made for; None where the backbone is not there to ask."""
    try:
        spec = registry.backbone(plan.backbone.name).spec
    except ZooError:
        return None
    _, height, width = spec.preprocessing_for(plan.backbone.tag).input_size
    return height, width


def _file(plan: Plan) -> str:
    return plan.weights.path or "FILE"


def _recipe(plan: Plan, registry: Registry) -> list[str]:
    made, named = recipe_of(plan), named_recipe(plan, registry)
    if named is None:
        return ["--recipe", RECIPE_FILE]
    words = ["--recipe", plan.recipe]
    if named.keep != made.keep:
        words += ["--set", f"keep={made.keep}"]
    for before, after in zip(named.stages, made.stages, strict=True):
        old, new = before.model_dump(), after.model_dump()
        for key, value in new.items():
            if old[key] != value:
                words += ["--set", f"{after.name}.{key}={_written(value)}"]
    return words


def _head_options(plan: Plan, registry: Registry) -> dict[str, Any]:
    """Those that differ from their defaults; all where the head is not there to ask."""
    try:
        default = registry.head(plan.head.name).spec.options()
    except ZooError:
        return plan.head.options
    usual = {field.name: getattr(default, field.name) for field in fields(default)}
    return {key: value for key, value in plan.head.options.items() if usual.get(key) != value}


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_written(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value)
