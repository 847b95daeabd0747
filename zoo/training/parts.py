"""A backbone in parts: each process keeps one of the parameters, gradients and optimizer state of the layers that train.

By torch's FSDP2 (`fully_shard`): before a layer computes, its parameters are put together from all processes, and
dropped after it; its gradients are added up, and each process gets those of its part. Between steps a process holds
its part alone. For validation, checkpoints and the end of a stage, the parameters are put together in the model that
everything else knows, so that only steps differ from those without parts.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.distributed.group import ProcessGroup
from zoo.errors import Refused
from zoo.model.model import ZooModel
from zoo.planning.request import Request
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.run_result import Check
from zoo.storage.tensors import same_bits

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FINE = 8
"""A layer with more than the eighth part of what trains is divided further: it is whole while it computes."""
Probe = Callable[[ZooModel], object]
"""Runs the model on anything, as a step would."""


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is held in parts (torch's DTensor)."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of one that is not in parts."""
    part: Tensor = tensor.detach().to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]
    return part


def put_together(tensor: Tensor) -> Tensor:
    """The whole tensor, of whatever shape. All processes call it, for the same tensors in the same order."""
    whole: Tensor = tensor.detach().full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]
    return whole


def with_values(empty: Tensor, whole: Tensor) -> Tensor:
    """Fill a tensor, which may be in parts, with the values of a whole one of the same shape -> the tensor."""
    if not is_part(empty):
        return empty.copy_(whole)
    own = own_part(empty)
    mesh = empty.device_mesh  # type: ignore[attr-defined]
    parts = whole.chunk(mesh.size())
    if own.numel():
        own.copy_(parts[mesh.get_local_rank()])
    return empty


