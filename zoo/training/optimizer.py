"""A fresh optimizer for a stage, over exactly what it trains, and how its rate goes."""

from __future__ import annotations

import math

from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.planning.stages import decays

_MOMENTUM = 0.9


def make_optimizer(model: ZooModel, stage: StagePlan) -> Optimizer:
    """AdamW (arXiv:1711.05101) or SGD, each group of the model at its own rate.

    A group of the model becomes up to two of the optimizer, named after it: what weight decay acts on, and what it
    spares (scales, shifts, biases: tensors of one dimension).
    """
    settings = stage.settings
    by_group: dict[tuple[str, bool], list[tuple[str, object]]] = {}
    for name, parameter in model.named_parameters():
        if model.trains(name, stage.trains, stage.tensors, settings.batch_norm):
            by_group.setdefault((model.group_of(name), decays(parameter, settings)), []).append((name, parameter))
    groups = [
        {
            "params": [each for _, each in named],
            "lr": stage.rates[group],
            "weight_decay": settings.weight_decay if decayed else 0.0,
            "name": group,
        }
        for (group, decayed), named in by_group.items()
    ]
    if settings.optimizer == "sgd":
        return SGD(groups, momentum=_MOMENTUM, nesterov=True)
    return AdamW(groups)


def make_schedule(optimizer: Optimizer, stage: StagePlan) -> LambdaLR:
    """Linear warm-up, then a cosine (arXiv:1608.03983) or a line to zero, or no change; stepped once per step."""
    steps = stage.steps
    warmup = math.ceil(stage.settings.warmup * steps)
    shape = stage.settings.schedule

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[shape]

    return LambdaLR(optimizer, factor)
