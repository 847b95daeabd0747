"""Recipes: ordered stages that say which groups train, for how long and at which rates. They are data, read from
TOML."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from zoo.errors import OptionError, RecipeError, either, meant_beside, nearest, plain
from zoo.specs.selectors import parse_selector
from zoo.specs.solver import Solver

Augment = Literal["none", "flip", "crop", "rand"]
Sampling = Literal["shuffled", "balanced"]
BatchNorm = Literal["train", "frozen", "adapt"]
BatchNormChoice = Literal["auto", "train", "frozen", "adapt"]
Keep = Literal["best", "last"]
ChooseBy = Literal["loss", "accuracy", "balanced_loss", "balanced_accuracy"]


BALANCED: tuple[ChooseBy, ...] = ("balanced_loss", "balanced_accuracy")
"""Criteria by which every class counts the same."""


def _is_selector(selector: str) -> str:
    parse_selector(selector)
    return selector


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, got {str(value).lower()}")
    return value


def _ascending(shares: tuple[float, ...]) -> tuple[float, ...]:
    if list(shares) != sorted(set(shares)):
        raise ValueError(f"should ascend and name no share twice, got {', '.join(f'{share:g}' for share in shares)}")
    return shares


def _auto(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == "auto" else number(value)


Selector = Annotated[str, AfterValidator(_is_selector)]
# Pydantic would take `true` for 1.
Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Share = Annotated[Number, Field(gt=0, lt=1)]
if TYPE_CHECKING:
    Rate = float | Literal["auto"]
else:
    # Not a union, for pydantic's message about a wrong number would name both types.
    Rate = Annotated[Number, Field(gt=0, le=1e30), WrapValidator(_auto), PlainSerializer(lambda rate: rate)]


class Stage(BaseModel):
    """A stage of a recipe. Every default of every recipe is here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]+$")]
    train: Annotated[tuple[Selector, ...], Field(min_length=1)]
    """Selectors: `head`, `last:N`, `first:N`, `middle:N`, `group:NAME`, `all`, `norm`, `bias`, `adapters`. Everything
    that none of them selects is frozen."""
    solver: Solver = "gradient"
    """What fits the head. `lbfgs`: L2-regularised logistic regression on cached features to the minimum of its
    objective, with a strength chosen by cross-validation, for heads of one linear layer. `auto`: that where it can be,
    gradient steps elsewhere."""
    # No real default for these two: None tells the validator below that a recipe left them out.
    epochs: Annotated[Whole, Field(ge=1)] = Field(default=None, validate_default=True)
    lr: Rate = Field(default=None, validate_default=True)
    """Peak learning rate of the head and the last group. `auto`, for a head on cached features: the best of a few that
    are tried."""
    batch_size: Annotated[Whole, Field(ge=1)] = 32
    accumulate: Annotated[Whole, Field(ge=1)] = 1
    """Number of batches whose gradients add up to one step, as if the batch were that many times larger. Batch norm
    still sees the small batches."""
    weight_decay: Annotated[Number, Field(ge=0)] = 1e-4
    """Weight decay, decoupled for `adamw` (arXiv:1711.05101); for `sgd` it is added to the gradient."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Factor between the rate of a group and that of the next one (ULMFiT, arXiv:1801.06146)."""
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    """Share of the stage's steps in which the rate rises linearly."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` has Nesterov momentum 0.9. Its rates are about ten to a hundred times those of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """The rate after the warm-up: along a cosine or a line to zero, or constant."""
    decay_all: bool = False
    """Whether weight decay also acts on scales, shifts and biases, tensors of one dimension."""
    clip: Annotated[Number, Field(ge=0)] = 0.0
    """Largest norm of all gradients together. Longer ones are scaled down to it (arXiv:1211.5063). 0: no limit."""
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of each target that is spread evenly over all classes (arXiv:1512.00567), for heads with the usual loss."""
    sampling: Sampling = "shuffled"
    """What an epoch draws. `shuffled`: every image once. `balanced`: as many images, every class equally often; rare
    classes are oversampled, frequent classes are undersampled."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: the loss of an image is weighted by the inverse of its class's share of the training images."""
    l2_sp: Annotated[Number, Field(ge=0)] = 0.0
    """Penalty on moving away from the run's starting point: l2_sp / 2 times the squared distance of the trained
    backbone parameters is added to the loss (L2-SP, arXiv:1802.01483)."""
    batch_norm: BatchNormChoice = "auto"
    """Batch norms of groups that train as a whole. `frozen`: running statistics, scales and shifts stay. `adapt`: the
    statistics follow the new images, scales and shifts stay (arXiv:1603.04779). `auto`: `frozen`, except where there is
    nothing to keep or enough to learn from; see `zoo.planning.batch_norm`."""
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights (arXiv:1803.05407), updated after every step. The stage is validated
    with the average and ends with it. 0: no average."""
    patience: Annotated[Whole, Field(ge=0)] = 0
    """The stage ends after so many epochs in a row that were not better on validation than its best one. 0: never."""
    abandon: bool = False
    """Whether the stage is given up as soon as it cannot become the best one any more; see `zoo.training.abandon`. The
    next stage then begins from the best one."""
    keep_epoch: Keep = "last"
    """The epoch that the stage ends with: its last, or the best on validation. Ties go to the lower loss."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of stored (arXiv:1604.06174). It takes less
    memory and about a third more time, where the backbone offers it."""
    mixup: Annotated[Number, Field(ge=0)] = 0.0
    """Alpha of Beta(alpha, alpha), which draws how a batch is blended with a permutation of itself, images and targets
    alike (arXiv:1710.09412). 0: off. With `cutmix` on too, each batch takes one of the two with equal chance."""
    cutmix: Annotated[Number, Field(ge=0)] = 0.0
    """The same alpha for pasting a box of the other image. Targets are shared by the box's true area
    (arXiv:1905.04899)."""
    augment: Augment = "none"
    """`flip`: mirror with probability 1/2. `crop`: a random part of the image, mirrored likewise. `rand`: `crop`, then
    two operations of RandAugment at magnitude 9 (arXiv:1909.13719)."""
    views: Annotated[Whole, Field(ge=0)] = 0
    """Number of augmented views of each training image that go through the frozen groups once. Epochs train on them in
    turn. 0: the image as it is where the head alone trains, a new draw in every epoch elsewhere."""
    prefix: Literal["auto", "off"] = "auto"
    """`auto`: outputs of the groups before the first one that trains are cached, where the backbone can be cut there
    and it pays. `off`: every image goes through the whole backbone in every epoch."""
    adapter_rank: Annotated[Whole, Field(ge=1)] = 8
    """Rank of `adapters`: the width of the two thin matrices that train beside each layer (LoRA, arXiv:2106.09685)."""
    adapter_alpha: Annotated[Number, Field(gt=0)] = 16.0
    """Scale of `adapters`: their output is multiplied by adapter_alpha / adapter_rank before it is added."""
    blend: Annotated[tuple[Share, ...], AfterValidator(_ascending)] = ()
    """Shares between 0 and 1. For each, the run also chooses among the weights that lie so far on the way from the end
    of the last stage before that trained the head alone to the end of this one (WiSE-FT, arXiv:2109.01903)."""

    @field_validator("epochs", "lr", mode="before")
    @classmethod
    def _needed_by_gradient_steps(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic checks fields in the order of the class. `solver` stands before these two, so it is known here.
        if value is None and info.data.get("solver") == "lbfgs":
            return _UNUSED[str(info.field_name)]
        if value is None:
            # The type of pydantic's own error for a key that is missing, so that the message is the same.
            raise PydanticCustomError("missing", "Field required")
        return value

    def given(self) -> dict[str, Any]:
        """Every value but those that were left out because the solver needs none."""
        return {key: value for key, value in self.model_dump().items() if key in self.model_fields_set | self._defaults}

    @property
    def _defaults(self) -> set[str]:
        return set(type(self).model_fields) - set(_UNUSED)


_UNUSED = {"epochs": 1, "lr": 1e-3}
"""Values that stand in a stage fitted by `lbfgs` alone, and that nothing uses."""


class RecipeSpec(BaseModel):
    """A recipe, as the hook `zoo_recipes` returns it and a TOML file holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]*$")]
    summary: Annotated[str, Field(min_length=1)]
    references: tuple[str, ...] = ()
    keep: Keep = "best"
    """The stage that the run ends with: the best on validation (ties go to the earlier one), or the last."""
    choose_by: ChooseBy = "loss"
    """What the best is: the one with the lowest loss after temperature scaling, or with the highest accuracy. Balanced,
    every class counts the same, however many validation images it has: also in what a stage chooses inside itself."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _stage_names_differ(self) -> RecipeSpec:
        twice = _same_names([stage.name for stage in self.stages])
        if twice:
            raise ValueError("; ".join(twice))
        return self

    @model_validator(mode="after")
    def _something_is_chosen(self) -> RecipeSpec:
        if faults := _nothing_to_choose(self.keep, self.choose_by, [dict(stage) for stage in self.stages]):
            raise ValueError("; ".join(faults))
        return self

    def to_toml(self) -> str:
        """The text of a recipe file, with every default filled in."""
        lines = [f"summary = {_toml(self.summary)}"]
        if self.references:
            lines.append(f"references = {_toml(self.references)}")
        lines += [f"{key} = {_toml(getattr(self, key))}" for key in SET_AS_A_WHOLE]
        for stage in self.stages:
            lines += ["", "[[stages]]", *(f"{key} = {_toml(value)}" for key, value in stage.given().items())]
        return "\n".join(lines) + "\n"


SET_AS_A_WHOLE = {"keep": get_args(Keep), "choose_by": get_args(ChooseBy)}
"""Keys of a recipe as a whole that `--set KEY=VALUE` changes, and their values."""


def recipe_from_toml(text: str, name: str) -> RecipeSpec:
    """Parse and check a recipe.

    Args:
        text: The file's content.
        name: The recipe's name. A file does not hold its own.

    Raises:
        RecipeError: With every fault and its key path.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(name, [f"not TOML: {error}"]) from None
    # Else two names could differ, and only one of them be looked up.
    faults = ["name: a recipe is named by its file, leave this key out"] if "name" in content else []
    return validated(name, {**content, "name": _name_from(name)}, faults)


