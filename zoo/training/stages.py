"""Run the stages of a plan one after the other: train, watch and judge each, keep the best, checkpoint, resume."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from zoo.distributed.group import current
from zoo.evaluation.context import Clock, RunContext
from zoo.evaluation.metrics import Scores
from zoo.evaluation.out_of_memory import OutOfMemoryRetry, out_of_memory_as_error
from zoo.events import CheckpointSaved, EpochFinished, Note, Progress, StageFinished, StageStarted
from zoo.frozen.cut_check import check_cut
from zoo.frozen.inputs import ImageInputs, Inputs
from zoo.frozen.kept_prefix import KeptPrefixes
from zoo.frozen.outputs import FrozenOutputs, PartOfOutputs
from zoo.model import adapters
from zoo.planning.batch_sizes import batch_sizes
from zoo.specs.plan import StagePlan
from zoo.specs.run_result import Check
from zoo.storage.tensors import tensors_digest
from zoo.training.abandon import Rival, given_up, stage_gain
from zoo.training.candidates import Candidate, Candidates, Offered
from zoo.training.checkpoint import Moment, Saved
from zoo.training.curve import write_curve
from zoo.training.divided import divide
from zoo.training.learning_rate import RATES, ChosenRate, choose_rate, with_rate
from zoo.training.objective import anchors_of, objective_for
from zoo.training.out_of_fold import JudgedInFolds, fault_in_folds
from zoo.training.prepare import with_adapters
from zoo.training.processes import checks_of_all
from zoo.training.proof import check_merged
from zoo.training.run_folder import RunFolder
from zoo.training.shares import Shares, is_shared
from zoo.training.solve import fit_stage, solve_stage
from zoo.training.stage_record import candidates_of, changed_by, may_have_changed, stage_content
from zoo.training.stage_state import StageEnd, load_partial_state_dict, sub_state_dict
from zoo.training.stage_watch import NotFinite, StageWatch
from zoo.training.stored_plan import refuse_other_plan
from zoo.training.trainer import StageSetup, StageTrainer


class StageRunner:
    """Runs the plan's stages, keeps the best, resumes from a checkpoint.

    A checkpoint holds only what cannot be made again: tensors that a stage may have changed, the state of the optimizer
    and of random generators, moving averages, what the watch has seen. Frozen weights, cached features, the order of
    images and learning rates follow from the plan, so they are made again and a checkpoint stays small.
    """

    def __init__(
        self,
        context: RunContext,
        folder: RunFolder | None,
        *,
        frozen: FrozenOutputs | PartOfOutputs | None = None,
        offered: Offered = lambda name, logits: None,
        out_of_fold: JudgedInFolds | None = None,
    ) -> None:
        """Resume from the folder's checkpoint, where it has one.

        Args:
            context: With the model as the run builds it.
            folder: Where history and checkpoints are written; None: nowhere, as in all processes but the first.
            frozen: Gives the rows of stages that train on them; by default those of the context's images.
            offered: Called with every model that the run chooses among.
            out_of_fold: What a run in folds is judged by. Without it, such a run only trains, and keeps nothing.

        Raises:
            Refused: The checkpoint belongs to another plan.
            RunError: The checkpoint is damaged.
        """
        self._context = context
        self._plan = context.plan
        self._model = context.model
        self._folder = folder
        self._frozen = frozen or FrozenOutputs(context)
        self._kept = KeptPrefixes()
        self._out_of_fold = out_of_fold
        self._group = current()
        self.processes = list(dict.fromkeys([self._plan.processes, self._group.count]))
        """How many processes carried the run out, and each number that it went on with."""
        pulled = any(stage.settings.l2_sp for stage in self._plan.stages)
        # Before a checkpoint is loaded: anchors are the weights that the run started with.
        self._anchors = anchors_of(self._model) if pulled else None
        self._interrupted: Saved | None = None
        self._rate: ChosenRate | None = None
        self._stage_clock = Clock()
        self._epochs: list[int] = []
        self.checks: list[Check] = []
        """Checks of every stage so far."""
        self.stages: list[dict[str, Any]] = []
        """A record of every finished stage, as in `result.json`."""
        self.chosen = Candidates(
            context, lambda stages, name: changed_by(stages, context.model, name), offered, out_of_fold
        )
        """The candidates so far, and the best of them."""
        # One process has the folder. The others may be on machines that do not see it.
        saved = self._group.from_main(lambda: folder.checkpoint.load() if folder is not None else None)
        if saved is not None:
            self._load_state_dict(folder, saved)
        elif folder is not None:  # stopped before its first checkpoint: its epochs come, and are recorded, again
            folder.shorten_history(0)

    def run(self, *, stop_after: int | None = None) -> NotFinite | None:
        """Train the stages that are left.

        Args:
            stop_after: End the first of them after so many optimizer steps, and train no other.

        Returns:
            Why training was stopped early; None where it was not.
        """
        for number, stage in enumerate(self._plan.stages, start=1):
            if number <= len(self.stages):
                continue
            if fault := fault_in_folds(self._out_of_fold, stage.settings.name):
                return NotFinite(fault)
            try:
                self._run_stage(number, stage, stop_after)
            except NotFinite as error:
                return error
            if stop_after is not None:
                return None
        return None

    @property
    def best(self) -> Candidate | None:
        """The model that the run would keep now."""
        return self.chosen.best

    @property
    def candidates(self) -> int:
        """How many models the run chooses among: stages, or their epochs where a stage keeps its best, and blends."""
        return candidates_of(self._plan, self._epochs, self.stages)

    def _run_stage(self, number: int, stage: StagePlan, stop_after: int | None) -> None:
        name, epochs = stage.settings.name, stage.epochs
        self._context.report(StageStarted(stage=name, number=number, stages=len(self._plan.stages), epochs=epochs))
        self._stage_clock = Clock()
        if self._interrupted is not None:
            self._stage_clock.add(self._interrupted.facts["stage"]["seconds"])
        with with_adapters(self._model, stage, self._plan.seed):
            self._model.freeze_all_but(stage.trains, stage.tensors, stage.batch_norm)
            self._model.checkpoint_gradients(stage.settings.gradient_checkpointing)
            watch = StageWatch(self._model, stage)
            ended = False
            try:
                inputs = self._inputs(stage)
                if number == 1 and self._folder is not None and not self._folder.of_fold:
                    with self._stage_clock.paused():
                        write_curve(self._context, stage, inputs, self._folder)
                end, ended = self._train_in_shares(stage, inputs, watch, stop_after), True
            except NotFinite:
                ended = True  # in every process, at the same step
                raise
            finally:
                self.checks += checks_of_all(watch, self._group, stage) if ended else watch.checks()
            if end is None:
                return
            if stage.adapters and not end.abandoned:
                end = self._merge_adapters(stage, end, inputs)
        if stage.adapters and stage.settings.blend:
            # While adapters were in, the inputs may have held on to layers that are gone now.
            inputs = self._inputs(stage)
        self._finish_stage(stage, end, watch, inputs)

    def _train_in_shares(
        self, stage: StagePlan, inputs: Inputs, watch: StageWatch, stop_after: int | None
    ) -> StageEnd | None:
        """Train a stage by all processes together; one whose features are kept, by process 0 alone.

        A step of a head takes less time than telling the other processes of it, and so it keeps the bytes that it has
        in one process. They get what came out.
        """
        if is_shared(stage) or not self._group.several:
            return self._train_stage(self._with_number_as_rate(stage, inputs, watch), inputs, watch, stop_after)

        def train() -> tuple[StageEnd | None, ChosenRate | None, dict[str, Tensor]]:
            end = self._train_stage(self._with_number_as_rate(stage, inputs, watch), inputs, watch, stop_after)
            state = self._model.state_dict()
            return end, self._rate, {name: state[name].cpu() for name in watch.names if name in state}

        end, self._rate, trained = self._group.from_main(train)
        if not self._group.is_main:
            self._interrupted = None
            load_partial_state_dict(self._model, trained)
            if end is not None:
                watch.given_up() if end.abandoned else watch.finished(end.logits)
        return end

    def _train_stage(
        self, stage: StagePlan, inputs: Inputs, watch: StageWatch, stop_after: int | None
    ) -> StageEnd | None:
        context, name = self._context, stage.settings.name
        work = replace(self._work(stage, inputs, watch), report=context.report, record=self._record)
        if not stage.steps:
            fit = fit_stage if self._model.closed_form else solve_stage
            with context.clock.measure("train"), out_of_memory_as_error(f"fitting {name}"):
                return fit(work)

        def save(moment: Moment) -> None:
            self._save(trainer, watch, moment)

        with context.clock.measure("train"), out_of_memory_as_error(f"training {name}"):
            if self._interrupted is not None:
                # Once more for adapters, which were not in the model yet when everything else was loaded.
                load_partial_state_dict(self._model, sub_state_dict("model.", self._interrupted.parts["state"]))
            parts = divide(self._plan, stage, self._model, inputs)
            trainer = StageTrainer(replace(work, save=save, parts=parts))
            self._resume_stage(name, trainer, watch)
            return trainer.run(stop_after=stop_after)

    def _merge_adapters(self, stage: StagePlan, end: StageEnd, inputs: Inputs) -> StageEnd:
        """Merge the stage's adapters into the weights -> its outcome with the merged weights, which are saved."""
        adapters.merge(self._model)
        with self._context.clock.measure("train"), out_of_memory_as_error(f"validation {stage.settings.name}"):
            logits = inputs.val_logits(self._model)
        name, precision = stage.settings.name, self._plan.precision
        self.checks.append(check_merged(end.logits, logits, stage=name, precision=precision))
        scores = self._scores_out_of_fold(stage) or self._context.scored(logits)
        return StageEnd(scores, logits, end.epochs)

    def _finish_stage(self, stage: StagePlan, end: StageEnd, watch: StageWatch, inputs: Inputs) -> None:
        name = stage.settings.name
        before = self.best.scores if self.best else None
        candidate = Candidate(name, end.scores, end.logits, inputs.chunk)
        cached = stage.inputs != "images" and stage.settings.blend
        if cached and self.chosen.would_blend_before(stage.cut if stage.inputs == "prefix" else ""):
            inputs = ImageInputs.of(self._context, stage)  # what is cached is of other weights than the blends'
        blends = self.chosen.stage_ended(stage, candidate, inputs) if watch.usable else []
        seconds = self._stage_clock.seconds()["total"]
        self._epochs.append(end.epochs)
        digest = tensors_digest(self._model.head.state_dict()) if stage.head_alone else None
        content = stage_content(stage, end, seconds, self._rate, digest, judged_on=self._plan.judged_on)
        record = {**content, **(stage_gain(end.scores, before) if end.epochs else {}), **given_up(end.abandoned)}
        self.stages.append({**record, "blends": blends} if blends else record)
        # In folds without what the folds said, the scores are those of the training images, and no validation.
        unjudged = self._plan.folds is not None and self._out_of_fold is None
        val = end.scores.to_dict() if end.epochs and not unjudged else {}
        self._context.report(StageFinished(stage=name, seconds=seconds, val=val, abandoned=end.abandoned))
        if end.abandoned and self.best is not None:
            # The next stage begins from the best one: what was given up is a worse beginning.
            load_partial_state_dict(self._model, self.best.state)
        self._save(None, None, "stage")

    def _with_number_as_rate(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> StagePlan:
        """Return the stage with a number for its rate: its own, the one that an interrupted run found, or a new one."""
        self._rate = None
        if stage.settings.lr != "auto" or not stage.steps:
            return stage
        stored = self._interrupted.facts["stage"]["rate"] if self._interrupted else None
        self._rate = ChosenRate(**stored) if stored else self._search_rate(stage, inputs)
        watch.rate_found(self._rate.rate)
        return with_rate(stage, self._rate.rate)

    def _search_rate(self, stage: StagePlan, inputs: Inputs) -> ChosenRate:
        # `auto` is for stages that train the head alone, so the head is all that has to be put back.
        start = {name: tensor.clone() for name, tensor in self._model.head.state_dict(prefix="head.").items()}
        number = itertools.count(1)

        def train(stage: StagePlan) -> Scores:
            load_partial_state_dict(self._model, start)
            watch = StageWatch(self._model, stage)
            end = StageTrainer(self._work(stage, inputs, watch)).run()
            assert end is not None, "nothing stops the search"
            self._context.report(Progress(task="learning rate", done=next(number), total=len(RATES), unit="rates"))
            return end.scores

        try:
            return choose_rate(stage, train)
        finally:
            load_partial_state_dict(self._model, start)

    def _work(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> StageSetup:
        """Return what training the stage needs, with nothing recorded, reported or saved."""
        context = self._context
        longest = max(batch_sizes(len(context.train), stage.settings.batch_size))
        return StageSetup(
            model=self._model,
            stage=stage,
            inputs=inputs,
            train_targets=context.train_targets,
            scored=context.scored,
            seed=self._plan.seed,
            objective=objective_for(stage.settings, context.train_targets, len(self._plan.classes), self._anchors),
            watch=watch,
            rival=Rival(self.best.stage, self.best.scores) if stage.settings.abandon and self.best else None,
            micro_batches=context.micro_batches(longest, f"training {stage.settings.name}"),
            judged=self._scores_out_of_fold(stage),
            contents=[context.store.digest_of(file) for file in context.train] if stage.solver == "lbfgs" else (),
            shares=Shares(self._plan.processes, self._group) if is_shared(stage) else Shares(),
        )

    def _scores_out_of_fold(self, stage: StagePlan) -> Scores | None:
        return None if self._out_of_fold is None else self._out_of_fold.scores(stage.settings.name)

    def _record(self, epoch: EpochFinished) -> None:
        if self._folder is not None:
            self._folder.record_epoch(epoch)
            self._context.report(epoch)

    def _inputs(self, stage: StagePlan) -> Inputs:
        context = self._context
        if stage.inputs != "images":
            if stage.inputs == "prefix":
                self._check_cut(stage)
            self._kept.forget()
            return self._frozen.inputs(stage)
        self._frozen.forget()
        # In a run in folds, what the folds said of an epoch stands for its validation.
        passes = (stage.epochs if self._out_of_fold is None else 1) + len(stage.settings.blend)
        kept = self._kept.of(self._model, stage, images=len(context.val), passes=passes)
        return ImageInputs.of(context, stage, kept)

    def _check_cut(self, stage: StagePlan) -> None:
        context = self._context
        (images,) = context.store.batches(context.val[: self._plan.chunk], self._plan.chunk)
        check = check_cut(self._model, stage, images)
        # A resumed stage was checked when it first began, and its check is in the checkpoint.
        if (check.name, check.stage) not in [(earlier.name, earlier.stage) for earlier in self.checks]:
            self.checks.append(check)

    def _save(self, trainer: StageTrainer | None, watch: StageWatch | None, moment: Moment) -> None:
        """Write a checkpoint where one is due; `trainer` and `watch` are those of a running stage."""
        folder = self._folder
        due = folder is not None and folder.checkpoint.due(moment)
        if not (due if trainer is None else trainer.saves(due)):
            return
        with contextlib.nullcontext() if trainer is None else trainer.whole():
            if folder is None:  # this process gives its part of a stage that runs
                assert trainer is not None, "only that is due where there is no folder"
                trainer.state_dict()
                return
            folder.checkpoint.save(*self._state_dict(folder, trainer, watch))
        self.chosen.written()
        self._context.report(CheckpointSaved(path=folder.checkpoint.folder, stages=len(self.stages)))

    def _state_dict(
        self, folder: RunFolder, trainer: StageTrainer | None, watch: StageWatch | None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the content of a checkpoint: plain JSON types, and tensors by part and name."""
        context = self._context
        facts: dict[str, Any] = {
            "plan": self._plan.model_dump(mode="json"),
            "stages": self.stages,
            "epochs": self._epochs,
            "checks": [check.to_dict() for check in self.checks],
            "halvings": [asdict(retry) for retry in context.retries],
            "seconds": context.clock.seconds(),
            "history": folder.history_length(),
            "stage": None,
            **({"processes": self.processes} if self.processes != [1] else {}),
        }
        model = self._model.state_dict()
        begun = len(self.stages) + (trainer is not None)
        changed = may_have_changed(model, self._model, self._plan.stages[:begun], self._plan.stages[: len(self.stages)])
        tensors = {f"model.{self._model.adapted.upstream(name)}": model[name] for name in changed}
        if trainer is not None and watch is not None:
            progress, of_stage = trainer.state_dict()
            rate = asdict(self._rate) if self._rate else None
            seconds = self._stage_clock.seconds()
            facts["stage"] = {"position": progress, "watch": watch.state_dict(), "rate": rate, "seconds": seconds}
            tensors |= {f"stage.{name}": tensor for name, tensor in of_stage.items()}
        of_candidates, parts = self.chosen.state_dict(self._plan.stages[: len(self.stages)])
        return {**facts, **of_candidates}, {"state": tensors, **parts}

    def _load_state_dict(self, folder: RunFolder | None, saved: Saved) -> None:
        facts, state = saved.facts, saved.parts["state"]
        self._group.from_main(lambda: self._refuse_other_plan(folder, facts["plan"]))
        self.stages, self._epochs = list(facts["stages"]), list(facts["epochs"])
        self.checks = [Check.from_dict(check) for check in facts["checks"]]
        self._context.retries += [OutOfMemoryRetry(**retry) for retry in facts["halvings"]]
        self._context.clock.add(facts["seconds"])
        if folder is not None:
            folder.shorten_history(facts["history"])
        before, now = list(facts.get("processes", [1])), [self._group.count]
        self.processes = before if before[-1:] == now else [*before, *now]
        self.chosen.load_state_dict(facts, saved.parts)
        load_partial_state_dict(self._model, sub_state_dict("model.", state))
        if facts["stage"] is not None:
            self._interrupted = saved

    def _refuse_other_plan(self, folder: RunFolder | None, of_checkpoint: dict[str, Any]) -> None:
        if folder is not None:
            refuse_other_plan(folder.checkpoint.folder, of_checkpoint, self._plan)

    def _resume_stage(self, name: str, trainer: StageTrainer, watch: StageWatch) -> None:
        saved, self._interrupted = self._interrupted, None
        if saved is None:
            return
        state = saved.parts["state"]
        progress = saved.facts["stage"]["position"]
        trainer.load_state_dict(progress, sub_state_dict("stage.", state))
        watch.load_state_dict(saved.facts["stage"]["watch"])
        self._context.report(Note(text=f"Resuming in stage {name}, epoch {progress['epoch']}."))
