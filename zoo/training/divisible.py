"""What of a backbone several processes can hold in parts: which stages, which layers, and what is refused before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from zoo.distributed.group import ProcessGroup
from zoo.errors import Refused
from zoo.model.model import ZooModel
from zoo.planning.request import Request
from zoo.specs.plan import Plan, StagePlan

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FINE = 8
"""A layer with more than the eighth part of what trains is divided further: it is whole while it computes."""
Probe = Callable[[ZooModel], object]
"""Runs the model on anything, as a step would."""


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
    # With duplicates: a tensor that two layers share counts for each of them.
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
        # FSDP2 puts a layer together when it is called, and drops it then. What is read outside of such a call, or by
        # another layer, would not be there.
        shared = any(owners[id(parameter)] > 1 for parameter in layer.parameters())
        groups = {model.group_of(each) for each in inside(name)}
        return calls[name] == 1 and len(groups) == 1 and not shared

    def find(name: str, layer: nn.Module) -> list[tuple[str, nn.Module]]:
        own = inside(name)
        if not own:
            return []
        below = [each for child, module in layer.named_children() for each in find(f"{name}.{child}", module)]
        # A container as one layer would be whole all at once, and nothing is gained.
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
    # Which layers are called does not depend on what the image shows.
    image = torch.zeros(1, *model.preprocessing.input_size, device=next(model.parameters()).device)
    for stage in stages:
        _refuse_settings(stage)
        if not layers_to_divide(model, stage, lambda probed: probed.features(image)):
            raise nothing_to_divide(stage)


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


def nothing_to_divide(stage: StagePlan) -> Refused:
    """The refusal of a stage that has no layer to divide, to be raised by the caller."""
    return Refused(
        f"--shard-backbone, and in stage {stage.settings.name!r} no layer that trains is called as a whole, once a "
        "pass: there is nothing that could be held in parts.\nNext: leave --shard-backbone out."
    )


def _calls(model: ZooModel, probe: Probe) -> Counter[str]:
    """How often a pass calls each module of the backbone, by full name."""
    found: Counter[str] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: found.update([name]))
        for name, module in model.named_modules()
        if name.startswith("backbone")
    ]
    # In evaluation mode, as in training a look would move running statistics.
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
