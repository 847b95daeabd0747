"""When a stage is given up because it cannot become the best one any more. Pure functions of scores.

A stage becomes the best by its accuracy or by its loss, so it is given up only where both are out of reach. There are
three ways to be sure, each with its constants; `python -m benchmarks.abandoned` counts on finished runs how often they
would have been wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.evaluation.metrics import Scores
from zoo.text import counted

FAR = 1.5
"""Times the best stage's loss that is hopeless, where accuracy is far behind too."""
ERRORS = 2.0
"""Standard errors of the best stage's accuracy that are far behind."""
BROKEN = 2.0
"""Times the loss of the very same weights at rest that batches in training mode may have before the first step."""
FEW_STEPS = 100
"""Steps in which a stage cannot mend what is broken at its start. With more it is judged at the end of its epochs."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The best stage so far, which a stage has to beat."""

    stage: str
    """Its name."""
    scores: Scores
    """Its validation scores."""


def hopeless(rival: Rival, epochs: Sequence[Scores], *, left: int, images: int) -> str:
    """Judge a stage at the end of an epoch -> why it cannot win any more; empty where it can.

    It is far behind where its loss is `FAR` times the rival's and its accuracy `ERRORS` standard errors lower. It is
    too slow where the best loss and the best accuracy so far, improved in every epoch that is left by as much as in the
    fastest one so far, would still be worse than the rival's.

    Args:
        rival: The best stage so far.
        epochs: Validation scores of this stage's epochs, the last one last.
        left: Number of epochs that are left.
        images: Number of validation images.
    """
    if left < 1 or not epochs or any(not math.isfinite(each.loss) for each in (*epochs, rival.scores)):
        return ""
    best = rival.scores
    loss, accuracy = min(each.loss for each in epochs), max(each.accuracy for each in epochs)
    if loss <= best.loss or accuracy > best.accuracy:
        return ""
    told = f"after {counted(len(epochs), 'epoch')} its loss is {loss:.3f} where {rival.stage} has {best.loss:.3f}"
    behind = best.accuracy - accuracy
    if loss >= FAR * best.loss and behind > ERRORS * standard_error(best.accuracy, images):
        return f"{told}, and its accuracy is {100 * behind:.1f} points lower"
    if len(epochs) < 2:
        return ""
    pairs = list(itertools.pairwise(epochs))
    fall = max(0.0, *(before.loss - after.loss for before, after in pairs))
    rise = max(0.0, *(after.accuracy - before.accuracy for before, after in pairs))
    if loss - left * fall > best.loss and accuracy + left * rise <= best.accuracy:
        return f"{told}, more than it can catch up in {counted(left, 'epoch')}"
    return ""


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
    if steps > FEW_STEPS or not in_training >= BROKEN * at_rest:
        return ""
    return (
        f"batch norms in training mode turn a loss of {at_rest:.3f} into {in_training:.3f} before its first step, "
        f"and {steps} steps are too few to come back"
    )


def standard_error(accuracy: float, images: int) -> float:
    """The standard error of an accuracy on so many images; of one that is 0 or 1, as if one image were not."""
    share = min(max(accuracy, 1 / (images + 1)), images / (images + 1))
    return math.sqrt(share * (1 - share) / images)


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
