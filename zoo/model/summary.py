"""Trace the shapes of a model on the meta device: the output of every group and of every part of the head.

`zoo show` prints them; nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.model.model import HEAD, ZooModel

Kind = Literal["images", "group", "features", "head", "logits"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedStep:
    """One step of an image on its way through a model."""

    kind: Kind
    name: str
    shape: tuple[int, ...] | None
    """Shape of the output for one image; None for a group that the image does not pass (behind the map)."""
    dtype: str
    """Of the output, as torch calls it without its prefix: `float32`. Empty where there is no output."""
    parameters: int
    """Number of parameters."""


def trace_shapes(outline: ZooModel) -> list[TracedStep]:
    """Run one image through a model on the meta device, and return the steps from the images to the logits."""
    outline.eval()
    outputs: dict[str, Tensor] = {}
    # Hooks instead of calling group by group: the code between groups is upstream's, and only its own forward runs it.
    watched = [*_modules_of_groups(outline), *_parts_of_head(outline)]
    hooks = [module.register_forward_hook(_record_output(name, outputs)) for name, module in watched]
    try:
        with torch.device("meta"), torch.no_grad():
            images = torch.empty(1, *outline.preprocessing.input_size)
            features = outline.features(images)
            logits = outline.head(features)
    finally:
        for hook in hooks:
            hook.remove()
    groups = [_step("group", name, outputs.get(name), _count_group(outline, name)) for name in outline.groups.names]
    parts = [_step("head", name, outputs.get(name), _count(module)) for name, module in _parts_of_head(outline)]
    return [
        _step("images", "images", images, 0),
        *groups,
        _step("features", outline.needs, features, 0),
        *parts,
        _step("logits", "logits", logits, 0),
    ]


def _record_output(name: str, outputs: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    """Make a forward hook that stores a module's output; of a group's modules the last one's stays."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        # A block may return several tensors (PiT: grid and class token); the first one is passed on.
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if isinstance(output, Tensor):
            outputs[name] = output

    return hook


def _modules_of_groups(outline: ZooModel) -> list[tuple[str, nn.Module]]:
    """(group, module) for every module that lies in one group alone and has parameters.

    Modules without parameters are left out: one of them may be the pooling behind the last group.
    """
    held = outline.groups.modules
    return [
        (next(iter(held[name])), module)
        for name, module in outline.backbone.named_modules()
        if name and len(held[name]) == 1 and any(True for _ in module.parameters())
    ]


def _parts_of_head(outline: ZooModel) -> list[tuple[str, nn.Module]]:
    """(name, module) of the head's direct children, or of the head itself where it has none."""
    parts = [(f"{HEAD}.{name}", module) for name, module in outline.head.named_children()]
    return parts or [(HEAD, outline.head)]


def _count_group(outline: ZooModel, name: str) -> int:
    return sum(parameter.numel() for parameter in outline.groups.parameters_of(name, outline.backbone).values())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _step(kind: Kind, name: str, output: Tensor | None, parameters: int) -> TracedStep:
    shape = None if output is None else tuple(output.shape)
    dtype = "" if output is None else str(output.dtype).removeprefix("torch.")
    return TracedStep(kind=kind, name=name, shape=shape, dtype=dtype, parameters=parameters)
