"""Where a classifier looked: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), for any backbone with a map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from zoo.model.model import ZooModel

_PIECE = 8
"""Images at a time: every layer's output is kept for the backward pass."""
_LAST = 32
"""Layers on the map's grid that are looked at, from the end: the backward pass goes no further."""
_MOST_PREFIX = 16
"""Class, distillation and register tokens before those of the grid."""
_SINGLE = "the backbone's map is a single position"


@dataclass(frozen=True, kw_only=True, slots=True)
class Relevance:
    """What `grad_cam` found."""

    logits: Tensor
    """float[N, classes]"""
    heat: Tensor | None
    """float[N, H, W] from 0 to 1, on the map's grid; None where it cannot be had."""
    layer: str = ""
    """Whose output was weighed, for people."""
    reason: str = ""
    """Why there is no heat, as the end of a sentence."""


def grad_cam(model: ZooModel, images: Tensor) -> Relevance:
    """images[N, 3, H, W], preprocessed -> how much each place of the map spoke for the predicted class.

    The map's channels are weighed by the mean gradient of the predicted class's logit, added up, and what speaks
    against the class is cut off. Where the logit depends on a class token alone, the positions of the last map have
    no gradient; then the last layer on the same grid that has one is taken. The model is left in evaluation mode and
    its parameters without gradients.
    """
    model.eval().requires_grad_(False)
    found = [_piece(model, piece) for piece in torch.split(images, _PIECE)]
    logits = torch.cat([each.logits for each in found])
    heats = [each.heat for each in found if each.heat is not None]
    if len(heats) < len(found):
        return Relevance(logits=logits, heat=None, reason=next(each.reason for each in found if each.reason))
    return Relevance(logits=logits, heat=torch.cat(heats), layer=found[0].layer)


def _piece(model: ZooModel, images: Tensor) -> Relevance:
    images = images.clone().requires_grad_()
    if model.needs == "map":
        features = model.features(images)
        logits = model.head(features)
        if features.shape[-2:].numel() < 2:
            return Relevance(logits=logits.detach(), heat=None, reason=_SINGLE)
        (gradient,) = torch.autograd.grad(_predicted(logits), features)
        return Relevance(logits=logits.detach(), heat=_weighed(features, gradient), layer="the map that the head gets")
    with torch.no_grad():
        reference = model.map(images[:1])
    with _recorded(model.backbone) as outputs:
        logits = model(images)
    if reference is None or reference.shape[-2:].numel() < 2:
        reason = "the backbone has no map" if reference is None else _SINGLE
        return Relevance(logits=logits.detach(), heat=None, reason=reason)
    return _through_layers(logits, outputs, reference)


def _through_layers(logits: Tensor, outputs: list[tuple[str, Tensor]], reference: Tensor) -> Relevance:
    """Find the layer that puts out the map: by what it puts out, for no library names it."""
    fitting = ((name, output) for name, output in reversed(outputs) if _on_grid(output, reference) is not None)
    candidates = list(islice(fitting, _LAST))
    try:
        gradients = torch.autograd.grad(
            _predicted(logits), [output for _, output in candidates], allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        return Relevance(logits=logits.detach(), heat=None, reason=f"its gradient cannot be had: {error}")
    chosen: Relevance | None = None
    for (name, output), gradient in zip(candidates, gradients, strict=True):
        features, slope = _on_grid(output, reference), _on_grid(gradient, reference)
        assert features is not None and slope is not None, "they were chosen by it"
        same = torch.allclose(features[:1].detach().float(), reference, rtol=1e-3, atol=1e-4)
        if (chosen is None or same) and bool(slope.any()):
            what = "the last map" if same else "the last layer whose positions take part in the logits"
            chosen = Relevance(logits=logits.detach(), heat=_weighed(features, slope), layer=f"{name}, {what}")
            if same:
                break
    return chosen or Relevance(
        logits=logits.detach(), heat=None, reason="no layer on the map's grid takes part in the logits"
    )


def _predicted(logits: Tensor) -> Tensor:
    return logits.max(1).values.sum()


def _weighed(features: Tensor, gradient: Tensor) -> Tensor:
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * features.detach().float()).sum(1).relu()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _on_grid(output: Tensor, reference: Tensor) -> Tensor | None:
    """A layer's output as map[N, C, H, W] where it has the shape of reference[1, C, H, W], as tokens or NHWC too."""
    _, channels, height, width = reference.shape
    count, *shape = output.shape
    if shape == [channels, height, width]:
        return output
    if shape == [height, width, channels]:
        return output.permute(0, 3, 1, 2)
    if len(shape) == 2 and shape[1] == channels and 0 <= shape[0] - height * width <= _MOST_PREFIX:
        return output[:, -height * width :].transpose(1, 2).reshape(count, channels, height, width)
    return None


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """What every module puts out while it runs, in the order in which they end."""
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str) -> object:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                outputs.append((name, output))

        return hook

    handles = [each.register_forward_hook(record(name)) for name, each in module.named_modules() if name]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
