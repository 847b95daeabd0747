"""How two plans differ: choices, the seed, consequences of these, and the surroundings (device, threads, versions)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.command import named_recipe, native_size
from zoo.specs.assignments import FOR_CHOOSING
from zoo.specs.plan import BackbonePlan, HeadPlan, Plan
from zoo.specs.recipe import BALANCED, SET_AS_A_WHOLE, Stage, chooses_inside
from zoo.specs.solver import GRADIENT_KNOBS, longest_by_epochs

_SHORTHANDS = ("epochs", "batch_size")
"""Knobs that one option sets in every stage. They are one choice, however many stages differ in them."""
_NOTHING = "-"
# The blank keeps these apart from `STAGE.KNOB`, as no stage name has one.
_OPTION, _VERSION = "head option ", "version of "


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """The names of what differs between two plans; `value_of` gives their values."""

    choices: tuple[str, ...]
    """What someone chose: `backbone`, `weights`, `head`, `head option NAME`, `recipe`, `keep`, `choose_by`, `epochs`,
    `batch_size`, `STAGE.KNOB`, `input_size`, `decode`, `precision`, `folds`, `data`, or `split` of the same images."""
    seed: bool
    follows: tuple[str, ...]
    """Consequences of a choice or of the seed, such as the number of steps."""
    surroundings: tuple[str, ...]
    """Device, threads and versions. They may change a result, but nobody chose them for that."""


def differences_between(first: Plan, second: Plan, registry: Registry, *, same_files: bool | None) -> Differences:
    """How two plans differ.

    `same_files`: whether the two data folders hold the same images, however they are split; None if that is unknown.
    """
    choices = [
        *_backbone(first, second),
        *_head(first, second),
        *_recipe(first, second, registry),
        *_input_size(first, second, registry),
    ]
    if _decode(first) != _decode(second):
        choices.append("decode")
    if _precision(first) != _precision(second):
        choices.append("precision")
    folds = [plan.folds.count if plan.folds else None for plan in (first, second)]
    choices += ["folds"] if folds[0] != folds[1] else []
    follows: list[str] = []
    if first.data.digest != second.data.digest:
        # Same images but another split: if the seeds differ, the split was drawn from the seed. With folds there is
        # none.
        drawn = bool(same_files) and (first.seed != second.seed or (folds[0] is None) != (folds[1] is None))
        (follows if drawn else choices).append("split" if same_files else "data")
    return Differences(
        choices=tuple(choices),
        seed=first.seed != second.seed,
        follows=(*follows, *_consequences(first, second, choices)),
        surroundings=tuple(_surroundings(first, second)),
    )


def value_of(plan: Plan, name: str) -> str:
    """The value of a name of `Differences` in a plan, for people; `-` if the plan has none."""
    stage_name, _, knob = name.rpartition(".")
    stages = {stage.settings.name: stage.settings for stage in plan.stages}
    solved = _solved(plan)
    if name in _SHORTHANDS:
        return _in_stages(stages.values(), name, solved)
    if name.startswith(_OPTION):
        return _written(plan.head.options.get(name.removeprefix(_OPTION), _NOTHING))
    if stage_name in stages and knob in Stage.model_fields:
        return _knob(stages[stage_name], knob, solved)
    if name.startswith(_VERSION):
        return _versions(plan).get(name.removeprefix(_VERSION), _NOTHING)
    return _values(plan).get(name, _NOTHING)


def _values(plan: Plan) -> dict[str, str]:
    _, height, width = plan.preprocessing["input_size"]
    stages = [stage.settings.name for stage in plan.stages]
    return {
        "backbone": _architecture(plan),
        "weights": _weights(plan),
        "head": _head_name(plan),
        "recipe": f"{_short(plan.recipe)} ({', '.join(stages)})",
        **{key: getattr(plan, key) for key in SET_AS_A_WHOLE},
        "input_size": f"{height} x {width}",
        "decode": _decode(plan),
        "precision": _precision(plan),
        "data": f"{plan.data.source} ({plan.data.digest[:12]})",
        "split": plan.data.digest[:12],
        "folds": str(plan.folds.count) if plan.folds else "none",
        "seed": str(plan.seed),
        "computed precision": plan.precision,
        "memory layout": plan.memory_format,
        "device": plan.device,
        "threads": str(plan.threads),
    }


def _backbone(first: Plan, second: Plan) -> Iterator[str]:
    if _architecture(first) != _architecture(second):
        yield "backbone"
        # Tags of two architectures always differ, so only the kind of weights (tag, file or random) is compared.
        if first.weights.kind != second.weights.kind:
            yield "weights"
    elif _weights(first) != _weights(second) or first.backbone.tag != second.backbone.tag:
        yield "weights"


def _head(first: Plan, second: Plan) -> Iterator[str]:
    if _head_name(first) != _head_name(second):
        yield "head"
        return
    for key in dict.fromkeys([*first.head.options, *second.head.options]):
        if first.head.options.get(key) != second.head.options.get(key):
            yield f"{_OPTION}{key}"


def _recipe(first: Plan, second: Plan, registry: Registry) -> Iterator[str]:
    stages = [[stage.settings.name for stage in plan.stages] for plan in (first, second)]
    if stages[0] == stages[1]:
        before, after = (
            {**_knobs(plan.stages), **{key: getattr(plan, key) for key in SET_AS_A_WHOLE}} for plan in (first, second)
        )
    else:
        yield "recipe"
        # Each recipe brings its own values, so only what was set beside it is a choice of its own.
        before, after = (_set_beside(plan, registry) for plan in (first, second))
    differing = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    # Knobs of gradient steps did nothing where a solver fitted the stage. Beside a run where they act, they are told.
    both_solved = _solved(first) & _solved(second)
    differing = [name for name in differing if not _without_steps(name, both_solved)]
    differing = [name for name in differing if not _solver_follows(name, before.get(name), after.get(name), differing)]
    if "keep" in differing:
        # What helps to choose among stages is switched off where the last one is kept in any case.
        follows = FOR_CHOOSING if _choose_otherwise_inside(first, second) else (*FOR_CHOOSING, "choose_by")
        differing = [name for name in differing if name.rpartition(".")[2] not in follows]
    if (first.folds is None) != (second.folds is None):
        # In folds no stage is given up: that is decided on validation images.
        differing = [name for name in differing if name.rpartition(".")[2] != "abandon"]
    if first.head.closed_form != second.head.closed_form:
        # A closed-form head is fitted in one pass, whatever number of epochs the recipe has.
        differing = [name for name in differing if name.rpartition(".")[2] != "epochs"]
    yield from dict.fromkeys(_choice(name, together=stages[0] == stages[1]) for name in differing)


def _choose_otherwise_inside(first: Plan, second: Plan) -> bool:
    """Whether every class counts the same in one run alone, and a stage chooses an epoch, its end or a rate by that."""
    inside = any(chooses_inside(dict(stage.settings)) for plan in (first, second) for stage in plan.stages)
    return inside and (first.choose_by in BALANCED) != (second.choose_by in BALANCED)


def _solved(plan: Plan) -> frozenset[str]:
    """The stages that a solver fitted, by their names."""
    return frozenset(stage.settings.name for stage in plan.stages if stage.solver != "gradient")


def _without_steps(name: str, solved: frozenset[str]) -> bool:
    stage, _, knob = name.rpartition(".")
    return knob in GRADIENT_KNOBS and stage in solved


def _solver_follows(name: str, before: Any, after: Any, differing: Sequence[str]) -> bool:
    """Whether a stage has gradient steps for a solver only because a knob of such steps was set."""
    stage, _, knob = name.rpartition(".")
    if knob != "solver" or {before, after} != {"auto", "gradient"}:
        return False
    return any(f"{stage}.{each}" in differing for each in GRADIENT_KNOBS) or not set(_SHORTHANDS).isdisjoint(differing)


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
    """Values that differ from the named recipe, with a shorthand as one value; empty if that recipe is missing."""
    # The recipe as it is now, which need not be as it was: a plan stores values, and not where each is from.
    named = named_recipe(plan, registry)
    if named is None:
        return {}
    default = {f"{stage.name}.{key}": value for stage in named.stages for key, value in stage.model_dump().items()}
    own = {name: value for name, value in _knobs(plan.stages).items() if default[name] != value}
    own |= {key: getattr(plan, key) for key in SET_AS_A_WHOLE if getattr(plan, key) != getattr(named, key)}
    settings = [stage.settings for stage in plan.stages]
    for knob, whole in (("epochs", _longest(settings)), ("batch_size", settings[0].batch_size)):
        changed = [name for name in own if name.endswith(f".{knob}")]
        # --epochs scales the stages, so its value is that of the longest; --batch-size is the same in all of them.
        by_shorthand = knob == "epochs" or all(stage.batch_size == whole for stage in settings)
        before = _longest(named.stages) if knob == "epochs" else max(stage.batch_size for stage in named.stages)
        if changed and by_shorthand and whole not in (None, before):
            own = {name: value for name, value in own.items() if name not in changed} | {knob: whole}
    return {name: value for name, value in own.items() if not _solver_follows(name, default.get(name), value, [*own])}


def _longest(stages: Sequence[Stage]) -> int | None:
    return longest_by_epochs([stage.model_dump() for stage in stages])


def _input_size(first: Plan, second: Plan, registry: Registry) -> Iterator[str]:
    """An input size counts as a choice only if it is not the weights' own."""
    sizes = [tuple(plan.preprocessing["input_size"][1:]) for plan in (first, second)]
    chosen = [
        size if size != native_size(plan, registry) else None for size, plan in zip(sizes, (first, second), strict=True)
    ]
    if sizes[0] != sizes[1] and chosen[0] != chosen[1]:
        yield "input_size"


