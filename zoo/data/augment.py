"""Augmentation with explicit parameters, drawn for (seed, stage, epoch, image) alone: workers change nothing."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from zoo.data.rand_augment import Operation, apply, draw_operations
from zoo.data.transform import centre_crop, normalise
from zoo.preprocessing import Preprocessing
from zoo.recipes import Augment

_SCALE = (0.35, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Draw:
    """The augmentation of one image in one epoch."""

    box: tuple[int, int, int, int] | None
    """(top, left, height, width) in pixels of the resized image; None: the centre crop."""
    mirror: bool
    operations: tuple[Operation, ...] = ()
    """Of RandAugment, one after the other."""


def draw(kind: Augment, height: int, width: int, *, key: str, shape: float = 1.0) -> Draw:
    """The parameters for an image of this size; `key` names seed, stage, epoch and image.

    The crop follows Inception's (arXiv:1409.4842) as torchvision draws it, here from 35 % of the image upwards. `shape`
    is width / height of the backbone's input: crops are stretched to it by at most a third, whatever it is. `rand` has
    the crop and the mirror that `crop` has for the same key.
    """
    if kind == "none":
        return Draw(None, False)
    generator = random.Random(key)
    mirror = generator.random() < 0.5
    box = None if kind == "flip" else _box(generator, height, width, shape)
    return Draw(box, mirror, draw_operations(generator) if kind == "rand" else ())


def augmented(pixels: Tensor, drawn: Draw, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """Resized uint8[3, H', W'] -> float32[3, H, W], `into` or a new one: cropped, mirrored, changed as drawn,
    normalised."""
    if drawn.box is None:
        cropped = centre_crop(pixels, preprocessing)
    else:
        top, left, height, width = drawn.box
        size = list(preprocessing.input_size[1:])
        cropped = F.resized_crop(pixels, top, left, height, width, size, InterpolationMode.BILINEAR, antialias=True)
    pixels = cropped.flip(-1) if drawn.mirror else cropped
    for operation in drawn.operations:
        pixels = apply(pixels, operation, fill=preprocessing.fill)
    return normalise(pixels, preprocessing, into=into)


def _box(generator: random.Random, height: int, width: int, shape: float) -> tuple[int, int, int, int]:
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_SCALE)
        ratio = shape * math.exp(generator.uniform(*(math.log(bound) for bound in _RATIO)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            return (
                generator.randint(0, height - box_height),
                generator.randint(0, width - box_width),
                box_height,
                box_width,
            )
    box_height, box_width = min(height, round(width / shape)), min(width, round(height * shape))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
