"""A request carried out from beginning to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from zoo.artefact.config import FOLDER
from zoo.artefact.read import read_model
from zoo.artefact.write import mark_failed, write_artefact
from zoo.clock import Clock
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.store import ImageStore
from zoo.errors import CheckFailed
from zoo.events import EpochFinished, PlanReady, Progress, Report, StageFinished, StageStarted
from zoo.model.model import HEAD, ZooModel
from zoo.model.weights import load_weights
from zoo.planning.batches import batch_sizes
from zoo.planning.plan import Plan, StagePlan
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved, complete, open_store, resolve
from zoo.registry import Registry
from zoo.training import inference
from zoo.training.estimate import Decoding, estimate
from zoo.training.loop import FeatureInputs, ImageInputs, Inputs, fit_stage, train_stage
from zoo.training.memory import Halving, Pieces, memory_suffices
from zoo.training.metrics import Scores, score
from zoo.training.objective import Objective, anchors_of, balanced_weights
from zoo.training.proof import (
    Check,
    check_better_than_guessing,
    check_classes,
    check_preprocessing,
    check_saved,
    overall,
)
from zoo.training.result import FORMAT, Result
from zoo.training.run_folder import RunFolder, refuse_unusable
from zoo.training.start import build, obtain
from zoo.training.watch import NotFinite, StageWatch


def make_plan(request: Request, registry: Registry, report: Report, *, measured: bool = False) -> Plan:
    """The plan alone: nothing is downloaded, trained or written. `measured`: with an estimate. Raises ZooError."""
    refuse_unusable(request.out)
    resolved = resolve(request, registry, report)
    with contextlib.closing(open_store(resolved)) as store:
        decoding = Decoding(report)
        plan, dataset = complete(resolved, store, decoding)
        if not measured:
            return plan
        found = estimate(resolved, plan, dataset, store, report, decode=decoding.seconds)
        return plan.model_copy(update={"estimate": found})


def finetune(request: Request, registry: Registry, report: Report) -> Result:
    """Plan, train, check, save.

    Raises ZooError; CheckFailed after everything was written where a check of the proof found a fault.
    """
    clock = Clock("data", "features", "train", "evaluate")
    refuse_unusable(request.out)
    with clock.measure("data"):
        resolved = resolve(request, registry, report)
    weights, fallback = obtain(resolved, report)
    with contextlib.closing(open_store(resolved)) as store:
        with clock.measure("data"):
            plan, dataset = complete(resolved, store, report, weights=weights, fallback=fallback)
        report(PlanReady(plan=plan))
        model = build(resolved, plan, weights)
        folder = RunFolder(plan, request.out)
        run = _Run(plan, dataset, store, model, folder, resolved, registry, report, clock)
        return run.carry_out()


@dataclass(slots=True)
class _Candidate:
    """The model at the end of a stage."""

    stage: str
    scores: Scores
    logits: Tensor
    """Over the validation split, in pieces of `chunk`."""
    chunk: int
    state: dict[str, Tensor]


class _Run:
    """The state of one run while it goes on."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        store: ImageStore,
        model: ZooModel,
        folder: RunFolder,
        resolved: Resolved,
        registry: Registry,
        report: Report,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._dataset = dataset
        self._store = store
        self._model = model
        self._folder = folder
        self._resolved = resolved
        self._registry = registry
        self._report = report
        self._clock = clock
        self._train, self._val = dataset.splits["train"], dataset.splits["val"]
        self._train_targets = inference.targets_of(self._train)
        self._val_targets = inference.targets_of(self._val)
        self._checks: list[Check] = []
        self._stages: list[dict[str, Any]] = []
        self._halvings: list[Halving] = []
        self._features: FeatureInputs | None = None
        pulled = any(stage.settings.l2_sp for stage in plan.stages)
        self._anchors = anchors_of(model) if pulled else None

    def carry_out(self) -> Result:
        self._checks += [self._check_preprocessing(), check_classes(self._dataset, self._model.classes)]
        best, candidates, stopped = self._train_stages()
        if best is None:
            self._folder.write_proof(self._checks)
            raise CheckFailed(f"{self._complaint(stopped)}\nNo stage was finished, so there is no classifier.")
        # Not `load_state_dict`: torchvision's mnasnets want a version there that a plain dictionary does not have.
        load_weights(self._model, best.state, architecture=self._plan.backbone.name)
        self._model.eval()
        metrics = {"val": best.scores.to_dict(), **self._look_at_test()}
        with self._clock.measure("evaluate"):
            self._checks.append(
                check_better_than_guessing(metrics["val"]["accuracy"], self._val_targets, self._dataset.classes)
            )
            write_artefact(self._folder.artefact, self._model.state_dict(), self._plan, metrics, overall(self._checks))
            self._checks.append(self._check_saved(best))
            if self._checks[-1].verdict == "failed":
                mark_failed(self._folder.artefact)
        self._folder.write_proof(self._checks)
        result = Result(path=self._folder.path, content=self._content(best, candidates, metrics))
        self._folder.write_result(result.content)
        if result.proof == "failed":
            raise CheckFailed(self._complaint(stopped))
        return result

    def _train_stages(self) -> tuple[_Candidate | None, int, NotFinite | None]:
        best: _Candidate | None = None
        for number, stage in enumerate(self._plan.stages, start=1):
            name = stage.settings.name
            total = len(self._plan.stages)
            self._report(StageStarted(stage=name, number=number, stages=total, epochs=stage.settings.epochs))
            clock = Clock()
            self._model.freeze_all_but(stage.trains, stage.tensors, stage.settings.batch_norm)
            watch = StageWatch(self._model, stage)
            try:
                inputs = self._inputs(stage)
                scores, logits = self._train_stage(stage, inputs, watch)
            except NotFinite as error:
                self._checks += watch.checks()
                return best, number - 1, error
            self._checks += watch.checks()
            seconds = clock.seconds()["total"]
            self._stages.append(_stage_content(stage, scores, seconds))
            self._report(StageFinished(stage=name, seconds=seconds, val=scores.to_dict()))
            # Strictly better only: ties go to the earlier stage, which changed less.
            if watch.usable and (best is None or scores.accuracy > best.scores.accuracy):
                # On the CPU: the device may have no room for the model twice.
                state = {key: tensor.detach().cpu().clone() for key, tensor in self._model.state_dict().items()}
                best = _Candidate(name, scores, logits, inputs.chunk, state)
        return best, len(self._plan.stages), None

    def _train_stage(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> tuple[Scores, Tensor]:
        if self._model.closed_form:
            return self._fit_stage(stage, inputs, watch)
        longest = max(batch_sizes(len(self._train), stage.settings.batch_size))
        work = f"training {stage.settings.name}"
        with self._clock.measure("train"), memory_suffices(work):
            return train_stage(
                self._model,
                stage,
                inputs,
                train_targets=self._train_targets,
                val_targets=self._val_targets,
                seed=self._plan.seed,
                objective=self._objective(stage),
                watch=watch,
                pieces=self._pieces(longest, work),
                report=self._report,
                record=self._record,
            )

    def _objective(self, stage: StagePlan) -> Objective:
        balanced = stage.settings.class_weights == "balanced"
        weights = balanced_weights(self._train_targets, len(self._plan.classes)) if balanced else None
        return Objective(stage.settings, weights, self._anchors)

    def _fit_stage(self, stage: StagePlan, inputs: Inputs, watch: StageWatch) -> tuple[Scores, Tensor]:
        with self._clock.measure("train"), memory_suffices(f"fitting {stage.settings.name}"):
            return fit_stage(
                self._model,
                stage,
                inputs,
                train_targets=self._train_targets,
                val_targets=self._val_targets,
                watch=watch,
                record=self._record,
            )

    def _inputs(self, stage: StagePlan) -> Inputs:
        if stage.inputs == "images":
            self._features = None
            pieces = self._pieces(self._plan.chunk, f"validation {stage.settings.name}")
            progress = self._progress("validate", len(self._val))
            return ImageInputs(self._store, self._train, self._val, stage, pieces, progress)
        if self._backbone_has_moved():
            self._features = None  # not beside the new ones
        if self._features is None:
            with self._clock.measure("features"):
                pieces = self._pieces(self._plan.chunk, "features")
                train = self._features_of(self._train, pieces, "features of train")
                val = self._features_of(self._val, pieces, "features of val")
            self._features = FeatureInputs(train, val, pieces.size)
        return self._features

    def _features_of(self, files: Sequence[ImageFile], pieces: Pieces, task: str) -> Tensor:
        progress = self._progress(task, len(files))
        return inference.features(self._model, self._store, files, pieces=pieces, progress=progress)

    def _backbone_has_moved(self) -> bool:
        done = self._plan.stages[: len(self._stages)]
        return any(stage.tensors or set(stage.trains) != {HEAD} for stage in done)

    def _look_at_test(self) -> dict[str, dict[str, float]]:
        """Once, when everything has been chosen."""
        files = self._dataset.splits.get("test", ())
        if not files:
            return {}
        with self._clock.measure("evaluate"):
            pieces = self._pieces(self._plan.chunk, "evaluation of test")
            progress = self._progress("evaluate test", len(files))
            output = inference.logits(self._model, self._store, files, pieces=pieces, progress=progress)
            return {"test": score(output, inference.targets_of(files)).to_dict()}

    def _check_preprocessing(self) -> Check:
        spec = self._resolved.backbone.spec
        tag = self._plan.backbone.tag
        reference = spec.reference(tag) if spec.reference else None
        return check_preprocessing(
            self._train,
            self._model.preprocessing,
            reference,
            weights=self._plan.backbone.name,
            native=spec.preprocessing_for(tag),
        )

    def _check_saved(self, best: _Candidate) -> Check:
        """The artefact read back, against the logits by which the kept stage was chosen."""
        self._model.cpu()
        loaded, config = read_model(self._folder.artefact, self._registry)
        files = self._val[: best.chunk]
        pieces = self._pieces(best.chunk, "check of the saved file")
        with memory_suffices("check of the saved file"):
            model = loaded.to(self._plan.device)
            theirs = inference.logits(model, self._store, files, pieces=pieces, progress=lambda done: None)
        described = config.classes == self._plan.classes and config.preprocessing == self._plan.preprocessing
        return check_saved(
            best.logits[: len(files)], theirs, described=described, same_pieces=pieces.size == best.chunk
        )

    def _content(self, best: _Candidate, candidates: int, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
        plan = self._plan
        return {
            "format": FORMAT,
            "backbone": plan.backbone.name,
            "weights": plan.weights.label,
            "head": plan.head.name,
            "recipe": plan.recipe,
            "classes": list(plan.classes),
            "metrics": metrics,
            "selection": {"on": "val accuracy at the end of each stage", "candidates": candidates, "kept": best.stage},
            "stages": self._stages,
            "memory": [asdict(halving) for halving in self._halvings],
            "seconds": self._clock.seconds(),
            "proof": overall(self._checks),
            "artefact": FOLDER,
        }

    def _complaint(self, stopped: NotFinite | None) -> str:
        failed = [check for check in self._checks if check.verdict == "failed"]
        where = [
            f"  {check.name}{f' (stage {check.stage})' if check.stage else ''}: {check.summary}" for check in failed
        ]
        stop = [str(stopped)] if stopped else []
        count = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
        return "\n".join([f"{count} of the proof failed:", *where, *stop, f"All of it: {self._folder.path}/proof.json"])

    def _record(self, epoch: EpochFinished) -> None:
        self._folder.record_epoch(epoch)
        self._report(epoch)

    def _pieces(self, size: int, work: str) -> Pieces:
        return Pieces(size, work=work, report=self._report, halvings=self._halvings)

    def _progress(self, task: str, total: int) -> Callable[[int], None]:
        return lambda done: self._report(Progress(task=task, done=done, total=total))


def _stage_content(stage: StagePlan, scores: Scores, seconds: float) -> dict[str, Any]:
    return {
        "name": stage.settings.name,
        "epochs": stage.settings.epochs,
        "metrics": {"val": scores.to_dict()},
        "seconds": seconds,
        "trainable_parameters": stage.trainable_parameters,
        "frozen_parameters": stage.frozen_parameters,
    }
