"""The `zoo finetune` command and the recipe that repeat a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from zoo.errors import ZooError
from zoo.registry.registry import Registry
from zoo.registry.session import object_arguments, of_session
from zoo.specs.plan import Plan
from zoo.specs.recipe import SET_AS_A_WHOLE, RecipeSpec, recipe_from_file
from zoo.specs.solver import settled

RECIPE_FILE = "recipe.toml"


def command_of(plan: Plan, registry: Registry) -> list[str]:
    """The words of the `zoo finetune` command that makes this plan again, on the same data and machine.

    A recipe that is no longer registered, or whose stages have other names now, becomes `--recipe recipe.toml`. The
    reader writes that file from `Plan.recipe_spec`, which the report shows.
    """
    words = ["zoo", "finetune", "--backbone", plan.backbone.name, "--head", plan.head.name]
    for key, value in _head_options(plan, registry).items():
        words += ["--head-option", f"{key}={_written(value)}"]
    # A tag is named, the default one too: another version of the library may have another default.
    named = {"tag": plan.weights.label, "random": "random"}.get(plan.weights.kind)
    words += ["--weights", named or plan.weights.path or "FILE"]
    # The sample set lies in the cache folder; another machine makes it from the number of classes.
    words += ["--classes", str(len(plan.classes))] if plan.data.sample else ["--data", plan.data.argument]
    words += _recipe(plan, registry)
    height, width = plan.preprocessing["input_size"][1:]
    if (height, width) != native_size(plan, registry):
        words += ["--input-size", f"{height}x{width}"]
    if "decode" in plan.preprocessing:
        words += ["--decode", plan.preprocessing["decode"]]
    if plan.folds is not None:
        words += ["--folds", str(plan.folds.count), *(["--every-stage"] if plan.folds.every_stage else [])]
    words += ["--seed", str(plan.seed), "--device", plan.device, "--precision", _precision(plan)]
    words += ["--shard-backbone"] if plan.shard_backbone else []
    words += [] if _tuned(plan) else ["--no-tune"]
    return [*words, "--workers", str(plan.workers)]


def _precision(plan: Plan) -> str:
    """The precision to ask for. Where `auto` chose, among layouts too, the one it chose has a layout of its own."""
    origin = plan.compute_origin
    return origin.asked if origin is not None and origin.by in ("table", "measured") else plan.precision


def _tuned(plan: Plan) -> bool:
    """Whether the memory layout was chosen for this machine. Plans that do not say have speeds where it was."""
    origin = plan.compute_origin
    return bool(plan.speeds) if origin is None else origin.by in ("table", "measured")


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


def as_python(words: list[str], plan: Plan) -> str:
    """The call of `zoo.finetune` that the words of a command stand for, for a run that began with objects.

    They stand in it as variables named after them.
    """
    lines: list[str] = []
    options: dict[str, Any] = {}
    several: dict[str, list[str]] = {"set": []}
    for option, value in _pairs(words):
        if option == "head_option":
            key, _, text = value.partition("=")
            options[key] = plan.head.options.get(key, text)
        elif option == "set":
            several["set"].append(value)
        elif option == "backbone":
            lines.insert(0, _object("backbone", value) or repr(value))
        elif option == "weights" and plan.weights.kind == "own":
            continue  # the values that the module has
        elif option == "data" and of_session(value):
            lines.append("data=data")
        else:
            lines.append(f"{option.removeprefix('no_')}={_argument(option, value)}")
    lines += [f"head_options={options!r}"] if options else []
    lines += [f"set={several['set']!r}"] if several["set"] else []
    return "zoo.finetune(\n    " + ",\n    ".join(lines) + ",\n)"


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    """`--seed 0 --no-tune` -> (`seed`, `0`), (`no_tune`, ``)."""
    found: list[tuple[str, str]] = []
    # The first two are `zoo finetune`.
    for word in words[2:]:
        if word.startswith("--"):
            found.append((word.removeprefix("--").replace("-", "_"), ""))
        else:
            found[-1] = (found[-1][0], word)
    return found


def _argument(option: str, value: str) -> str:
    if not value:
        return str(not option.startswith("no_"))
    if option in ("classes", "folds", "seed", "workers"):
        return value
    if option == "input_size":
        return str(tuple(int(side) for side in value.split("x")))
    return _object(option, value) or repr(value)


def _object(kind: str, name: str) -> str:
    """The variable that stands for an object of the session; empty for a name that is found."""
    return object_arguments({kind: name}).partition("=")[2]


def named_recipe(plan: Plan, registry: Registry) -> RecipeSpec | None:
    """The recipe that the plan names, without any `--set`; None if it is missing or now has other stages.

    What was passed as an object counts as missing: the page of a run is the same with the object at hand and without.
    """
    if of_session(plan.recipe):
        return None
    try:
        named = recipe_from_file(plan.recipe) if plan.recipe.endswith(".toml") else registry.recipe(plan.recipe).spec
    except ZooError:
        return None
    same = [stage.name for stage in named.stages] == [stage.settings.name for stage in plan.stages]
    return named if same else None


def native_size(plan: Plan, registry: Registry) -> tuple[int, int] | None:
    """The weights' own input size (height, width) in pixels; None if the backbone is not installed."""
    if of_session(plan.backbone.name):
        return None
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
    if of_session(plan.head.name):
        return plan.head.options
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
