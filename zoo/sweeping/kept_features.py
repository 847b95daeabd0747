"""Trials that train the head alone, many in one process on features that are computed once.

A trial is trained by the code of a run, `StageRunner`, with the same plan of stages, the same initial head and the same
seeds, so that its scores are those of the run bit for bit. What is left out is what a run does beside training: it
opens no image, plans no more than its stages, and writes no folder, proof, report or artefact. The backbone is left out
of the model too, for nothing asks it any more: walking through its modules in every step took most of the time.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.data.dataset import Dataset
from zoo.errors import first_line
from zoo.evaluation.context import Clock, RunContext
from zoo.events import Report, silent
from zoo.frozen.inputs import CachedInputs
from zoo.frozen.outputs import FrozenOutputs
from zoo.model.model import ZooModel
from zoo.planning.build_plan import plan_stages
from zoo.planning.request import Request
from zoo.planning.resolve import Resolved, resolve
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry
from zoo.specs.backbone import Backbone, FeatureShape, Group
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.run_result import Check, named_in_words
from zoo.sweeping.trial_runs import OF_TRIAL
from zoo.training.prepare import PreparedRun, build_model_of_run, prepare
from zoo.training.proof import overall_verdict
from zoo.training.stages import StageRunner
from zoo.weights.obtain import Weights, obtain_weights

_HEADS, _INPUTS = 16, 4
"""How many untrained heads, and how many sets of rows, stay in memory for the next trial that has the same. Rows are
large; heads are small, but building one means building its backbone."""
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialScores:
    """The outcome of a trial."""

    val: dict[str, float]
    """Validation scores of what the run would keep; empty where the trial failed."""
    kept: str
    """The stage, or blend, that it is."""
    seconds: float
    """What it took, without computing features."""
    fault: str
    """Why it failed; empty where it did not."""
    feature_seconds: float = 0.0
    """What computing features took that it was the first to need; reading them where they are cached is in it, too."""


def trains_on_features(stages: tuple[StagePlan, ...]) -> bool:
    """Whether a run of these stages never needs the backbone once it has the features of all images."""
    return all(stage.head_alone and stage.inputs == "features" for stage in stages)


def draws_nothing(stages: tuple[StagePlan, ...], *, closed_form: bool) -> bool:
    """Whether the seed changes nothing in a run of these stages: each is solved, on the images as they are."""
    return all((closed_form or stage.solver == "lbfgs") and not stage.views for stage in stages)


def features_key(resolved: Resolved) -> Hashable:
    """What trials that share features have in common."""
    model = resolved.model
    # Random weights differ from seed to seed.
    seed = resolved.request.seed if model.weights.kind == "random" else None
    layers = tuple(each.module for each in resolved.outline.layers)
    return model.backbone.qualified, model.weights, model.input_size, model.head.spec.needs, layers, seed


@contextlib.contextmanager
def kept_features(request: Request, registry: Registry, report: Report, dataset: Dataset) -> Iterator[HeadTrials]:
    """Prepare for trials with the features that `request` has; `dataset`: the images that it names.

    Raises as `zoo.finetune` does before it trains.
    """
    with prepare(request, registry, report, dataset=dataset) as prepared:
        resolved = prepared.resolved
        weights = obtain_weights(
            resolved.model.backbone,
            resolved.model.weights,
            resolved.model.architecture(),
            offline=request.offline,
        )
        yield HeadTrials(prepared, weights, registry, report)


class HeadTrials:
    """Carries out trials that share their features."""

    def __init__(self, prepared: PreparedRun, weights: Weights, registry: Registry, report: Report) -> None:
        """Use a prepared run, whose model computes the features, and the weights that it was built with."""
        self._prepared = prepared
        self._weights = weights
        self._registry = registry
        self._report = report
        self._heads: OrderedDict[Hashable, nn.Module] = OrderedDict()
        self._inputs: OrderedDict[Hashable, CachedInputs] = OrderedDict()

    def run(self, request: Request) -> TrialScores:
        """Carry out the trial that `zoo finetune` would carry out for the request.

        Raises ZooError for a fault that no other trial would escape, such as a full disk.
        """
        began, before = time.perf_counter(), self._feature_seconds()
        try:
            resolved = resolve(request, self._registry, silent, dataset=self._prepared.examined.dataset)
            found = self._trained(resolved)
        except OF_TRIAL as error:
            found = TrialScores(val={}, kept="", seconds=0.0, fault=str(error))
        of_features = self._feature_seconds() - before
        return replace(found, seconds=time.perf_counter() - began - of_features, feature_seconds=of_features)

    def _feature_seconds(self) -> float:
        return self._prepared.clock.seconds()["features"]

    def _trained(self, resolved: Resolved) -> TrialScores:
        plan = self._plan(resolved)
        model = _without_backbone(self._prepared, resolved, self._head(resolved))
        of_base = self._prepared.context(plan)
        # The rows are computed by the whole model; what trains is a model without backbone, in a context of its own.
        frozen = _SharedOutputs(of_base, self._inputs)
        context = replace(of_base, model=model, report=silent, clock=Clock(), retries=[])
        runner = StageRunner(context, None, frozen=frozen)
        stopped = runner.run()
        best = runner.best
        if stopped is not None or best is None or overall_verdict(runner.checks) == "failed":
            return TrialScores(val={}, kept="", seconds=0.0, fault=_fault(stopped, runner.checks))
        kept = named_in_words(best.stage, best.share, best.start)
        return TrialScores(val=best.scores.to_dict(), kept=kept, seconds=0.0, fault="")

    def _plan(self, resolved: Resolved) -> Plan:
        """The plan of the trial, as far as training asks it: that of the prepared run with other stages."""
        plan = self._prepared.plan
        pretrained = plan.weights.kind != "random"
        stages = plan_stages(resolved, self._prepared.examined.dataset, pretrained, None, plan.precision)
        return plan.model_copy(
            update={
                "stages": stages,
                "keep": resolved.recipe.keep,
                "choose_by": resolved.recipe.choose_by,
                "seed": resolved.request.seed,
            }
        )

    def _head(self, resolved: Resolved) -> nn.Module:
        """A head with the initial values that a run with this seed gives it."""
        options = json.dumps(dict(resolved.request.head_options), sort_keys=True, default=str)
        # With its plugin: another's head may have the same name.
        key = (qualified_name(resolved.model.head), options, resolved.request.seed)

        def build() -> nn.Module:
            # As a run builds it, with the backbone before it: what is drawn first decides what is drawn next.
            examined, compute = self._prepared.examined, self._prepared.plan.compute
            return build_model_of_run(resolved, examined, compute, self._weights).head

        return copy.deepcopy(_remembered(self._heads, key, _HEADS, build))


class _SharedOutputs(FrozenOutputs):
    """Gives stages their rows, those of an earlier trial where they are the same."""

    def __init__(self, context: RunContext, shared: OrderedDict[Hashable, CachedInputs]) -> None:
        """`context`: with the model that computes the rows, and the plan of the trial."""
        super().__init__(context)
        self._seed = context.plan.seed
        self._shared = shared

    def inputs(self, stage: StagePlan) -> CachedInputs:
        keys = stage.view_keys(self._seed)
        # Keys name the draws of views; what is drawn depends on how they are augmented, too.
        # Of a stage whose epochs are shuffled in windows, rows lie in another order, which decides on its batches.
        key = (keys, stage.settings.augment if keys else None, stage.window > 0)
        return _remembered(self._shared, key, _INPUTS, lambda: super(_SharedOutputs, self).inputs(stage))


class _NoBackbone(nn.Module):
    """Stands where the backbone was."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)
        """Tells on which device the model is, for heads that have no parameters."""

    def forward(self, images: Tensor) -> Tensor:
        """Raise: nothing may ask for the features of images[N, 3, H, W]."""
        raise AssertionError("a trial on kept features asks for no others")


