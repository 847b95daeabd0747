"""What belongs to gradient steps alone, and what that means for a stage whose head a solver may fit instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, Literal

from zoo.errors import OptionError

Solver = Literal["auto", "gradient", "lbfgs"]
FittedBy = Literal["gradient", "lbfgs"]

GRADIENT_KNOBS = (
    *("epochs", "lr", "batch_size", "accumulate", "weight_decay", "warmup", "optimizer", "schedule", "decay_all"),
    *("clip", "sampling", "ema", "patience", "keep_epoch"),
)
"""Knobs of a stage that only gradient steps have."""
SERVE_OTHERS = ("epochs", "lr", "batch_size")
"""Those of them that a stage with `auto` may have, for heads that the solver cannot fit."""

_Stages = Mapping[str, MutableMapping[str, Any]]


def trains_head_alone(train: Collection[str]) -> bool:
    """Whether selectors name the head and nothing else."""
    return set(train) == {"head"}


def longest_by_epochs(stages: Collection[Mapping[str, Any]]) -> int | None:
    """The number that `--epochs` replaces: the epochs of the longest stage that trains the backbone.

    Where every stage trains the head alone it is that of the longest of them; None where a solver fits them all.

    Args:
        stages: `train`, `solver` and `epochs` of each.
    """
    # A head has some twenty times the epochs of other stages, as its epochs cost next to nothing. Were that the number
    # to replace, --epochs 3 would leave every other stage a single one.
    of_backbone = [stage for stage in stages if not trains_head_alone(stage["train"])]
    counted = [stage["epochs"] for stage in of_backbone or stages if stage["solver"] != "lbfgs" and "epochs" in stage]
    return max(counted, default=None)


def apply_shorthands(stages: _Stages, *, epochs: int | None, batch_size: int | None) -> None:
    """Set epochs and batch size of all stages, in place; see `zoo.specs.assignments.override`.

    Args:
        stages: The values of each stage by its name.
        epochs: What the longest stage gets; the others change by the same factor.
        batch_size: What every stage gets.

    Raises:
        OptionError: A number below 1, or one that no stage would use.
    """
    head_alone = all(trains_head_alone(stage["train"]) for stage in stages.values())
    for option, number in (("--epochs", epochs), ("--batch-size", batch_size)):
        if number is None:
            continue
        if number < 1:
            raise OptionError(
                f"{option} must be at least 1, got {number}.\nNext: leave it out, for what the recipe says."
            )
        if all(stage["solver"] == "lbfgs" for stage in stages.values()):
            raise OptionError(
                f"{option} would do nothing: solver lbfgs fits every stage of this recipe, without gradient steps.\n"
                f"Next: leave {option} out."
            )
    longest = longest_by_epochs(stages.values())
    for stage in stages.values():
        if stage["solver"] == "lbfgs":
            continue
        # All by one factor, so that a recipe keeps its proportions, and none by so much that it would train nothing.
        if epochs is not None and longest is not None and "epochs" in stage:
            stage["epochs"] = max(1, round(stage["epochs"] * epochs / longest))
        if batch_size is not None:
            stage["batch_size"] = batch_size
        if head_alone and stage["solver"] == "auto" and (epochs, batch_size) != (None, None):
            # There is no other stage that the option could be meant for.
            stage["solver"] = "gradient"


def without_effect(solver: object, keys: Collection[str]) -> list[str]:
    """Those of the keys, in order, that would do nothing under this solver."""
    return [key for key in keys if key in GRADIENT_KNOBS] if solver == "lbfgs" else []


def settled(solver: object, keys: Collection[str]) -> object:
    """The solver of a stage of which the user set these keys: `auto` gives way to knobs of gradient steps."""
    return "gradient" if solver == "auto" and not set(keys).isdisjoint(GRADIENT_KNOBS) else solver