class BackboneInParts:
    """The model of a stage while each process holds a part of the backbone's layers that train.

    `model` is what a step calls: a twin of the stage's model that shares with it the head, everything frozen, and what
    trains outside of layers. The stage's own model has no values where the twin has parts, except inside `whole` and
    after `end`.
    """

    def __init__(self, model: ZooModel, stage: StagePlan, group: ProcessGroup, probe: Probe) -> None:
        """Divide the layers. All processes call it.

        Args:
            model: The stage's model, frozen as the stage says.
            stage: The stage.
            group: The processes, at least two.
            probe: Runs the model as a step of the stage would.

        Raises:
            Refused: It has no layer that can be divided.
        """
        self._group = group
        self._stage = stage.settings.name
        self._own = model
        self.model = _twin(model)
        probe(self.model)  # the first time, a cut traces the model
        layers = layers_to_divide(self.model, stage, probe)
        if not layers:
            raise _nothing_to_divide(stage)
        divided = {id(parameter) for _, layer in layers for parameter in layer.parameters() if parameter.requires_grad}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in divided]
        _make_contiguous([layer for _, layer in layers])
        self._divide([layer for _, layer in layers])
        held = dict(self.model.named_parameters())
        self._parts = {name: held[name] for name in names}
        whole = dict(model.named_parameters())
        self._layouts = {name: (whole[name].shape, whole[name].stride()) for name in names}
        self._homes = {name: whole[name] for name in names}
        self._inside, self._ended = 0, False
        self._drop()

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self._group.is_main

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the stage's own model has all values. All processes enter it."""
        if not self._inside and not self._ended:
            self._fill()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside and not self._ended:
                self._drop()

    def end(self) -> None:
        """Put everything together for good. All processes call it; again, it does nothing."""
        if not self._ended:
            self._fill()
            self._ended = True

    def check(self, optimizer: torch.optim.Optimizer) -> Check:
        """Compare the parts with what was put together of them, which `end` did just before, bit by bit.

        The evidence has the bytes that each process holds of what trains and of its optimizer's state. All processes
        call it.
        """
        wrong = [name for name in self._parts if not self._is_of(name)]
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        held = [*trained, *(each for parameter in trained for each in _state(optimizer, parameter))]
        own = sum(_bytes(own_part(tensor)) for tensor in held)
        of_all = self._group.gather(own)
        whole = sum(_bytes(tensor) for tensor in held)
        return Check(
            name="backbone_parts",
            stage=self._stage,
            verdict="failed" if wrong else "passed",
            summary=f"{wrong[0]} is not what the processes held in parts"
            if wrong
            else f"{len(self._parts)} tensors are, bit for bit, what {self._group.count} processes held in parts; of "
            f"{whole / 1e6:.1f} MB of trained tensors and optimizer state, each held {max(of_all) / 1e6:.1f} MB at most",
            evidence={"differing": wrong[:10], "tensors": len(self._parts), "bytes": whole, "bytes_held": of_all},
        )

    def sum_of(self, numbers: Sequence[float]) -> list[float]:
        """Each number, added up over the processes; in double precision."""
        total = torch.tensor(numbers, dtype=torch.float64)
        self._group.add_up([total])
        values: list[float] = total.tolist()
        return values

    def any_wants(self, wanted: bool) -> bool:
        """Whether any process wants something. All call it."""
        return self.sum_of([float(wanted)])[0] > 0

    def for_file(self, tensor: Tensor) -> Tensor:
        """The whole tensor in main memory for the process that writes files; nothing for others, which all call it."""
        whole = put_together(tensor)
        return whole.cpu() if self._group.is_main else torch.empty(0)

    def clip(self, most: float) -> None:
        """Scale all gradients down where their norm is above `most`, as torch's `clip_grad_norm_` does."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = self.norm_of(gradients)
        factor = min(1.0, most / (norm + 1e-6))
        for gradient in gradients:
            own_part(gradient).mul_(factor)

    def norm_of(self, gradients: Sequence[Tensor]) -> float:
        """The norm over all gradients, whole ones and parts. All processes call it."""
        squares = {True: 0.0, False: 0.0}
        for kind in squares:
            own = [own_part(each) for each in gradients if is_part(each) is kind]
            squares[kind] = float(torch.nn.utils.get_total_norm(own)) ** 2 if own else 0.0
        return float((self.sum_of([squares[True]])[0] + squares[False]) ** 0.5)

    def _divide(self, layers: Sequence[nn.Module]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        inside = {id(each) for layer in layers for each in layer.parameters() if each.requires_grad}
        stay = {parameter for parameter in self.model.parameters() if id(parameter) not in inside}
        mesh = init_device_mesh(next(self.model.parameters()).device.type, (self._group.count,))
        for layer in layers:
            layer.register_forward_hook(lambda _layer, _inputs, outputs: _without_views(outputs))
            fully_shard(layer, mesh=mesh, ignored_params=stay)
        # The model itself has no part. It says when a pass begins, so that the next layer is fetched meanwhile.
        fully_shard(self.model, mesh=mesh, ignored_params=stay)
        for method in ("features", "features_after"):
            setattr(self.model, method, _returns_no_views(getattr(self.model, method)))
            register_fsdp_forward_method(self.model, method)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                # Added up, not averaged: each process has what its share adds to the mean loss of the whole batch.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def _fill(self) -> None:
        for name, part in self._parts.items():
            size, stride = self._layouts[name]
            whole = put_together(part)
            self._homes[name].data = torch.empty_strided(size, stride, dtype=whole.dtype, device=whole.device)
            self._homes[name].data.copy_(whole)

    def _drop(self) -> None:
        for home in self._homes.values():
            home.data = home.data.new_empty(0)

    def _is_of(self, name: str) -> bool:
        parts = self._homes[name].detach().chunk(self._group.count)
        own = own_part(self._parts[name])
        if self._group.rank >= len(parts):
            return not own.numel()
        return same_bits(own, parts[self._group.rank])


def layers_to_divide(model: ZooModel, stage: StagePlan, probe: Probe) -> list[tuple[str, nn.Module]]:
    """Name the layers of the backbone that can be held in parts in a stage: those that a pass calls once, as a whole.

    What is used without a call of its layer, as a class token is, stays whole in every process. So does what two layers
    have together.

    Args:
        model: The model, on its device.
        stage: Says what trains.
        probe: Runs the model as a step would.
    """
    trained = {
        name
        for name, _ in model.named_parameters()
        if name.startswith("backbone.") and model.trains(name, stage.trains, stage.tensors, stage.batch_norm)
    }
    calls = _calls(model, probe)
    owners = Counter(
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name.startswith("backbone.")
    )
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes[name] for name in trained)

    def inside(name: str) -> list[str]:
        return [each for each in trained if each.startswith(f"{name}.")]

    def fits(name: str, layer: nn.Module) -> bool:
        shared = any(owners[id(parameter)] > 1 for parameter in layer.parameters())
        groups = {model.group_of(each) for each in inside(name)}
        return calls[name] == 1 and len(groups) == 1 and not shared

    def find(name: str, layer: nn.Module) -> list[tuple[str, nn.Module]]:
        own = inside(name)
        if not own:
            return []
        below = [each for child, module in layer.named_children() for each in find(f"{name}.{child}", module)]
        if not fits(name, layer) or (isinstance(layer, _CONTAINERS) and below):
            return below
        covered = sum(len(inside(each)) for each, _ in below) == len(own)
        divides = covered and sum(sizes[each] for each in own) > total / _FINE
        return below if divides else [(name, layer)]

    return find("backbone", model.backbone)


def refuse_one_process(request: Request, group: ProcessGroup) -> None:
    """Raise Refused where a request wants a backbone in parts, and one process alone is to hold them."""
    if request.shard_backbone and not group.several:
        raise Refused(
            "--shard-backbone divides the backbone among several processes, and this is one alone.\n"
            "Next: torchrun --nproc-per-node 2 --no-python zoo finetune ... --shard-backbone; or leave it out."
        )


def refuse_parts(plan: Plan, model: ZooModel, group: ProcessGroup) -> None:
    """Raise Refused where the plan asks for a backbone in parts, and something of it cannot be done in parts.

    One process alone goes on with the whole backbone.
    """
    if not plan.shard_backbone or not group.several:
        return
    if group.count > plan.processes:
        raise Refused(
            f"The run holds its backbone in the parts of {plan.processes} processes, and now there are {group.count}.\n"
            f"Next: resume it with {plan.processes} processes, or with one, which holds the whole backbone."
        )
    if plan.folds is not None:
        raise Refused(
            "--shard-backbone, and --folds: folds fit many models, each whole.\n"
            "Next: leave --folds out, to validate on a part of the images; or leave --shard-backbone out."
        )
    stages = [stage for stage in plan.stages if in_parts(stage)]
    if not stages:
        raise Refused(
            "--shard-backbone, and no stage of the recipe trains the backbone by gradient steps: there is nothing to "
            "divide.\nNext: leave --shard-backbone out; or --recipe full."
        )
    for stage in stages:
        _refuse_settings(stage)
        device, size = next(model.parameters()).device, model.preprocessing.input_size
        if not layers_to_divide(model, stage, lambda probed: probed.features(torch.zeros(1, *size, device=device))):
            raise _nothing_to_divide(stage)


def in_parts(stage: StagePlan) -> bool:
    """Whether a stage trains something of the backbone, which processes can hold in parts."""
    trains = set(stage.trains) - {"head"} or stage.tensors or stage.adapters
    return stage.inputs != "features" and bool(stage.steps and trains)


def _refuse_settings(stage: StagePlan) -> None:
    settings = stage.settings
    asked = {
        "ema": (settings.ema, "the moving average is a second, whole backbone", f"--set {settings.name}.ema=0"),
        "l2_sp": (settings.l2_sp, "the penalty needs the whole backbone twice", f"--set {settings.name}.l2_sp=0"),
        "adapters": (stage.adapters, "adapters train so little that parts save nothing", "leave --shard-backbone out"),
    }
    for key, (value, why, next_step) in asked.items():
        if value:
            raise Refused(f"--shard-backbone, and stage {settings.name!r} has {key}: {why}.\nNext: {next_step}.")


def _nothing_to_divide(stage: StagePlan) -> Refused:
    return Refused(
        f"--shard-backbone, and in stage {stage.settings.name!r} no layer that trains is called as a whole, once a "
        "pass: there is nothing that could be held in parts.\nNext: leave --shard-backbone out."
    )


def _twin(model: ZooModel) -> ZooModel:
    """A copy of the model's structure with the very tensors and the very head of the model."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    shared[id(model.head)] = model.head
    return copy.deepcopy(model, shared)


