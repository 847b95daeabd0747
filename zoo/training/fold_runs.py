"""Carry out the stages of a run once for each fold, without its images, to judge them.

A fold's run is the run itself on fewer images: the same stages from the same beginning, with the same seeds. So what is
measured is the whole procedure, a solver's choice of its strength included. Where the head alone trains, the features
of all images are computed once, and a fold takes some of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.data.dataset import names_of
from zoo.data.manifest import chosen
from zoo.distributed.group import current
from zoo.errors import RunError
from zoo.evaluation.context import RunContext
from zoo.events import Event, Note, Progress, Report
from zoo.frozen.outputs import FrozenOutputs
from zoo.planning.batch_sizes import batch_sizes
from zoo.probes.folds import Folds
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.run_result import Check
from zoo.storage.atomic import clear_write_errors, json_text, parse_json, write_text
from zoo.storage.tensors import save_tensors
from zoo.training.blending import cpu_state
from zoo.training.out_of_fold import FoldFit, JudgedInFolds, check_out_of_fold, put_together
from zoo.training.run_folder import RunFolder
from zoo.training.stage_state import load_partial_state_dict
from zoo.training.stages import StageRunner

FOLDS = "folds"
"""Folder in a run folder with a folder for each fold, where stages train the backbone."""
_FINISHED, _LOGITS = "finished.json", "out_of_fold.safetensors"


def judge_out_of_fold(
    context: RunContext, folds: Folds, frozen: FrozenOutputs, folder: RunFolder | None
) -> tuple[JudgedInFolds, Check]:
    """Run all stages once without each fold, and leave the model as it was built -> the logits, and a check of them.

    Args:
        context: The run's, whose model is as the run builds it.
        folds: Of its training images.
        frozen: Gives the rows of all images.
        folder: The run's. Folds of a run that trains the backbone are kept there, so that they can be resumed. None in
            all processes of a run but the first.
    """
    plan = context.plan
    assert plan.folds is not None, "the plan has the folds"
    built = cpu_state(context.model)
    places: list[RunFolder | None] = [None] * folds.count
    # Fits of a head alone take parts of a second: a resumed run repeats them.
    if folder is not None and not all(stage.head_alone for stage in plan.stages):
        places = [_place(folder, number) for number in range(1, folds.count + 1)]
    # One text of each digest, which the folds share.
    contents = {file.relative: context.store.digest_of(file) for file in context.train}
    fits = []
    for fold, place in enumerate(places):
        finished = current().from_main(lambda place=place: _finished(place))  # type: ignore[misc]
        fits.append(finished or _fit(context, folds, fold, frozen, place, contents))
        # Each fold begins from the same weights, and so does the run that follows them.
        load_partial_state_dict(context.model, built)
        context.report(Progress(task=FOLDS, done=fold + 1, total=folds.count, unit="folds"))
    judged = put_together(fits, folds, context.train_targets, balanced=context.balanced)
    return judged, check_out_of_fold(fits, folds, contents, judged, plan.folds.kept_together)


def _fit(
    context: RunContext,
    folds: Folds,
    fold: int,
    frozen: FrozenOutputs,
    place: RunFolder | None,
    contents: Mapping[str, str],
) -> FoldFit:
    """Run all stages without the images of a fold. `contents`: digests of all images, by name."""
    held_out = folds.held_out(fold)
    rest = [row for row, number in enumerate(folds.of_rows) if number != fold]
    inside = np.array(folds.of_rows) != fold
    train, judged = chosen(context.train, inside), chosen(context.train, ~inside)
    of_fold = replace(
        context,
        plan=_plan_without(context.plan, len(train)),
        dataset=replace(context.dataset, splits={"train": train, "val": judged}),
        report=_told(context.report, f"fold {fold + 1} of {folds.count}"),
    )
    logits = _Logits(place)
    stages = StageRunner(of_fold, place, frozen=frozen.part(rest, held_out), offered=logits.offered)
    stopped = stages.run()
    found = FoldFit(
        logits=logits.by_name,
        checks=tuple(stages.checks),
        trained_on=frozenset(contents[name] for name in names_of(train)),
        stopped=str(stopped or ""),
    )
    if place is not None:
        _finish(place, found)
    return found


def _plan_without(plan: Plan, images: int) -> Plan:
    """The plan of a fold, which trains on so many images: the same but for the number of steps."""
    stages = tuple(_with_steps(stage, images) for stage in plan.stages)
    # Without folds of its own, it is validated on the images that it leaves out.
    return plan.model_copy(update={"stages": stages, "folds": None})


def _with_steps(stage: StagePlan, images: int) -> StagePlan:
    if not stage.steps:
        return stage
    settings = stage.settings
    steps = settings.epochs * len(batch_sizes(images, settings.batch_size * settings.accumulate))
    return stage.model_copy(update={"steps": steps})


def _told(report: Report, name: str) -> Report:
    """Pass on what people must hear of a fold's run. Observers follow the run itself, not its folds."""

    def told(event: Event) -> None:
        if isinstance(event, Progress):
            report(replace(event, task=f"{name}, {event.task}"))
        elif isinstance(event, Note) and event.loud:
            report(replace(event, text=f"{name}: {event.text}"))

    return told


def _place(folder: RunFolder, number: int) -> RunFolder:
    path = folder.path / FOLDS / str(number)
    with clear_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path, resumed_as=folder.path)


class _Logits:
    """The logits of a fold's candidates, on the disk too where the fold can be resumed.

    A checkpoint knows how candidates were judged, but not their logits. It is written after these are.
    """

    def __init__(self, place: RunFolder | None) -> None:
        self._path = place.path / _LOGITS if place is not None else None
        self.by_name: dict[str, Tensor] = {}
        if place is not None and self._path is not None and self._path.exists():
            try:
                self.by_name = load_file(self._path)
            except (OSError, SafetensorError) as error:
                raise _unreadable(place, error) from None

    def offered(self, name: str, logits: Tensor) -> None:
        """Take a candidate's logits[M, classes]."""
        self.by_name[name] = logits.cpu()
        if self._path is not None:
            # safetensors writes in place: a process killed meanwhile would leave half a file.
            draft = self._path.with_name(f".{self._path.name}-draft")
            with clear_write_errors(self._path):
                save_tensors(draft, self.by_name)
                draft.replace(self._path)


def _finish(place: RunFolder, fit: FoldFit) -> None:
    content: dict[str, Any] = {
        "format": 1,
        "checks": [check.to_dict() for check in fit.checks],
        "trained_on": sorted(fit.trained_on),
        "stopped": fit.stopped,
    }
    # In this order: at no moment is there neither the checkpoint nor the outcome.
    write_text(place.path / _FINISHED, json_text(content))
    place.remove_checkpoint()


def _finished(place: RunFolder | None) -> FoldFit | None:
    """The fit of a fold that an earlier process of the same run finished; None where it has to be done."""
    if place is None or not (place.path / _FINISHED).exists():
        return None
    # The process may have been killed before it did so.
    place.remove_checkpoint()
    try:
        content = parse_json((place.path / _FINISHED).read_text("utf-8"))
        checks = tuple(Check.from_dict(check) for check in content["checks"])
        return FoldFit(
            logits=load_file(place.path / _LOGITS) if (place.path / _LOGITS).exists() else {},
            checks=checks,
            trained_on=frozenset(content["trained_on"]),
            stopped=content["stopped"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _unreadable(place, error) from None


def _unreadable(place: RunFolder, error: Exception) -> RunError:
    return RunError(
        f"{place.path} cannot be read: {error!r}.\nNext: remove it, and resume the run: the fold is trained again."
    )
