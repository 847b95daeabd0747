"""`lr = "auto"`: a few learning rates tried on kept features, the best on validation taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoo.planning.plan import StagePlan
from zoo.training.metrics import Scores
from zoo.training.watch import NotFinite

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_MOST_STEPS = 2000
"""Of a trial: with many images fewer epochs tell as much."""


@dataclass(frozen=True, slots=True)
class ChosenRate:
    """A learning rate, and the validation accuracy of every one that was tried; without those whose loss burst."""

    rate: float
    tried: dict[str, float]


def choose_rate(stage: StagePlan, train: Callable[[StagePlan], Scores]) -> ChosenRate:
    """The rate with the best validation accuracy; ties go to the lower loss.

    Args:
        stage: With the rate `auto`.
        train: Trains a trial from the stage's beginning -> its scores; what it leaves behind does not count.

    Raises:
        NotFinite: No rate gave a finite loss.
    """
    found: dict[float, Scores] = {}
    burst: NotFinite | None = None
    for rate in RATES:
        try:
            found[rate] = train(settled(trial(stage), rate))
        except NotFinite as error:
            burst = error
    if burst is not None and not found:
        raise burst
    best = max(found, key=lambda rate: (found[rate].accuracy, -found[rate].loss))
    return ChosenRate(best, {f"{rate:g}": scores.accuracy for rate, scores in found.items()})


def settled(stage: StagePlan, rate: float) -> StagePlan:
    """The stage with the rate in place of `auto`."""
    settings = stage.settings.model_copy(update={"lr": rate})
    return stage.model_copy(update={"settings": settings, "rates": {name: rate for name in stage.trains}})


def trial(stage: StagePlan) -> StagePlan:
    """The stage as it is tried: as it is, or with fewer epochs."""
    per_epoch = stage.steps // stage.settings.epochs
    epochs = max(1, min(stage.settings.epochs, _MOST_STEPS // per_epoch))
    settings = stage.settings.model_copy(update={"epochs": epochs})
    return stage.model_copy(update={"settings": settings, "steps": epochs * per_epoch})
