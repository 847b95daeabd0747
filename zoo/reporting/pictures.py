"""Pictures small enough to be inside a page."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from zoo.preprocessing import Preprocessing

SIDE = 176
"""Pixels of the longer side."""
_HEAT = ((0.0, (0, 0, 4)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))
"""Matplotlib's inferno at five places: brightness rises along it, so that it can be read without colours."""


def data_uri(picture: Image.Image) -> str:
    """An RGB picture as an address that holds it, at most `SIDE` pixels wide and high."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def as_seen(image: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """Preprocessed image[3, H, W] -> the picture that it came from: the inverse of normalising."""
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    pixels = (image.float() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def with_heat(picture: Image.Image, heat: Tensor) -> Image.Image:
    """A picture under heat[H, W] from 0 to 1, enlarged to its size: dark where nothing spoke for the class."""
    enlarged = torch.nn.functional.interpolate(
        heat[None, None].float(), size=(picture.height, picture.width), mode="bilinear", align_corners=False
    )[0, 0].clamp(0, 1)
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, Image.fromarray(_coloured(enlarged).numpy()), 0.55)


def _coloured(heat: Tensor) -> Tensor:
    """heat[H, W] from 0 to 1 -> uint8[H, W, 3]."""
    stops = torch.tensor([place for place, _ in _HEAT])
    colours = torch.tensor([colour for _, colour in _HEAT], dtype=torch.float32)
    above = torch.bucketize(heat, stops).clamp(1, len(_HEAT) - 1)
    share = ((heat - stops[above - 1]) / (stops[above] - stops[above - 1]))[..., None]
    return (colours[above - 1] * (1 - share) + colours[above] * share).round().to(torch.uint8)
