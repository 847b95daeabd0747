"""From a request to a plan: names, weights, recipe and data looked up and checked against one another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.caches import cache_folder
from zoo.compute import Compute
from zoo.data.ahead import workers_of
from zoo.data.dataset import FOLDER, Dataset
from zoo.data.folder import read_folder
from zoo.data.known import KnownFiles
from zoo.data.limits import UNREADABLE_SHARE
from zoo.data.sample import sample_classes, sample_folder
from zoo.data.sources import find_data, read_dataset
from zoo.data.store import ImageStore
from zoo.errors import DataError, OptionError, Refused
from zoo.events import Note, Progress, Report
from zoo.features.folder import size_limit
from zoo.model.build import Weights, WeightsChoice, build_headless, build_outline, choose_weights
from zoo.model.measure import feature_shape, idle_parameters
from zoo.model.model import HEAD, ZooModel
from zoo.options import build_options, options_to_dict
from zoo.planning.cautions import cautions, copy_cautions
from zoo.planning.devices import choose_device
from zoo.planning.input_size import refuse_input_size
from zoo.planning.pairs import refuse_pair
from zoo.planning.plan import BackbonePlan, DataPlan, GroupPlan, HeadPlan, Plan, WeightsPlan
from zoo.planning.request import CLOSED_FORM_RECIPE, DEFAULT_RECIPE, SAMPLE_CLASSES, Request
from zoo.planning.speed import check_precision, choose_compute
from zoo.planning.stages import count_parameters, plan_stage, select_groups
from zoo.planning.versions import versions
from zoo.printable import printable
from zoo.recipes import RecipeSpec, Stage, override, recipe_from_file
from zoo.registry import Contribution, Registry, ResolvedBackbone
from zoo.registry.names import qualified_name
from zoo.selectors import Selection
from zoo.source_listing import Split
from zoo.specs import HeadSpec

CHUNK = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A request whose every name is known and fits; the images have been found but not opened."""

    request: Request
    backbone: ResolvedBackbone
    head: Contribution[HeadSpec]
    options: Any
    recipe: RecipeSpec
    recipe_name: str
    weights: WeightsChoice
    dataset: Dataset
    outline: ZooModel
    selections: tuple[Selection, ...]
    feature_shape: tuple[int, ...]
    """Of what the head gets, for one image."""
    device: str


def resolve(
    request: Request, registry: Registry, report: Report, *, recipe: tuple[RecipeSpec, str] | None = None
) -> Resolved:
    """Look everything up; `recipe`, with its name, stands in for the request's.

    Raises Refused for what cannot be, DataError for what the folders do not hold.
    """
    backbone = registry.backbone(request.backbone)
    head = registry.head(request.head)
    refuse_pair(backbone, head, registry)
    options = build_options(head.spec.name, head.spec.options, request.head_options)
    chosen, recipe_name = recipe or _recipe(request, registry, head)
    weights = choose_weights(backbone, request.weights)
    _refuse_bad_numbers(request)
    device = choose_device(request.device)
    dataset = _dataset(request, registry, report)
    _refuse_names_that_are_no_text(dataset.folder, weights.path, recipe_name)
    if request.input_size is not None:
        refuse_input_size(backbone, weights.tag, request.input_size)
    outline = build_outline(
        backbone, head, options, classes=dataset.classes, tag=weights.tag, input_size=request.input_size
    )
    # Before anything is frozen, and before selectors count groups: one that takes no part is not counted.
    if any(set(stage.train) != {HEAD} for stage in chosen.stages):
        outline.idle = idle_parameters(outline)
    selections = select_groups(chosen, recipe_name, outline, backbone)
    return Resolved(
        request=request,
        backbone=backbone,
        head=head,
        options=options,
        recipe=chosen,
        recipe_name=recipe_name,
        weights=weights,
        dataset=dataset,
        outline=outline,
        selections=selections,
        feature_shape=feature_shape(outline),
        device=device,
    )


def open_store(resolved: Resolved, *, trains: bool = False) -> ImageStore:
    """The store that decodes this request's images; for one that `trains`, also onto the disk, and when needed."""
    workers, preprocessing = workers_of(resolved.request.workers), resolved.outline.preprocessing
    if not trains:
        return ImageStore(preprocessing, workers=workers)
    return ImageStore(preprocessing, workers=workers, disk_budget=None, known=KnownFiles(preprocessing))


