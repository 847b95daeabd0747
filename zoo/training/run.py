"""A request carried out from beginning to end, and a stopped run taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.artefact.config import FOLDER
from zoo.artefact.golden import draw_golden
from zoo.artefact.read import read_model
from zoo.artefact.write import mark_failed, write_artefact
from zoo.clock import Clock
from zoo.errors import CheckFailed, ZooError
from zoo.evaluation.assessment import confusion_matrix
from zoo.events import Note, PlanReady, Report, RunFinished, RunStarted
from zoo.model.weights import load_weights
from zoo.planning.plan import Plan
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved, complete, open_store, resolve
from zoo.registry import Registry
from zoo.source_listing import Split
from zoo.training import inference
from zoo.training.checkpoint import Checkpoint
from zoo.training.context import RunContext
from zoo.training.course import Candidate, Course
from zoo.training.estimate import Decoding, estimate
from zoo.training.lock import RunLock
from zoo.training.memory import memory_suffices
from zoo.training.metrics import score
from zoo.training.proof import (
    Check,
    check_better_than_guessing,
    check_classes,
    check_environment,
    check_preprocessing,
    check_saved,
    complaint,
    overall,
)
from zoo.training.result import FORMAT, Result
from zoo.training.resume import read_plan, refuse_differences, refuse_finished, resolve_again
from zoo.training.reuse import cuts_checked
from zoo.training.run_folder import Judged, RunFolder, refuse_unusable
from zoo.training.start import build, obtain
from zoo.weights.obtain import require_weights

_PARTS = ("data", "features", "train", "evaluate")


def make_plan(request: Request, registry: Registry, report: Report, *, measured: bool = False) -> Plan:
    """The plan alone: nothing is downloaded, trained or written. `measured`: with an estimate. Raises ZooError."""
    refuse_unusable(request.out)
    resolved = resolve(request, registry, report)
    require_weights(resolved.backbone, resolved.weights, offline=request.offline)
    with contextlib.closing(open_store(resolved)) as store:
        decoding = Decoding(report)
        plan, dataset = complete(resolved, store, decoding)
        if not measured:
            return plan
        found = estimate(resolved, plan, dataset, store, report, decode=decoding.seconds)
        return plan.model_copy(update={"estimate": found})


def finetune(
    request: Request, registry: Registry, report: Report, *, finished: Callable[[Path], None] = lambda run: None
) -> Result:
    """Plan, train, check, save; `finished` is called with the run's folder when all of it is written.

    Raises ZooError; CheckFailed after everything was written where a check of the proof found a fault.
    """
    clock = Clock(*_PARTS)
    refuse_unusable(request.out)
    with clock.measure("data"):
        resolved = resolve(request, registry, report)
    weights, fallback = obtain(resolved, report)
    with contextlib.closing(open_store(resolved, trains=True)) as store:
        with clock.measure("data"):
            plan, dataset = complete(resolved, store, report, weights=weights, fallback=fallback)
        model = build(resolved, plan, weights)
        del weights  # a second copy of the parameters
        (images,) = store.batches(dataset.splits["val"][: plan.chunk], plan.chunk)
        plan = cuts_checked(plan, model, images)
        report(PlanReady(plan=plan))
        folder = RunFolder.create(plan, request.out)
        report(Note(text=f"Run folder: {folder.path}\nIf it is stopped: zoo finetune --resume {folder.path}"))
        report(RunStarted(run=folder.path, plan=plan, resumed=False))
        context = RunContext(
            plan=plan,
            dataset=dataset,
            store=store,
            model=model,
            folder=folder,
            checkpoint=Checkpoint(folder.path),
            report=report,
            clock=clock,
        )
        return _carry_out(context, resolved, registry, finished)


def resume(
    path: Path,
    registry: Registry,
    report: Report,
    *,
    offline: bool = False,
    finished: Callable[[Path], None] = lambda run: None,
) -> Result:
    """Go on with a run that was stopped, to the bytes that it would have come to unbroken.

    `offline`: weights that are not on this machine are not fetched. `finished`: as in `finetune`.

    Raises Refused for a finished run and where plan and machine differ, RunError for what is no run and while another
    process writes it; else as `finetune`.
    """
    stored = read_plan(path)
    refuse_finished(path)
    clock = Clock(*_PARTS)
    with clock.measure("data"):
        resolved = resolve_again(stored, registry, report, offline=offline)
    weights, fallback = obtain(resolved, report)
    with contextlib.closing(open_store(resolved, trains=True)) as store:
        with clock.measure("data"):
            plan, dataset = complete(
                resolved, store, report, weights=weights, fallback=fallback or stored.weights.fallback, like=stored
            )
        refuse_differences(path, stored, plan)
        report(PlanReady(plan=plan))
        model = build(resolved, stored, weights)
        del weights
        report(RunStarted(run=path, plan=stored, resumed=True))
        context = RunContext(
            plan=stored,
            dataset=dataset,
            store=store,
            model=model,
            folder=RunFolder(path),
            checkpoint=Checkpoint(path),
            report=report,
            clock=clock,
        )
        return _carry_out(context, resolved, registry, finished)


def _carry_out(context: RunContext, resolved: Resolved, registry: Registry, finished: Callable[[Path], None]) -> Result:
    folder = context.folder
    with RunLock(context.checkpoint.folder, run=folder.path), _resumable(folder, context.report):
        refuse_finished(folder.path)  # by the process that held the lock until now
        folder.remove_leftovers()
        course = Course(context, context.checkpoint.load())
        result, failed = _Run(context, course, resolved, registry).carry_out()
    folder.remove_checkpoint()
    assert course.best is not None, "there is a result"
    taken_for = confusion_matrix(course.best.logits, context.val_targets)
    mistaken = tuple(tuple(row) for row in taken_for.tolist())
    context.report(RunFinished(result=result, confusion=mistaken))
    finished(folder.path)  # last: it may take a while, and stopping it is not stopping the run
    if failed is not None:
        raise failed
    return result


@contextlib.contextmanager
def _resumable(folder: RunFolder, report: Report) -> Iterator[None]:
    """Whatever stops a run short of its verdict says how to go on."""
    try:
        yield
    except CheckFailed:
        raise
    except (KeyboardInterrupt, SystemExit, ZooError) as error:
        command = f"zoo finetune --resume {folder.path}"
        if command not in str(error):
            report(Note(text=f"Stopped. To go on: {command}", loud=True))
        raise


class _Run:
    """What comes before and after the stages."""

    def __init__(self, context: RunContext, course: Course, resolved: Resolved, registry: Registry) -> None:
        self._context = context
        self._course = course
        self._resolved = resolved
        self._registry = registry
        self._plan = context.plan
        self._model = context.model
        self._folder = context.folder

    def carry_out(self) -> tuple[Result, CheckFailed | None]:
        """-> (what is saved, what is wrong with it); raises CheckFailed where there is nothing to save."""
        context, course = self._context, self._course
        before = [self._check_preprocessing(), check_classes(context.dataset, self._model.classes)]
        before.append(check_environment(self._plan))
        stopped = course.run()
        checks = before + course.checks
        if course.best is None:
            self._folder.write_proof(checks)
            said = complaint(checks, self._folder.path, stop=str(stopped or ""))
            raise CheckFailed(f"{said}\nNo stage was finished, so there is no classifier.")
        # Not `load_state_dict`: torchvision's mnasnets want a version there that a plain dictionary does not have.
        load_weights(self._model, course.best.state, architecture=self._plan.backbone.name)
        self._model.eval()
        judged = [self._judged("val", course.best.logits), *self._look_at_test()]
        scores = {"val": course.best.scores, **{each.split: score(each.logits, each.targets) for each in judged[1:]}}
        metrics = {split: each.to_dict() for split, each in scores.items()}
        with context.clock.measure("evaluate"):
            accuracy = metrics["val"]["accuracy"]
            checks.append(check_better_than_guessing(accuracy, context.val_targets, context.dataset.classes))
            with memory_suffices("golden logits"):
                golden = draw_golden(self._model)
            state = self._model.state_dict()
            write_artefact(self._folder.artefact, state, self._plan, metrics, overall(checks), golden)
            checks.append(self._check_saved(course.best))
            if checks[-1].verdict == "failed":
                mark_failed(self._folder.artefact)
        self._folder.write_proof(checks)
        self._folder.write_judged(judged, self._plan.classes)
        result = Result(path=self._folder.path, content=self._content(course.best, checks, metrics))
        # Last: a run with a result is finished.
        self._folder.write_result(result.content)
        failed = CheckFailed(complaint(checks, self._folder.path, stop=str(stopped or "")))
        return result, failed if result.proof == "failed" else None

    def _look_at_test(self) -> list[Judged]:
        """Once, when everything has been chosen."""
        context = self._context
        files = context.dataset.splits.get("test", ())
        if not files:
            return []
        with context.clock.measure("evaluate"):
            pieces = context.pieces(self._plan.chunk, "evaluation of test")
            progress = context.progress("evaluate test", len(files))
            output = inference.logits(self._model, context.store, files, pieces=pieces, progress=progress)
            return [self._judged("test", output)]

    def _judged(self, split: Split, logits: Tensor) -> Judged:
        files = self._context.dataset.splits[split]
        names = tuple(file.relative for file in files)
        return Judged(split=split, files=names, logits=logits, targets=inference.targets_of(files))

    def _check_preprocessing(self) -> Check:
        spec = self._resolved.backbone.spec
        tag = self._plan.backbone.tag
        reference = spec.reference(tag) if spec.reference else None
        return check_preprocessing(
            self._context.train,
            self._model.preprocessing,
            reference,
            weights=self._plan.backbone.name,
            native=spec.preprocessing_for(tag),
        )

    def _check_saved(self, best: Candidate) -> Check:
        """The artefact read back, against the logits by which the kept stage was chosen."""
        self._model.cpu()
        loaded, config = read_model(self._folder.artefact, self._registry)
        files = self._context.val[: best.chunk]
        pieces = self._context.pieces(best.chunk, "check of the saved file")
        with memory_suffices("check of the saved file"):
            model = loaded.to(self._plan.device)
            theirs = inference.logits(model, self._context.store, files, pieces=pieces, progress=lambda done: None)
        described = config.classes == self._plan.classes and config.preprocessing == self._plan.preprocessing
        return check_saved(
            best.logits[: len(files)], theirs, described=described, same_pieces=pieces.size == best.chunk
        )

    def _content(self, best: Candidate, checks: list[Check], metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
        plan = self._plan
        return {
            "format": FORMAT,
            "backbone": plan.backbone.name,
            "weights": plan.weights.label,
            "head": plan.head.name,
            "recipe": plan.recipe,
            "classes": list(plan.classes),
            "metrics": metrics,
            "selection": {
                "on": "val accuracy" if plan.keep == "best" else "the last stage",
                "candidates": self._course.candidates,
                "kept": best.stage,
            },
            "stages": self._course.stages,
            "memory": [asdict(halving) for halving in self._context.halvings],
            "seconds": self._context.clock.seconds(),
            "proof": overall(checks),
            "artefact": FOLDER,
        }
