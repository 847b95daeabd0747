"""A plan, for people: what trains, what is frozen, at which rates, on what data, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from zoo import text
from zoo.display import console
from zoo.display.blocks import Block, Line, TextTable, blocks_html, print_blocks
from zoo.display.console import Verbosity
from zoo.specs.drawn import drawn
from zoo.specs.estimated import Estimate, StageEstimate
from zoo.specs.plan import ComputeOrigin, ExaminedPlan, FoldsPlan, Plan, ShortlistPlan, StagePlan, WeightsPlan
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.selectors import TensorKind

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 5
"""Most unused files that are listed without `-v`."""
# What a policy for batch norms does, behind their name: `batch norms stay frozen`.
_DOES = {"train": "train", "frozen": "stay frozen", "adapt": "adapt"}
_CLASSES = 50
"""Most classes that are named on a terminal."""
_SHORTLISTED = 5
"""Most backbones of a shortlist that are named."""


def print_plan(plan: Plan, verbosity: Verbosity, *, to: Console | None = None) -> None:
    """Print a plan to `to`, else to stdout."""
    screen = to or console.out()
    # Off a terminal nothing is left out: a program may read it.
    print_blocks(screen, plan_blocks(plan, whole=verbosity.verbose, all_classes=not screen.is_terminal))


@drawn.register
def plan_html(plan: Plan) -> str:
    """A plan as a notebook shows it: the tables of `zoo plan`."""
    return blocks_html(plan_blocks(plan))


def plan_blocks(plan: Plan, *, whole: bool = False, all_classes: bool = False) -> Iterator[Block]:
    """The tables of a plan and what is said below them.

    Args:
        plan: The plan.
        whole: Whether all classes and all files that are not used are named.
        all_classes: Whether all classes are.
    """
    yield TextTable(columns=["", ""], rows=_facts(plan, all_classes=whole or all_classes))
    yield Line()
    names = [group.name for group in plan.backbone.groups]
    columns = ["stage", "trains", "frozen", "# trained", "# frozen", "batch norm"]
    rows = [_training_row(stage, names) for stage in plan.stages]
    yield TextTable(columns=columns, rows=rows, right=("# trained", "# frozen"))
    yield Line()
    columns = ["stage", "epochs", "batch", "steps", "optimizer", "peak rate", "weight decay", "input"]
    rows = [_settings_row(stage) for stage in plan.stages]
    yield TextTable(columns=columns, rows=rows, right=("epochs", "batch", "steps"))
    yield from map(Line, _remarks(plan))
    yield from _skipped(plan, whole=whole)
    if plan.warnings:
        yield Line(f"\n{console.count(len(plan.warnings), 'warning')}:", "bold yellow")
    yield from (Line(f"  {sentence}") for sentence in plan.warnings)
    if plan.estimate:
        yield from _estimate(plan.estimate, plan.device)
        if part := plan.data.examined:
            yield Line(f"Measured on the {part.images:,} images that were opened, and scaled up to {part.of:,}.")


def _remarks(plan: Plan) -> Iterator[str]:
    """What the tables of stages do not say."""
    for stage in plan.stages:
        if len(set(stage.rates.values())) > 1:
            rates = ", ".join(f"{group} {rate:.3g}" for group, rate in stage.rates.items())
            yield f"peak rates of {stage.settings.name}: {rates}"
    yield from map(_cached_outputs, plan.stages)
    yield from (f"{stage.settings.name}: {stage.solver_why}" for stage in plan.stages if stage.solver_why)
    yield from _batch_norms(plan.stages)
    for stage in plan.stages:
        if stage.settings.abandon:
            yield f"{stage.settings.name}: may be stopped early, where it cannot become the best stage any more"
    if any(stage.steps and stage.decayed_parameters < stage.trainable_parameters for stage in plan.stages):
        yield "weight decay acts on weights of two or more dimensions, not on scales, shifts and biases"


def _facts(plan: Plan, *, all_classes: bool) -> list[list[str]]:
    backbone, head = plan.backbone, plan.head
    parameters = sum(group.parameters for group in backbone.groups)
    also = f"; the bare name could also mean {', '.join(backbone.also)}" if backbone.also else ""
    groups = " > ".join(group.name for group in backbone.groups)
    weights = plan.weights.label + (f" (licence: {backbone.licence})" if backbone.licence else "")
    weights += f": {plan.weights.taken}" if plan.weights.taken else ""
    weights += _download(plan.weights)
    if plan.weights.kind == "random":
        weights = "RANDOM: nothing pretrained" + (f" ({plan.weights.fallback})" if plan.weights.fallback else "")
    options = ", ".join(f"{key}={value}" for key, value in head.options.items())
    return [
        ["backbone", f"{backbone.name}: {parameters:,} parameters, {_features(plan)}{also}"],
        *([["chosen", _chosen(plan.shortlist)]] if plan.shortlist else []),
        ["groups", groups],
        *([["idle", _idle(plan)]] if backbone.idle else []),
        ["weights", weights],
        ["head", f"{head.name}{f' ({options})' if options else ''}: {head.parameters:,} parameters"],
        ["recipe", f"{plan.recipe}: {plan.recipe_summary}"],
        ["data", f"{plan.data.source}: {_images(plan)}"],
        ["classes", f"{len(plan.classes)}: {text.some(plan.classes, len(plan.classes) if all_classes else _CLASSES)}"],
        *([["split", "; ".join(plan.data.notes)]] if plan.data.notes else []),
        *([["opened", _opened(plan, plan.data.examined)]] if plan.data.examined else []),
        *([["folds", _folds(plan, plan.folds)]] if plan.folds else []),
        ["images", Preprocessing.from_dict(plan.preprocessing).describe()],
        ["machine", f"{plan.device}, {plan.compute}, {_shared_by(plan)}, seed {plan.seed}"],
        *([["precision", _origin(plan.compute_origin)]] if plan.compute_origin else []),
    ]


def _opened(plan: Plan, part: ExaminedPlan) -> str:
    """Which images were opened, and so what the plan cannot know."""
    return (
        f"{part.images:,} of {part.of:,} images, drawn by seed {plan.seed} over splits and classes. Unreadable files, "
        "copies and what decoding loses were looked for in these alone; zoo finetune opens the others before it "
        "trains, and zoo data check opens all"
    )


def _origin(origin: ComputeOrigin) -> str:
    asked = "" if origin.asked == "auto" else f"{origin.asked} asked for, "
    said = {"table": "known from the table: ", "default": "the default, "}.get(origin.by, "")
    return f"{asked}{said}{origin.why}"


def _shared_by(plan: Plan) -> str:
    threads = console.count(plan.threads, "thread")
    if plan.processes == 1:
        return threads
    in_parts = ", each with a part of the backbone" if plan.shard_backbone else ""
    return f"{plan.processes} processes of {threads}{in_parts}"


def _folds(plan: Plan, folds: FoldsPlan) -> str:
    low, high = min(folds.images), max(folds.images)
    sizes = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    together = f"; {folds.kept_together:,} copies and near-duplicates stay together" if folds.kept_together else ""
    repeated = (
        ""
        if all(stage.head_alone for stage in plan.stages)
        else (f"; every stage is trained {folds.count + 1} times, about {folds.count} times as long as once")
    )
    return f"{folds.count} of {sizes} images, by seed {plan.seed}{together}{repeated}"


def _download(weights: WeightsPlan) -> str:
    """What is still needed before the plan can be carried out."""
    if weights.download is None:
        return ""
    # Without user and password, which the address of a mirror may hold.
    host = urlsplit(weights.download).netloc.rpartition("@")[2] or weights.download
    return f"; not on this machine: needs a download of about {text.size(weights.download_bytes or 0)} from {host}"


def _chosen(shortlist: ShortlistPlan) -> str:
    """What the backbone was compared with."""
    rows = [f"{each.name} {each.accuracy:.3f}{'' if each.as_good else ' (behind)'}" for each in shortlist.backbones]
    judged = shortlist.backbones[0].images
    part = f"{judged:,} of " if judged < shortlist.images else ""
    return f"probe accuracy on {part}{shortlist.images:,} training images: {text.some(rows, _SHORTLISTED)}"


def _features(plan: Plan) -> str:
    width = plan.backbone.features
    if plan.head.needs == "layers":
        return f"{width} features of {console.count(len(plan.head.layers or ()), 'group')} and of the pooling"
    return f"{width} features" if plan.head.needs == "pooled" else f"a map of {width} channels"


def _idle(plan: Plan) -> str:
    where = "behind the map" if plan.head.needs == "map" else "in the backbone"
    idle = plan.backbone.idle
    return f"{console.count(len(idle), 'tensor')} {where} that the logits do not depend on: never trained"


def _images(plan: Plan) -> str:
    return ", ".join(f"{sum(counts):,} {split}" for split, counts in plan.data.images.items())


def _training_row(stage: StagePlan, groups: Sequence[str]) -> list[str]:
    norms = [(stage.batch_norms_frozen, "frozen"), (stage.batch_norms_training, "training")]
    return [
        stage.settings.name,
        ", ".join([_names(stage.trains, groups), *(_kind(kind, stage) for kind in stage.tensors)]),
        _frozen(stage, groups),
        f"{stage.trainable_parameters:,}",
        f"{stage.frozen_parameters:,}",
        ", ".join(f"{number} {state}" for number, state in norms if number) or "none",
    ]


def _names(names: Sequence[str], groups: Sequence[str]) -> str:
    """Names with commas; a run of more than three groups is shortened to `first..last`."""
    of_backbone = [name for name in names if name in groups]
    rest = [name for name in names if name not in groups]
    indices = [groups.index(name) for name in of_backbone]
    if len(indices) > 3 and indices == list(range(indices[0], indices[-1] + 1)):
        of_backbone = [f"{of_backbone[0]}..{of_backbone[-1]}"]
    return ", ".join([*of_backbone, *rest]) or "nothing"


def _kind(kind: TensorKind, stage: StagePlan) -> str:
    if kind != "adapters":
        return f"every {kind}"
    return f"adapters of rank {stage.settings.adapter_rank} on {console.count(len(stage.adapters), 'layer')}"


def _frozen(stage: StagePlan, groups: Sequence[str]) -> str:
    # A group in neither list trains some of its tensors: norms, biases or adapters.
    partly = [name for name in groups if name not in (*stage.trains, *stage.freezes)]
    if not partly:
        return _names(stage.freezes, groups)
    rest = f"the rest of {_names(partly, groups)}"
    return f"{rest}; {_names(stage.freezes, groups)}" if stage.freezes else rest


def _settings_row(stage: StagePlan) -> list[str]:
    settings = stage.settings
    # Without steps there are no epochs, batches or rates: a solver or a closed form fits the stage at once.
    if not stage.steps:
        fitted = "fitted in closed form, in one pass" if stage.solver == "gradient" else "solver lbfgs, to the minimum"
        return [settings.name, "-", "-", "-", fitted, "-", "-", _input(stage)]
    return [
        settings.name,
        str(settings.epochs),
        str(settings.batch_size) + (f" x {settings.accumulate}" if settings.accumulate > 1 else ""),
        f"{stage.steps:,}",
        f"{settings.optimizer}, {settings.schedule}",
        _rate(stage),
        _decay(stage),
        _input(stage),
    ]


def _rate(stage: StagePlan) -> str:
    rates = sorted(set(stage.rates.values()))
    if stage.settings.lr == "auto":
        return "found by trying"
    return f"{rates[-1]:.3g}" if len(rates) == 1 else f"{rates[-1]:.3g} to {rates[0]:.3g}"


def _decay(stage: StagePlan) -> str:
    rate, decayed = stage.settings.weight_decay, stage.decayed_parameters
    if not decayed:
        return f"{rate:g}, on nothing that trains" if rate else "none"
    return f"{rate:g} on {'all' if decayed == stage.trainable_parameters else _short_count(decayed)}"


def _short_count(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k" if number >= 1e3 else str(number)


def _input(stage: StagePlan) -> str:
    views = f"{console.count(stage.views, 'view')} ({stage.settings.augment})"
    if stage.inputs != "images":
        cached = "cached features" if stage.inputs == "features" else f"cached activations before {stage.cut}"
        return f"{cached} of {views}" if stage.views else cached
    if stage.views:
        return f"images, {views}"
    return "images" if stage.settings.augment == "none" else f"images, {stage.settings.augment}"


def _cached_outputs(stage: StagePlan) -> str:
    """Which outputs of frozen groups are cached, or why none are."""
    name = stage.settings.name
    if stage.inputs == "features":
        return f"{name}: each image goes through the frozen backbone once ({_cached(stage)})"
    if stage.inputs == "prefix":
        return f"{name}: each image goes through the groups before {stage.cut} once ({_cached(stage)})"
    return f"{name}: each image goes through the whole backbone in every epoch: {stage.why}"


def _cached(stage: StagePlan) -> str:
    """How much is cached, and the order in which it is read where that is not one of all images."""
    size = f"{text.size(stage.kept_bytes)} cached"
    if stage.kept_as == "bfloat16 where exact":
        size += ", half of it where bfloat16 is exact"
    order = ", in runs of the shards' order" if stage.shards else ""
    return f"{size}; read in windows of {stage.window:,} images, shuffled{order}" if stage.window else size


def _batch_norms(stages: Sequence[StagePlan]) -> list[str]:
    """What `auto` became and why, for all stages with the same reason in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        if stage.batch_norm_why:
            alike.setdefault((stage.batch_norm, stage.batch_norm_why), []).append(stage.settings.name)
    return [f"{', '.join(names)}: batch norms {_DOES[policy]}: {why}" for (policy, why), names in alike.items()]


