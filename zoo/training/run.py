"""Run a request from beginning to end: plan, train, check, save. Resuming shares all but the beginning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from zoo.artefact.config import FOLDER, TENSORS
from zoo.artefact.golden import draw_golden
from zoo.artefact.read import read_model
from zoo.artefact.write import mark_failed, write_artefact
from zoo.distributed.group import current
from zoo.errors import CheckFailed, ZooError
from zoo.evaluation import inference
from zoo.evaluation.context import RunContext
from zoo.evaluation.metrics import Scores, confusion_matrix
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.evaluation.shared import logits_in_shares
from zoo.events import Note, PlanReady, Report, RunFinished, RunStarted
from zoo.frozen.outputs import FrozenOutputs
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved
from zoo.planning.warnings import shortlist_warnings
from zoo.probes.folds import Folds
from zoo.registry.registry import Registry
from zoo.registry.session import arguments_of_run
from zoo.specs.plan import Plan, ShortlistPlan
from zoo.specs.run_result import Check, named_in_words
from zoo.text import shell_word
from zoo.training.blending import check_blended
from zoo.training.candidates import Candidate
from zoo.training.complete_plan import complete_plan
from zoo.training.estimate.decoding import saved_by_fast_decoding
from zoo.training.estimate.estimate import estimate
from zoo.training.fold_runs import judge_out_of_fold
from zoo.training.out_of_fold import JudgedInFolds
from zoo.training.prepare import Load, PreparedRun, prepare
from zoo.training.processes import check_number
from zoo.training.proof import (
    check_better_than_guessing,
    check_classes,
    check_copies,
    check_environment,
    check_preprocessing,
    check_saved,
    check_test,
    failure_message,
    overall_verdict,
)
from zoo.training.result import Result, result_content
from zoo.training.run_folder import EvaluatedSplit, RunFolder, RunLock, refuse_unusable
from zoo.training.stage_watch import NotFinite
from zoo.training.stages import StageRunner
from zoo.training.stored_plan import refuse_finished
from zoo.weights.state import load_weights


def make_plan(
    request: Request,
    registry: Registry,
    report: Report,
    *,
    measured: bool = False,
    shortlist: ShortlistPlan | None = None,
) -> Plan:
    """Make the plan of a request. Nothing is downloaded, trained or written.

    Args:
        request: What to train on what.
        registry: Where names are looked up.
        report: Called with every event.
        measured: With an estimate of time and memory, measured on random weights.
        shortlist: What was compared to choose the backbone; the plan holds it.

    Raises:
        ZooError: It cannot be carried out.
    """
    refuse_unusable(request.out)
    load: Load = "random" if measured else "nothing"
    with prepare(request, registry, report, load=load, trains=False, opens_all=False) as prepared:
        plan = _with_shortlist(prepared.plan, shortlist)
        if not measured:
            return plan
        shape = prepared.resolved.feature_shape
        context, decode = prepared.context(), prepared.decode_seconds
        estimated = estimate(context, feature_shape=shape, decode=decode, examined=prepared.examined)
        saved = saved_by_fast_decoding(context.dataset, context.store)
        return plan.model_copy(update={"estimate": estimated.model_copy(update={"decode_fast_saves": saved})})


def finetune(
    request: Request,
    registry: Registry,
    report: Report,
    *,
    finished: Callable[[Path], None] = lambda run: None,
    shortlist: ShortlistPlan | None = None,
) -> Result:
    """Plan, train, check and save.

    Args:
        request: What to train on what.
        registry: Where names are looked up.
        report: Called with every event.
        finished: Called with the run folder when everything is written.
        shortlist: What was compared to choose the backbone; the plan holds it.

    Raises:
        CheckFailed: A check of the proof failed. Everything was written before.
        ZooError: The run could not be completed.
    """
    group = current()
    group.from_main(lambda: refuse_unusable(request.out))
    with prepare(request, registry, report, opens_all=False) as prepared:
        plan = _with_shortlist(prepared.plan, shortlist)
        report(PlanReady(plan=plan))
        folder = RunFolder(group.from_main(lambda: RunFolder.create(plan, request.out).path))
        report(Note(text=f"Run folder: {folder.path}\nIf it is stopped: {_resuming(folder.path, plan)}"))
        return execute(prepared, plan, folder, registry, finished, resumed=False)


def _with_shortlist(plan: Plan, shortlist: ShortlistPlan | None) -> Plan:
    if shortlist is None:
        return plan
    warnings = plan.warnings + shortlist_warnings(plan, shortlist)
    return plan.model_copy(update={"shortlist": shortlist, "warnings": warnings})


def execute(
    prepared: PreparedRun,
    plan: Plan,
    folder: RunFolder,
    registry: Registry,
    finished: Callable[[Path], None],
    *,
    resumed: bool,
) -> Result:
    """Train, check and save a prepared run, from the folder's checkpoint where it has one. Raises as `finetune`.

    Where several processes carry it out, the first one alone touches the folder.

    Args:
        prepared: The run, with a model.
        plan: The plan that the folder holds. Where a part of the images was opened for it, the others are opened first,
            and the folder gets the plan that holds for all.
        folder: The run folder.
        registry: Where names are looked up.
        finished: Called with the run folder when everything is written.
        resumed: Whether a stopped run is resumed. One that is not leaves no folder if its data are refused.
    """
    report = prepared.report
    group, of_part = current(), plan.data.examined is not None
    if not group.is_main:
        plan = group.send(plan, 0) if of_part else plan
        return _take_part(prepared.context(plan), prepared.folds, folder.path)  # no lock: the first one has it
    with RunLock(folder.checkpoint.folder, run=folder.path), _resume_hint(folder, plan, report):
        # Again, now that the lock is held: the process that held it may have finished the run.
        refuse_finished(folder.path)
        found: tuple[Note, ...] = ()
        if of_part:
            prepared, plan, found = complete_plan(prepared, plan, folder, resumed=resumed)
            group.send(plan, 0)  # the others wait for it in the `send` above
        report(RunStarted(run=folder.path, plan=plan, resumed=resumed))
        for note in found:
            report(note)
        context = prepared.context(plan)
        folder.remove_leftovers()
        frozen = FrozenOutputs(context)
        judged, of_data = None, check_copies(prepared.examined.dataset, prepared.examined.contents)
        if prepared.folds is not None:
            judged, of_folds = judge_out_of_fold(context, prepared.folds, frozen, folder)
            of_data.append(of_folds)
        stages = StageRunner(context, folder, frozen=frozen, out_of_fold=judged)
        result, failed = _Run(context, folder, stages, prepared.resolved, registry, judged, of_data).run()
    folder.remove_checkpoint()  # not inside the lock, whose file is in it
    assert stages.best is not None, "a run with a result has a best stage"
    confusion = confusion_matrix(stages.best.logits, context.val_targets)
    context.report(RunFinished(result=result, confusion=confusion))
    # Last, as writing a report may take a while: who stops that does not stop the run.
    finished(folder.path)
    if failed is not None:
        current().meet()  # a launcher ends all processes when one of them ends with an error
        raise failed
    return result


def _take_part(context: RunContext, folds: Folds | None, path: Path) -> Result:
    """Do this process's part of a run whose folder the first one writes -> its result."""
    # The first process says how to resume with every error of its own. Where it is the one that is lost, others do.
    current().remember(f"To resume: {_resuming(path, context.plan)}")
    frozen, judged = FrozenOutputs(context), None
    if folds is not None:
        judged, _ = judge_out_of_fold(context, folds, frozen, None)
    stages = StageRunner(context, None, frozen=frozen, out_of_fold=judged)
    stages.run()
    _evaluate_test(context, stages.best)
    result, failed = current().from_main(_of_the_first)
    if failed is not None:
        current().meet()
        raise failed
    return result


