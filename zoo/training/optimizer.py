"""A fresh optimizer for a stage, over exactly what it trains."""

from __future__ import annotations

import math

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan


def make_optimizer(model: ZooModel, stage: StagePlan) -> AdamW:
    """AdamW (arXiv:1711.05101) with one parameter group per group of the model, named after it, at its own rate."""
    by_group: dict[str, list[tuple[str, object]]] = {}
    for name, parameter in model.named_parameters():
        group = model.group_of(name)
        if group in stage.rates and name not in model.idle:
            by_group.setdefault(group, []).append((name, parameter))
    return AdamW(
        [
            {"params": [each for _, each in named], "lr": stage.rates[group], "name": group}
            for group, named in by_group.items()
        ],
        weight_decay=stage.settings.weight_decay,
    )


def make_schedule(optimizer: AdamW, stage: StagePlan) -> LambdaLR:
    """Linear warm-up, then a cosine to zero (arXiv:1608.03983), stepped once per optimizer step."""
    steps = stage.steps
    warmup = math.ceil(stage.settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)