def _skipped(plan: Plan, *, whole: bool) -> Iterator[Line]:
    skipped = plan.data.skipped
    shown = skipped if whole else skipped[:_SHOWN]
    if skipped:
        yield Line(f"\n{console.count(len(skipped), 'file')} not used:")
    for file, reason, detail in shown:
        yield Line(f"  {file}: {reason}{f' ({detail})' if detail else ''}")
    if len(shown) < len(skipped):
        yield Line(f"  and {len(skipped) - len(shown)} more; zoo -v lists them all")


def _estimate(estimate: Estimate, device: str) -> Iterator[Block]:
    rows = [_estimate_row(stage) for stage in estimate.stages]
    columns = ["stage", "features", "training", "validation", "total", "tensors"]
    yield Line()
    yield TextTable(title=f"Measured on {device}", columns=columns, rows=rows, right=columns[1:])
    parts = [("opening images", estimate.decode), ("stages", sum(stage.seconds for stage in estimate.stages))]
    parts += [("test split", estimate.test)] if estimate.test else []
    if estimate.decode_fast_saves is not None:
        saved = console.seconds(estimate.decode_fast_saves)
        yield Line(f"--decode fast would save about {saved} whenever all images are decoded, for slightly other pixels")
    yield Line(f"about {console.seconds(estimate.seconds)}, about {text.size(estimate.bytes)} at most", "bold")
    yield Line(f"time: {', '.join(f'{name} {console.seconds(value)}' for name, value in parts)}")
    # The peak of a run is that of its largest stage, so only that one is itemised.
    largest = max(estimate.stages, key=lambda stage: stage.memory.total)
    memory = ", ".join(f"{name} {text.size(value)}" for name, value in largest.memory if value)
    yield Line(f"memory of {largest.stage}: {memory}; Python, libraries and kernels {text.size(estimate.process)}")
    if device != "cpu":
        yield Line(f"main memory: {text.size(estimate.host_bytes)} at most")


def _estimate_row(stage: StageEstimate) -> list[str]:
    times = [stage.features, stage.training, stage.validation, stage.seconds]
    return [
        stage.stage,
        *(console.seconds(value) if value else "-" for value in times),
        text.size(stage.memory.total),
    ]
