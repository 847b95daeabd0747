"""Where a classifier looked: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) for any backbone with a feature map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor, nn

from zoo.model.model import ZooModel

_BATCH = 8
"""Images per backward pass, which keeps the output of every layer in memory."""
_LAST = 32
"""Most layers that are tried, from the end, so that the backward pass spares the rest of the backbone."""
_MOST_PREFIX = 16
"""Most tokens (class, distillation, register) that may precede those of the grid."""
_HEAT = ((0.0, (0, 0, 4)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
"""Matplotlib's inferno at five positions. Its brightness rises steadily, so it can be read without colour vision."""
_SINGLE = "the backbone's map is a single position"


@dataclass(frozen=True, kw_only=True, slots=True)
class Relevance:
    """The result of `grad_cam`."""

    logits: Tensor
    """logits[N, classes]"""
    heat: Tensor | None
    """heat[N, H, W] from 0 to 1, in the feature map's resolution; None if it cannot be computed."""
    layer: str = ""
    """The layer whose output was weighted, for people."""
    reason: str = ""
    """Why there is no heat, as the end of a sentence."""


def grad_cam(model: ZooModel, images: Tensor, *, label: int | None = None) -> Relevance:
    """How relevant each position of the feature map is to a class, for preprocessed images[N, 3, H, W].

    `label`: the index of the class. Default: of each image the predicted one.

    Each channel of the map is weighted by the mean gradient of the class's logit. The weighted channels are
    added up, and negative sums, which speak against the class, become 0. If the logits depend on a class token alone,
    the positions of the last map have no gradient; then the last layer of the same resolution that has one is used.
    The model is left in evaluation mode, with gradients switched off for its parameters.
    """
    model.eval().requires_grad_(False)
    batches = [_batch(model, batch, label) for batch in torch.split(images, _BATCH)]
    logits = torch.cat([batch.logits for batch in batches])
    heats = [batch.heat for batch in batches if batch.heat is not None]
    if len(heats) < len(batches):
        return Relevance(logits=logits, heat=None, reason=next(batch.reason for batch in batches if batch.reason))
    return Relevance(logits=logits, heat=torch.cat(heats), layer=batches[0].layer)


def _batch(model: ZooModel, images: Tensor, label: int | None) -> Relevance:
    # The parameters need no gradients, so the images must, for layers to have any.
    images = images.clone().requires_grad_()
    if model.needs == "map":
        features = model.features(images)
        logits = model.head(features)
        if features.shape[-2:].numel() < 2:
            return Relevance(logits=logits.detach(), heat=None, reason=_SINGLE)
        (gradient,) = torch.autograd.grad(_sum_of(logits, label), features)
        return Relevance(logits=logits.detach(), heat=_weighted(features, gradient), layer="the map that the head gets")
    with torch.no_grad():
        # One image is enough to know the layer by, and further passes would take as long as the explanation.
        reference = model.map(images[:1])
    # Pooled features hide which layer made the map, so every layer's output is recorded.
    with _recorded(model.backbone) as outputs:
        logits = model(images)
    if reference is None or reference.shape[-2:].numel() < 2:
        reason = "the backbone has no map" if reference is None else _SINGLE
        return Relevance(logits=logits.detach(), heat=None, reason=reason)
    return _through_layers(_sum_of(logits, label), logits, outputs, reference)


def _through_layers(
    explained: Tensor, logits: Tensor, outputs: list[tuple[str, Tensor]], reference: Tensor
) -> Relevance:
    """Find the layer whose output is the map, and weight that.

    Libraries do not name this layer, so outputs are compared with the first image's map, reference[1, C, H, W].
    """
    on_grid = ((name, output) for name, output in reversed(outputs) if _on_grid(output, reference) is not None)
    candidates = list(islice(on_grid, _LAST))
    try:
        gradients = torch.autograd.grad(
            explained, [output for _, output in candidates], allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        return Relevance(logits=logits.detach(), heat=None, reason=f"its gradient cannot be computed: {error}")
    chosen: Relevance | None = None
    for (name, output), output_gradient in zip(candidates, gradients, strict=True):
        features, gradient = _on_grid(output, reference), _on_grid(output_gradient, reference)
        assert features is not None and gradient is not None, "candidates are on the grid"
        is_map = torch.allclose(features[:1].detach().float(), reference, rtol=1e-3, atol=1e-4)
        # The map is preferred to a later layer, but only a layer with a gradient says anything.
        if (chosen is None or is_map) and bool(gradient.any()):
            kind = "the last map" if is_map else "the last layer whose positions take part in the logits"
            chosen = Relevance(logits=logits.detach(), heat=_weighted(features, gradient), layer=f"{name}, {kind}")
            if is_map:
                break
    return chosen or Relevance(
        logits=logits.detach(), heat=None, reason="no layer on the map's grid takes part in the logits"
    )


def _sum_of(logits: Tensor, label: int | None) -> Tensor:
    """The sum over images of the logit of a class, or of each one's highest; logits[N, classes].

    Images are independent, so one backward pass does.
    """
    return (logits.max(1).values if label is None else logits[:, label]).sum()


def _weighted(features: Tensor, gradient: Tensor) -> Tensor:
    """heat[N, H, W] from features[N, C, H, W] and their gradient; the highest value of each image is 1."""
    weights = gradient.float().mean((2, 3), keepdim=True)
    heat = (weights * features.detach().float()).sum(1).relu()
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _on_grid(output: Tensor, reference: Tensor) -> Tensor | None:
    """A layer's output (NCHW, NHWC or tokens) as map[N, C, H, W]; None if it does not fit reference[1, C, H, W]."""
    _, channels, height, width = reference.shape
    count, *shape = output.shape
    if shape == [channels, height, width]:
        return output
    if shape == [height, width, channels]:
        return output.permute(0, 3, 1, 2)
    # Transformers put class, distillation and register tokens before those of the grid.
    if len(shape) == 2 and shape[1] == channels and 0 <= shape[0] - height * width <= _MOST_PREFIX:
        return output[:, -height * width :].transpose(1, 2).reshape(count, channels, height, width)
    return None


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Record (name, output) of every module that runs in this context, in the order in which they finish."""
    outputs: list[tuple[str, Tensor]] = []

    def record(name: str) -> object:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                outputs.append((name, output))

        return hook

    handles = [part.register_forward_hook(record(name)) for name, part in module.named_modules() if name]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def with_heat(picture: Image.Image, heat: Tensor) -> Image.Image:
    """A picture blended with heat[H, W] (0 to 1), which is enlarged to its size. Dark means irrelevant to the class."""
    enlarged = torch.nn.functional.interpolate(
        heat[None, None].float(), size=(picture.height, picture.width), mode="bilinear", align_corners=False
    )[0, 0].clamp(0, 1)
    # Grey, so that every colour in the overlay is heat.
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, Image.fromarray(_coloured(enlarged).numpy()), 0.55)


def _coloured(heat: Tensor) -> Tensor:
    """heat[H, W] (0 to 1) -> uint8[H, W, 3], interpolated between the colours of `_HEAT`."""
    stops = torch.tensor([position for position, _ in _HEAT])
    colours = torch.tensor([colour for _, colour in _HEAT], dtype=torch.float32)
    above = torch.bucketize(heat, stops).clamp(1, len(_HEAT) - 1)
    share = ((heat - stops[above - 1]) / (stops[above] - stops[above - 1]))[..., None]
    return (colours[above - 1] * (1 - share) + colours[above] * share).round().to(torch.uint8)
