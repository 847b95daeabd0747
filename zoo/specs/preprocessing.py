"""Preprocessing of images, as data: it belongs to the weights and is stored with them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, SupportsIndex, get_args

Resize = Literal["shorter", "exact", "cover", "longest"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Decode = Literal["exact", "fast"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, centre crop, scale to [0, 1], normalise: everything that is needed to repeat it elsewhere.

    `images[N, 3, H, W] = (crop / 255 - mean) / std`, with `(3, H, W) == input_size`.
    """

    input_size: tuple[int, int, int]
    """(3, height, width) in pixels, as the model sees it."""
    resize_size: tuple[int, int]
    """(height, width) in pixels that images are resized to before the crop."""
    mean: tuple[float, float, float]
    """Mean of each channel, on the scale [0, 1], which is subtracted."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, on the scale [0, 1], by which it is divided."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize, antialiased where the filter can be."""
    resize: Resize = "shorter"
    """`shorter`: the shorter side becomes resize_size (square), the aspect ratio stays.
    `exact`: both sides become resize_size, the aspect ratio is lost.
    `cover`: the smallest size of the same aspect ratio that covers resize_size.
    `longest`: the largest size of the same aspect ratio that fits into resize_size; the rest is filled."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """RGB colour, 0 to 255, of pixels that the crop has and the resized image lacks."""
    decode: Decode = "exact"
    """`exact`: every pixel of a file is decoded.
    `fast`: a JPEG file is decoded at a half, a quarter or an eighth of its sides, as long as both are at least twice as
    long as after the resize. Large photographs are decoded several times faster, to slightly other pixels."""

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or self.input_size[0] != 3 or min(self.input_size) < 1:
            raise ValueError(f"input_size must be (3, height, width), got {self.input_size!r}")
        if len(self.resize_size) != 2 or min(self.resize_size) < 1:
            raise ValueError(f"resize_size must be (height, width), got {self.resize_size!r}")
        # Which of the two the shorter side becomes would depend on the picture.
        if self.resize == "shorter" and self.resize_size[0] != self.resize_size[1]:
            raise ValueError(f"resize 'shorter' needs a square resize_size, got {self.resize_size!r}")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize must be one of {get_args(Resize)}, got {self.resize!r}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be one of {get_args(Interpolation)}, got {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three numbers, std above 0; got {self.mean!r}, {self.std!r}")
        if len(self.fill) != 3 or not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill must be three numbers from 0 to 255, got {self.fill!r}")
        if self.decode not in get_args(Decode):
            raise ValueError(f"decode must be one of {get_args(Decode)}, got {self.decode!r}")

    def at(self, height: int, width: int) -> Preprocessing:
        """The same preprocessing for another input size in pixels. The resize is scaled, so that the crop keeps its
        share of the picture. Where the target is not square, `shorter` becomes `cover`, which is the same for a square.
        """
        _, old_height, old_width = self.input_size
        target = (
            max(1, round(self.resize_size[0] * height / old_height)),
            max(1, round(self.resize_size[1] * width / old_width)),
        )
        resize: Resize = "cover" if self.resize == "shorter" and target[0] != target[1] else self.resize
        return replace(self, input_size=(3, height, width), resize_size=target, resize=resize)

    def resized_to(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture of that size after the resize, before the crop."""
        target_height, target_width = self.resize_size
        if self.resize == "exact":
            return target_height, target_width
        if self.resize == "shorter":
            # torchvision's rule: the longer side is truncated, not rounded.
            short = target_height
            return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        ratios = height / target_height, width / target_width
        ratio = max(ratios) if self.resize == "longest" else min(ratios)
        # At least one pixel: a picture of 1x5000 would lose its short side.
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON types. `decode` is left out where it is `exact`, as before there was a choice."""
        values = {
            key: [_plain(each) for each in value] if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return {key: value for key, value in values.items() if (key, value) != ("decode", "exact")}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises TypeError or ValueError for anything else."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        return cls(**values)

    def describe(self) -> str:
        """The preprocessing in one line, for people."""
        _, height, width = self.input_size
        target = self.resize_size[0] if self.resize == "shorter" else f"{self.resize_size[0]}x{self.resize_size[1]}"
        return (
            f"resize {self.resize} to {target} ({self.interpolation}), centre crop {height}x{width}, "
            f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"
            f"{', large JPEG files decoded at a part of their size' if self.decode == 'fast' else ''}"
        )


def _plain(number: Any) -> int | float:
    """A number as Python's own: what is recorded is JSON, which knows no number of numpy."""
    return number.__index__() if isinstance(number, SupportsIndex) else float(number)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
