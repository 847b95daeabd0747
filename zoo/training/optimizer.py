"""A fresh optimizer for a stage, over exactly what it trains, and how its rate goes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from zoo.model.model import ZooModel
from zoo.planning.plan import StagePlan
from zoo.planning.stages import decays
from zoo.recipes import Stage

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
    # One pass over memory instead of several: an AdamW step took an eighth of the time on 12 million weights.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return SGD(groups, momentum=_MOMENTUM, nesterov=True, fused=fused)
    return AdamW(groups, fused=fused)


def take_step(optimizer: Optimizer) -> None:
    """One step of the optimizer. Fused ones take a gradient of another layout than its parameter's for one of the same
    (torch 2.15, on the CPU) and go astray: such a gradient is laid out anew first."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    optimizer.step()


def set_rates(optimizer: Optimizer, stage: StagePlan, step: int) -> None:
    """Give every group its rate for the step, counted from 0 over the whole stage."""
    rates = rates_at(stage, step)
    for group in optimizer.param_groups:
        # A group that the plan does not know keeps its rate: the proof tells of it.
        group["lr"] = rates.get(group["name"], group["lr"])


def rates_at(stage: StagePlan, step: int) -> dict[str, float]:
    """Learning rate of every group in a step: its peak times what the schedule says."""
    factor = schedule_factor(stage.settings, step, stage.steps)
    return {group: peak * factor for group, peak in stage.rates.items()}


def schedule_factor(settings: Stage, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine (arXiv:1608.03983) or a line to zero, or no change -> share of the peak rate.

    A function of the step alone, so that a run that is taken up again goes on at the same rate.
    """
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[settings.schedule]


def optimizer_state(model: ZooModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, under `PARAMETER.KEY`."""
    return {
        f"{name}.{key}": each
        for name, parameter in model.named_parameters()
        for key, each in optimizer.state.get(parameter, {}).items()
        if isinstance(each, Tensor)
    }


def load_optimizer_state(model: ZooModel, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`."""
    parameters = dict(model.named_parameters())
    for full, tensor in state.items():
        name, _, key = full.rpartition(".")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            # In the parameter's layout in memory, as the optimizer makes it.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        # Fused ones count their steps where the parameter is.
        optimizer.state[parameter][key] = tensor.to(parameter.device)
