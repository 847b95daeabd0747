"""Whether decoding a file to 8 bits destroyed its picture: one value is left, or few, where the file holds many.

Decoding follows fixed rules, and a file may use a small part of the range that its kind allows. Then the rule is right
and the picture is gone, so the loss is told: by the plan and by the check of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Kind = Literal["lost_values", "few_levels"]
SHOWN: dict[Kind, str] = {
    "lost_values": "next to nothing once decoded to 8 bits",
    "few_levels": "little contrast once decoded to 8 bits",
}
"""What is left of a picture, as the end of `it shows`."""
TO_8_BITS = "scale the values of all pictures alike to 0..255, and save them as 8-bit PNG without transparency"
NEARLY_ONE = 4
"""Levels; a picture of fewer shows nothing."""
FEW = 32
"""Levels; a picture of fewer is of low contrast, such as computed tomography in signed 16 bits (16 to 24 levels)."""
_OUTER = 0.01
"""Share of the pixels at either end that does not count: a hot pixel, a marker of metal."""
_MOST = 0.5
"""Share of the pixels that are black or white, above which it is asked what they were."""
_SPREAD = 0.25
"""Share of what the file's values span that may become black or white alone; a dark, noisy background spans less."""
_ENOUGH = 1 << 18
"""Pixels that are looked at; sorting all of a large picture would take longer than decoding it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What decoding left of a picture, where that is little."""

    kind: Kind
    """`lost_values`: it shows nothing. `few_levels`: its contrast is low."""
    detail: str


def loss_of(values: NDArray[Any], pixels: NDArray[np.uint8]) -> Loss | None:
    """What was lost between the values of a file and its decoded pixels: both [H, W], or [H, W, bands]."""
    if pixels.ndim == 2:
        values, pixels = values[..., None], pixels[..., None]
    losses: list[Loss | None] = []
    step = max(1, pixels[..., 0].size // _ENOUGH)
    for band in range(pixels.shape[-1]):
        # NaN is decoded as 0. Left as it is, it would make every minimum and percentile NaN.
        held = np.nan_to_num(values[..., band].ravel()[::step])
        if held.min() != held.max():
            losses.append(_of_band(held, pixels[..., band].ravel()[::step]))
    # One band that shows the picture is enough.
    found = [loss for loss in losses if loss is not None]
    # The mildest one: by the alphabet `few_levels` comes before `lost_values`.
    return min(found, key=lambda loss: loss.kind) if found and len(found) == len(losses) else None


def may_be_lost(histogram: Sequence[int]) -> bool:
    """Whether a band of 8 bits with this histogram has few levels, or is mostly black and white."""
    counts = np.asarray(histogram)
    return _span(counts) < FEW or bool(counts[0] + counts[255] > _MOST * counts.sum())


def loss_over_white(source: Image.Image, picture: Image.Image) -> Loss | None:
    """What was lost where an RGBA picture was laid over white: all, if every pixel was white or transparent."""
    if _widest(picture) < NEARLY_ONE and _widest(source) >= FEW:
        return Loss("lost_values", "laid over white, one colour is left")
    return None


def _of_band(held: NDArray[Any], pixels: NDArray[np.uint8]) -> Loss | None:
    counts = np.bincount(pixels, minlength=256)
    span, kinds = _span(counts), len(np.unique(held))
    if counts.max() == pixels.size:
        return Loss("lost_values", f"all pixels become {int(pixels[0])}, of {kinds:,} values in the file")
    if span < FEW and kinds > 2 * np.count_nonzero(counts):
        detail = f"{span + 1} of 256 grey levels are left, of {kinds:,} values in the file"
        return Loss("lost_values" if span < NEARLY_ONE else "few_levels", detail)
    ends = (counts[0] + counts[255]) / pixels.size
    if ends > _MOST and _width(held[pixels == 0]) + _width(held[pixels == 255]) > _SPREAD * _width(held):
        return Loss("lost_values", f"{ends:.0%} of the pixels become 0 or 255, of {kinds:,} values in the file")
    return None


def _span(counts: NDArray[Any]) -> int:
    """Levels between the darkest and the brightest pixels, without the outermost of them."""
    below = np.cumsum(counts)
    low, high = np.searchsorted(below, [_OUTER * below[-1], (1 - _OUTER) * below[-1]])
    return int(high - low)


def _width(values: NDArray[Any]) -> float:
    if not values.size:
        return 0.0
    low, high = np.percentile(values.astype(np.float64), [100 * _OUTER, 100 - 100 * _OUTER])
    return float(high - low)


def _widest(image: Image.Image) -> int:
    return max(high - low for low, high in image.getextrema())  # type: ignore[misc]
