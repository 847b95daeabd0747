"""One decode for training, prediction and golden inputs: any image file -> an RGB picture, upright.

    EXIF orientation   applied
    alpha              laid over white (RGBA, LA, and palettes with transparency)
    palette, 1-bit     expanded
    grey               the same value in R, G and B
    CMYK, YCbCr, LAB   converted as Pillow does, without colour profiles
    16-bit grey        the upper 8 bits
    32-bit, float      clipped to 0..255; what is no number is 0

Of several frames the first is taken. EXIF that cannot be read counts as none.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from zoo.errors import DataError

# What Pillow warns of (damaged EXIF, many pixels) is of no use to people: either the picture is read, or DataError says
# why not. Never taken back: `warnings.catch_warnings` is not safe among threads.
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
"""EXIF orientation -> what makes it upright."""


def decode(content: bytes, *, name: str) -> Image.Image:
    """Decode a whole image file to RGB.

    Raises DataError naming the file: empty, not an image, truncated, damaged, or a decompression bomb.
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
    """Decode a file from disk. Raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return decode(content, name=str(path))


def from_memory(image: Image.Image) -> Image.Image:
    """A picture that is decoded already, treated as a file of it would be: upright, RGB."""
    return to_rgb(_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode by the rules above."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _narrow(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also writes the EXIF anew, which fails where some of it is damaged.
    try:
        method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image
    return image if method is None else image.transpose(method)


def _narrow(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # Pillow opens 16-bit PGM as 32-bit, and stretches the values to 16 bits.
    if image.mode.startswith("I;16") or image.format == "PPM":
        narrow = (values >> 8).astype(np.uint8)
    else:
        narrow = np.nan_to_num(np.clip(values, 0, 255)).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        narrow[values == image.info["transparency"]] = 255
    return Image.fromarray(narrow).convert("RGB")
