"""What a run starts from: the weights, and the model built with them."""

from __future__ import annotations

from contextlib import AbstractContextManager

from zoo.errors import Unreachable
from zoo.events import Note, Progress, Report
from zoo.model.adapters import adapted
from zoo.model.build import Weights, WeightsChoice, build_model
from zoo.model.model import ZooModel, check_shapes
from zoo.planning.plan import Plan, StagePlan
from zoo.planning.resolve import Resolved
from zoo.training import seeding
from zoo.training.memory import memory_suffices
from zoo.weights.fetch import Download
from zoo.weights.obtain import obtain_weights


def obtain(resolved: Resolved, report: Report) -> tuple[Weights, str | None]:
    """The chosen weights; on the sample set alone, random ones where they cannot be had -> (weights, why)."""

    def announce(download: Download) -> None:
        size = f"{download.bytes / 1e6:.1f} MB" if download.bytes else "unknown size"
        report(Note(text=f"Downloading {download.filename} ({size}) from {download.host}"))

    def progress(done: int, total: int | None) -> None:
        report(Progress(task="download", done=done, total=total, unit="bytes"))

    try:
        return obtain_weights(resolved.backbone, resolved.weights, announce=announce, progress=progress), None
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
