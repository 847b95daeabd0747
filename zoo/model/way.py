"""The way of an image through a model: what each group and each part of the head puts out. On the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.model.model import HEAD, ZooModel

Kind = Literal["images", "group", "features", "head", "logits"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing on the way."""

    kind: Kind
    name: str
    shape: tuple[int, ...] | None
    """Of what comes out, for one image; None for a group that is not on the way (behind the map)."""
    dtype: str
    parameters: int


def way_of_an_image(outline: ZooModel) -> list[Step]:
    """Run one image through a model on the meta device and note every group's and every head part's last output."""
    outline.eval()
    seen: dict[str, Tensor] = {}
    watched = [*_modules_of_groups(outline), *_parts_of_head(outline)]
    hooks = [module.register_forward_hook(_note(name, seen)) for name, module in watched]
    try:
        with torch.device("meta"), torch.no_grad():
            images = torch.empty(1, *outline.preprocessing.input_size)
            features = outline.features(images)
            logits = outline.head(features)
    finally:
        for hook in hooks:
            hook.remove()
    groups = [_step("group", name, seen.get(name), _of_group(outline, name)) for name in outline.groups.names]
    parts = [_step("head", name, seen.get(name), _count(module)) for name, module in _parts_of_head(outline)]
    return [
        _step("images", "images", images, 0),
        *groups,
        _step("features", outline.needs, features, 0),
        *parts,
        _step("logits", "logits", logits, 0),
    ]


def _note(name: str, seen: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        # A block may return several things (PiT: grid and class token); the first is what goes on.
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if isinstance(output, Tensor):
            seen[name] = output

    return hook


def _modules_of_groups(outline: ZooModel) -> list[tuple[str, nn.Module]]:
    """(group, module) for every module in one group alone; without parameters it may be the pooling behind the last."""
    held = outline.groups.modules
    return [
        (next(iter(held[name])), module)
        for name, module in outline.backbone.named_modules()
        if name and len(held[name]) == 1 and any(True for _ in module.parameters())
    ]


def _parts_of_head(outline: ZooModel) -> list[tuple[str, nn.Module]]:
    """The head's direct parts, or the head itself."""
    parts = [(f"{HEAD}.{name}", module) for name, module in outline.head.named_children()]
    return parts or [(HEAD, outline.head)]


def _of_group(outline: ZooModel, name: str) -> int:
    return sum(each.numel() for each in outline.groups.parameters_of(name, outline.backbone).values())


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def _step(kind: Kind, name: str, output: Tensor | None, parameters: int) -> Step:
    shape = None if output is None else tuple(output.shape)
    dtype = "" if output is None else str(output.dtype).removeprefix("torch.")
    return Step(kind=kind, name=name, shape=shape, dtype=dtype, parameters=parameters)
