"""Where a classifier looked: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), for any backbone with a map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.model.model import ZooModel

_PIECE = 8
"""Images at a time: every layer's output is kept for the backward pass."""
_MOST_PREFIX = 16
"""Class, distillation and register tokens before those of the grid."""


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
    with torch.no_grad():
        reference = model.map(images)
        if reference is None or reference.shape[-2:].numel() < 2:
            reason = "the backbone has no map" if reference is None else "the backbone's map is a single position"
            return Relevance(logits=model(images), heat=None, reason=reason)
    images = images.clone().requires_grad_()
    if model.needs == "map":
        features = model.features(images)
        logits = model.head(features)
        (gradient,) = torch.autograd.grad(_predicted(logits), features)
        return Relevance(logits=logits.detach(), heat=_weighed(features, gradient), layer="the map that the head gets")
    with _recorded(model.backbone) as outputs:
        logits = model(images)
    return _through_layers(logits, outputs, reference)


def _through_layers(logits: Tensor, outputs: list[tuple[str, Tensor]], reference: Tensor) -> Relevance:
    candidates = [(name, output) for name, output in reversed(outputs) if _on_grid(output, reference) is not None]
    try:
        gradients = torch.autograd.grad(
            _predicted(logits), [output for _, output in candidates], allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        return Relevance(logits=logits.detach(), heat=None, reason=f"its gradient cannot be had: {error}")
    usable = []
    for (name, output), gradient in zip(candidates, gradients, strict=True):
        features, slope = _on_grid(output, reference), _on_grid(gradient, reference)
        if features is not None and slope is not None and bool(slope.any()):
            usable.append((name, features, slope))
    same = [each for each in usable if torch.allclose(each[1].detach().float(), reference, rtol=1e-3, atol=1e-4)]
    if not usable:
        return Relevance(
            logits=logits.detach(), heat=None, reason="no layer on the map's grid takes part in the logits"
        )
    name, features, slope = (same or usable)[0]
    layer = f"{name}, the last map" if same else f"{name}, the last layer whose positions take part in the logits"
    return Relevance(logits=logits.detach(), heat=_weighed(features, slope), layer=layer)


def _predicted(logits: Tensor) -> Tensor:
    return logits.max(1).values.sum()


def _weighed(features: Tensor, gradient: Tensor) -> Tensor:
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * features.detach().float()).sum(1).relu()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _on_grid(output: Tensor, reference: Tensor) -> Tensor | None:
    """A layer's output as map[N, C, H, W] where it has the reference's shape, tokens and NHWC included; else None."""
    count, channels, height, width = reference.shape
    if output.ndim == 4 and output.shape == reference.shape:
        return output
    if output.ndim == 4 and output.shape == (count, height, width, channels):
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3 and output.shape[0] == count and output.shape[2] == channels:
        if 0 <= output.shape[1] - height * width <= _MOST_PREFIX:
            return output[:, -height * width :].transpose(1, 2).reshape(reference.shape)
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

    handles = [each.register_forward_hook(record(name)) for name, each in module.named_modules() if name]  # type: ignore[arg-type]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