def _without_backbone(prepared: PreparedRun, resolved: Resolved, head: nn.Module) -> ZooModel:
    """The model of a trial: the head, on the features that are kept."""
    whole, spec = prepared.model, resolved.model.head.spec
    assert whole is not None, "it is prepared with weights"
    # A head of one linear layer may be fitted in closed form: it takes rows of any shape, and nothing computes others.
    backbone = Backbone(
        module=_NoBackbone(),
        shape=FeatureShape(pooled=whole.shape.pooled),
        groups=(Group(name="kept", members=("nothing",)),),
    )
    model = ZooModel(
        backbone,
        head,
        name=whole.name,
        classes=whole.classes,
        preprocessing=whole.preprocessing,
        loss=spec.loss,
        fit=spec.fit,
        linear=spec.linear,
    )
    return model.to(prepared.plan.device)


def _remembered(kept: OrderedDict[Hashable, _Kept], key: Hashable, most: int, make: Any) -> _Kept:
    """The value of a key, made where it is not among the latest `most`."""
    if key not in kept:
        while len(kept) >= most:
            kept.popitem(last=False)
        kept[key] = make()
    kept.move_to_end(key)
    found: _Kept = kept[key]
    return found


def _fault(stopped: Exception | None, checks: list[Check]) -> str:
    if stopped is not None:
        return first_line(stopped)
    failed = [f"{check.name}: {check.summary}" for check in checks if check.verdict == "failed"]
    return failed[0] if failed else "no stage was finished"