def complete(
    resolved: Resolved,
    store: ImageStore,
    report: Report,
    *,
    weights: Weights | None = None,
    fallback: str | None = None,
    like: Plan | None = None,
) -> tuple[Plan, Dataset]:
    """Open every image, and write the plan -> (plan, the data set without what cannot be read).

    `weights` are those that were read, None in a dry run; `fallback` says why they are not the ones asked for; `like`
    is a plan whose measured choices are taken over.
    Raises DataError where over 1 % of the images or all of a class are unreadable.
    """
    files = [file for split in resolved.dataset.splits.values() for file in split]

    def progress(done: int) -> None:
        report(Progress(task="decode", done=done, total=len(files)))

    contents, faults = store.examine(files, progress=progress)
    dataset = resolved.dataset.without(faults)
    _refuse_unreadable(dataset, faults, len(files))
    measured = _compute(resolved, like, report)
    plan = _plan(resolved, dataset, dataset.digest(contents), weights, fallback, store, measured)
    warnings = (*copy_cautions(dataset, contents), *_cautions(resolved, plan))
    return plan.model_copy(update={"warnings": warnings}), dataset


def _recipe(request: Request, registry: Registry, head: Contribution[HeadSpec]) -> tuple[RecipeSpec, str]:
    asked = request.recipe or (CLOSED_FORM_RECIPE if head.spec.fit else DEFAULT_RECIPE)
    path = Path(asked).expanduser()
    if path.suffix == ".toml":
        recipe, name = recipe_from_file(path), str(path)
    else:
        found = registry.recipe(asked)
        recipe, name = found.spec, qualified_name(found)
    if head.spec.fit:
        _refuse_settings(request, head.spec.name)
        return recipe.model_copy(update={"stages": tuple(_one_pass(stage) for stage in recipe.stages)}), name
    return override(recipe, request.set, epochs=request.epochs, batch_size=request.batch_size), name


def _refuse_settings(request: Request, head: str) -> None:
    given = {"--set": request.set or None, "--epochs": request.epochs, "--batch-size": request.batch_size}
    for option, value in given.items():
        if value is not None:
            raise OptionError(
                f"{option} changes how gradients train, and head {head!r} is fitted in closed form, in one pass.\n"
                f"Next: leave {option} out, or take a head that is trained, such as --head linear."
            )


def _one_pass(stage: Stage) -> Stage:
    return stage.model_copy(update={"epochs": 1})


def _refuse_bad_numbers(request: Request) -> None:
    if request.classes is not None and request.classes < 2:
        raise OptionError(
            f"--classes must be at least 2, got {request.classes}: with one class there is nothing to tell apart."
        )
    check_precision(request.precision)
    workers_of(request.workers)
    size_limit()


def _dataset(request: Request, registry: Registry, report: Report) -> Dataset:
    if request.data is None:
        count = request.classes or SAMPLE_CLASSES
        sample_classes(count)

        def progress(done: int, total: int) -> None:
            report(Progress(task="draw sample", done=done, total=total))

        folder = sample_folder(cache_folder(), count, progress=progress)
        report(Note(text=f"No --data given: using the generated sample set of {count} classes ({folder})."))
        return read_folder(folder, seed=request.seed)
    dataset = read_dataset(find_data(request.data, registry, report), seed=request.seed)
    if request.classes is not None and request.classes != len(dataset.classes):
        kind, where = ("class folders", "folders") if dataset.reader == FOLDER else ("classes", "labels")
        raise OptionError(
            f"--classes says {request.classes}, {request.data} has {len(dataset.classes)} {kind}: "
            f"{', '.join(dataset.classes)}.\nNext: leave --classes out, or check the {where}."
        )
    return dataset


def _refuse_names_that_are_no_text(data: Path, weights: Path | None, recipe: str) -> None:
    """The plan holds these names, and whoever resumes the run must find them by it."""
    file = str(weights.resolve()) if weights else ""
    for what, name in (("data folder", str(data.absolute())), ("weights file", file), ("recipe", recipe)):
        if printable(name) != name:
            raise Refused(
                f"The path of the {what}, {printable(name)}, has bytes that are no UTF-8 text, and the plan cannot "
                "hold it. (Names of images may be so.)\nNext: rename what is escaped there."
            )


def _refuse_unreadable(dataset: Dataset, faults: dict[str, str], total: int) -> None:
    listed = "\n".join(f"  {relative}: {detail}" for relative, detail in sorted(faults.items())[:10])
    more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
    checked: tuple[Split, ...] = ("train", "val")
    for split in checked:
        files = dataset.splits[split]
        left = {file.label for file in files}
        gone = [name for label, name in enumerate(dataset.classes) if label not in left]
        if gone:
            raise DataError(f"No readable image is left of {', '.join(gone)} in {split}:\n{listed}{more}")
    if len(faults) > UNREADABLE_SHARE * total:
        raise DataError(
            f"{len(faults)} of {total} images cannot be read; over {UNREADABLE_SHARE:.0%} is a fault of the data:\n"
            f"{listed}{more}\nNext: repair or remove these files."
        )


