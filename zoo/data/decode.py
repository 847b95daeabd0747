"""Decode any image file to an upright RGB picture, in the same way for training, prediction and golden inputs.

    EXIF orientation   applied
    alpha              composited on white (RGBA, LA, and palettes with transparency)
    palette, 1-bit     expanded
    grey               the same value in R, G and B
    CMYK, YCbCr, LAB   converted as Pillow does, without colour profiles
    16-bit grey        the upper 8 bits
    32-bit, float      clipped to 0..255; NaN becomes 0

Of several frames the first is taken. EXIF data that cannot be read are ignored.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from zoo.errors import DataError

# Pillow's warnings (damaged EXIF, many pixels) do not help people: either the picture is read, or DataError says why
# not. The filter is never removed, because `warnings.catch_warnings` is not thread-safe.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that turns the picture upright."""


def decode(content: bytes, *, name: str) -> Image.Image:
    """Decode the bytes of a whole image file to an upright RGB picture.

    Raises DataError, which begins with `name`, for a file that is empty, truncated, damaged, not an image, or a
    decompression bomb.
    """
    if not content:
        raise DataError(f"{name}: the file is empty")
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            picture = to_rgb(_upright(image))
            return picture if picture is not image else image.copy()
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels: {error}") from None
    # Damaged files make Pillow's decoders raise nearly anything.
    except Exception as error:
        raise DataError(f"{name}: {str(error) or type(error).__name__}") from None


def read_image(path: Path) -> Image.Image:
    """Decode a file from the disk. Raises DataError, which begins with the path, as `decode` does."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return decode(content, name=str(path))


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded picture upright and convert it to RGB, as `decode` does with a file of it."""
    return to_rgb(_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB by the rules at the top of this module."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _to_8_bits(image)
    # Pillow converts La, with premultiplied alpha, to nothing but LA.
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose would also rewrite the EXIF data, which fails if some of them are damaged.
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image
    return image if method is None else image.transpose(method)


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # Pillow opens a 16-bit PGM file as 32-bit, and stretches its values to the whole range of 16 bits.
    if image.mode.startswith("I;16") or image.format == "PPM":
        pixels = (values >> 8).astype(np.uint8)
    else:
        pixels = np.nan_to_num(np.clip(values, 0, 255)).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        pixels[values == image.info["transparency"]] = 255
    return Image.fromarray(pixels).convert("RGB")
