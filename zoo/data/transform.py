"""From an RGB picture to what the backbone wants, following a `Preprocessing` and nothing else.

Two steps, because the first never changes: `resize` (once per image) and `finish` (crop, scale, normalise). Together
they give the bits of torchvision's `weights.transforms()` and of timm's `create_transform(...)`.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from zoo.errors import DataError
from zoo.preprocessing import Preprocessing

_MAX_PIXELS = 180_000_000
"""Of a resized picture; about what Pillow allows for one that it opens."""


def resize(image: Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture -> resized uint8[3, H', W'], not yet cropped.

    Raises DataError for one so narrow that it would fill the memory.
    """
    mode = InterpolationMode(preprocessing.interpolation)
    size = _resized_to(image.height, image.width, preprocessing)
    if size[0] * size[1] > _MAX_PIXELS:
        raise DataError(f"{image.width} x {image.height} pixels are too narrow: resized, {size[1]} x {size[0]}")
    pixels: Tensor = F.pil_to_tensor(F.resize(image, size, interpolation=mode, antialias=True))
    return pixels


def finish(pixels: Tensor, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """Resized uint8[3, H', W'] -> float32[3, H, W], `into` or a new one: cropped in the centre and normalised."""
    return normalise(centre_crop(pixels, preprocessing), preprocessing, into=into)


def transform(image: Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture -> float32[3, H, W]."""
    return finish(resize(image, preprocessing), preprocessing)


def centre_crop(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8[..., H', W'] -> uint8[..., H, W]; what the picture does not reach has the fill colour."""
    _, height, width = preprocessing.input_size
    have_height, have_width = pixels.shape[-2:]
    if height > have_height or width > have_width:
        wide, high = max(0, width - have_width), max(0, height - have_height)
        pixels = _pad(pixels, (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2), preprocessing.fill)
        have_height, have_width = pixels.shape[-2:]
    top = round((have_height - height) / 2.0)
    left = round((have_width - width) / 2.0)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """uint8[3, H, W] -> float32 of the same shape, `into` or a new one: (x / 255 - mean) / std."""
    normalised = torch.empty(pixels.shape) if into is None else into
    # NumPy has torch's bits here and computes in the calling thread alone: there are as many of those as cores.
    values = normalised.numpy()
    np.divide(pixels.numpy(), np.float32(255), out=values)
    np.subtract(values, _of_channels(preprocessing.mean), out=values)
    np.divide(values, _of_channels(preprocessing.std), out=values)
    return normalised


def _of_channels(values: tuple[float, float, float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(values, np.float32).reshape(3, 1, 1)


def _resized_to(height: int, width: int, preprocessing: Preprocessing) -> list[int]:
    target_height, target_width = preprocessing.resize_size
    if preprocessing.resize == "exact":
        return [target_height, target_width]
    if preprocessing.resize == "shorter":
        # torchvision's rule: the longer side is truncated, not rounded.
        short = target_height
        return [short, int(short * width / height)] if height <= width else [int(short * height / width), short]
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocessing.resize == "longest" else min(ratios)
    return [max(1, round(height / ratio)), max(1, round(width / ratio))]


def _pad(pixels: Tensor, borders: tuple[int, int, int, int], fill: tuple[int, int, int]) -> Tensor:
    left, top, right, bottom = borders
    height, width = pixels.shape[-2:]
    shape = (*pixels.shape[:-2], height + top + bottom, width + left + right)
    padded = torch.tensor(fill, dtype=pixels.dtype).view(3, 1, 1).expand(shape).clone()
    padded[..., top : top + height, left : left + width] = pixels
    return padded
