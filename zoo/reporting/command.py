"""The `zoo finetune` command and the recipe that repeat a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from zoo.errors import ZooError
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.specs.recipe import SET_AS_A_WHOLE, RecipeSpec, recipe_from_file
from zoo.specs.solver import settled

RECIPE_FILE = "recipe.toml"
_SWITCHES = {"no_tune": "tune=False", "every_stage": "every_stage=True"}
_NUMBERS = ("classes", "folds", "seed", "workers")
"""Options whose values are numbers in Python."""


def command_of(plan: Plan, registry: Registry) -> list[str]:
    """The words of the `zoo finetune` command that makes this plan again, on the same data and machine.

    A recipe that is no longer registered, or whose stages have other names now, becomes `--recipe recipe.toml`. The
    reader writes that file from `Plan.recipe_spec`, which the report shows.
    """
    words = ["zoo", "finetune", "--backbone", plan.backbone.name, "--head", plan.head.name]
    for key, value in _head_options(plan, registry).items():
        words += ["--head-option", f"{key}={_written(value)}"]
    named = {"tag": plan.weights.label, "random": "random"}.get(plan.weights.kind)
    words += ["--weights", named or plan.weights.path or "FILE"]
    # The sample set lies in the cache folder; another machine makes it from the number of classes.
    words += ["--classes", str(len(plan.classes))] if plan.data.sample else ["--data", plan.data.argument]
    words += _recipe(plan, registry)
    height, width = plan.preprocessing["input_size"][1:]
    if (height, width) != native_size(plan, registry):
        words += ["--input-size", f"{height}x{width}"]
    if plan.folds is not None:
        words += ["--folds", str(plan.folds.count), *(["--every-stage"] if plan.folds.every_stage else [])]
    words += ["--seed", str(plan.seed), "--device", plan.device, "--precision", plan.precision]
    # Speeds were measured only if tuning was on.
    words += [] if plan.speeds else ["--no-tune"]
    return [*words, "--workers", str(plan.workers)]


def as_lines(words: list[str]) -> str:
    """The command for a shell, with one option per line."""
    lines: list[str] = []
    for word in words:
        if word.startswith("--"):
            lines.append(word)
        elif lines:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines).replace("zoo finetune \\\n  --backbone", "zoo finetune --backbone", 1)


def as_call(words: list[str]) -> str:
    """The command as a call in Python, for data that were an object: `data` stands for the object."""
    given: dict[str, list[str]] = {}
    for word in words[2:]:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            given.setdefault(name, [])
        else:
            given[name].append(word)
    (backbone,) = given.pop("backbone")
    arguments = [repr(backbone), "data=data"]
    for name, values in given.items():
        if name == "data":
            continue
        if name == "head_option":
            options = dict(value.split("=", 1) for value in values)
            arguments.append(f"head_options={options!r}")
        elif name == "set":
            arguments.append(f"set={values!r}")
        elif name == "input_size":
            arguments.append(f"input_size=({values[0].replace('x', ', ')})")
        elif name in _SWITCHES:
            arguments.append(_SWITCHES[name])
        else:
            (value,) = values
            arguments.append(f"{name}={value if name in _NUMBERS else repr(value)}")
    return "zoo.finetune(\n    " + ",\n    ".join(arguments) + ",\n)"


def named_recipe(plan: Plan, registry: Registry) -> RecipeSpec | None:
    """The recipe that the plan names, without any `--set`; None if it is missing or now has other stages."""
    try:
        named = recipe_from_file(plan.recipe) if plan.recipe.endswith(".toml") else registry.recipe(plan.recipe).spec
    except ZooError:
        return None
    same = [stage.name for stage in named.stages] == [stage.settings.name for stage in plan.stages]
    return named if same else None


def native_size(plan: Plan, registry: Registry) -> tuple[int, int] | None:
    """The weights' own input size (height, width) in pixels; None if the backbone is not installed."""
    try:
        spec = registry.backbone(plan.backbone.name).spec
    except ZooError:
        return None
    _, height, width = spec.preprocessing_for(plan.backbone.tag).input_size
    return height, width


def _recipe(plan: Plan, registry: Registry) -> list[str]:
    used, named = plan.recipe_spec(), named_recipe(plan, registry)
    if named is None:
        return ["--recipe", RECIPE_FILE]
    words = ["--recipe", plan.recipe]
    for key in SET_AS_A_WHOLE:
        if getattr(named, key) != getattr(used, key):
            words += ["--set", f"{key}={getattr(used, key)}"]
    # A shorthand such as --epochs becomes one --set per stage.
    for before, after in zip(named.stages, used.stages, strict=True):
        old, new = before.model_dump(), after.model_dump()
        changed = [key for key in new if old[key] != new[key]]
        if plan.folds is not None:  # folds say so themselves
            changed = [key for key in changed if key != "abandon"]
        # Alone, a knob of gradient steps would ask for them.
        changed += ["solver"] if settled(after.solver, changed) != after.solver else []
        for key in changed:
            words += ["--set", f"{after.name}.{key}={_written(new[key])}"]
    return words


def _head_options(plan: Plan, registry: Registry) -> dict[str, Any]:
    """The options that differ from their defaults, or all of them if the head is not installed."""
    try:
        default = registry.head(plan.head.name).spec.options()
    except ZooError:
        return plan.head.options
    defaults = {field.name: getattr(default, field.name) for field in fields(default)}
    return {key: value for key, value in plan.head.options.items() if defaults.get(key) != value}


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_written(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