def _of_the_first() -> tuple[Result, CheckFailed | None]:
    raise AssertionError("the first process ends the run, and tells the others")


def _evaluate_test(context: RunContext, best: Candidate | None) -> list[EvaluatedSplit]:
    """Evaluate the best stage on the test split, where there are both; all processes do it together."""
    if best is None:
        return []
    # Not `load_state_dict`: torchvision's MNASNets need version metadata that a plain dictionary does not have.
    load_weights(context.model, best.state, architecture=context.plan.backbone.name)
    context.model.eval()
    files = context.dataset.splits.get("test", ())
    if not files:
        return []
    with context.clock.measure("evaluate"), out_of_memory_as_error("evaluation of test"):
        micro_batches = context.micro_batches(context.plan.chunk, "evaluation of test")
        progress = context.progress("evaluate test", len(files))
        logits = logits_in_shares(context.model, context.store, files, micro_batches=micro_batches, progress=progress)
        return [EvaluatedSplit.of("test", files, logits, context.store.sha256_of)]


@contextlib.contextmanager
def _resume_hint(folder: RunFolder, plan: Plan, report: Report) -> Iterator[None]:
    """Whatever stops the run before its verdict, tell how to resume it."""
    try:
        yield
    except CheckFailed:
        raise
    except (KeyboardInterrupt, SystemExit, ZooError) as error:
        command = _resuming(folder.path, plan)
        if folder.path.exists() and command not in str(error):
            report(Note(text=f"Stopped. To resume: {command}", loud=True, parting=True))
        raise


