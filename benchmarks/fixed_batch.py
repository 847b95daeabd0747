"""How fast a plan's last stage can train here at best: its own steps on one batch that stays in memory.

    python -m benchmarks.fixed_batch PLAN.json RESULT.json [--seconds S]

The model, precision, memory layout, optimizer and batch size are those of the plan; nothing is decoded, augmented,
watched or saved. The weights are random: their values cost no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import zoo
from zoo.planning.plan import Plan
from zoo.training.optimizer import make_optimizer

UNMEASURED = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seconds", type=float, default=15.0, help="of steps that count")
    given = parser.parse_args()
    plan = Plan.model_validate_json(given.plan.read_text())
    given.result.write_text(json.dumps({"fixed_images_per_second": round(images_per_second(plan, given.seconds), 2)}))


def images_per_second(plan: Plan, seconds: float) -> float:
    """Of the median step: features, loss, backward, optimizer."""
    stage = plan.stages[-1]
    options = plan.head.options
    model = zoo.create_model(
        plan.backbone.name, head=plan.head.name, classes=plan.classes, weights="random", head_options=options
    ).to(plan.device)
    model.idle = frozenset(plan.backbone.idle)
    model.compute_as(plan.compute).freeze_all_but(stage.trains, stage.tensors, stage.settings.batch_norm)
    model.train()
    optimizer = make_optimizer(model, stage)
    count = stage.settings.batch_size
    images = torch.rand(count, *model.preprocessing.input_size, device=plan.device)
    targets = torch.arange(count, device=plan.device) % len(plan.classes)
    took: list[float] = []
    while len(took) <= UNMEASURED or sum(took[UNMEASURED:]) < seconds:
        began = time.perf_counter()
        model.zero_grad(set_to_none=True)
        loss = model.loss(model.features(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # waits for the device
        took.append(time.perf_counter() - began)
    return count / statistics.median(took[UNMEASURED:])


if __name__ == "__main__":
    main()