def recipe_from_file(path: str | Path) -> RecipeSpec:
    """Read a recipe file. Raises RecipeError, and OptionError for a file that cannot be read."""
    try:
        # Some editors put a byte order mark before the text, which TOML does not allow.
        text = Path(path).expanduser().read_text("utf-8-sig")
    except OSError as error:
        beside = [each.name for each in Path(path).expanduser().parent.glob("*.toml")]
        hint = meant_beside(Path(path), beside) if isinstance(error, FileNotFoundError) else ""
        raise OptionError(
            f"The recipe file {str(path)!r} cannot be read: {error.strerror}.{hint}\n"
            "Next: give the path of a recipe file, or the name of a recipe: zoo list recipes"
        ) from None
    except UnicodeDecodeError:
        raise OptionError(
            f"The recipe file {str(path)!r} cannot be read: it is not UTF-8 text.\nNext: save it as UTF-8."
        ) from None
    return recipe_from_toml(text, name=str(path))


def validated(
    source: str, content: Mapping[str, Any], faults: Sequence[str] = (), *, stage_names: Sequence[str] = ()
) -> RecipeSpec:
    """Check the content of a recipe.

    Args:
        source: The recipe's name, for messages.
        content: Plain values by key.
        faults: Those that were found before.
        stage_names: Names of the stages, where values come from `--set`.

    Raises:
        RecipeError: With every fault and its key path.
    """
    faults = [*faults]
    try:
        recipe = RecipeSpec.model_validate(content)
    except ValidationError as error:
        # Names are compared below: pydantic compares them only when everything else is right.
        faults += _faults([each for each in error.errors() if each["loc"]], stage_names)
        stages = content.get("stages")
        as_tables = [each if isinstance(each, dict) else {} for each in (stages if isinstance(stages, list) else [])]
        faults += _nothing_to_choose(content.get("keep"), content.get("choose_by"), as_tables)
        faults += _same_names([stage.get("name") for stage in as_tables])
    if faults:
        raise RecipeError(source, faults) from None
    return recipe