def _calls(model: ZooModel, probe: Probe) -> Counter[str]:
    """How often a pass calls each module of the backbone, by full name."""
    found: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: found.update([name]))
        for name, module in model.named_modules()
        if name.startswith("backbone")
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            probe(model)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return found


def _without_views(outputs: Any) -> Any:
    """Outputs of any structure with a copy of each tensor that is a view of another one.

    Code after a layer may change its output in place. With a view, autograd would forget that the layer is to be put
    together before its backward pass, and torch would compute gradients with nothing in its place.
    """
    if isinstance(outputs, Tensor):
        return outputs.clone() if outputs._base is not None else outputs
    if isinstance(outputs, (tuple, list)) and not hasattr(outputs, "_fields"):
        return type(outputs)(map(_without_views, outputs))
    if isinstance(outputs, dict):
        return type(outputs)((key, _without_views(value)) for key, value in outputs.items())
    return outputs


def _returns_no_views(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: _without_views(method(*arguments))


def _make_contiguous(layers: Sequence[nn.Module]) -> None:
    """Give trained parameters of another layout in memory a copy in the plain one, which parts are made of."""
    for layer in layers:
        for module in layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and not parameter.is_contiguous():
                    setattr(module, name, nn.Parameter(parameter.detach().contiguous()))


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    return [value for value in optimizer.state.get(parameter, {}).values() if isinstance(value, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
