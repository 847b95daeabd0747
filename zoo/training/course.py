"""The stages of a run, one after the other: each trained, watched and judged, the best kept, all of it resumable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from zoo.clock import Clock
from zoo.events import CheckpointSaved, EpochFinished, Note, Progress, Report, StageFinished, StageStarted, silent
from zoo.model import adapters
from zoo.planning.batches import batch_sizes
from zoo.planning.plan import StagePlan
from zoo.training import seeding
from zoo.training.checkpoint import Moment, Saved
from zoo.training.context import RunContext
from zoo.training.inputs import ImageInputs, Inputs
from zoo.training.loop import StageEnd, StageTraining, below, copy_into, fit_stage
from zoo.training.memory import Halving, memory_suffices
from zoo.training.metrics import Scores, score
from zoo.training.objective import Objective, anchors_of, balanced_weights
from zoo.training.proof import Check, check_merged
from zoo.training.rate import RATES, ChosenRate, choose_rate, settled
from zoo.training.resume import refuse_other_plan
from zoo.training.reuse import Reuse, check_cut
from zoo.training.start import with_adapters
from zoo.training.watch import NotFinite, StageWatch


@dataclass(slots=True)
class Candidate:
    """The model at the end of a stage."""

    stage: str
    scores: Scores
    logits: Tensor
    """Over the validation split, in pieces of `chunk`."""
    chunk: int
    state: dict[str, Tensor]


class Course:
    """Made on a model as the run builds it; `saved` is what an interrupted run left."""

    def __init__(self, context: RunContext, saved: Saved | None) -> None:
        self._context = context
        self._plan = context.plan
        self._model = context.model
        self._reuse = Reuse(context)
        pulled = any(stage.settings.l2_sp for stage in self._plan.stages)
        self._anchors = anchors_of(self._model) if pulled else None
        self._interrupted: Saved | None = None
        self._rate: ChosenRate | None = None
        self._stage_clock = Clock()
        self._saved_best: str | None = None
        self._epochs: list[int] = []
        self.checks: list[Check] = []
        """On every stage so far."""
        self.stages: list[dict[str, Any]] = []
        """As `result.json` holds them."""
        self.best: Candidate | None = None
        if saved is not None:
            self._take_up(saved)

    def run(self) -> NotFinite | None:
        """Train what is left -> why it was stopped early, None where it was not."""
        for number, stage in enumerate(self._plan.stages, start=1):
            if number <= len(self.stages):
                continue
            try:
                self._run_stage(number, stage)
            except NotFinite as error:
                return error
        return None

    @property
    def candidates(self) -> int:
        """Models that the choice was made among: one a stage, or one an epoch where a stage keeps its best."""
        each = [
            epochs if stage.settings.keep_epoch == "best" else 1
            for stage, epochs in zip(self._plan.stages, self._epochs, strict=False)
        ]
        return sum(each) if self._plan.keep == "best" else sum(each[-1:])

    def _run_stage(self, number: int, stage: StagePlan) -> None:
        name, epochs = stage.settings.name, stage.settings.epochs
        self._context.report(StageStarted(stage=name, number=number, stages=len(self._plan.stages), epochs=epochs))
        self._stage_clock = Clock()
        if self._interrupted is not None:
            self._stage_clock.add(self._interrupted.facts["stage"]["seconds"])
        with with_adapters(self._model, stage, self._plan.seed):
            self._model.freeze_all_but(stage.trains, stage.tensors, stage.settings.batch_norm)
            self._model.checkpoint_gradients(stage.settings.gradient_checkpointing)
            watch = StageWatch(self._model, stage)
            try:
                inputs = self._inputs(stage)
                end = self._train_stage(self._settled(stage, inputs, watch), inputs, watch)
            finally:
                self.checks += watch.checks()
            if stage.adapters:
                end = self._merged(stage, end, inputs)
        seconds = self._stage_clock.seconds()["total"]
        self._epochs.append(end.epochs)
        self.stages.append(_stage_content(stage, end, seconds) | self._rate_content())
        self._context.report(StageFinished(stage=name, seconds=seconds, val=end.scores.to_dict()))
        if watch.usable and self._is_better(end.scores):
            # On the CPU: the device may have no room for the model twice.
            state = {key: tensor.detach().cpu().clone() for key, tensor in self._model.state_dict().items()}
            self.best = Candidate(name, end.scores, end.logits, inputs.chunk, state)
        self._save(None, None, "stage")

    def _merged(self, stage: StagePlan, end: StageEnd, inputs: Inputs) -> StageEnd:
        """Merge the stage's adapters into the weights -> the same end, judged by what is saved."""
        adapters.merge(self._model)
        with self._context.clock.measure("train"), memory_suffices(f"validation {stage.settings.name}"):
            logits = inputs.val_logits(self._model)
        name, precision = stage.settings.name, self._plan.precision
        self.checks.append(check_merged(end.logits, logits, stage=name, precision=precision))
        return StageEnd(score(logits, self._context.val_targets), logits, end.epochs)

    def _settled(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> StagePlan:
        """The stage with a number for its rate: as it is, as an interrupted run found it, or found now."""
        self._rate = None
        if stage.settings.lr != "auto":
            return stage
        stored = self._interrupted.facts["stage"]["rate"] if self._interrupted else None
        self._rate = ChosenRate(**stored) if stored else self._find_rate(stage, inputs)
        watch.rate_found(self._rate.rate)
        return settled(stage, self._rate.rate)

    def _find_rate(self, stage: StagePlan, inputs: Inputs) -> ChosenRate:
        start = {name: each.clone() for name, each in self._model.head.state_dict(prefix="head.").items()}
        number = itertools.count(1)

        def trial(stage: StagePlan) -> Scores:
            copy_into(self._model, start)
            watch = StageWatch(self._model, stage)
            end = self._training(stage, inputs, watch, silent, lambda epoch: None, lambda moment: None).run()
            self._context.report(Progress(task="learning rate", done=next(number), total=len(RATES), unit="rates"))
            return end.scores

        try:
            return choose_rate(stage, trial)
        finally:
            copy_into(self._model, start)

    def _rate_content(self) -> dict[str, Any]:
        return {} if self._rate is None else {"lr": self._rate.rate, "tried": self._rate.tried}

    def _is_better(self, scores: Scores) -> bool:
        # Strictly better only: ties go to the earlier stage, which changed less.
        return self.best is None or self._plan.keep == "last" or scores.accuracy > self.best.scores.accuracy

    def _train_stage(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> StageEnd:
        if self._model.closed_form:
            return self._fit_stage(stage, inputs, watch)
        context, name = self._context, stage.settings.name

        def save(moment: Moment) -> None:
            self._save(training, watch, moment)

        with context.clock.measure("train"), memory_suffices(f"training {name}"):
            training = self._training(stage, inputs, watch, context.report, context.record, save)
            self._take_up_stage(name, training, watch)
            return training.run()

    def _training(
        self,
        stage: StagePlan,
        inputs: Inputs,
        watch: StageWatch,
        report: Report,
        record: Callable[[EpochFinished], None],
        save: Callable[[Moment], None],
    ) -> StageTraining:
        context = self._context
        longest = max(batch_sizes(len(context.train), stage.settings.batch_size))
        return StageTraining(
            self._model,
            stage,
            inputs,
            train_targets=context.train_targets,
            val_targets=context.val_targets,
            seed=self._plan.seed,
            objective=self._objective(stage),
            watch=watch,
            pieces=context.pieces(longest, f"training {stage.settings.name}"),
            report=report,
            record=record,
            save=save,
        )

    def _objective(self, stage: StagePlan) -> Objective:
        balanced = stage.settings.class_weights == "balanced"
        targets, classes = self._context.train_targets, len(self._plan.classes)
        return Objective(stage.settings, balanced_weights(targets, classes) if balanced else None, self._anchors)

    def _fit_stage(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> StageEnd:
        context = self._context
        with context.clock.measure("train"), memory_suffices(f"fitting {stage.settings.name}"):
            return fit_stage(
                self._model,
                stage,
                inputs,
                train_targets=context.train_targets,
                val_targets=context.val_targets,
                watch=watch,
                record=context.record,
            )

    def _inputs(self, stage: StagePlan) -> Inputs:
        context = self._context
        if stage.inputs != "images":
            if stage.inputs == "prefix":
                self._check_cut(stage)
            return self._reuse.inputs(stage)
        self._reuse.forget()
        pieces = context.pieces(self._plan.chunk, f"validation {stage.settings.name}")
        progress = context.progress("validate", len(context.val))
        keys = seeding.view_keys(self._plan.seed, stage)
        return ImageInputs(context.store, context.train, context.val, stage, pieces, progress, keys)

    def _check_cut(self, stage: StagePlan) -> None:
        context = self._context
        (images,) = context.store.batches(context.val[: self._plan.chunk], self._plan.chunk)
        found = check_cut(self._model, stage, images)
        # A stage that is taken up again has the verdict of its first beginning.
        if (found.name, found.stage) not in [(each.name, each.stage) for each in self.checks]:
            self.checks.append(found)

    def _save(self, training: StageTraining | None, watch: StageWatch | None, moment: Moment) -> None:
        """Into the checkpoint, where one is due; `training` and `watch` are those of a stage under way."""
        context = self._context
        if not context.checkpoint.due(moment):
            return
        facts: dict[str, Any] = {
            "plan": self._plan.model_dump(mode="json"),
            "stages": self.stages,
            "epochs": self._epochs,
            "checks": [check.to_dict() for check in self.checks],
            "halvings": [asdict(halving) for halving in context.halvings],
            "seconds": context.clock.seconds(),
            "history": context.folder.history_length(),
            "best": None,
            "stage": None,
        }
        model = self._model.state_dict()
        stages = len(self.stages) + (training is not None)
        tensors = {f"model.{self._model.adapted.upstream(name)}": model[name] for name in self._moved(model, stages)}
        if training is not None and watch is not None:
            position, of_stage = training.state()
            rate = asdict(self._rate) if self._rate else None
            seconds = self._stage_clock.seconds()
            facts["stage"] = {"position": position, "watch": watch.state(), "rate": rate, "seconds": seconds}
            tensors |= {f"stage.{name}": each for name, each in of_stage.items()}
        parts = {"state": tensors}
        if self.best is not None:
            facts["best"] = {
                "stage": self.best.stage,
                "scores": self.best.scores.to_dict(),
                "chunk": self.best.chunk,
            }
            if self._saved_best != self.best.stage:
                moved = self._moved(self.best.state, len(self.stages))
                kept = {f"state.{name}": self.best.state[name] for name in moved}
                parts["best"] = {**kept, "logits": self.best.logits}
        context.checkpoint.save(facts, parts)
        self._saved_best = self.best.stage if self.best else None
        context.report(CheckpointSaved(path=context.checkpoint.folder, stages=len(self.stages)))

    def _moved(self, names: Iterable[str], stages: int) -> list[str]:
        """Those of the names that the first so many stages may have changed; all else is as the run built it."""
        training = self._plan.stages[:stages]
        merged = {f"{layer}.weight" for stage in self._plan.stages[: len(self.stages)] for layer in stage.adapters}
        return [
            name
            for name in names
            if _trained_by(training, self._model, name) or self._model.adapted.upstream(name) in merged
        ]

    def _take_up(self, saved: Saved) -> None:
        facts, state = saved.facts, saved.parts["state"]
        refuse_other_plan(self._context.checkpoint.folder, facts["plan"], self._plan)
        self.stages, self._epochs = list(facts["stages"]), list(facts["epochs"])
        self.checks = [Check.from_dict(each) for each in facts["checks"]]
        self._context.halvings += [Halving(**each) for each in facts["halvings"]]
        self._context.clock.add(facts["seconds"])
        self._context.folder.shorten_history(facts["history"])
        if facts["best"] is not None:
            best = saved.parts["best"]
            built = {key: tensor.detach().cpu().clone() for key, tensor in self._model.state_dict().items()}
            kept = below("state.", best)
            scores = Scores(**facts["best"]["scores"])
            self.best = Candidate(
                facts["best"]["stage"], scores, best["logits"], facts["best"]["chunk"], {**built, **kept}
            )
            self._saved_best = self.best.stage
        copy_into(self._model, below("model.", state))
        if facts["stage"] is not None:
            self._interrupted = saved

    def _take_up_stage(self, name: str, training: StageTraining, watch: StageWatch) -> None:
        saved, self._interrupted = self._interrupted, None
        if saved is None:
            return
        state = saved.parts["state"]
        copy_into(self._model, below("model.", state))  # adapters, which were not there when all else was taken up
        position = saved.facts["stage"]["position"]
        training.take_up(position, below("stage.", state))
        watch.take_up(saved.facts["stage"]["watch"])
        self._context.report(Note(text=f"Going on in stage {name}, epoch {position['epoch']}."))


def _trained_by(stages: Sequence[StagePlan], model: Any, name: str) -> bool:
    return any(model.trains(name, stage.trains, stage.tensors, stage.settings.batch_norm) for stage in stages)


def _stage_content(stage: StagePlan, end: StageEnd, seconds: float) -> dict[str, Any]:
    return {
        "name": stage.settings.name,
        "epochs": end.epochs,
        "metrics": {"val": end.scores.to_dict()},
        "seconds": seconds,
        "trainable_parameters": stage.trainable_parameters,
        "frozen_parameters": stage.frozen_parameters,
    }