def chooses_inside(stage: Mapping[str, Any]) -> bool:
    """Whether a stage, by its keys, chooses on validation itself: its best epoch, when it ends, or its rate."""
    return stage.get("keep_epoch") == "best" or bool(stage.get("patience")) or stage.get("lr") == "auto"


def _nothing_to_choose(keep: Any, choose_by: Any, stages: Sequence[Mapping[str, Any]]) -> list[str]:
    inside = choose_by in BALANCED and any(map(chooses_inside, stages))
    if keep != "last" or choose_by in (None, RecipeSpec.model_fields["choose_by"].default) or inside:
        return []
    return ["choose_by: would do nothing, keep 'last' chooses nothing; leave one of the two out"]


def _same_names(names: Sequence[Any]) -> list[str]:
    return [
        f"stages[{index}].name: {name!r} is already the name of stages[{names.index(name)}]"
        for index, name in enumerate(names)
        if name is not None and names.index(name) < index
    ]


def _faults(errors: Sequence[ErrorDetails], stage_names: Sequence[str]) -> list[str]:
    # Pydantic also reports a list with wrong items as too short, which says nothing more.
    inner = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    # What is wrong in the same way in several stages is said once. So are the keys that there are.
    told: dict[tuple[Any, str], list[str]] = {}
    for error in errors:
        if not (error["type"] == "too_short" and error["loc"] in inner):
            key = (error["loc"][:1], error["loc"][2:])
            told.setdefault((key, _wrong(error)), []).append(_where(error, stage_names))
    listed: set[str] = set()
    faults = []
    for (_, wrong), places in told.items():
        text, listing, keys = wrong.partition("; known: ")
        faults.append(f"{', '.join(places)}: {text if keys in listed else wrong}")
        listed.update([keys] if listing else [])
    return faults


