"""What is written down of a finished stage, and which tensors stages may have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo.model.model import ZooModel
from zoo.specs.plan import Plan, StagePlan
from zoo.training.learning_rate import ChosenRate
from zoo.training.stage_state import StageEnd


def changed_by(stages: Sequence[StagePlan], model: ZooModel, name: str) -> bool:
    """Whether these stages may have changed a tensor of the model, by full name."""
    # Merging writes into a weight that did not train itself.
    merged = {f"{layer}.weight" for stage in stages for layer in stage.adapters}
    return model.adapted.upstream(model.groups.first_name(name)) in merged or trained_by(stages, model, name)


def trained_by(stages: Sequence[StagePlan], model: ZooModel, name: str) -> bool:
    """Whether any of these stages trains a tensor of the model, by full name."""
    return any(model.trains(name, stage.trains, stage.tensors, stage.batch_norm) for stage in stages)


def may_have_changed(
    names: Iterable[str], model: ZooModel, begun: Sequence[StagePlan], finished: Sequence[StagePlan]
) -> list[str]:
    """Return those names of tensors that stages may have changed since the model was built, the first name of each.

    Args:
        names: Full names of tensors.
        model: The model.
        begun: The stages that have begun.
        finished: Those of them that have ended, with their adapters merged.
    """
    merged = {f"{layer}.weight" for stage in finished for layer in stage.adapters}
    first = [name for name in names if model.groups.first_name(name) == name]
    return [name for name in first if trained_by(begun, model, name) or model.adapted.upstream(name) in merged]


def stage_content(
    stage: StagePlan,
    end: StageEnd,
    seconds: float,
    rate: ChosenRate | None,
    head_digest: str | None,
    *,
    judged_on: str,
) -> dict[str, Any]:
    """Return the record of a finished stage, as in `result.json`."""
    content: dict[str, Any] = {
        "name": stage.settings.name,
        "epochs": end.epochs,
        # A stage that was given up before its first epoch was never judged.
        "metrics": {judged_on: end.scores.to_dict()} if end.epochs else {},
        "seconds": seconds,
        "trainable_parameters": stage.trainable_parameters,
        "frozen_parameters": stage.frozen_parameters,
    }
    if end.solved is not None:
        content["solver"] = end.solved
    if head_digest is not None:
        content["head_digest"] = head_digest
    return content if rate is None else {**content, "lr": rate.rate, "tried": rate.tried}


def candidates_of(plan: Plan, epochs: Sequence[int], records: Sequence[Mapping[str, Any]]) -> int:
    """Return among how many models a run chooses, whose first stages had so many epochs and have these records."""
    per_stage = [
        (count if stage.settings.keep_epoch == "best" else 1) + len(record.get("blends", ()))
        # A run that is not finished has fewer records than stages.
        for stage, count, record in zip(plan.stages, epochs, records, strict=False)
        if not record.get("abandoned")
    ]
    return sum(per_stage) if plan.keep == "best" else sum(per_stage[-1:])
