"""Random augmentation of training images: mirror, crop and RandAugment, with all parameters drawn explicitly.

The parameters depend only on a key that names seed, stage, epoch and image. So neither the number of decoding threads
nor an interruption of the run changes them. RandAugment (arXiv:1909.13719) has torchvision's operations and magnitudes,
but not its class: that draws from torch's global generator, which the decoding threads would share.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from zoo.data.transform import centre_crop, normalise
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.recipe import Augment

OPERATIONS = 2
"""RandAugment operations per image, drawn with replacement: torchvision's default."""
MAGNITUDE = 9
"""Strength of every operation, on the scale of 31 steps 0..30 from its weakest to its strongest: torchvision's, too."""
_STEPS = 31

_CROP_AREA = (0.35, 1.0)
"""Share of the image that a crop covers; torchvision's default begins at 0.08."""
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10
"""Boxes that are drawn before the largest one in the centre is taken, as in torchvision."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The augmentation of one image in one epoch."""

    box: tuple[int, int, int, int] | None
    """The crop as (top, left, height, width) in pixels of the resized image; None: the centre crop."""
    mirror: bool
    operations: tuple[Operation, ...] = ()
    """RandAugment's operations, applied one after the other."""


def draw(kind: Augment, height: int, width: int, *, key: str, shape: float = 1.0) -> Draw:
    """Draw the parameters for an image of this size in pixels; `key` names seed, stage, epoch and image.

    The crop is that of Inception (arXiv:1409.4842) as torchvision draws it, but covers at least 35 % of the image.
    `shape` is width / height of the backbone's input: a crop is stretched by at most a third to fit it. For one key,
    `rand` draws the same crop and mirror as `crop`.
    """
    if kind == "none":
        return Draw(None, False)
    # A text as seed is hashed by SHA-512, and not by `hash`, which differs from process to process.
    generator = random.Random(key)
    # This order is fixed: what is drawn last, the operations, leaves mirror and crop the same for every kind.
    mirror = generator.random() < 0.5
    box = None if kind == "flip" else _crop_box(generator, height, width, shape)
    return Draw(box, mirror, draw_operations(generator) if kind == "rand" else ())


def with_repeat_keys(order: Iterable[Sequence[int]], key: str) -> Iterator[Sequence[tuple[int, str]]]:
    """Yield every index with the key of its draws, which counts how often the index has come before."""
    seen: Counter[int] = Counter()
    for indices in order:
        keyed = []
        for index in indices:
            # The first time it has the plain key: an order without repetitions draws the same as if none were counted.
            keyed.append((index, f"{key}/again {seen[index]}" if seen[index] else key))
            seen[index] += 1
        yield keyed


def apply_draw(pixels: Tensor, drawn: Draw, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """Resized uint8[3, H', W'] -> float32[3, H, W]: cropped, mirrored, changed by the operations and normalised.

    The result is written to `into`, float32[3, H, W], if it is given, and returned.
    """
    if drawn.box is None:
        cropped = centre_crop(pixels, preprocessing)
    else:
        top, left, height, width = drawn.box
        box = pixels[None, :, top : top + height, left : left + width]
        # On bytes, as torchvision's transforms v2 do, and in Pillow's arithmetic of whole numbers. torchvision's older
        # functions compute in float32 instead: four times as long, for values that differ by one at most.
        cropped = interpolate(box, preprocessing.input_size[1:], mode="bilinear", antialias=True)[0]
    pixels = cropped.flip(-1) if drawn.mirror else cropped
    for operation in drawn.operations:
        pixels = apply_operation(pixels, operation, fill=preprocessing.fill)
    return normalise(pixels, preprocessing, into=into)


def _crop_box(generator: random.Random, height: int, width: int, shape: float) -> tuple[int, int, int, int]:
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * generator.uniform(*_CROP_AREA)
        ratio = shape * math.exp(generator.uniform(*(math.log(bound) for bound in _CROP_RATIO)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = generator.randint(0, height - box_height), generator.randint(0, width - box_width)
            return top, left, box_height, box_width
    # In a very long or narrow image hardly any box fits: take the largest one in the centre.
    box_height, box_width = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@dataclass(frozen=True, slots=True)
class Operation:
    """One RandAugment operation, by its name in `SPACE`."""

    name: str
    negative: bool = False
    """Whether the magnitude is negated, for operations that have two directions."""


def draw_operations(generator: random.Random) -> tuple[Operation, ...]:
    """Draw operations of the space with equal chance, and the direction of those that have two."""
    names = generator.choices(tuple(SPACE), k=OPERATIONS)
    return tuple(Operation(name, SPACE[name].signed and generator.random() < 0.5) for name in names)


def apply_operation(pixels: Tensor, operation: Operation, *, fill: Sequence[int]) -> Tensor:
    """uint8[3, H, W] -> uint8[3, H, W]; `fill` is the RGB colour of areas that come from outside the image."""
    entry = SPACE[operation.name]
    magnitude = entry.magnitude(*pixels.shape[-2:])
    changed: Tensor = entry.change(pixels, -magnitude if operation.negative else magnitude, list(fill))
    return changed


@dataclass(frozen=True, slots=True)
class _Entry:
    """How an operation of the space is carried out."""

    change: Callable[[Tensor, float, list[int]], Tensor]
    """(pixels uint8[3, H, W], magnitude, fill) -> uint8[3, H, W]."""
    magnitude: Callable[[int, int], float] = lambda height, width: 0.0
    """(height, width) of the image -> magnitude."""
    signed: bool = False
    """Whether the operation has two directions."""


def _step(weakest: float, strongest: float) -> float:
    # In torchvision's own arithmetic: a different last bit may move a pixel.
    return float(torch.linspace(weakest, strongest, _STEPS)[MAGNITUDE])


def _shear(pixels: Tensor, x: float, y: float, fill: list[int]) -> Tensor:
    # AutoAugment's magnitude is the tangent; torchvision's shear is an angle.
    angles = [math.degrees(math.atan(tangent)) for tangent in (x, y)]
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
    # Without a direction: bits that are left, and the threshold from which on values are inverted.
    "posterize": _Entry(
        lambda pixels, bits, _: F.posterize(pixels, int(bits)),
        lambda *_: 8 - round(MAGNITUDE / ((_STEPS - 1) / 4)),
    ),
    "solarize": _Entry(lambda pixels, share, _: F.solarize(pixels, 255 * share), lambda *_: _step(1, 0)),
    "autocontrast": _Entry(lambda pixels, *_: F.autocontrast(pixels)),
    "equalize": _Entry(lambda pixels, *_: F.equalize(pixels)),
}
"""The search space of torchvision's RandAugment, by its names there."""
