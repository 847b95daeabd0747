"""What differs between plans: choices, the seed, what follows from a choice, and the surroundings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.planning.plan import Plan
from zoo.recipes import Stage
from zoo.registry import Registry
from zoo.reporting.command import named_recipe, native_size

_SHORTHANDS = ("epochs", "batch_size")
"""Knobs that one option sets in every stage: however many stages differ in them, they are one choice."""
_NOTHING = "-"
# With a blank, which no stage has in its name: `head.lr` is of a stage.
_OPTION, _VERSION = "head option ", "version of "


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """Between two plans, by name; `value_of` says what they are."""

    choices: tuple[str, ...]
    """What somebody asked for: `backbone`, `weights`, `head`, `head option NAME`, `recipe`, `keep`, `epochs`,
    `batch_size`, `STAGE.KNOB`, `input_size`, `precision`, `data`."""
    seed: bool
    follows: tuple[str, ...]
    """What a choice or the seed entails, and is none of its own."""
    surroundings: tuple[str, ...]
    """Device, threads and versions: they may move a result, and nobody chose them to."""


def differences_between(first: Plan, second: Plan, registry: Registry, *, same_files: bool | None) -> Differences:
    """What differs. `same_files`: whether all files below the two data folders are the same, however they are split;
    None where that is not known."""
    choices = [
        *_backbone(first, second),
        *_head(first, second),
        *_recipe(first, second, registry),
        *_input_size(first, second, registry),
    ]
    if _precision(first) != _precision(second):
        choices.append("precision")
    follows: list[str] = []
    if first.data.digest != second.data.digest:
        # A split that is drawn is a function of the seed.
        drawn = bool(same_files) and first.seed != second.seed
        (follows if drawn else choices).append("split" if same_files else "data")
    return Differences(
        choices=tuple(choices),
        seed=first.seed != second.seed,
        follows=(*follows, *_followers(first, second, choices)),
        surroundings=tuple(_surroundings(first, second)),
    )


def value_of(plan: Plan, name: str) -> str:
    """What a plan has under a name of `Differences`, for people; `-` where it has no such thing."""
    of_stage, _, knob = name.rpartition(".")
    stages = {stage.settings.name: stage.settings for stage in plan.stages}
    if name in _SHORTHANDS:
        return _in_stages(stages.values(), name)
    if name.startswith(_OPTION):
        return _written(plan.head.options.get(name.removeprefix(_OPTION), _NOTHING))
    if of_stage in stages and knob in Stage.model_fields:
        return _written(getattr(stages[of_stage], knob))
    if name.startswith(_VERSION):
        return _versions(plan).get(name.removeprefix(_VERSION), _NOTHING)
    return _values(plan).get(name, _NOTHING)


def _values(plan: Plan) -> dict[str, str]:
    _, height, width = plan.preprocessing["input_size"]
    stages = [stage.settings.name for stage in plan.stages]
    return {
        "backbone": _architecture(plan),
        "weights": _weights(plan),
        "head": _short(plan.head.name),
        "recipe": f"{_short(plan.recipe)} ({', '.join(stages)})",
        "keep": plan.keep,
        "input_size": f"{height} x {width}",
        "precision": _precision(plan),
        "data": f"{plan.data.source} ({plan.data.digest[:12]})",
        "split": plan.data.digest[:12],
        "seed": str(plan.seed),
        "computed precision": plan.precision,
        "memory layout": plan.memory_format,
        "device": plan.device,
        "threads": str(plan.threads),
    }


def _backbone(first: Plan, second: Plan) -> Iterator[str]:
    if _architecture(first) != _architecture(second):
        yield "backbone"
        # Tags of other architectures cannot be compared; whether there are pretrained weights can.
        if first.weights.kind != second.weights.kind:
            yield "weights"
    elif _weights(first) != _weights(second) or first.backbone.tag != second.backbone.tag:
        yield "weights"


def _head(first: Plan, second: Plan) -> Iterator[str]:
    if first.head.name != second.head.name:
        yield "head"
        return
    for key in dict.fromkeys([*first.head.options, *second.head.options]):
        if first.head.options.get(key) != second.head.options.get(key):
            yield f"{_OPTION}{key}"


def _recipe(first: Plan, second: Plan, registry: Registry) -> Iterator[str]:
    stages = [[stage.settings.name for stage in plan.stages] for plan in (first, second)]
    if stages[0] == stages[1]:
        found, other = ({**_knobs(plan.stages), "keep": plan.keep} for plan in (first, second))
    else:
        yield "recipe"
        # Each recipe brings its own values; what was set beside it is a choice of its own.
        found, other = (_set_beside(plan, registry) for plan in (first, second))
    differing = [name for name in dict.fromkeys([*found, *other]) if found.get(name) != other.get(name)]
    if first.head.closed_form != second.head.closed_form:
        # One is fitted in one pass, whatever the recipe says.
        differing = [name for name in differing if name.rpartition(".")[2] != "epochs"]
    yield from dict.fromkeys(_choice(name, together=stages[0] == stages[1]) for name in differing)


def _choice(name: str, *, together: bool) -> str:
    knob = name.rpartition(".")[2]
    return knob if together and knob in _SHORTHANDS else name


def _knobs(stages: Sequence[Any]) -> dict[str, Any]:
    return {
        f"{stage.settings.name}.{key}": value
        for stage in stages
        for key, value in stage.settings.model_dump().items()
        if key != "name"
    }


def _set_beside(plan: Plan, registry: Registry) -> dict[str, Any]:
    """What differs from the named recipe, a shorthand as one value; nothing where the recipe cannot be had."""
    named = named_recipe(plan, registry)
    if named is None:
        return {}
    usual = {f"{stage.name}.{key}": value for stage in named.stages for key, value in stage.model_dump().items()}
    own = {name: value for name, value in _knobs(plan.stages).items() if usual[name] != value}
    if plan.keep != named.keep:
        own["keep"] = plan.keep
    settings = [stage.settings for stage in plan.stages]
    for knob, whole in (("epochs", max(each.epochs for each in settings)), ("batch_size", settings[0].batch_size)):
        changed = [name for name in own if name.endswith(f".{knob}")]
        at_once = knob == "epochs" or all(each.batch_size == whole for each in settings)
        if changed and at_once and whole != max(getattr(stage, knob) for stage in named.stages):
            own = {name: value for name, value in own.items() if name not in changed} | {knob: whole}
    return own


def _input_size(first: Plan, second: Plan, registry: Registry) -> Iterator[str]:
    """A size that differs because the weights are made for another one is no choice."""
    sizes = [tuple(plan.preprocessing["input_size"][1:]) for plan in (first, second)]
    chosen = [
        size if size != native_size(plan, registry) else None for size, plan in zip(sizes, (first, second), strict=True)
    ]
    if sizes[0] != sizes[1] and chosen[0] != chosen[1]:
        yield "input_size"


def _precision(plan: Plan) -> str:
    """What was asked: with `auto` both precisions were measured, and the faster one was taken."""
    measured = {name.partition(",")[0] for name in plan.speeds}
    return "auto" if len(measured) > 1 else plan.precision


def _followers(first: Plan, second: Plan, choices: Sequence[str]) -> Iterator[str]:
    def differ(name: str) -> bool:
        return value_of(first, name) != value_of(second, name)

    if "input_size" not in choices and first.preprocessing != second.preprocessing:
        yield "preprocessing"
    if "precision" not in choices and differ("computed precision"):
        yield "computed precision"
    if differ("memory layout"):
        yield "memory layout"
    if [stage.rates for stage in first.stages] != [stage.rates for stage in second.stages]:
        yield "learning rates"
    if sum(stage.steps for stage in first.stages) != sum(stage.steps for stage in second.stages):
        yield "steps"


def _surroundings(first: Plan, second: Plan) -> Iterator[str]:
    for name in ("device", "threads"):
        if value_of(first, name) != value_of(second, name):
            yield name
    one, other = _versions(first), _versions(second)
    for package in dict.fromkeys([*one, *other]):
        # What only one of them needed is part of that one's choices.
        if package in one and package in other and one[package] != other[package]:
            yield f"{_VERSION}{package}"


def _versions(plan: Plan) -> dict[str, str]:
    plugins = {each.distribution: each.version for each in (plan.backbone, plan.head)}
    return {**plugins, **plan.versions}


def _architecture(plan: Plan) -> str:
    return plan.backbone.name.removesuffix(f".{plan.backbone.tag}") if plan.backbone.tag else plan.backbone.name


def _weights(plan: Plan) -> str:
    if plan.weights.kind == "file":
        return f"{plan.weights.label} ({(plan.weights.digest or '')[:12]})"
    # The tag of random weights says whose preprocessing they take.
    tag = f" ({plan.backbone.tag})" if plan.weights.kind == "random" and plan.backbone.tag else ""
    return f"{plan.weights.label}{tag}"


def _in_stages(stages: Any, knob: str) -> str:
    values: Mapping[str, Any] = {stage.name: getattr(stage, knob) for stage in stages}
    if len(set(values.values())) == 1:
        return _written(next(iter(values.values())))
    return ", ".join(f"{name} {_written(value)}" for name, value in values.items())


def _short(name: str) -> str:
    return Path(name).name if name.endswith(".toml") else name.rpartition("/")[2]


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_written(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value)
