"""A backbone in parts: each process keeps one of what trains, of its gradients and of its optimizer state.

By torch's FSDP2 (`fully_shard`): before a layer computes, its parameters are put together from all processes, and
dropped after it; its gradients are added up, and each process gets those of its part. Between steps a process holds
its part alone. For validation, checkpoints and the end of a stage, the parameters are put together in the model that
everything else knows, so that only steps differ from those without parts.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.distributed.group import ProcessGroup, current
from zoo.evaluation.inference import to_device
from zoo.frozen.inputs import Inputs
from zoo.model.model import ZooModel
from zoo.specs.plan import Plan, StagePlan
from zoo.specs.run_result import Check
from zoo.storage.tensors import same_bits
from zoo.training import seeding
from zoo.training.divisible import Probe, in_parts, layers_to_divide, nothing_to_divide


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor of any shape is held in parts (torch's DTensor)."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor of any shape: all of one that is not in parts."""
    part: Tensor = tensor.detach().to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]
    return part


def put_together(tensor: Tensor) -> Tensor:
    """The whole tensor, of any shape. All processes call it, for the same tensors in the same order."""
    if not is_part(tensor):
        return tensor
    with current().naming_the_lost():
        whole: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return whole


def with_values(empty: Tensor, whole: Tensor) -> Tensor:
    """Fill a tensor of any shape, which may be in parts, with the values of a whole one -> the tensor."""
    if not is_part(empty):
        return empty.copy_(whole)
    own = own_part(empty)
    mesh = empty.device_mesh  # type: ignore[attr-defined]
    parts = whole.chunk(mesh.size())
    # Fewer parts than processes where the first dimension is short: the last processes hold nothing of it.
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
        self.model = _twin(model)
        probe(self.model)  # the first time, a cut traces the model
        layers = layers_to_divide(self.model, stage, probe)
        if not layers:
            raise nothing_to_divide(stage)
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
            f"{whole / 1e6:.1f} MB of what trains and of its optimizer, each held {max(of_all) / 1e6:.1f} MB or less",
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
        """The whole tensor, of any shape, in main memory for process 0, which writes; an empty one for others."""
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
        """The norm over all gradients of any shape, whole ones and parts. All processes call it."""
        # Those of whole tensors are the same in all processes by now, so only parts are added up.
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
            # In the layout that it had: parts know the plain one alone.
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


def divide(plan: Plan, stage: StagePlan, model: ZooModel, inputs: Inputs) -> BackboneInParts | None:
    """Divide the backbone for a stage, where the plan says so and several processes carry it out; else None.

    All processes call it.

    Args:
        plan: The plan.
        stage: The stage.
        model: The model, frozen as the stage says.
        inputs: The stage's, one of which is looked at.
    """
    group = current()
    if not (plan.shard_backbone and group.several and in_parts(stage)):
        return None

    def probe(model: ZooModel) -> None:
        (batch,) = inputs.train_batches([[0]], seeding.epoch_key(plan.seed, stage.settings.name, 1), 1)
        inputs.features(model, to_device(batch, next(model.parameters()).device))

    return BackboneInParts(model, stage, group, probe)


def _twin(model: ZooModel) -> ZooModel:
    """A copy of the model's structure with the very tensors and the very head of the model."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    shared[id(model.head)] = model.head
    return copy.deepcopy(model, shared)


def _without_views(outputs: Any) -> Any:
    """Outputs of any structure with a copy of each tensor that is a view of another one.

    Code after a layer may change its output in place. With a view, autograd would forget that the layer is to be put
    together before its backward pass, and torch would compute gradients with nothing in its place.
    """
    if isinstance(outputs, Tensor):
        return outputs.clone() if outputs._base is not None else outputs
    if isinstance(outputs, (tuple, list)):
        copies = map(_without_views, outputs)
        return type(outputs)(*copies) if hasattr(outputs, "_fields") else type(outputs)(copies)
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
