"""The plan, built once, when all that it holds is known."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

import zoo.display.plan  # noqa: F401  (a notebook shows plans by it)
from zoo.data.check.duplicates import copies
from zoo.data.dataset import Dataset
from zoo.data.store import ImageStore
from zoo.data.stored_order import digest_of_order, stored_order
from zoo.events import Report
from zoo.planning.examine import Examined
from zoo.planning.object_version import backbone_version, head_version, measured_name
from zoo.planning.precision import ComputeChoice, choose_compute
from zoo.planning.resolve import Resolved
from zoo.planning.stages import count_parameters, plan_stage
from zoo.planning.versions import versions
from zoo.planning.warnings import duplicate_warnings, loss_warnings, plan_warnings, unreadable_warnings
from zoo.registry.names import qualified_name
from zoo.registry.session import of_session
from zoo.specs.options import options_to_dict
from zoo.specs.plan import (
    BackbonePlan,
    DataPlan,
    FoldsPlan,
    GroupPlan,
    HeadPlan,
    Plan,
    Precision,
    StagePlan,
    WeightsPlan,
)
from zoo.weights.obtain import Weights, WeightsChoice

CHUNK = 32
"""Images that go through the frozen backbone at a time. A batch's size changes the bits of what comes out, so it is one
number, wherever features, validation and predictions are computed."""


def build_plan(
    resolved: Resolved,
    examined: Examined,
    store: ImageStore,
    measured: ComputeChoice,
    *,
    threads: int,
    weights: Weights,
    folds: FoldsPlan | None = None,
    fallback: str | None = None,
    cut_fault: Callable[[str], str] | None = None,
) -> Plan:
    """Everything that a run is a function of, beside its images.

    Args:
        resolved: What the request names.
        examined: The images, and what is known of those that were opened.
        store: Whose preprocessing and workers the run uses.
        measured: How the backbone computes, and what was measured to decide it.
        threads: With how many torch computes, as it was before anything was built: building may change it, and the
            proof must see that.
        weights: Those that were read, or in a dry run only examined.
        folds: Those of the training images, in place of a validation split.
        fallback: Why `weights` are not the ones asked for.
        cut_fault: Says of a group what is wrong with the backbone cut before it; empty where nothing is. None in a dry
            run, which builds no model to ask.
    """
    choice = weights.choice
    dataset = examined.dataset
    plan = Plan(
        backbone=_backbone(resolved, choice),
        weights=WeightsPlan(
            label=choice.label,
            kind=choice.kind,
            # Absolute: a run may be resumed from another working directory.
            path=str(choice.path.resolve()) if choice.path else None,
            digest=weights.digest,
            fallback=fallback,
            taken=weights.taken,
            download=weights.download,
            download_bytes=_bytes(resolved.outline.backbone) if weights.download else None,
        ),
        head=_head(resolved),
        recipe=resolved.recipe_name,
        recipe_summary=resolved.recipe.summary,
        keep=resolved.recipe.keep,
        choose_by=resolved.recipe.choose_by,
        stages=plan_stages(resolved, dataset, choice.kind != "random", cut_fault, measured.compute.precision),
        classes=dataset.classes,
        preprocessing=store.preprocessing.to_dict(),
        data=_data(resolved, examined),
        folds=folds,
        seed=resolved.request.seed,
        device=resolved.device,
        precision=measured.compute.precision,
        memory_format=measured.compute.memory_format,
        speeds=measured.speeds,
        compute_origin=measured.origin,
        chunk=CHUNK,
        threads=threads,
        workers=store.workers,
        # peft computes what adapters add, but only runs with adapters depend on its version.
        versions=versions(["peft"] if any(each.adapters for each in resolved.selections) else []),
    )
    # Warnings are about the finished plan, so they are the one part that comes after it.
    return plan.model_copy(update={"warnings": _warnings(resolved, examined, plan)})


def compute_of_run(resolved: Resolved, report: Report) -> ComputeChoice:
    """How the backbone is to compute on this machine: asked for, remembered or measured now."""
    model, request = resolved.model, resolved.request
    # Of the run, not of the weights: another size of image is other work, and may be fastest in another layout.
    _, height, width = resolved.outline.preprocessing.input_size
    return choose_compute(
        model.headless,
        lambda: resolved.outline,
        name=f"{measured_name(model)} {height}x{width} {model.head.spec.needs}",
        device=resolved.device,
        trains=any(selection.backbone for selection in resolved.selections),
        precision=request.precision,
        tune=request.tune,
        report=report,
    )


def _bytes(backbone: nn.Module) -> int:
    """About as many as a file of its weights has; publishers of most files do not say how many they are."""
    return sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values())


def plan_stages(
    resolved: Resolved,
    dataset: Dataset,
    pretrained: bool,
    cut_fault: Callable[[str], str] | None,
    precision: Precision,
) -> tuple[StagePlan, ...]:
    """The stages of a plan: what each trains at which rates, for how many steps, on what.

    Args:
        resolved: What the request names.
        dataset: The images that can be read.
        pretrained: Whether the backbone has other weights than random ones.
        cut_fault: As for `build_plan`.
        precision: What the backbone computes in, which decides in how many bytes its outputs are cached.
    """
    stages = tuple(
        plan_stage(
            stage,
            selection,
            resolved.outline,
            train=len(dataset.splits["train"]),
            val=len(dataset.splits.get("val", ())),
            pretrained=pretrained,
            feature_shape=resolved.feature_shape,
            device=resolved.device,
            cut_fault=cut_fault,
            asked=resolved.gradient_asked.get(stage.name, ""),
            precision=precision,
        )
        for stage, selection in zip(resolved.recipe.stages, resolved.selections, strict=True)
    )
    if "val" not in dataset.splits or not any(stage.window for stage in stages):
        return stages  # without val, the images to train on are judged, too, in the order that they have
    shards = digest_of_order(stored_order(dataset.splits["train"]))
    return tuple(stage.model_copy(update={"shards": shards}) if stage.window else stage for stage in stages)


def _head(resolved: Resolved) -> HeadPlan:
    head = resolved.model.head
    return HeadPlan(
        name=qualified_name(head),
        options=options_to_dict(resolved.model.options),
        needs=head.spec.needs,
        layers=resolved.outline.layers or None,
        closed_form=resolved.outline.closed_form,
        parameters=count_parameters(resolved.outline.head.parameters()),
        distribution=head.plugin.distribution,
        installed_from=head.plugin.installed_from,
        version=head_version(resolved.model, resolved.outline.shape, len(resolved.dataset.classes)),
    )


def _data(resolved: Resolved, examined: Examined) -> DataPlan:
    dataset = examined.dataset
    return DataPlan(
        source=dataset.source,
        # What an object was, in words, is no path.
        path=str(dataset.folder if of_session(dataset.reader) else dataset.folder.absolute()),
        reader=dataset.reader,
        sample=resolved.request.data is None,
        digest=examined.digest,
        images={split: counts for split, counts in dataset.counts().items()},
        skipped=tuple((each.relative, each.reason, each.detail) for each in dataset.skipped),
        notes=dataset.notes,
        examined=examined.part,
    )


def _warnings(resolved: Resolved, examined: Examined, plan: Plan) -> tuple[str, ...]:
    spec = resolved.model.backbone.spec
    _, height, width = spec.preprocessing_for(plan.backbone.tag).input_size
    equal = copies(examined.dataset.splits, examined.contents)
    return (
        *([spec.warning] if spec.warning else []),
        *([spec.own.warning] if spec.own and spec.own.warning and plan.weights.kind == "own" else []),
        *unreadable_warnings(plan, examined.unreadable),
        *duplicate_warnings(examined.dataset, equal, examined.part),
        *loss_warnings(examined.dataset, examined.losses, opened=sum(map(len, examined.opened.values()))),
        *plan_warnings(plan, native=(height, width), own_loss=resolved.outline.own_loss, equal=equal),
    )


def _backbone(resolved: Resolved, choice: WeightsChoice) -> BackbonePlan:
    spec = resolved.model.backbone.spec
    groups, module = resolved.outline.groups, resolved.outline.backbone
    published = spec.weights_for(choice.tag)
    return BackbonePlan(
        name=f"{spec.name}.{choice.tag}" if choice.tag else spec.name,
        asked=resolved.model.backbone.asked,
        tag=choice.tag,
        features=resolved.feature_shape[0],
        groups=tuple(
            GroupPlan(name=name, parameters=count_parameters(groups.parameters_of(name, module).values()))
            for name in groups.names
        ),
        licence=published.licence if published and choice.kind == "tag" else None,
        distribution=resolved.model.backbone.plugin.distribution,
        installed_from=resolved.model.backbone.plugin.installed_from,
        version=backbone_version(resolved.model),
        also=resolved.model.backbone.also,
        idle=tuple(sorted(resolved.outline.idle)),
    )
