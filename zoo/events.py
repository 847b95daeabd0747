"""What a run reports while it goes on: plain, frozen records for whoever shows or keeps them. No torch here.

A run that trains tells, in this order: `RunStarted`; for every stage `StageStarted`, for every epoch of it
`EpochStarted`, `BatchFinished` after every batch, `EpochFinished`, then `StageFinished`; at the end `RunFinished` or
`RunStopped`.
`CheckpointSaved` and `Note` come in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.planning.plan import Plan
    from zoo.training.result import Result


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
class RunStarted:
    """The run folder is there, with the plan in it."""

    run: Path
    """The run folder."""
    plan: Plan
    """As `plan.json` holds it."""
    resumed: bool
    """Whether the run was stopped before, and goes on: stages and epochs that are done do not come again."""


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage begins, or is taken up again."""

    stage: str
    number: int
    """Counted from 1."""
    stages: int
    """How many the run has."""
    epochs: int
    """That the stage has at most."""


@dataclass(frozen=True, kw_only=True)
class EpochStarted:
    """An epoch begins, or is taken up again. A closed-form head has none, for it is fitted in one pass."""

    stage: str
    epoch: int
    """Counted from 1 in every stage."""
    epochs: int


@dataclass(frozen=True, kw_only=True)
class BatchFinished:
    """The optimizer has made a step."""

    stage: str
    epoch: int
    step: int
    """Counted from 1 in every stage."""
    steps: int
    """That the stage has at most."""
    images: int
    """In the batch."""
    loss: float
    """Mean over the batch, penalties included."""
    rates: Mapping[str, float]
    """Learning rate of every group in this step."""


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
class CheckpointSaved:
    """The run could be taken up again from here."""

    path: Path
    """The folder; it is gone when the run is complete."""
    stages: int
    """Finished so far."""


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    """A stage is trained and judged."""

    stage: str
    seconds: float
    val: Mapping[str, float] = field(default_factory=dict)
    """`accuracy`, `macro_f1`, `loss`, of what the stage ends with."""


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """Everything is written."""

    result: Result
    """As `finetune` returns it, also where its proof has failed."""
    confusion: tuple[tuple[int, ...], ...]
    """[class, predicted class], validation images, in the order of `result.classes`."""


@dataclass(frozen=True, kw_only=True)
class RunStopped:
    """The run ended without a result."""

    reason: str
    """In one line: an error, or that it was interrupted."""


Event = (
    Note
    | Progress
    | PlanReady
    | RunStarted
    | StageStarted
    | EpochStarted
    | BatchFinished
    | EpochFinished
    | CheckpointSaved
    | StageFinished
    | RunFinished
    | RunStopped
)
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Reports to nobody."""
