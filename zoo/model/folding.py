"""Batch norms folded into the convolutions before them, for use alone.

In evaluation a batch norm is a scale and a shift of each channel, as are a convolution's weights and bias, so both are
one convolution (Jacob et al. 2018, arXiv:1712.05877, section 3.2). Each spares a pass over the activations.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.compute import Compute
from zoo.model.model import ZooModel

_BEHIND = ("drop", "act")
"""What timm's batch norms do to what they have normalised, in this order."""


def fold_batch_norms(model: ZooModel, images: Tensor, *, tolerance: float) -> int:
    """Fold the backbone's batch norms into the convolutions that they follow, where the logits stay what they are.

    Args:
        model: In evaluation mode. Afterwards it can neither be trained nor saved: names and weights are others.
        images: images[N, 3, H, W]: what the logits are compared on, in float32.
        tolerance: Share of the largest logit that one may change by; beyond it, the model is left as it was.

    Returns: How many were folded.
    """
    with torch.no_grad(), _in_float32(model):
        pairs, before = _pairs(model, images)
        if not pairs:
            return 0
        originals = {name: model.backbone.get_submodule(name) for pair in pairs for name in pair}
        for convolution, norm in pairs:
            _fold(model.backbone, convolution, norm)
        difference = (model(images) - before).abs().max()
    if difference <= tolerance * before.abs().max():
        return len(pairs)
    for name, module in originals.items():
        model.backbone.set_submodule(name, module)
    return 0


def _pairs(model: ZooModel, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of (convolution, batch norm) where one takes what the other gives and both run once; the logits."""
    gave: dict[int, tuple[str, Tensor]] = {}  # with the tensor, so that no other gets its id
    pairs: list[tuple[str, str]] = []
    runs: Counter[str] = Counter()

    def seen(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        runs[name] += 1
        if isinstance(module, nn.Conv2d):
            gave[id(output)] = name, output
        elif inputs and id(inputs[0]) in gave:
            pairs.append((gave[id(inputs[0])][0], name))

    hooks = [
        module.register_forward_hook(lambda *seen_, name=name: seen(name, *seen_))
        for name, module in model.backbone.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, _BatchNorm) and module.running_var is not None)
    ]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if all(runs[name] == 1 for name in pair)], logits


def _fold(backbone: nn.Module, convolution: str, norm: str) -> None:
    linear, follows = backbone.get_submodule(convolution), backbone.get_submodule(norm)
    assert isinstance(linear, nn.Conv2d) and isinstance(follows, _BatchNorm)
    assert follows.running_mean is not None and follows.running_var is not None
    folded = copy.copy(linear)  # hooks and options with it; parameters are set anew, the original keeps its own
    folded._parameters = dict(linear._parameters)
    folded.weight, folded.bias = fuse_conv_bn_weights(
        linear.weight,
        linear.bias,
        follows.running_mean,
        follows.running_var,
        follows.eps,
        follows.weight,
        follows.bias,
    )
    backbone.set_submodule(convolution, folded)
    behind = [getattr(follows, name) for name in _BEHIND if isinstance(getattr(follows, name, None), nn.Module)]
    backbone.set_submodule(norm, nn.Sequential(*behind))


@contextmanager
def _in_float32(model: ZooModel) -> Iterator[None]:
    compute = model.compute
    model.compute = Compute("float32", compute.memory_format)
    try:
        yield
    finally:
        model.compute = compute
