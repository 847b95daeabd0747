"""RandAugment (arXiv:1909.13719) with torchvision's operations and magnitudes, and with explicit draws.

torchvision's own class draws from torch's global generator, which the decoding threads would share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

OPERATIONS = 2
"""Of one image, drawn with replacement."""
MAGNITUDE = 9
"""Of the 31 steps 0..30 from an operation's weakest to its strongest."""
_STEPS = 31


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of an image."""

    name: str
    negative: bool = False
    """To the other side, where an operation has two."""


def draw_operations(generator: random.Random) -> tuple[Operation, ...]:
    """Any operations of the space, those with two sides to each with equal chance."""
    names = generator.choices(tuple(SPACE), k=OPERATIONS)
    return tuple(Operation(name, SPACE[name].signed and generator.random() < 0.5) for name in names)


def apply(pixels: Tensor, operation: Operation, *, fill: Sequence[int]) -> Tensor:
    """uint8[3, H, W] -> uint8[3, H, W]; `fill` is the colour of what comes in from outside the image."""
    entry = SPACE[operation.name]
    magnitude = entry.magnitude(*pixels.shape[-2:])
    changed: Tensor = entry.change(pixels, -magnitude if operation.negative else magnitude, list(fill))
    return changed


@dataclass(frozen=True, slots=True)
class _Entry:
    """An operation of the space."""

    change: Callable[[Tensor, float, list[int]], Tensor]
    magnitude: Callable[[int, int], float] = lambda height, width: 0.0
    """For an image of this height and width."""
    signed: bool = False


def _step(weakest: float, strongest: float) -> float:
    """The magnitude between the two, in torchvision's own arithmetic: the last bit may move a pixel."""
    return float(torch.linspace(weakest, strongest, _STEPS)[MAGNITUDE])


def _shear(pixels: Tensor, x: float, y: float, fill: list[int]) -> Tensor:
    # AutoAugment's magnitude is the tangent; torchvision's shear is an angle.
    angles = [math.degrees(math.atan(each)) for each in (x, y)]
    sheared: Tensor = F.affine(pixels, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, fill=fill, center=[0, 0])
    return sheared


def _translate(pixels: Tensor, x: float, y: float, fill: list[int]) -> Tensor:
    moved: Tensor = F.affine(pixels, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0], fill=fill)
    return moved


SPACE = {
    "identity": _Entry(lambda pixels, magnitude, fill: pixels),
    "shear_x": _Entry(lambda pixels, tangent, fill: _shear(pixels, tangent, 0.0, fill), lambda *_: _step(0, 0.3), True),
    "shear_y": _Entry(lambda pixels, tangent, fill: _shear(pixels, 0.0, tangent, fill), lambda *_: _step(0, 0.3), True),
    "translate_x": _Entry(
        lambda pixels, distance, fill: _translate(pixels, distance, 0, fill),
        lambda height, width: _step(0, 150 / 331 * width),
        True,
    ),
    "translate_y": _Entry(
        lambda pixels, distance, fill: _translate(pixels, 0, distance, fill),
        lambda height, width: _step(0, 150 / 331 * height),
        True,
    ),
    "rotate": _Entry(lambda pixels, angle, fill: F.rotate(pixels, angle, fill=fill), lambda *_: _step(0, 30), True),
    "brightness": _Entry(lambda pixels, more, _: F.adjust_brightness(pixels, 1 + more), lambda *_: _step(0, 0.9), True),
    "color": _Entry(lambda pixels, more, _: F.adjust_saturation(pixels, 1 + more), lambda *_: _step(0, 0.9), True),
    "contrast": _Entry(lambda pixels, more, _: F.adjust_contrast(pixels, 1 + more), lambda *_: _step(0, 0.9), True),
    "sharpness": _Entry(lambda pixels, more, _: F.adjust_sharpness(pixels, 1 + more), lambda *_: _step(0, 0.9), True),
    "posterize": _Entry(
        lambda pixels, bits, _: F.posterize(pixels, int(bits)),
        lambda *_: 8 - round(MAGNITUDE / ((_STEPS - 1) / 4)),
    ),
    "solarize": _Entry(lambda pixels, share, _: F.solarize(pixels, 255 * share), lambda *_: _step(1, 0)),
    "autocontrast": _Entry(lambda pixels, *_: F.autocontrast(pixels)),
    "equalize": _Entry(lambda pixels, *_: F.equalize(pixels)),
}
"""What torchvision's RandAugment draws from, by its names there."""
