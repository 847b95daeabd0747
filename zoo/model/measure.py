"""Measure a backbone without its weights: it is built and run on the meta device, which computes shapes alone.

What is measured are sizes and amounts of work. How long a pass takes is measured by `zoo.planning.pass_times`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo.model.build import build_backbone
from zoo.model.groups import partition
from zoo.model.model import ZooModel
from zoo.specs.backbone import Backbone, BackboneFacts, BackboneSpec, BuildBackbone

_STRIDES = (14, 16, 32, 64)
"""Patch sizes and total strides, in pixels, of nearly all architectures; sizes that they divide are tried."""
_MOST_TRIED = 16


def measure(spec: BackboneSpec) -> BackboneFacts:
    """Build an architecture as for its default weights, run one image through it, and count.

    Raises PluginError where its groups do not cover it exactly once, and any exception of building or running it.
    """
    tag = next(iter(spec.tags), None)
    size = spec.preprocessing_for(tag).input_size[1:]
    built = _build_on_meta(spec.build, tag, None)
    with FlopCounterMode(display=False) as counter:
        pooled = _run(built, size)
    grid = None if built.map is None else _run(built, size, as_map=True)
    _, channels, height, width = grid.shape if grid is not None else (0, 0, 0, 0)
    return BackboneFacts(
        parameters=sum(parameter.numel() for parameter in built.module.parameters()),
        # The counter has two operations, a multiplication and an addition, for each multiply-add.
        gmacs=counter.get_total_flops() / 2e9,
        pooled=pooled.shape[1],
        map=None if grid is None else (channels, height, width),
        groups=len(partition(built.module, built.groups, backbone=spec.name).names),
        fixed_input=not accepts_size(spec.build, tag, (2 * size[0], 2 * size[1])),
        note=built.no_map,
    )


def accepts_size(build: BuildBackbone, tag: str | None, size: tuple[int, int]) -> bool:
    """Whether the architecture, built for images of `size` (height, width) in pixels, runs on them."""
    try:
        _run(_build_on_meta(build, tag, size), size)
    except Exception:  # an assertion, a shape mismatch: architectures reject a size with all kinds of exceptions
        return False
    return True


def nearest_accepted_sizes(
    build: BuildBackbone, tag: str | None, asked: tuple[int, int], native: tuple[int, int], *, count: int = 3
) -> list[tuple[int, int]]:
    """List input sizes that the architecture takes, nearest to `asked` first. Each one was tried.

    Args:
        build: Builds the architecture.
        tag: The weights that it is built for.
        asked: (height, width) in pixels, which it does not take.
        native: (height, width) that the weights were made for; it is always in the list.
        count: Number of sizes to look for.
    """
    sizes: list[tuple[int, int]] = []
    for candidate in list(_candidates(asked, native))[:_MOST_TRIED]:
        if len(sizes) < count and accepts_size(build, tag, candidate):
            sizes.append(candidate)
    return sizes if native in sizes else [*sizes, native]


def feature_shape(outline: ZooModel) -> tuple[int, ...]:
    """Return the shape of what the head gets for one image, (F,) or (C, H, W), of a model on the meta device."""
    if outline.needs != "map":
        return (outline.shape.pooled + sum(outline.shape.layers or ()),)
    outline.eval()
    with torch.device("meta"), torch.no_grad():
        return tuple(outline.features(torch.empty(1, *outline.preprocessing.input_size)).shape[1:])


def idle_parameters(outline: ZooModel) -> frozenset[str]:
    """Find the backbone parameters that the logits do not depend on, by full name, of a model on the meta device.

    They are what no gradient reaches in a backward pass, so no list of architectures is needed.
    """
    # All parameters take part, whatever is frozen now, and whatever upstream froze.
    outline.eval().requires_grad_(True)
    parameters = {name: parameter for name, parameter in outline.named_parameters() if name.startswith("backbone.")}
    images = torch.empty(2, *outline.preprocessing.input_size, device="meta")
    with torch.device("meta"), torch.enable_grad():
        features = outline.features(images)
        if not features.requires_grad:
            return frozenset(parameters)
        gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)


def _build_on_meta(build: BuildBackbone, tag: str | None, size: tuple[int, int] | None) -> Backbone:
    with torch.device("meta"):
        built = build_backbone(build, tag=tag, state=None, input_size=size)
    # FlopCounterMode fails on some modules whose parameters require gradients.
    built.module.eval().requires_grad_(False)
    return built


def _run(built: Backbone, size: tuple[int, int], *, as_map: bool = False) -> Tensor:
    """Return pooled features[1, F], or the map[1, C, H', W'], of one blank image of `size`."""
    features = built.map if as_map and built.map is not None else built.pool
    with torch.device("meta"), torch.no_grad():
        return features(built.module, torch.empty(1, 3, *size))


def _candidates(asked: tuple[int, int], native: tuple[int, int]) -> Iterator[tuple[int, int]]:
    strides = (*_STRIDES, *_window_sizes(native))
    # Some architectures take square images alone.
    squares = [size for side in set(asked) for size in _multiples((side, side), strides) if size[0] == size[1]]
    candidates = {native, *_multiples(asked, strides), *squares}
    yield from sorted(candidates - {asked}, key=lambda size: abs(size[0] - asked[0]) + abs(size[1] - asked[1]))


def _multiples(asked: tuple[int, int], strides: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The sizes just below and just above `asked` whose sides each stride divides."""
    for stride in strides:
        height, width = (side // stride * stride for side in asked)
        for size in ((height, width), (height + stride, width + stride)):
            if min(size) > 0:
                yield size


def _window_sizes(native: tuple[int, int]) -> list[int]:
    """The native side and its half: where attention windows have a size of their own, multiples of these fit."""
    return [side for side in {min(native), min(native) // 2} if side > 0]
