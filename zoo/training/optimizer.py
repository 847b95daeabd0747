"""The optimizer of a stage, and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from zoo.model.model import ZooModel
from zoo.planning.stages import decays
from zoo.specs.plan import StagePlan
from zoo.training.divided import is_part, with_values

_MOMENTUM = 0.9


def make_optimizer(model: ZooModel, stage: StagePlan) -> Optimizer:
    """Make AdamW (arXiv:1711.05101) or SGD over exactly what the stage trains, each model group at its own rate.

    A group of the model becomes up to two groups of the optimizer, both named after it: tensors with weight decay, and
    tensors that weight decay spares (scales, shifts, biases: those of one dimension). Tensors that are held in parts
    are in groups of their own: one step cannot take both kinds.
    """
    settings = stage.settings
    by_group: dict[tuple[str, bool, bool], list[tuple[str, object]]] = {}
    for name, parameter in model.named_parameters():
        # Asked of the plan, not of `requires_grad`, so that a fault of the freezing does not hide here.
        if model.trains(name, stage.trains, stage.tensors, stage.batch_norm):
            key = model.group_of(name), decays(parameter, settings), is_part(parameter)
            by_group.setdefault(key, []).append((name, parameter))
    groups = [
        {
            "params": [parameter for _, parameter in named],
            "lr": stage.rates[group],
            "weight_decay": settings.weight_decay if decayed else 0.0,
            "name": group,
        }
        for (group, decayed, _), named in by_group.items()
    ]
    # Fused: one pass over memory instead of several. An AdamW step on 12 million weights took an eighth of the time.
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        # torch 2.15 has no fused SGD of parts.
        whole = not any(in_parts for _, _, in_parts in by_group)
        return SGD(groups, momentum=_MOMENTUM, nesterov=True, fused=fused and whole)
    return AdamW(groups, fused=fused)


def take_step(optimizer: Optimizer, found: Tensor | None = None) -> None:
    """Take one step of the optimizer.

    Where `found`, a scalar float32 on the device of the parameters (of any shape), is 1.0, nothing changes: neither
    they nor the optimizer's state. That takes a fused optimizer, as there is for the CPU and for CUDA.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Fused optimizers (torch 2.15, CPU) read a gradient as if it had its parameter's memory layout. One with
            # another layout would give a wrong step, so it is copied into the right one.
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    # Where `torch.amp.GradScaler` leaves it for them.
    optimizer.found_inf = found  # type: ignore[attr-defined]
    optimizer.step()


def optimizer_state(
    model: ZooModel, optimizer: Optimizer, read: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> dict[str, Tensor]:
    """Return the optimizer's state tensors under `PARAMETER.KEY`, each of its parameter's shape or a step count[].

    Names, not the positions of torch's own `state_dict`: a checkpoint stays readable by name. `read` makes of each
    tensor, of any shape, what is returned of it.
    """
    return {
        f"{name}.{key}": read(tensor)
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def load_optimizer_state(model: ZooModel, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_state` returned."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in state.items():
        name, _, key = full_name.rpartition(".")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            # The optimizer makes its state in the parameter's memory layout; files do not keep the layout.
            empty = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            tensor = with_values(empty, tensor)
        # Fused optimizers keep their step counts on the parameter's device.
        optimizer.state[parameter][key] = tensor.to(parameter.device)


class Average:
    """An exponential moving average of the weights, updated after every step.

    Running statistics of batch norms are not averaged; they are the latest ones.
    """

    def __init__(self, model: ZooModel, decay: float) -> None:
        """Begin with a copy of the model; each update keeps the share `decay` of what was before."""
        self.model = copy.deepcopy(model)
        """A model with the averages as its weights."""
        self._decay = decay
        self._steps = 0

    def update(self, model: ZooModel) -> None:
        """Include the model's current weights. The first ones are copied."""
        # The bits are those of torch's `AveragedModel` with `get_ema_multi_avg_fn`. But that copies its count of steps
        # to the device each time, and so waits for a GPU at every step.
        averages: list[Tensor] = [each.detach() for each in self.model.parameters()]
        weights: list[Tensor] = [each.detach() for each in model.parameters()]
        with torch.no_grad():
            if self._steps:
                torch._foreach_lerp_(averages, weights, 1 - self._decay)
            else:
                torch._foreach_copy_(averages, weights)
            for own, latest in zip(self.model.buffers(), model.buffers(), strict=True):
                own.copy_(latest)
        self._steps += 1

    def state_dict(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the averages of these parameters and buffers, by full name, and `steps`: the number of updates."""
        state = self.model.state_dict()
        return {name: state[name] for name in names if name in state} | {"steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned."""
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                if name == "steps":
                    self._steps = int(tensor)
                else:
                    own[name].copy_(tensor)


def make_average(model: ZooModel, decay: float) -> Average | None:
    """Make the average of a stage; None for a decay of 0."""
    return Average(model, decay) if decay else None