# Pydantic's error type -> words for people who write TOML.
_PLAIN = {
    "missing": "missing",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
    "string_pattern_mismatch": "should be letters, digits, '_' and '-'",
}
_FORM = {
    "stages": "write each stage as a table under its own line [[stages]]",
    "train": 'should be a list, such as ["head", "last:1"]',
    "references": 'should be a list, such as ["arXiv:2202.10054"]',
    "blend": "should be a list, such as [0.25, 0.5, 0.75]",
}


def _where(error: ErrorDetails, stage_names: Sequence[str]) -> str:
    path = ""
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if stage_names and len(error["loc"]) > 2:
        return f"{path} (--set {stage_names[int(error['loc'][1])]}.{path.partition('.')[2]})"
    return path


def _wrong(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key; {_key_hint(str(error['loc'][-1]), in_stage=len(error['loc']) > 1)}"
    if error["type"] in ("missing", "too_short", "string_too_short"):
        return _PLAIN[error["type"]]
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if error["type"] in ("tuple_type", "model_type"):
        return _FORM.get(str(error["loc"][-1]), _FORM["stages"])
    return f"{_PLAIN.get(error['type'], plain(error['msg']))}, got {error['input']!r}"


def _key_hint(key: str, *, in_stage: bool) -> str:
    of_recipe = [each for each in RecipeSpec.model_fields if each != "name"]
    if in_stage and key in of_recipe:
        # The commonest slip in TOML: what follows [[stages]] belongs to the stage.
        on_command_line = f"; with --set: {key}=VALUE" if key in SET_AS_A_WHOLE else ""
        return f"it belongs to the recipe, above the first [[stages]]{on_command_line}"
    if not in_stage and key in Stage.model_fields:
        return "it belongs to a stage, below [[stages]]"
    keys = [*Stage.model_fields] if in_stage else of_recipe
    close = nearest(key, keys)
    return f"did you mean {either(close)}?" if close else f"known: {', '.join(keys)}"


def _name_from(source: str) -> str:
    stem = source.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".toml")
    return re.sub(r"[^A-Za-z0-9_\-]", "_", stem).lstrip("_-") or "recipe"


def _toml(value: object) -> str:
    if isinstance(value, str):
        # JSON and TOML escape alike, but for one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return str(value)