def _decode(plan: Plan) -> str:
    """How files are decoded; a plan that does not say decodes every pixel."""
    return str(plan.preprocessing.get("decode", "exact"))


def _precision(plan: Plan) -> str:
    """The precision that was asked for. `auto` takes the faster one of both."""
    if plan.compute_origin is not None:
        return plan.compute_origin.asked
    # Plans of before that was stored: where several precisions were measured, nobody had asked for one.
    measured = {name.partition(",")[0] for name in plan.speeds}
    return "auto" if len(measured) > 1 else plan.precision


def _consequences(first: Plan, second: Plan, choices: Sequence[str]) -> Iterator[str]:
    def differ(name: str) -> bool:
        return value_of(first, name) != value_of(second, name)

    beside = [{key: value for key, value in plan.preprocessing.items() if key != "decode"} for plan in (first, second)]
    if "input_size" not in choices and beside[0] != beside[1]:
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
    before, after = _versions(first), _versions(second)
    for package in dict.fromkeys([*before, *after]):
        # A package that only one run needed comes with a choice, such as another head.
        if package in before and package in after and before[package] != after[package]:
            yield f"{_VERSION}{package}"


def _versions(plan: Plan) -> dict[str, str]:
    # What an object computes is its version, and told as the choice of another backbone or head.
    parts = [part for part in (plan.backbone, plan.head) if not of_session(part.name)]
    plugins = {part.distribution: part.version for part in parts}
    return {**plugins, **plan.versions}


