"""Recipes: ordered stages, each saying which groups train, for how long, at which rates. Data only, from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from zoo.errors import OptionError, RecipeError, either, nearest

Augment = Literal["none", "flip", "crop"]


def _is_selector(selector: str) -> str:
    parse_selector(selector)
    return selector


Selector = Annotated[str, AfterValidator(_is_selector)]


class Stage(BaseModel):
    """One stage of a recipe. Every default of every recipe is here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]+$")]
    train: Annotated[tuple[Selector, ...], Field(min_length=1)]
    """Selectors: `head`, `last:N`, `first:N`, `group:NAME`, `all`. What none selects is frozen."""
    epochs: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate of the head and the last group."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decoupled, as AdamW does it (arXiv:1711.05101)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each group before the last has its rate multiplied once more by this (ULMFiT, arXiv:1801.06146)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the stage's steps in which the rate rises linearly; afterwards it falls along a cosine to zero."""
    augment: Augment = "none"
    """`flip`: mirrored with probability 1/2. `crop`: a random part of the image, mirrored likewise."""


class RecipeSpec(BaseModel):
    """A recipe: what `zoo_recipes` returns and what a TOML file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]*$")]
    summary: Annotated[str, Field(min_length=1)]
    references: tuple[str, ...] = ()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _stage_names_differ(self) -> RecipeSpec:
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages are called {either(twice)}")
        return self

    def to_toml(self) -> str:
        """The recipe as a file, every default filled in."""
        lines = [f"summary = {_toml(self.summary)}"]
        if self.references:
            lines.append(f"references = {_toml(self.references)}")
        for stage in self.stages:
            lines += ["", "[[stages]]", *(f"{key} = {_toml(value)}" for key, value in stage.model_dump().items())]
        return "\n".join(lines) + "\n"


def recipe_from_toml(text: str, name: str) -> RecipeSpec:
    """Parse and check a recipe.

    Args:
        text: The file's content.
        name: The recipe's name; a file does not hold its own.

    Raises:
        RecipeError: With every fault and its key path.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(name, [f"not TOML: {error}"]) from None
    if "name" in content:
        raise RecipeError(name, ["name: a recipe is named by its file, leave this key out"])
    return _validated(name, {**content, "name": _name_from(name)})


def override(recipe: RecipeSpec, assignments: Sequence[str], *, epochs: int | None, batch_size: int | None) -> RecipeSpec:
    """The recipe with `STAGE.KEY=VALUE` assignments, and the shorthands, applied.

    `epochs`: all stages scaled so that the longest has this many, at least 1 each. `batch_size`: for all stages.
    An assignment wins over a shorthand. Raises OptionError for an unknown stage, RecipeError for a bad key or value.
    """
    stages = {stage.name: stage.model_dump() for stage in recipe.stages}
    if epochs is not None:
        if epochs < 1:
            raise OptionError(f"--epochs must be at least 1, got {epochs}.")
        longest = max(stage["epochs"] for stage in stages.values())
        for stage in stages.values():
            stage["epochs"] = max(1, round(stage["epochs"] * epochs / longest))
    if batch_size is not None:
        if batch_size < 1:
            raise OptionError(f"--batch-size must be at least 1, got {batch_size}.")
        for stage in stages.values():
            stage["batch_size"] = batch_size
    for assignment in assignments:
        stage_name, key, value = _split_assignment(assignment)
        if stage_name not in stages:
            raise OptionError(
                f"--set {assignment}: recipe {recipe.name!r} has no stage {stage_name!r}. Its stages: {', '.join(stages)}."
            )
        stages[stage_name][key] = _parse_value(key, value)
    source = f"{recipe.name} with --set" if assignments else recipe.name
    return _validated(source, {**recipe.model_dump(), "stages": list(stages.values())})


def parse_selector(selector: str) -> tuple[str, str | int | None]:
    """`last:2` -> ("last", 2). Raises ValueError for anything that is no selector."""
    kind, colon, argument = selector.partition(":")
    if kind in ("head", "all") and not colon:
        return kind, None
    if kind in ("last", "first") and argument.isdecimal() and int(argument) > 0:
        return kind, int(argument)
    if kind == "group" and argument:
        return kind, argument
    close = nearest(kind, ["head", "all", "last", "first", "group"])
    hint = f"; did you mean {either(close)}?" if close and kind != close[0] else ""
    raise ValueError(f"{selector!r} is no selector: head, last:N, first:N, group:NAME or all (N from 1){hint}")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a stage trains: group names, in order, and whether the head is among it."""

    groups: tuple[str, ...]
    head: bool


def select(stage: Stage, groups: Sequence[str], *, path: str) -> tuple[Selection, list[str]]:
    """Resolve a stage's selectors against a backbone's groups (input to output) -> (selection, faults)."""
    chosen: set[str] = set()
    head = False
    faults = []
    for index, selector in enumerate(stage.train):
        kind, argument = parse_selector(selector)
        where = f"{path}.train[{index}]"
        if kind == "head":
            head = True
        elif kind == "all":
            head = True
            chosen.update(groups)
        elif isinstance(argument, int) and argument > len(groups):
            faults.append(f"{where}: {selector!r} asks for {argument} groups, this backbone has {len(groups)}")
        elif isinstance(argument, int):
            chosen.update(groups[-argument:] if kind == "last" else groups[:argument])
        elif argument in groups:
            chosen.add(str(argument))
        else:
            close = nearest(str(argument), groups)
            hint = f" Did you mean {either(close)}?" if close else ""
            faults.append(f"{where}: {selector!r} matches no group. The groups are: {', '.join(groups)}.{hint}")
    return Selection(tuple(name for name in groups if name in chosen), head), faults


def _validated(source: str, content: Mapping[str, Any]) -> RecipeSpec:
    try:
        return RecipeSpec.model_validate(content)
    except ValidationError as error:
        raise RecipeError(source, _faults(error.errors())) from None


def _faults(errors: Sequence[ErrorDetails]) -> list[str]:
    # A list whose items are wrong is also reported as too short: that says nothing more.
    inner = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    return [_fault(error) for error in errors if not (error["type"] == "too_short" and error["loc"] in inner)]


def _fault(error: ErrorDetails) -> str:
    path = ""
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if error["type"] == "extra_forbidden":
        known = Stage.model_fields if path.startswith("stages[") else RecipeSpec.model_fields
        keys = [key for key in known if key != "name" or known is Stage.model_fields]
        close = nearest(str(error["loc"][-1]), keys)
        hint = f"did you mean {either(close)}?" if close else f"known: {', '.join(keys)}"
        return f"{path}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{path}: missing"
    message = error["msg"].removeprefix("Value error, ")
    given = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{path}: {message[0].lower()}{message[1:]}{given}" if path else message


def _split_assignment(assignment: str) -> tuple[str, str, str]:
    target, equals, value = assignment.partition("=")
    stage, dot, key = target.partition(".")
    if not (equals and dot and stage and key):
        raise OptionError(f"--set {assignment!r}: write it as STAGE.KEY=VALUE, for example head.lr=1e-3.")
    return stage, key, value


def _parse_value(key: str, value: str) -> Any:
    if key == "train":
        return tuple(part.strip() for part in value.strip("[]").replace('"', "").split(","))
    return value


def _name_from(source: str) -> str:
    stem = source.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".toml")
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in stem).lstrip("_-") or "recipe"


def _toml(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return str(value)
