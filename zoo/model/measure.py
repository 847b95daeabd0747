"""What is known of a backbone without weights: built and run on the meta device, which computes shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo.model.build import build_backbone
from zoo.model.groups import partition
from zoo.model.model import ZooModel
from zoo.specs import Backbone, BackboneFacts, BackboneSpec, BuildBackbone

_STRIDES = (14, 16, 32, 64)
"""Patch sizes and total strides of nearly all architectures: sizes that one of them divides are tried."""
_MOST_TRIED = 16


def measure(spec: BackboneSpec) -> BackboneFacts:
    """Build the architecture as for its default weights, run one image through it, and count.

    Raises PluginError where its groups are no exact partition, and whatever building or running it raises.
    """
    tag = next(iter(spec.tags), None)
    size = spec.preprocessing_for(tag).input_size[1:]
    built = _built(spec.build, tag, None)
    with FlopCounterMode(display=False) as counter:
        pooled = _run(built, size)
    grid = None if built.map is None else _run(built, size, mapped=True)
    _, channels, height, width = grid.shape if grid is not None else (0, 0, 0, 0)
    return BackboneFacts(
        parameters=sum(parameter.numel() for parameter in built.module.parameters()),
        # The counter has two operations, a multiplication and an addition, for each multiply-add.
        gmacs=counter.get_total_flops() / 2e9,
        pooled=pooled.shape[1],
        map=None if grid is None else (channels, height, width),
        groups=len(partition(built.module, built.groups, backbone=spec.name).names),
        fixed_input=not takes(spec.build, tag, (2 * size[0], 2 * size[1])),
        note=built.no_map,
    )


def takes(build: BuildBackbone, tag: str | None, size: tuple[int, int]) -> bool:
    """Whether the architecture, built for images of (height, width), runs on them."""
    try:
        _run(_built(build, tag, size), size)
    except Exception:  # an assertion, a shape that does not fit: architectures refuse in any way
        return False
    return True


def sizes_near(
    build: BuildBackbone, tag: str | None, asked: tuple[int, int], native: tuple[int, int], *, count: int = 3
) -> list[tuple[int, int]]:
    """Input sizes that the architecture takes, nearest to `asked` first, found by trying; `native` is always one."""
    found: list[tuple[int, int]] = []
    for candidate in list(_candidates(asked, native))[:_MOST_TRIED]:
        if len(found) < count and takes(build, tag, candidate):
            found.append(candidate)
    return found if native in found else [*found, native]


def feature_shape(outline: ZooModel) -> tuple[int, ...]:
    """Shape of what the head of a model on the meta device gets for one image: (F,) or (C, H, W)."""
    if outline.needs == "pooled":
        return (outline.shape.pooled,)
    outline.eval()
    with torch.device("meta"), torch.no_grad():
        return tuple(outline.features(torch.empty(1, *outline.preprocessing.input_size)).shape[1:])


def idle_parameters(outline: ZooModel) -> frozenset[str]:
    """Backbone parameters of a model on the meta device that no gradient of its logits reaches, by full name."""
    # All of them, whatever was frozen before or is not meant to be trained upstream.
    outline.eval().requires_grad_(True)
    parameters = dict(outline.named_parameters())
    images = torch.empty(2, *outline.preprocessing.input_size, device="meta")
    with torch.device("meta"), torch.enable_grad():
        features = outline.features(images)
        inside = {name: each for name, each in parameters.items() if name.startswith("backbone.")}
        if not features.requires_grad:
            return frozenset(inside)
        gradients = torch.autograd.grad(features.sum(), list(inside.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(inside, gradients, strict=True) if gradient is None)


def _built(build: BuildBackbone, tag: str | None, size: tuple[int, int] | None) -> Backbone:
    with torch.device("meta"):
        built = build_backbone(build, tag=tag, state=None, input_size=size)
    # The counter of operations trips over some modules whose parameters want gradients.
    built.module.eval().requires_grad_(False)
    return built


def _run(built: Backbone, size: tuple[int, int], *, mapped: bool = False) -> Tensor:
    way = built.map if mapped and built.map is not None else built.pool
    with torch.device("meta"), torch.no_grad():
        return way(built.module, torch.empty(1, 3, *size))


def _candidates(asked: tuple[int, int], native: tuple[int, int]) -> Iterator[tuple[int, int]]:
    strides = (*_STRIDES, *_divisors(native))
    # Some take squares alone.
    squares = [size for side in set(asked) for size in _multiples((side, side), strides) if size[0] == size[1]]
    every = {native, *_multiples(asked, strides), *squares}
    yield from sorted(every - {asked}, key=lambda size: abs(size[0] - asked[0]) + abs(size[1] - asked[1]))


def _multiples(asked: tuple[int, int], strides: Iterable[int]) -> Iterator[tuple[int, int]]:
    for stride in strides:
        height, width = (side // stride * stride for side in asked)
        for size in ((height, width), (height + stride, width + stride)):
            if min(size) > 0:
                yield size


def _divisors(native: tuple[int, int]) -> list[int]:
    """The native size and its half: where windows have a size of their own, multiples of these fit."""
    return [side for side in {min(native), min(native) // 2} if side > 0]
