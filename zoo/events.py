"""What a run reports while it goes on: plain records for whoever shows them. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence that people should read; `loud` where it changes what the result is worth."""

    text: str
    loud: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Work under way: `done` of `total` in `unit`; the last one has done == total."""

    task: str
    done: int
    total: int | None
    unit: str = "images"


@dataclass(frozen=True, kw_only=True)
class PlanReady:
    """The plan is complete (a `zoo.planning.plan.Plan`); what follows carries it out."""

    plan: object


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    stage: str
    number: int
    stages: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class EpochFinished:
    """One line of `history.jsonl`."""

    stage: str
    epoch: int
    epochs: int
    rates: Mapping[str, float]
    """Learning rate of every group at the epoch's beginning."""
    train_loss: float
    val: Mapping[str, float]
    """`accuracy`, `macro_f1`, `loss`."""
    seconds: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    stage: str
    seconds: float
    val: Mapping[str, float] = field(default_factory=dict)


Event = Note | Progress | PlanReady | StageStarted | EpochFinished | StageFinished
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Reports to nobody."""
