"""When a stage is given up because it cannot become the best one any more. Pure functions of scores.

A stage becomes the best by its accuracy or by its loss, so it is given up only where both are out of reach. It is
judged at the end of its epochs and, where batch norms train, before its first step. `python -m benchmarks.abandoned`
counts on finished runs how often giving up would have been wrong; docs/decisions/045-abandon.md has what was found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.evaluation.metrics import Scores
from zoo.text import counted

JUDGED_FROM = 0.5
"""Share of a stage's epochs that it has in any case, and never fewer than two: one epoch shows no trend."""
SLACK = 0.05
"""How much lower than the best one's a stage's accuracy may be before it is out of reach. What lies between the stage
and the head (`blend`) can be better than both: in eight runs on real networks by up to 3.9 points over the end."""
BROKEN = 2.0
"""Times the loss of the very same weights at rest that a batch in training mode may have before the first step."""
FEW_STEPS = 16
"""Steps in which a stage cannot mend what is broken at its start. Of random networks on the sample set, stages of 16
steps ended below the head by accuracy, and one of 32 above it. With more, only its epochs are judged."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The best stage so far, which a stage has to beat."""

    stage: str
    """Its name."""
    scores: Scores
    """Its validation scores."""


def hopeless(rival: Rival, epochs: Sequence[Scores], *, of: int) -> str:
    """Judge a stage at the end of an epoch -> why it cannot win any more; empty where it can.

    It cannot where its lowest loss and its highest accuracy so far would both be worse than the rival's, the accuracy
    by more than `SLACK`, even if every epoch that is left improved them by as much as the best epoch so far did.

    Args:
        rival: The best stage so far.
        epochs: Validation scores of this stage's epochs, the last one last.
        of: Number of epochs that the stage has in all.
    """
    left, best = of - len(epochs), rival.scores
    if left < 1 or len(epochs) < max(2.0, JUDGED_FROM * of):
        return ""
    loss, accuracy = min(each.loss for each in epochs), max(each.accuracy for each in epochs)
    pairs = list(itertools.pairwise(epochs))
    fall = max(0.0, *(before.loss - after.loss for before, after in pairs))
    rise = max(0.0, *(after.accuracy - before.accuracy for before, after in pairs))
    # Not `<=` and `>`: with a loss that is not finite the comparison is false, and other checks have the word.
    if not (loss - left * fall > best.loss and accuracy + left * rise < best.accuracy - SLACK):
        return ""
    return (
        f"after {counted(len(epochs), 'epoch')} its loss is {loss:.3f} where {rival.stage} has {best.loss:.3f}, "
        f"its accuracy {accuracy:.3f} where that has {best.accuracy:.3f}: more than it can catch up in "
        f"{counted(left, 'epoch')}"
    )


def broken(at_rest: float, in_training: float, *, steps: int) -> str:
    """Judge a stage before its first step -> why it cannot win; empty where it can.

    Batch norms that train normalise by the batch, and what came before was fitted to the statistics that they stored.
    Where these two differ much, as in a network that was never trained, the stage begins far below where the last one
    ended, and needs many steps to come back.

    Args:
        at_rest: Loss of the first batch in evaluation mode.
        in_training: Loss of the same batch and the same weights in training mode.
        steps: Number of steps in the stage.
    """
    # Written so that a loss that is not a number gives nothing up: other checks have the word.
    if steps > FEW_STEPS or not in_training >= BROKEN * at_rest:
        return ""
    return (
        f"batch norms in training mode turn a loss of {at_rest:.3f} into {in_training:.3f} before its first step, "
        f"and {steps} steps are too few to come back"
    )


def stage_gain(scores: Scores, best: Scores | None) -> dict[str, float | None]:
    """What a stage brought over the best one before it, for its record in `result.json`; nothing for the first.

    `gain`: how much higher its validation accuracy is. `loss_gain`: how much lower its validation loss is; None where a
    loss is not finite.
    """
    if best is None:
        return {}
    lower = best.loss - scores.loss
    return {"gain": scores.accuracy - best.accuracy, "loss_gain": lower if math.isfinite(lower) else None}


def given_up(why: str) -> dict[str, bool | str]:
    """What the record of a stage in `result.json` says where it was given up; nothing where it was not."""
    return {"abandoned": True, "abandoned_why": why} if why else {}