def _architecture(plan: Plan) -> str:
    name = plan.backbone.name.removesuffix(f".{plan.backbone.tag}") if plan.backbone.tag else plan.backbone.name
    return f"{name}{_version_of_object(plan.backbone)}"


def _head_name(plan: Plan) -> str:
    return f"{_short(plan.head.name)}{_version_of_object(plan.head)}"


def _version_of_object(part: BackbonePlan | HeadPlan) -> str:
    """What tells an object from another one of the same name; empty for what a plugin provides."""
    return f" ({part.version})" if of_session(part.name) else ""


def _weights(plan: Plan) -> str:
    if plan.weights.kind in ("file", "own"):
        taken = f": {plan.weights.taken}" if plan.weights.taken else ""
        return f"{plan.weights.label} ({(plan.weights.digest or '')[:12]}){taken}"
    # With random weights, the tag still says whose preprocessing is used.
    tag = f" ({plan.backbone.tag})" if plan.weights.kind == "random" and plan.backbone.tag else ""
    return f"{plan.weights.label}{tag}"


def _in_stages(stages: Iterable[Stage], knob: str, solved: frozenset[str]) -> str:
    values = {stage.name: _knob(stage, knob, solved) for stage in stages}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _knob(stage: Stage, knob: str, solved: frozenset[str]) -> str:
    """What a knob is set to; `-` where it did nothing, as in the plan."""
    return _NOTHING if _without_steps(f"{stage.name}.{knob}", solved) else _written(getattr(stage, knob))


def _short(name: str) -> str:
    return Path(name).name if name.endswith(".toml") else name.rpartition("/")[2]


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_written(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