def _plan(
    resolved: Resolved,
    dataset: Dataset,
    digest: str,
    weights: Weights | None,
    fallback: str | None,
    store: ImageStore,
    measured: tuple[Compute, dict[str, float]],
) -> Plan:
    choice = weights.choice if weights else resolved.weights
    request = resolved.request
    compute, speeds = measured
    return Plan(
        backbone=_backbone_plan(resolved, choice),
        weights=WeightsPlan(
            label=choice.label,
            kind=choice.kind,
            path=str(choice.path.resolve()) if choice.path else None,
            digest=weights.digest if weights else None,
            fallback=fallback,
        ),
        head=HeadPlan(
            name=qualified_name(resolved.head),
            options=options_to_dict(resolved.options),
            needs=resolved.head.spec.needs,
            closed_form=resolved.outline.closed_form,
            parameters=count_parameters(resolved.outline.head.parameters()),
            distribution=resolved.head.plugin.distribution,
            version=resolved.head.plugin.version,
        ),
        recipe=resolved.recipe_name,
        recipe_summary=resolved.recipe.summary,
        keep=resolved.recipe.keep,
        stages=tuple(
            plan_stage(
                stage,
                selection,
                resolved.outline,
                train=len(dataset.splits["train"]),
                val=len(dataset.splits["val"]),
                feature_shape=resolved.feature_shape,
                device=resolved.device,
            )
            for stage, selection in zip(resolved.recipe.stages, resolved.selections, strict=True)
        ),
        classes=dataset.classes,
        preprocessing=store.preprocessing.to_dict(),
        data=DataPlan(
            source=dataset.source,
            path=str(dataset.folder.absolute()),
            reader=dataset.reader,
            sample=request.data is None,
            digest=digest,
            images={split: counts for split, counts in dataset.counts().items()},
            skipped=tuple((each.relative, each.reason, each.detail) for each in dataset.skipped),
            notes=dataset.notes,
        ),
        seed=request.seed,
        device=resolved.device,
        precision=compute.precision,
        memory_format=compute.memory_format,
        speeds=speeds,
        chunk=CHUNK,
        threads=torch.get_num_threads(),
        workers=store.workers,
        versions=versions(["peft"] if any(each.adapters for each in resolved.selections) else []),
    )


def _compute(resolved: Resolved, like: Plan | None, report: Report) -> tuple[Compute, dict[str, float]]:
    if like is not None:
        return like.compute, like.speeds
    request, tag = resolved.request, resolved.weights.tag
    _, height, width = resolved.outline.preprocessing.input_size

    def build() -> ZooModel:
        return build_headless(resolved.backbone, resolved.head.spec.needs, tag=tag, input_size=request.input_size)

    return choose_compute(
        build,
        name=f"{resolved.backbone.spec.name}.{tag} {height}x{width} {resolved.head.spec.needs}",
        device=resolved.device,
        trains=any(selection.backbone for selection in resolved.selections),
        precision=request.precision,
        tune=request.tune,
        report=report,
    )


def _cautions(resolved: Resolved, plan: Plan) -> tuple[str, ...]:
    _, *native = resolved.backbone.spec.preprocessing_for(plan.backbone.tag).input_size
    return cautions(plan, native=(native[0], native[1]), own_loss=resolved.outline.own_loss)


def _backbone_plan(resolved: Resolved, choice: WeightsChoice) -> BackbonePlan:
    spec = resolved.backbone.spec
    groups, module = resolved.outline.groups, resolved.outline.backbone
    published = spec.weights_for(choice.tag)
    return BackbonePlan(
        name=f"{spec.name}.{choice.tag}" if choice.tag else spec.name,
        asked=resolved.backbone.asked,
        tag=choice.tag,
        features=resolved.feature_shape[0],
        groups=tuple(
            GroupPlan(name=name, parameters=count_parameters(groups.parameters_of(name, module).values()))
            for name in groups.names
        ),
        licence=published.licence if published and choice.kind == "tag" else None,
        distribution=resolved.backbone.plugin.distribution,
        version=resolved.backbone.plugin.version,
        also=resolved.backbone.also,
        idle=tuple(sorted(resolved.outline.idle)),
    )
