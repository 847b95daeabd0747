"""What batch norms do in a stage whose recipe says `auto`: keep the statistics that they have, or follow the images."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.planning.batch_sizes import part_sizes
from zoo.planning.warnings import SMALL_BATCH
from zoo.specs.recipe import BatchNorm, BatchNormChoice, Stage

ENOUGH_IMAGES = 1_000
"""Training images from which on batch norms train. Measured: with 400 and 500 images frozen ones were better, with
1,144 those that train (docs/decisions/044-batch-norm.md)."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the decision depends on, beside the stage."""

    images: int
    """Number of training images. Not times the epochs: looking at the same images again says nothing new about them."""
    pretrained: bool
    """Whether the run starts from weights that were trained before, so that there are statistics worth keeping."""


def decide_batch_norm(stage: Stage, evidence: Evidence) -> tuple[BatchNorm, str]:
    """Decide what the stage's batch norms do -> (that, why; empty where the recipe says it)."""
    asked: BatchNormChoice = stage.batch_norm
    if asked != "auto":
        return asked, ""
    # In this order: first what cannot be, then whether there is anything to keep, and only then whether the images say
    # enough to replace it.
    if min(part_sizes(evidence.images, stage.batch_size, stage.accumulate)) == 1:
        return "frozen", "a batch of 1 image has no statistics"
    if not evidence.pretrained:
        return "train", "the weights are random, so there are no statistics to keep"
    if evidence.images < ENOUGH_IMAGES:
        return "frozen", (
            f"{evidence.images:,} training images say less than the statistics that the weights bring, below "
            f"{ENOUGH_IMAGES:,} those are kept"
        )
    if stage.batch_size < SMALL_BATCH:
        return "frozen", f"batches of {stage.batch_size} images, fewer than {SMALL_BATCH}, say little"
    return "train", (
        f"{evidence.images:,} training images are enough for statistics of their own, from {ENOUGH_IMAGES:,} on"
    )
