"""What a run starts from: the weights, and the model built with them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from zoo.errors import Unreachable
from zoo.events import Note, Report
from zoo.model.adapters import adapted
from zoo.model.build import Weights, WeightsChoice, build_model
from zoo.model.model import ZooModel, check_shapes
from zoo.planning.plan import Plan, StagePlan
from zoo.planning.resolve import Resolved
from zoo.training import seeding
from zoo.training.memory import memory_suffices
from zoo.weights.obtain import obtain_weights
from zoo.weights.telling import announcing, following


def obtain(resolved: Resolved, report: Report) -> tuple[Weights, str | None]:
    """The chosen weights; on the sample set alone, random ones where no host can be reached -> (weights, why).

    Who asks for no network gets no stand-in: then weights that are not here are an error.
    """
    try:
        weights = obtain_weights(
            resolved.backbone,
            resolved.weights,
            offline=resolved.request.offline,
            announce=announcing(report),
            progress=following(report),
        )
        return weights, None
    except Unreachable as error:
        if resolved.request.data is not None:
            raise
        reason = str(error).splitlines()[0]
        report(
            Note(
                text=f"{reason}\nGoing on with RANDOM weights, on the sample set only: "
                "the result says nothing about this backbone.",
                loud=True,
            )
        )
        random = WeightsChoice(kind="random", tag=resolved.weights.tag)
        return obtain_weights(resolved.backbone, random), reason


def with_adapters(model: ZooModel, stage: StagePlan, seed: int) -> AbstractContextManager[None]:
    """Inside, the model has the stage's adapters, the same for every (seed, stage); afterwards none."""
    if stage.adapters:
        seeding.seed_torch(seeding.adapters_key(seed, stage.settings.name))
    settings = stage.settings
    return adapted(model, stage.adapters, rank=settings.adapter_rank, alpha=settings.adapter_alpha)


def build(resolved: Resolved, plan: Plan, weights: Weights) -> ZooModel:
    """The model on the plan's device, initialised from its seed. Raises WeightsMismatch, PluginError, DeviceError."""
    seeding.seed_torch(f"{plan.seed}/initialisation")
    with memory_suffices(f"building {plan.backbone.name} with {plan.head.name} on {plan.device}"):
        model = build_model(
            resolved.backbone,
            resolved.head,
            resolved.options,
            classes=plan.classes,
            tag=weights.choice.tag,
            state=weights.state,
            input_size=resolved.request.input_size,
        ).to(plan.device)
        check_shapes(model)
    model.idle = frozenset(plan.backbone.idle)
    return model.compute_as(plan.compute)
