"""Operations of a network's forward pass by the formulas of its layers, to check what torch counts."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def counted(module: nn.Module, images: Tensor) -> float:
    """What torch counts for images[N, 3, H, W]: two operations for a multiplication and an addition."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return float(counter.get_total_flops())


def by_formula(module: nn.Module, images: Tensor) -> float:
    """The same by formulas: 2 K a value of a convolution or linear layer that sums K products; attention of T tokens,
    each of width D: 4 T T D."""
    found = 0.0

    def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal found
        if isinstance(layer, nn.Conv2d):
            found += 2.0 * output.numel() * layer.in_channels // layer.groups * prod(layer.kernel_size)
        elif isinstance(layer, nn.Linear):
            found += 2.0 * output.numel() * layer.in_features
        elif hasattr(layer, "num_heads") and hasattr(layer, "qkv"):
            images, tokens, width = inputs[0].shape
            found += 4.0 * images * tokens * tokens * width

    hooks = [layer.register_forward_hook(note) for layer in module.modules()]
    try:
        with torch.no_grad():
            module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
