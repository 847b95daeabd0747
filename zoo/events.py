"""Events that a run reports while it works: plain, frozen records to show or to store. Nothing here imports torch.

`PlanReady` comes first, then `RunStarted`. For every stage a run reports `StageStarted`; for every epoch
`EpochStarted`, one `BatchFinished` a batch and `EpochFinished`; then `StageFinished`. Last comes `RunFinished` or
`RunStopped`.
`CheckpointSaved`, `Progress` and `Note` come in between. `Progress` and `Note` are also reported by what is no run: a
download, say.

`zoo.display` shows events to people, `zoo.training.observers` passes them on to plugins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.specs.validation import NAME, check_callables, check_name

# Types alone: a plan is a record of pydantic, which whoever only listens need not import.
if TYPE_CHECKING:
    from zoo.specs.plan import Plan
    from zoo.specs.run_result import RunResult


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence for people. `loud` means that it changes what the result is worth."""

    text: str
    loud: bool = False
    parting: bool = False
    """How to go on after the error that is raised next. The command line says both as one message."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a task: `done` of `total`, counted in `unit`. The last event of a task has done == total."""

    task: str
    done: int
    total: int | None
    unit: str = "images"


@dataclass(frozen=True, kw_only=True)
class PlanReady:
    """The plan is complete; what follows carries it out."""

    plan: Plan


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The run folder exists and holds the plan."""

    run: Path
    """Path of the run folder."""
    plan: Plan
    """The plan that `plan.json` holds."""
    resumed: bool
    """Whether a stopped run is resumed. Stages and epochs that were finished are not reported again."""


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A stage begins or is resumed."""

    stage: str
    number: int
    """Number of the stage, counted from 1."""
    stages: int
    """Number of stages in the run."""
    epochs: int
    """Largest number of epochs that the stage may take."""


@dataclass(frozen=True, kw_only=True)
class EpochStarted:
    """An epoch begins or is resumed. A closed-form head has no epochs: it is fitted in one pass."""

    stage: str
    epoch: int
    """Number of the epoch, counted from 1 in every stage."""
    epochs: int


@dataclass(frozen=True, kw_only=True)
class BatchFinished:
    """The optimizer made a step. Those of a GPU are reported when their losses are read, up to 50 together."""

    stage: str
    epoch: int
    step: int
    """Number of the step, counted from 1 in every stage."""
    steps: int
    """Largest number of steps that the stage may take."""
    images: int
    """Number of images in the batch."""
    loss: float
    """Mean loss over the batch, penalties included."""
    rates: Mapping[str, float]
    """Learning rate of every group in this step."""


@dataclass(frozen=True, kw_only=True)
class EpochFinished:
    """An epoch is trained and validated: one line of `history.jsonl`."""

    stage: str
    epoch: int
    epochs: int
    rates: Mapping[str, float]
    """Learning rate of every group at the start of the epoch."""
    train_loss: float
    """Mean loss over the training images of the epoch."""
    val: Mapping[str, float]
    """Validation scores: `accuracy`, `macro_f1`, `loss`; with a balanced `choose_by` `balanced_accuracy` and
    `balanced_loss`, too. Of a run in folds those out of fold, at the end of a stage; empty for its other epochs."""
    seconds: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """The run can be resumed from here."""

    path: Path
    """Path of the checkpoint folder, which is removed when the run is complete."""
    stages: int
    """Number of stages finished so far."""


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    """A stage is trained and scored."""

    stage: str
    seconds: float
    val: Mapping[str, float] = field(default_factory=dict)
    """Validation scores of the model that the stage ends with, as of an epoch. Of a run in folds, those out of fold."""
    abandoned: str = ""
    """Why the stage was given up before its end; empty where it was not. Then its model is not used, and later stages
    begin from the best one so far."""


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run is complete and everything is written."""

    result: RunResult
    """The result that `finetune` returns, also where a check of the proof failed."""
    confusion: Sequence[Sequence[int]]
    """Validation images by `[true class][predicted class]`, in the order of `result.classes`; of a run in folds all
    images, out of fold. Up to 200 classes a tuple of tuples. Of more it reads the same, but makes a row when it is
    asked for; its attribute `cells` has what is not zero, as (true class, predicted class, images)."""


@dataclass(frozen=True, kw_only=True)
class RunStopped:
    """The run ended without a result."""

    reason: str
    """The error in one line, or that the run was interrupted."""


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
"""Whoever is told: a function that takes one event."""


def silent(event: Event) -> None:
    """Ignore an event: the default for whoever does not listen."""


@dataclass(frozen=True, kw_only=True)
class ObserverSpec:
    """An observer of runs: it keeps curves or sends messages. It cannot change or break the run."""

    name: str
    summary: str
    build: Callable[[], Callable[[Event], None]]
    """Takes nothing and returns a function that is called with every event, in order, in the main thread. It is called
    before anything runs, for runs that ask for the observer. The text of an ImportError or ValueError is shown to the
    user."""

    def __post_init__(self) -> None:
        # When the plugin makes it, so that the fault is told of the plugin, before any run asks for it.
        check_name("observer", self.name, NAME)
        check_callables(self, "build")
