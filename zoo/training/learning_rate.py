"""The learning rate: its schedule over the steps of a stage, and the search for one (`lr = "auto"`).

The schedule is a function of the step, not of a scheduler's state, so that a resumed run has the same rates. The search
trains the stage with each of a few rates and takes the best on validation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from zoo.evaluation.metrics import Scores
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Stage
from zoo.training.stage_watch import NotFinite

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Rates that the search tries, each about three times the one before."""
_MOST_STEPS = 2000
"""Optimizer steps with each rate, about. With many images, fewer epochs are enough to rank the rates."""


def set_rates(optimizer: Optimizer, stage: StagePlan, step: int) -> None:
    """Set every group's rate for a step, counted from 0 over the whole stage."""
    rates = rates_at(stage, step)
    for group in optimizer.param_groups:
        # A group that the plan does not name keeps its rate: the proof reports it.
        group["lr"] = rates.get(group["name"], group["lr"])


def rates_at(stage: StagePlan, step: int) -> dict[str, float]:
    """Return the learning rate of every group in a step, counted from 0: its peak rate times the schedule's factor."""
    factor = schedule_factor(stage.settings, step, stage.steps)
    return {group: peak * factor for group, peak in stage.rates.items()}


def schedule_factor(settings: Stage, step: int, steps: int) -> float:
    """Return the share of the peak rate in a step: a linear warm-up, then cosine, linear or constant.

    The cosine (arXiv:1608.03983) and the line end at zero. The factor depends on the step alone, not on a scheduler's
    state, so a resumed run continues at the same rate.
    """
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        # Not 0 in the first step, which would do nothing. The whole rate is that of the first step after these.
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[settings.schedule]


@dataclass(frozen=True, slots=True)
class ChosenRate:
    """The learning rate that the search chose."""

    rate: float
    tried: dict[str, float]
    """The validation accuracy by which each rate was compared; rates whose loss diverged are left out."""


def choose_rate(stage: StagePlan, train: Callable[[StagePlan], Scores]) -> ChosenRate:
    """Find the rate whose `Scores.order` is best: the highest validation accuracy, ties going to the lower loss.

    Args:
        stage: A stage whose rate is `auto`.
        train: Trains the stage from its beginning and returns its validation scores. It must start anew each time.

    Raises:
        NotFinite: The loss diverged with every rate, in training or on the validation images.
    """
    scores: dict[float, Scores] = {}
    diverged: NotFinite | None = None
    for rate in RATES:
        try:
            found = train(with_rate(shorten_for_search(stage), rate))
        except NotFinite as error:
            diverged = error
            continue
        if found.finite:
            scores[rate] = found
    if not scores:
        raise diverged or NotFinite(
            f"Stage {stage.settings.name!r}: the validation loss is not finite with any learning rate that was tried "
            f"({', '.join(f'{rate:g}' for rate in RATES)}).\n"
            f"Next: give a rate, and the proof says what is not finite: --set {stage.settings.name}.lr={RATES[1]:g}."
        )
    best = max(scores, key=lambda rate: scores[rate].order)
    return ChosenRate(best, {f"{rate:g}": score.compared[0] for rate, score in scores.items()})


def with_rate(stage: StagePlan, rate: float) -> StagePlan:
    """Return a copy of the stage with this learning rate for every group that it trains."""
    settings = stage.settings.model_copy(update={"lr": rate})
    return stage.model_copy(update={"settings": settings, "rates": {name: rate for name in stage.trains}})


def shorten_for_search(stage: StagePlan) -> StagePlan:
    """Return a copy of the stage with the epochs that each rate is tried for: all, or fewer where epochs are long."""
    per_epoch = stage.steps // stage.settings.epochs
    epochs = max(1, min(stage.settings.epochs, _MOST_STEPS // per_epoch))
    settings = stage.settings.model_copy(update={"epochs": epochs})
    return stage.model_copy(update={"settings": settings, "steps": epochs * per_epoch})
