"""Stages without gradient steps: a closed form, or a solver that fits a linear head to the minimum of its loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from zoo.events import EpochFinished, EpochStarted, Note, Progress
from zoo.probes.folds import Folds, make_folds
from zoo.probes.layer_penalty import FACTORS, ChosenPenalty, choose_penalty, penalties_of
from zoo.probes.logistic import LogisticFit, LogisticProblem
from zoo.probes.strength import RULE
from zoo.training.frozen_faults import refuse_features
from zoo.training.solver_check import check_solver
from zoo.training.stage_state import StageEnd
from zoo.training.trainer import StageSetup

_State = Mapping[str, Tensor]


def fit_stage(work: StageSetup) -> StageEnd:
    """Fit a closed-form head in one pass over the features. Raises NotFinite for features that are not."""
    model = work.model

    def fit(features: Tensor, targets: Tensor) -> None:
        states = []
        for _ in range(2):  # twice, for the proof
            model.fit_head(features, targets)
            states.append(_state(model.head))
        work.watch.fitted(*states)

    return _in_one_go(work, fit)


def solve_stage(work: StageSetup) -> StageEnd:
    """Fit a head of one linear layer by logistic regression, with a strength chosen by cross-validation.

    Raises NotFinite for features that are not.
    """
    solved: dict[str, Any] = {}

    def fit(features: Tensor, targets: Tensor) -> None:
        solved.update(_solve(work, features, targets))

    end = _in_one_go(work, fit)
    return StageEnd(end.scores, end.logits, end.epochs, solved)


def _solve(work: StageSetup, features: Tensor, targets: Tensor) -> dict[str, Any]:
    """Fit the head to features[N, F] with targets[N], and check it -> the record of how it was found."""
    model, settings = work.model, work.stage.settings
    layer = model.linear_layer
    assert layer is not None, "the plan gives a solver only heads of one linear layer"
    class_weights = work.objective.class_weights
    # On the CPU, whatever the device is: in float64, which not every device has.
    features, targets = features.cpu(), targets.cpu()
    by_group = model.shape.layers is not None

    def problem_with(factor: float) -> LogisticProblem:
        return LogisticProblem(
            features,
            targets,
            len(model.classes),
            class_weights=class_weights,
            label_smoothing=settings.label_smoothing,
            penalties=penalties_of(features.shape[1], model.shape.pooled, factor) if by_group else None,
        )

    folds = _folds(work, targets)
    task = f"{settings.name}: strengths"

    def progress(done: int, total: int) -> None:
        work.report(Progress(task=task, done=done, total=total, unit="strengths"))

    chosen = choose_penalty(problem_with, folds, factors=FACTORS if by_group else FACTORS[:1], progress=progress)
    _tell_constant(work, chosen.problem.columns.constant, features.shape[1])
    strength = chosen.strength
    fits = [chosen.problem.fit(strength.strength, strength.start) for _ in range(2)]  # twice, for the proof
    states = [_put(fit, model.head, layer) for fit in fits]
    work.watch.solved(
        check_solver(
            model.head,
            features,
            targets,
            fit=fits[-1],
            states=states,
            penalties=penalties_of(features.shape[1], model.shape.pooled, chosen.factor),
            class_weights=class_weights,
            label_smoothing=settings.label_smoothing,
            stage=settings.name,
        )
    )
    record = _record(chosen, folds, fits[-1])
    return {**record, "groups": _record_of_groups(chosen)} if by_group else record


def _put(fit: LogisticFit, head: nn.Module, layer: nn.Linear) -> _State:
    with torch.no_grad():
        layer.weight.copy_(fit.weight)
        layer.bias.copy_(fit.bias)
    return _state(head)


def _state(head: nn.Module) -> _State:
    return {name: tensor.detach().clone() for name, tensor in head.state_dict().items()}


def _folds(work: StageSetup, targets: Tensor) -> Folds:
    """Folds of all views, in which the views and the copies of an image stay together."""
    images = work.contents or range(len(work.train_targets))
    return make_folds(targets.tolist(), [*images] * (len(targets) // len(work.train_targets)))


def _tell_constant(work: StageSetup, constant: int, columns: int) -> None:
    if constant:
        which = "All" if constant == columns else f"{constant:,} of {columns:,}"
        work.report(
            Note(
                text=f"{which} features are the same for every training image in stage {work.stage.settings.name}: "
                "they get no weight.",
                loud=constant == columns,
            )
        )


def _record(chosen: ChosenPenalty, folds: Folds, fit: LogisticFit) -> dict[str, Any]:
    return {
        "name": "lbfgs",
        "strength": chosen.strength.strength,
        "rule": RULE,
        "tried": [asdict(each) for each in chosen.strength.tried],
        "folds": chosen.strength.folds,
        "classes_never_held_out": len(folds.alone),
        "iterations": fit.iterations,
        "gradient_norm": fit.gradient_norm,
        "constant_features": fit.constant,
    }


def _record_of_groups(chosen: ChosenPenalty) -> dict[str, Any]:
    """How much more the weights of the groups' means are held back, and what else was tried."""
    return {"penalty_factor": chosen.factor, "tried": [asdict(each) for each in chosen.tried]}


def _in_one_go(work: StageSetup, fit: Callable[[Tensor, Tensor], None]) -> StageEnd:
    """Run `fit(features[N, ...], targets[N])` on all views of all training images, then validate."""
    work.report(EpochStarted(stage=work.stage.settings.name, epoch=1, epochs=1))
    began = time.perf_counter()
    model, stage, inputs = work.model, work.stage, work.inputs
    device = next(model.parameters()).device
    model.eval()
    work.watch.step_begins()
    order = [range(len(work.train_targets))]
    # All views at once: there is only one pass, so epochs cannot take them in turn.
    views = [next(inputs.train_batches(order, stage.settings.name, view)) for view in range(1, max(1, stage.views) + 1)]
    features, targets = torch.cat(views).to(device), work.train_targets.repeat(len(views)).to(device)
    refuse_features(features, work.watch, stage)
    fit(features, targets)
    with torch.no_grad():
        train_loss = float(model.loss(features, targets))
    seconds = time.perf_counter() - began
    logits = inputs.val_logits(model)
    scores = work.judged or work.scored(logits)
    work.watch.finished(logits)
    work.record(
        EpochFinished(
            stage=stage.settings.name,
            epoch=1,
            epochs=1,
            rates={},
            train_loss=train_loss,
            val=scores.to_dict(),
            seconds=time.perf_counter() - began,
            images_per_second=len(targets) / seconds,
        )
    )
    return StageEnd(scores, logits, 1)
