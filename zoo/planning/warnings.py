"""Warnings of a plan: what is possible, so not refused, but likely to harm the result. Nothing here imports torch."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from zoo.data.check.duplicates import Copy, across_splits, copies, under_two_labels
from zoo.data.dataset import FEW_IMAGES, IMBALANCE_RATIO, UNREADABLE_SHARE, Dataset
from zoo.data.lost_values import SHOWN, TO_8_BITS, Loss
from zoo.data.splits import similar
from zoo.planning.batch_sizes import part_sizes
from zoo.registry.session import of_session
from zoo.specs.data import Split
from zoo.specs.plan import ExaminedPlan, Plan, ShortlistPlan
from zoo.specs.recipe import BALANCED, Stage, chooses_inside
from zoo.text import exact

SMALL_BATCH = 8
"""Images. The mean and variance of a smaller batch say little about the data (arXiv:1803.08494)."""
FAR_FROM_WEIGHTS = 1.5
"""How many times larger or smaller a side may be than what the weights were made for."""
COARSE = 0.05
"""Largest share of the accuracy that one validation image may make up."""
_SHOWN = 5


def plan_warnings(
    plan: Plan, *, native: tuple[int, int], own_loss: bool, equal: Sequence[tuple[Copy, ...]] = ()
) -> tuple[str, ...]:
    """Sentences for people, each with its numbers and the next step.

    Args:
        plan: All but its warnings.
        native: (height, width) in pixels of the images that the weights were made for.
        own_loss: Whether the head brings its own loss, which class weights do not reach.
        equal: Groups of files that are equal byte for byte.
    """
    return (
        *_small_batches(plan),
        *_far_resolution(plan, native),
        *_similar_classes(plan),
        *_few_images(plan, "train"),
        *_never_held_out(plan, equal),
        *(_few_images(plan, "val") if "val" in plan.data.images else _folds(plan)),
        *_unequal_classes(plan, own_loss=own_loss),
        *_chosen_by_large_classes(plan),
        *_coarse_validation(plan),
    )


def shortlist_warnings(plan: Plan, shortlist: ShortlistPlan) -> tuple[str, ...]:
    """Warnings of a backbone that zoo chose among several, by the accuracy of probes on the training images."""
    if shortlist.compared < 2:
        return ()
    found = []
    if plan.folds is not None:
        found.append(
            f"The backbone was chosen among {shortlist.compared} on the same images that the folds judge, so the score "
            "out of fold is somewhat too high. Next: to judge it fairly, keep a test split aside."
        )
    # With as many of each class, both ways of counting are the same.
    if plan.choose_by in BALANCED and len(set(plan.data.images["train"])) > 1:
        found.append(
            f"With {plan.choose_by}, every class counts the same where the run chooses, but the backbone was chosen "
            f"among {shortlist.compared} by the plain accuracy of probes, in which large classes count more. Next: "
            f"zoo sweep --data {shlex.quote(plan.data.argument)} --backbone "
            f"{','.join(each.name for each in shortlist.backbones[:2])} --over choose_by={plan.choose_by} "
            "compares some backbones by it."
        )
    return tuple(found)


def duplicate_warnings(
    dataset: Dataset, groups: Sequence[tuple[Copy, ...]], part: ExaminedPlan | None = None
) -> tuple[str, ...]:
    """Warnings of files that are equal byte for byte, across splits or under two labels.

    `groups` are the equal files; those of a `part` of the images say little of how many copies there are. `zoo data
    check` looks closer, at pixels and near-duplicates.
    """
    among = f"Of {part.images:,} images that were opened, " if part else ""
    look = f"Next: {_check_of(dataset.reader, dataset.source)}"
    found: list[str] = []
    if leaks := across_splits(groups):
        found.append(
            f"{among}{_pictures(leaks)} in more than one split, so scores are too good: {_example(leaks, 'split')}. "
            f"Next: {without_copies(dataset)}."
        )
    if conflicts := under_two_labels(groups):
        found.append(
            f"{among}{_pictures(conflicts)} under more than one label, so at least one is wrong: "
            f"{_example(conflicts, 'label')}. {look}"
        )
    return tuple(found)


def copied_from_train(dataset: Dataset, contents: Mapping[str, str]) -> dict[Split, int]:
    """How many images of each other split are copies of a training image, byte for byte; no key where none is.

    `contents` holds the files' digests by relative path.
    """
    found: dict[Split, int] = {}
    for group in across_splits(copies(dataset.splits, contents)):
        splits = [copy.split for copy in group]
        for split in splits if "train" in splits else ():
            if split != "train":
                found[split] = found.get(split, 0) + 1
    return found


def without_copies(dataset: Dataset) -> str:
    """What to do where a picture is in more than one split, whoever made the splits."""
    step = f"keep one copy of each, which {_check_of(dataset.reader, dataset.source)} lists"
    if "val" not in dataset.splits:
        return step
    # With folds, val joins train. The test split stays what it is.
    folds = "folds=5" if of_session(dataset.reader) else "--folds 5"
    of_test = ", but for those in test" if "test" in dataset.splits else ""
    return f"{step}; or {folds}, which keeps copies together{of_test}"


def unreadable_warnings(plan: Plan, faults: int) -> tuple[str, ...]:
    """A warning where so many of the images that were opened cannot be read that a run will probably be refused.

    `faults`: how many of those that were drawn cannot. Where all were opened, there are few, or there is no plan.
    """
    part = plan.data.examined
    if part is None or faults <= UNREADABLE_SHARE * part.images:
        return ()
    return (
        f"{faults:,} of the {part.images:,} images that were opened cannot be read. If that holds for all {part.of:,}, "
        f"the run stops before it trains: over {UNREADABLE_SHARE:.0%} is a fault of the data. Next: "
        f"{_check_of(plan.data.reader, plan.data.source)} opens all and lists them.",
    )


def loss_warnings(dataset: Dataset, losses: Mapping[str, Loss], *, opened: int) -> tuple[str, ...]:
    """Warnings of pictures that decoding destroyed: `losses` by relative path, among so many that were `opened`."""
    look = f"{_check_of(dataset.reader, dataset.source)} lists them."
    return tuple(
        f"{_of_many(len(names), opened)} {meaning}, though the {_files(names)} more: "
        f"{'such as ' if len(names) > 1 else ''}{names[0]} ({losses[names[0]].detail}). Next: {TO_8_BITS}; {look}"
        for kind, meaning in SHOWN.items()
        if (names := [each for each, loss in losses.items() if loss.kind == kind])
    )


def _check_of(reader: str, source: str) -> str:
    """What looks closer at the data: the command, or the function for an object, which no command finds."""
    return "zoo.check_data(data)" if of_session(reader) else f"zoo data check {shlex.quote(source)}"


def _of_many(some: int, many: int) -> str:
    return f"{some:,} of {many:,} pictures {'shows' if some == 1 else 'show'}"


def _files(names: Sequence[str]) -> str:
    return "file holds" if len(names) == 1 else "files hold"


def _pictures(groups: Sequence[tuple[Copy, ...]]) -> str:
    return "1 picture is" if len(groups) == 1 else f"{len(groups):,} pictures are"


def _example(groups: Sequence[tuple[Copy, ...]], differs: Literal["split", "label"]) -> str:
    first = groups[0][0]
    other = next(each for each in groups[0] if getattr(each, differs) != getattr(first, differs))
    # A drawn split has no folder to tell it by.
    places = [f"{each.relative} ({each.split})" if differs == "split" else each.relative for each in (first, other)]
    return f"{'such as ' if len(groups) > 1 else ''}{' and '.join(places)}"


def _small_batches(plan: Plan) -> Iterator[str]:
    images = sum(plan.data.images["train"])
    alike: dict[tuple[int, int, bool], list[Stage]] = {}
    for stage in plan.stages:
        batch = (stage.settings.batch_size, stage.settings.accumulate)
        if stage.batch_norms_training and min(part_sizes(images, *batch)) < SMALL_BATCH:
            # Stages with the same batches share a sentence. Only batch norms of the backbone can be frozen by a knob.
            in_backbone = any(name != "head" for name in stage.trains)
            alike.setdefault((*batch, in_backbone), []).append(stage.settings)
    for (size, accumulate, in_backbone), stages in alike.items():
        remedies = [_larger_batches(images, size, accumulate)]
        if in_backbone:
            remedies.append(_set("batch_norm=frozen", stages))
        batches = _of_images(part_sizes(images, size, accumulate), size)
        yield (
            f"Batch norm trains on {batches} in {_listed(stages)}: below {SMALL_BATCH} images the mean and variance of "
            f"a batch say little about the data. Next: {', or '.join(remedies)}."
        )


def _of_images(sizes: Sequence[int], asked: int) -> str:
    if len(sizes) == 1:
        return f"one batch of {sizes[0]} images"
    # The first batch is as large as any, so only the rest of an epoch is small.
    if sizes[0] >= SMALL_BATCH:
        return f"a last batch of {min(sizes)} images in every epoch"
    joined = f" (the last of {sizes[-1]}: a single image joins the batch before it)" if sizes[-1] > asked else ""
    return f"batches of {asked} images{joined}"


def _larger_batches(images: int, asked: int, accumulate: int) -> str:
    """The batch size nearest to the one asked for, at most twice it, whose batches are all large enough."""
    near = sorted(range(SMALL_BATCH, 2 * max(asked, SMALL_BATCH) + 1), key=lambda size: abs(size - asked))
    better = next((size for size in near if min(part_sizes(images, size, accumulate)) >= SMALL_BATCH), None)
    return f"--batch-size {better}" if better else "more training images"


def _far_resolution(plan: Plan, native: tuple[int, int]) -> Iterator[str]:
    _, height, width = plan.preprocessing["input_size"]
    ratios = [height / native[0], width / native[1]]
    factor = max(*ratios, *(1 / ratio for ratio in ratios))
    # Random weights were made for no size.
    if plan.weights.kind == "random" or factor <= FAR_FROM_WEIGHTS:
        return
    larger = max(ratios) == factor
    yield (
        f"Images go in at {height}x{width} pixels, the weights were made for {native[0]}x{native[1]}: "
        f"{factor:.1f} times {'larger' if larger else 'smaller'}, so the weights fit badly. Next: leave "
        f"--input-size out, or other weights: zoo list backbones --input-size {_size(height, width)}."
    )


def _similar_classes(plan: Plan) -> Iterator[str]:
    groups = similar(plan.classes)
    if groups:
        more = f", and {len(groups) - 1:,} more groups," if len(groups) > 1 else ""
        yield (
            f"The classes {' and '.join(map(exact, groups[0]))}{more} have names that are easily taken for one another."
            " Next: merge them if they mean the same, or rename one."
        )


def _few_images(plan: Plan, split: str) -> Iterator[str]:
    few = [
        f"{name} ({count})"
        for name, count in zip(plan.classes, plan.data.images[split], strict=True)
        if count < FEW_IMAGES
    ]
    if not few:
        return
    more = f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else ""
    verb = "has" if len(few) == 1 else "have"
    meaning = "too few to learn from" if split == "train" else "their accuracy is a matter of luck"
    yield (
        f"{len(few)} of {len(plan.classes)} classes {verb} fewer than {FEW_IMAGES} images in {split}, {meaning}: "
        f"{', '.join(few[:_SHOWN])}{more}. Next: add images, or merge classes."
    )


def _never_held_out(plan: Plan, equal: Sequence[tuple[Copy, ...]]) -> Iterator[str]:
    counts = plan.data.images["train"]
    # Copies of an image are in one fold, so of a class that has nothing else none is ever held out.
    again = Counter(
        label
        for group in equal
        for label, files in Counter(copy.label for copy in group if copy.split == "train").items()
        for _ in range(files - 1)
    )
    alone = [
        name if count == 1 else f"{name}, in {count:,} copies"
        for label, (name, count) in enumerate(zip(plan.classes, counts, strict=True))
        if count - again[label] == 1
    ]
    # Only a solver's strength is chosen by cross-validation.
    if not alone or all(stage.solver == "gradient" for stage in plan.stages):
        return
    more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
    which = "1 class has" if len(alone) == 1 else f"{len(alone)} classes have"
    rest = "by images of the others alone" if len(alone) < len(plan.classes) else "by no image, so a usual one is taken"
    yield (
        f"{which} a single training image ({'; '.join(alone[:_SHOWN])}{more}), which cross-validation leaves in every "
        f"fold: the solver's strength is chosen {rest}. Next: add images, or merge classes."
    )


def _folds(plan: Plan) -> Iterator[str]:
    folds = plan.folds
    if folds is None:
        return
    small = [
        f"{name} ({count})"
        for name, count in zip(plan.classes, plan.data.images["train"], strict=True)
        if count < folds.count
    ]
    if small:
        more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
        verb = "has" if len(small) == 1 else "have"
        yield (
            f"{len(small)} of {len(plan.classes)} classes {verb} fewer images than there are folds, so some folds hold "
            f"none of them out: {', '.join(small[:_SHOWN])}{more}. Next: add images, merge classes, or fewer folds."
        )
    if max(folds.images) > 2 * sum(folds.images) / folds.count:
        yield (
            f"The folds are very unequal, of {min(folds.images):,} to {max(folds.images):,} images: many are copies or "
            "near-duplicates, which stay together. The fit without the largest fold sees few images, so the score out "
            f"of fold is too low. Next: {_check_of(plan.data.reader, plan.data.source)} lists them."
        )


def _unequal_classes(plan: Plan, *, own_loss: bool) -> Iterator[str]:
    counts = plan.data.images["train"]
    most, least = max(counts), min(counts)
    as_they_come = [stage.settings for stage in plan.stages if not _evened_out(stage.settings)]
    if not least or most <= IMBALANCE_RATIO * least or not as_they_come:
        return  # a sample of a data set may lack a class
    large, small = plan.classes[counts.index(most)], plan.classes[counts.index(least)]
    if plan.head.closed_form:
        remedy = f"add images of {small}, or a head that is trained, such as --head linear"
    else:
        # Weights do not reach a loss that is the head's own.
        knob = "sampling=balanced" if own_loss else "class_weights=balanced"
        choose = " --set choose_by=balanced_loss" if _chooses_unbalanced(plan) else ""
        remedy = _set(knob, as_they_come) + choose + ", which gives every class the same weight"
    yield (
        f"Classes are very unequal: {large} has {most:,} training images, {small} {least:,} "
        f"({most / least:.0f} times fewer), so {small} may never be predicted. Next: {remedy}; judge by macro F1, "
        "not by accuracy."
    )


def _chosen_by_large_classes(plan: Plan) -> Iterator[str]:
    counts = plan.data.images["train"]
    evened = [stage.settings for stage in plan.stages if _evened_out(stage.settings)]
    if not evened or not _chooses_unbalanced(plan):
        return
    if max(counts) > IMBALANCE_RATIO * min(counts) > 0:  # a sample of a data set may lack a class
        what = "which stage is kept is" if _chooses_among_stages(plan) else "what is chosen inside a stage is"
        yield (
            f"In {_listed(evened)} every class has the same weight, but {what} decided by "
            f"{plan.choose_by} on the validation images, in which large classes count more: it may be one that never "
            f"predicts the small ones. Next: --set choose_by=balanced_{plan.choose_by}."
        )


def _chooses_unbalanced(plan: Plan) -> bool:
    """Whether the run chooses among stages or inside one, and large classes count more in that."""
    inside = any(chooses_inside(dict(stage.settings)) for stage in plan.stages)
    return (_chooses_among_stages(plan) or inside) and plan.choose_by not in BALANCED


def _chooses_among_stages(plan: Plan) -> bool:
    return plan.keep != "last" and len(plan.stages) > 1


def _evened_out(settings: Stage) -> bool:
    return "balanced" in (settings.class_weights, settings.sampling)


def _coarse_validation(plan: Plan) -> Iterator[str]:
    images = sum(plan.data.images.get("val", ()))
    if not images or images * COARSE >= 1:
        return
    yield (
        f"The validation split has {images} images, so one of them is {100 / images:.1f} points of accuracy: "
        f"stages that differ by less are chosen by luck. Next: at least {round(1 / COARSE)} validation images."
    )


def _set(assignment: str, stages: Sequence[Stage]) -> str:
    likewise = f" (and likewise for {', '.join(stage.name for stage in stages[1:])})" if len(stages) > 1 else ""
    return f"--set {stages[0].name}.{assignment}{likewise}"


def _size(height: int, width: int) -> str:
    return str(height) if height == width else f"{height}x{width}"


def _listed(stages: Sequence[Stage]) -> str:
    names = [stage.name for stage in stages]
    return f"stages {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"stage {names[0]}"