def _resuming(run: Path, plan: Plan) -> str:
    """How a run is resumed: by a command, or in Python where it needs objects again."""
    objects = arguments_of_run(plan)
    return f"zoo.resume({str(run)!r}{objects})" if objects else f"zoo finetune --resume {shell_word(run)}"


class _Run:
    """Checks a run before its stages, runs them, then evaluates, saves and proves the best.

    The order of the end matters to a run that is killed in it. The artefact is written before the proof, because the
    proof reads it back. The result comes last: a run folder with a result is finished, without one it is resumed.
    """

    def __init__(
        self,
        context: RunContext,
        folder: RunFolder,
        stages: StageRunner,
        resolved: Resolved,
        registry: Registry,
        judged: JudgedInFolds | None,
        of_data: list[Check],
    ) -> None:
        self._context = context
        self._out_of_fold = judged
        self._of_data = of_data
        self._folder = folder
        self._stages = stages
        self._resolved = resolved
        self._registry = registry
        self._plan = context.plan
        self._model = context.model

    def run(self) -> tuple[Result, CheckFailed | None]:
        """Return the result, and the failure of its proof, if any. Raises CheckFailed where no stage can be kept."""
        checks = [self._check_preprocessing(), check_classes(self._context.dataset, self._model.classes)]
        checks += [check_environment(self._plan), *self._of_data]
        stopped = self._stages.run()
        checks += self._stages.checks
        if self._stages.processes != [1]:
            checks.append(check_number(self._stages.processes))
        # The test split is looked at once, after everything has been chosen.
        test = _evaluate_test(self._context, self._stages.best)
        checks += [fault for each in test for fault in check_test(each.logits, each.files)]
        return current().from_main(lambda: self._end(checks, stopped, test))

    def _end(
        self, checks: list[Check], stopped: NotFinite | None, test: list[EvaluatedSplit]
    ) -> tuple[Result, CheckFailed | None]:
        """Save, prove and write the best stage, which the model holds."""
        best = self._stages.best
        if best is None:
            self._folder.write_proof(checks)
            raise CheckFailed(f"No stage was finished, so there is no classifier.\n{self._failure(checks, stopped)}")
        judged = self._plan.judged_on
        evaluated = [self._judged(best.logits), *test]
        scores = {judged: best.scores, **{each.split: self._context.scored(each.logits, each.targets) for each in test}}
        self._save(best, scores, checks)
        self._folder.write_proof(checks)
        self._folder.write_evaluation(evaluated, self._plan.classes)
        result = self._write_result(scores, checks)
        return result, CheckFailed(self._failure(checks, stopped)) if result.proof == "failed" else None

    def _save(self, best: Candidate, scores: dict[str, Scores], checks: list[Check]) -> None:
        """Write the artefact of the best stage, and add the checks on it."""
        with self._context.clock.measure("evaluate"):
            targets, classes, judged = self._context.val_targets, self._context.dataset.classes, self._plan.judged_on
            checks.append(check_better_than_guessing(scores[judged].accuracy, targets, classes, judged_on=judged))
            with out_of_memory_as_error("golden logits"):
                golden = draw_golden(self._model)
            metrics, state = _metrics(scores), self._model.state_dict()
            kept = named_in_words(best.stage, best.share, best.start)
            write_artefact(self._folder.artefact, state, self._plan, metrics, overall_verdict(checks), golden, kept)
            of_saved = [*self._check_blended(best), self._check_saved(best)]
            checks += of_saved
            if overall_verdict(of_saved) == "failed":
                mark_failed(self._folder.artefact)

    def _write_result(self, scores: dict[str, Scores], checks: list[Check]) -> Result:
        content = result_content(
            self._plan,
            selection=self._stages.chosen.selection(self._stages.candidates),
            metrics=_metrics(scores),
            stages=self._stages.stages,
            retries=self._context.retries,
            seconds=self._context.clock.seconds(),
            proof=overall_verdict(checks),
            artefact=FOLDER,
            folds=self._folds_record(),
            processes=self._stages.processes,
        )
        result = Result(path=self._folder.path, content=content)
        self._folder.write_result(result.content)
        return result

    def _folds_record(self) -> list[dict[str, Any]] | None:
        best = self._stages.best
        if self._out_of_fold is None or best is None:
            return None
        return self._out_of_fold.by_fold(named_in_words(best.stage, best.share, best.start))

    def _failure(self, checks: list[Check], stopped: NotFinite | None) -> str:
        return failure_message(checks, self._folder.path, stop=str(stopped or ""))

    def _judged(self, logits: Tensor) -> EvaluatedSplit:
        """What the run is judged by: the validation images, or in folds every training image."""
        return EvaluatedSplit.of(self._plan.judged_on, self._context.val, logits, self._context.store.sha256_of)

    def _check_preprocessing(self) -> Check:
        spec = self._resolved.model.backbone.spec
        tag = self._plan.backbone.tag
        reference = spec.reference(tag) if spec.reference else None
        return check_preprocessing(
            self._context.train,
            self._model.preprocessing,
            reference,
            weights=self._plan.backbone.name,
            native=spec.preprocessing_for(tag),
        )

    def _check_blended(self, best: Candidate) -> list[Check]:
        """Compare the saved tensors, where a blend was kept, with the blend recomputed from its two ends."""
        if best.digests is None or best.start is None or best.share is None:
            return []
        saved = load_file(self._folder.artefact / TENSORS)
        return [check_blended(best.digests, saved, stage=best.stage, start=best.start, share=best.share)]

    def _check_saved(self, best: Candidate) -> Check:
        """Read the artefact back, as any user would, and compare its logits with those that chose the stage."""
        # The device may not have memory for the model twice.
        self._model.cpu()
        loaded, config = read_model(self._folder.artefact, self._registry)
        files = self._context.val[: best.chunk]
        micro_batches = self._context.micro_batches(best.chunk, "check of the saved file")
        with out_of_memory_as_error("check of the saved file"):
            model = loaded.to(self._plan.device)
            logits = inference.logits_of_files(
                model, self._context.store, files, micro_batches=micro_batches, progress=lambda done: None
            )
        described = config.classes == self._plan.classes and config.preprocessing == self._plan.preprocessing
        same = micro_batches.size == best.chunk
        kept = best.own_logits[: len(files)]
        return check_saved(kept, logits, described=described, digest=config.digest, same_batch_size=same)


def _metrics(scores: dict[str, Scores]) -> dict[str, dict[str, float]]:
    return {split: split_scores.to_dict() for split, split_scores in scores.items()}
