"""How fast a plan's stage can train here at best: its own steps on one batch that stays in memory.

    python -m benchmarks.fixed_batch PLAN.json RESULT.json [--seconds S]

The model, precision, memory layout, optimizer and batch size are those of the plan; nothing is decoded, augmented,
watched or saved. The weights are random: their values cost no time. Of several stages the last one is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import zoo
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from zoo.model.model import ZooModel
from zoo.process import keep_freed_memory
from zoo.specs.plan import Plan, StagePlan
from zoo.training.optimizer import make_optimizer

_UNMEASURED = 2
_AT_ONCE = 10
"""Steps that a GPU is given before it is waited for, as in a run."""
_COUNTED = 2
"""Images whose operations are counted: batch norm wants more than one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seconds", type=float, default=15.0, help="of steps that count")
    given = parser.parse_args()
    keep_freed_memory()  # as in the run that is compared with it
    plan = Plan.model_validate_json(given.plan.read_text())
    rate = training_rate(plan, plan.stages[-1], given.seconds)
    given.result.write_text(json.dumps({"fixed_images_per_second": round(rate, 2)}))


def training_rate(plan: Plan, stage: StagePlan, seconds: float) -> float:
    """Images a second of the median step: features, loss, backward, optimizer."""
    return _rate_of_steps(plan, stage, seconds, kept=False, compiled=False)


def compiled_rate(plan: Plan, stage: StagePlan, seconds: float) -> float:
    """As `training_rate`, with features and loss compiled by torch, as CUDA graphs on a GPU; compiling not counted."""
    return _rate_of_steps(plan, stage, seconds, kept=False, compiled=True)


def head_rate(plan: Plan, stage: StagePlan, seconds: float) -> float:
    """As `training_rate`, of a head on features that lie in memory."""
    return _rate_of_steps(plan, stage, seconds, kept=True, compiled=False)


def _rate_of_steps(plan: Plan, stage: StagePlan, seconds: float, *, kept: bool, compiled: bool) -> float:
    model = _model(plan, stage).compute_as(plan.compute).to(plan.device)
    model.train()
    optimizer = make_optimizer(model, stage)
    images, targets = _batch(model, stage.settings.batch_size, plan.device)
    if kept:
        with torch.no_grad():
            rows = model.features(images)

    def loss_of(batch: Tensor) -> Tensor:
        return model.loss(batch if kept else model.features(batch), targets)

    mode = "reduce-overhead" if _is_gpu(plan) else "default"
    loss_now = torch.compile(loss_of, mode=mode) if compiled else loss_of

    def steps() -> float:
        for _ in range(_at_once(plan)):
            model.zero_grad(set_to_none=True)
            loss = loss_now(rows if kept else images)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()  # waits for the device

    return len(images) * _at_once(plan) / median_seconds(steps, seconds)


def _is_gpu(plan: Plan) -> bool:
    return str(plan.device).startswith("cuda")


def _at_once(plan: Plan) -> int:
    return _AT_ONCE if _is_gpu(plan) else 1


def features_rate(plan: Plan, seconds: float) -> float:
    """Images a second through the backbone in evaluation mode, in the pieces in which a run computes features."""
    model = _model(plan, plan.stages[0]).compute_as(plan.compute).to(plan.device).eval()
    images, _ = _batch(model, plan.chunk, plan.device)

    def passes() -> Tensor:
        for _ in range(_at_once(plan)):
            features = model.features(images)
        return features.cpu()  # waits for the device

    with torch.inference_mode():
        return len(images) * _at_once(plan) / median_seconds(passes, seconds)


def training_flops(plan: Plan, stage: StagePlan) -> float:
    """Floating-point operations of a step for one image, forward and backward, counted on the meta device."""
    with torch.device("meta"):
        model = _model(plan, stage)
    model.train()
    images, targets = _batch(model, _COUNTED, "meta")
    with FlopCounterMode(display=False) as counter:
        model.loss(model.features(images), targets).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() / _COUNTED)


def features_flops(plan: Plan) -> float:
    """Floating-point operations of one image's way through the backbone."""
    with torch.device("meta"):
        model = _model(plan, plan.stages[0]).eval()
    images, _ = _batch(model, _COUNTED, "meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.features(images)
    return float(counter.get_total_flops() / _COUNTED)


def median_seconds(work: Callable[[], object], seconds: float) -> float:
    """Of repetitions that add up to `seconds`, after two that do not count."""
    took: list[float] = []
    while len(took) <= _UNMEASURED or sum(took[_UNMEASURED:]) < seconds:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took[_UNMEASURED:])


def _model(plan: Plan, stage: StagePlan) -> ZooModel:
    """Frozen as the stage says, on the current device."""
    model = zoo.create_model(
        plan.backbone.name,
        head=plan.head.name,
        classes=plan.classes,
        weights="random",
        head_options=plan.head.options,
    )
    model.idle = frozenset(plan.backbone.idle)
    model.freeze_all_but(stage.trains, stage.tensors, stage.batch_norm)
    return model


def _batch(model: ZooModel, count: int, device: str) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, *model.preprocessing.input_size, device=device)
    return images, torch.arange(count, device=device) % len(model.classes)


if __name__ == "__main__":
    main()
