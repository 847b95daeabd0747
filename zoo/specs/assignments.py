"""What the command line changes in a recipe: `--set STAGE.KEY=VALUE`, and the shorthands for all stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zoo.errors import OptionError, either, meant, nearest
from zoo.specs.recipe import BALANCED, SET_AS_A_WHOLE, RecipeSpec, Stage, chooses_inside, validated
from zoo.specs.solver import apply_shorthands, settled, without_effect

_DECIDING = ("train", "solver")
FOR_CHOOSING: dict[str, Any] = {"abandon": False, "blend": ()}
"""Knobs, and their values without effect, that help to choose among stages. A run that keeps its last one has no use
for them."""


def override(
    recipe: RecipeSpec, assignments: Sequence[str], *, epochs: int | None, batch_size: int | None
) -> RecipeSpec:
    """Apply assignments and shorthands to a recipe. An assignment wins over a shorthand.

    Args:
        recipe: The recipe, which is not changed.
        assignments: `STAGE.KEY=VALUE`, or `keep=VALUE` and `choose_by=VALUE` for the recipe as a whole.
        epochs: Epochs of the longest stage that trains the backbone. The others change by the same factor, with at
            least 1 each. Where all stages train the head alone, it is the longest of them, by gradient steps.
        batch_size: Batch size of all stages.

    Raises:
        OptionError: An unknown stage, or a shorthand below 1.
        RecipeError: A bad key or value.
    """
    # Without what a solver leaves unused: --set STAGE.solver=gradient must not train by values that nobody chose.
    stages = {stage.name: stage.given() for stage in recipe.stages}
    of_recipe, of_stages = _of_recipe(assignments)
    given: dict[tuple[str, str], str] = {}
    for assignment in of_stages:
        stage_name, key, value = _split_assignment(assignment, a_stage=next(iter(stages)))
        if stage_name not in stages:
            raise OptionError(
                f"--set {assignment}: recipe {recipe.name!r} has no stage {stage_name!r}."
                f"{meant(stage_name, stages)} Its stages: {', '.join(stages)}.\n"
                "Next: name one of these."
            )
        if (stage_name, key) in given:
            raise OptionError(
                f"--set {stage_name}.{key} is given twice: {given[stage_name, key]!r} and {value!r}.\n"
                "Next: leave one of the two out."
            )
        given[stage_name, key] = value
    # What a stage trains and by what decides which stages a shorthand is for.
    _set(stages, {target: value for target, value in given.items() if target[1] in _DECIDING})
    apply_shorthands(stages, epochs=epochs, batch_size=batch_size)
    _set(stages, {target: value for target, value in given.items() if target[1] not in _DECIDING})
    content = {**recipe.model_dump(), **of_recipe}
    if of_recipe.get("keep") == "last":
        _choose_no_more(stages, given)
        chosen_inside = recipe.choose_by in BALANCED and any(map(chooses_inside, stages.values()))
        usual = recipe.choose_by if chosen_inside else RecipeSpec.model_fields["choose_by"].default
        content |= {"choose_by": of_recipe.get("choose_by", usual)}
    if of_recipe.get("choose_by") in BALANCED:
        _abandon_no_more(stages, given)
    faults = _without_solver(stages, given)
    source = f"{recipe.name} with --set" if assignments else recipe.name
    return validated(source, {**content, "stages": list(stages.values())}, faults, stage_names=list(stages))


def _set(stages: Mapping[str, dict[str, Any]], given: Mapping[tuple[str, str], str]) -> None:
    for (stage, key), value in given.items():
        stages[stage][key] = _parse_value(key, value)


def _choose_no_more(stages: Mapping[str, dict[str, Any]], given: Collection[tuple[str, str]]) -> None:
    """Switch off, in place, what the recipe itself set for choosing; what the user set as well is refused later."""
    for name, stage in stages.items():
        stage.update({key: value for key, value in FOR_CHOOSING.items() if (name, key) not in given})


def _abandon_no_more(stages: Mapping[str, dict[str, Any]], given: Collection[tuple[str, str]]) -> None:
    """Switch off, in place, that stages are given up by a loss in which large classes count more."""
    for name, stage in stages.items():
        if (name, "abandon") not in given:
            stage["abandon"] = False


def _without_solver(stages: Mapping[str, dict[str, Any]], given: Collection[tuple[str, str]]) -> list[str]:
    """Settle `auto` where the user set a knob of gradient steps, in place -> faults where nothing takes such steps."""
    faults = []
    for index, (name, stage) in enumerate(stages.items()):
        keys = [key for stage_name, key in given if stage_name == name]
        # Who asks for `auto` beside such a knob means it for heads that the solver cannot fit.
        stage["solver"] = stage["solver"] if "solver" in keys else settled(stage["solver"], keys)
        faults += [
            f"stages[{index}].{key} (--set {name}.{key}): would do nothing, solver 'lbfgs' takes no gradient steps; "
            f"leave it out, or --set {name}.solver=gradient"
            for key in without_effect(stage["solver"], keys)
        ]
    return faults


def _of_recipe(assignments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """-> (values for the recipe as a whole, by key; the other assignments, for its stages)."""
    of_recipe: dict[str, str] = {}
    rest = []
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if key not in SET_AS_A_WHOLE or not equals:
            rest.append(assignment)
        elif key in of_recipe:
            raise OptionError(
                f"--set {key} is given twice: {of_recipe[key]!r} and {value!r}.\nNext: leave one of the two out."
            )
        else:
            of_recipe[key] = value
    return of_recipe, rest


def _split_assignment(assignment: str, *, a_stage: str) -> tuple[str, str, str]:
    target, equals, value = assignment.partition("=")
    stage, dot, key = (part.strip() for part in target.partition("."))
    value = value.strip()
    if equals and dot and stage and key:
        return stage, key, value
    # `keeep=last`: without a dot, and like a key of the recipe as a whole.
    close = nearest(stage, SET_AS_A_WHOLE, count=1)
    if equals and not dot and close and stage not in Stage.model_fields:
        (key,) = close
        there = SET_AS_A_WHOLE[key]
        values = [value] if value in there else nearest(value, there) or there
        found = [f"{key}={each}" for each in values]
        raise OptionError(f"--set {assignment!r}: did you mean {either(found)}?\nNext: --set {found[0]}")
    example = f"{a_stage}.{stage}={value}" if equals and value and stage in Stage.model_fields else f"{a_stage}.lr=1e-3"
    raise OptionError(f"--set {assignment!r} is not STAGE.KEY=VALUE.\nNext: write it so, for example --set {example}")


def _parse_value(key: str, value: str) -> Any:
    if key == "train":
        # Also as a recipe file writes it: ["head", "last:1"].
        return tuple(part.strip().strip("\"'") for part in value.strip("[]").split(","))
    if key == "blend":
        inside = value.removeprefix("[").removesuffix("]").strip()
        return tuple(part.strip() for part in inside.split(",")) if inside else ()
    return value
