"""The learning curve that a run makes of the features on which its head is fitted, for `curve.json` and the report.

No image goes through the backbone for it, and nothing in a run depends on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from zoo.errors import first_line
from zoo.evaluation.context import RunContext
from zoo.events import Note, Progress
from zoo.frozen.inputs import CachedInputs, Inputs
from zoo.probes.curve_record import CurveRecord, record_of
from zoo.probes.folds import make_folds
from zoo.probes.learning_curve import DRAWS, learning_curve
from zoo.specs.plan import StagePlan
from zoo.training.run_folder import RunFolder

LEAST_WORK = 30_000_000
"""Images * the smaller of images and columns * classes * draws: about two seconds on one core."""
IMAGES_OF_LEAST_WORK, LARGEST_GROWTH = 1_000, 5
"""The work grows in proportion where there are more images, as their features took longer, too; up to so many times."""
_SMALLEST = 8
"""Fewest images of a class, on average, in the part that a curve is made of."""
FEWEST = 100
"""Fewest training images for a curve: of fewer, each counts for a point or more, and nothing could be said."""


def write_curve(context: RunContext, stage: StagePlan, inputs: Inputs, folder: RunFolder) -> None:
    """Write the curve of a run's features into its folder, where its first stage has them. It is no part of the stage.

    Args:
        context: Of the run.
        stage: Its first stage.
        inputs: What that stage trains on.
        folder: The run folder.
    """
    with context.clock.measure("evaluate"):
        curve = run_curve(context, stage, inputs)
    if curve is not None:
        folder.write_curve(curve.to_dict())


def run_curve(context: RunContext, stage: StagePlan, inputs: Inputs) -> CurveRecord | None:
    """Make the curve of a run's training images from the cached features of its first stage.

    Exact copies, known by the digests of the files, are never in two folds; near-duplicates are not looked for.

    Args:
        context: Of the run.
        stage: Its first stage.
        inputs: What that stage trains on.

    Returns:
        None where the stage does not fit a head to plain features, one row an image, or where there are too few images.
    """
    if not (stage.head_alone and stage.inputs == "features" and isinstance(inputs, CachedInputs)):
        return None
    if stage.views or len(inputs.views) != 1 or len(context.train) < FEWEST:
        return None
    table = inputs.views[0]
    first = table.rows([0])
    # Maps, of a head that pools them itself: the probe of a curve takes one row of features an image.
    if first.ndim != 2:
        return None
    classes = len(context.plan.classes)
    digests = [context.store.digest_of(file) for file in context.train]
    kept = kept_images(context.train_targets.tolist(), digests, width=first.shape[1], classes=classes)
    if not kept:
        return None

    def progress(done: int, total: int) -> None:
        context.report(Progress(task="learning curve", done=done, total=total, unit="images"))

    try:
        curve = learning_curve(
            table.rows(kept),
            context.train_targets[torch.tensor(kept)],
            classes,
            groups=[digests[index] for index in kept],
            progress=progress,
        )
    except Exception as error:
        # Nothing in a run depends on its curve, so nothing that is wrong with it may stop the run.
        context.report(Note(text=f"No learning curve was made: {first_line(error)}"))
        return None
    if not bool(curve.judged.any()):
        return None
    return record_of(curve, context.plan.classes, of=len(context.train))


def kept_images(labels: Sequence[int], groups: Sequence[Hashable], *, width: int, classes: int) -> list[int]:
    """Return the indices of the images that a curve is made of: all, or a stratified part where there are many.

    Empty where the part would have too few of each class for a curve.
    """
    count = len(labels)
    budget = LEAST_WORK * min(LARGEST_GROWTH, max(1.0, count / IMAGES_OF_LEAST_WORK))
    parts = 1
    # Tried out: by the smaller of images and columns, the work is no plain function of the parts.
    while _work(count / parts, width, classes) > budget:
        parts += 1
    if parts == 1:
        return list(range(count))
    if count / parts < _SMALLEST * classes:
        return []
    # A fold is a stratified part that leaves copies together. Not drawn by the run's seed: runs stay comparable.
    folds = make_folds(labels, groups, most=parts, seed=0)
    return folds.held_out(0)


def _work(images: float, width: int, classes: int) -> float:
    return images * min(images, width) * classes * DRAWS
