"""Transform an RGB picture to the input of a backbone, as its `Preprocessing` says.

There are two steps: `resize`, whose result is always the same and is cached, and `finish` (crop, scale, normalise). The
result is bit-identical to that of torchvision's `weights.transforms()` and of timm's `create_transform(...)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from zoo.data.decode import Pixels, resized
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.views import Views


def resize(image: Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture -> resized uint8[3, H', W'], not yet cropped.

    Raises DataError for a picture so narrow that its resized copy would fill the memory.
    """
    return as_tensor(resized(image, preprocessing))


def as_tensor(pixels: Pixels) -> Tensor:
    """uint8[H', W', 3] -> a view of it as uint8[3, H', W']."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def finish(pixels: Tensor, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """Resized uint8[3, H', W'] -> float32[3, H, W]: cropped in the centre and normalised.

    The result is written to `into`, float32[3, H, W], if it is given, and returned.
    """
    return normalise(centre_crop(pixels, preprocessing), preprocessing, into=into)


def transform(image: Image, preprocessing: Preprocessing) -> Tensor:
    """RGB picture -> float32[3, H, W]: resized, cropped in the centre and normalised."""
    return finish(resize(image, preprocessing), preprocessing)


def finish_views(pixels: Tensor, preprocessing: Preprocessing, views: Views | None, *, into: Sequence[Tensor]) -> None:
    """Resized uint8[3, H', W'] -> its views, each float32[3, H, W], written to `into`.

    The first is that of `finish`, and the only one where `views` is None. There are `passes(views)`.
    """
    finish(pixels, preprocessing, into=into[0])
    if views == "flip":
        into[1].copy_(into[0].flip(-1))
    if views != "five":
        return
    padded = _padded(pixels, preprocessing)
    _, height, width = preprocessing.input_size
    bottom, right = padded.shape[-2] - height, padded.shape[-1] - width
    for view, (top, left) in zip(into[1:], ((0, 0), (0, right), (bottom, 0), (bottom, right)), strict=True):
        normalise(padded[..., top : top + height, left : left + width], preprocessing, into=view)


def centre_crop(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8[..., H', W'] -> uint8[..., H, W]; a smaller picture is padded with the fill colour."""
    pixels = _padded(pixels, preprocessing)
    _, height, width = preprocessing.input_size
    old_height, old_width = pixels.shape[-2:]
    # torchvision rounds half to even too.
    top = round((old_height - height) / 2.0)
    left = round((old_width - width) / 2.0)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, preprocessing: Preprocessing, *, into: Tensor | None = None) -> Tensor:
    """uint8[3, H, W] -> float32[3, H, W]: (x / 255 - mean) / std.

    The result is written to `into`, float32[3, H, W], if it is given, and returned.
    """
    normalised = torch.empty(pixels.shape) if into is None else into
    # NumPy gives torch's bits here, and computes in the calling thread alone: there are as many of these as cores.
    values = normalised.numpy()
    np.divide(pixels.numpy(), np.float32(255), out=values)
    np.subtract(values, _of_channels(preprocessing.mean), out=values)
    np.divide(values, _of_channels(preprocessing.std), out=values)
    return normalised


def as_seen(image: Tensor, preprocessing: Preprocessing) -> Image:
    """Undo the normalisation of a preprocessed image[3, H, W] and return it as a picture."""
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    pixels = (image.float() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _of_channels(values: tuple[float, float, float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(values, np.float32).reshape(3, 1, 1)


def _padded(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8[..., H', W'] -> the same, padded to at least the size of the crop."""
    _, height, width = preprocessing.input_size
    old_height, old_width = pixels.shape[-2:]
    if height <= old_height and width <= old_width:
        return pixels
    across, down = max(0, width - old_width), max(0, height - old_height)
    # An odd row or column of padding goes to the bottom or right, as in torchvision.
    return _pad(pixels, (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2), preprocessing.fill)


def _pad(pixels: Tensor, borders: tuple[int, int, int, int], fill: tuple[int, int, int]) -> Tensor:
    left, top, right, bottom = borders
    height, width = pixels.shape[-2:]
    shape = (*pixels.shape[:-2], height + top + bottom, width + left + right)
    padded = torch.tensor(fill, dtype=pixels.dtype).view(3, 1, 1).expand(shape).clone()
    padded[..., top : top + height, left : left + width] = pixels
    return padded
