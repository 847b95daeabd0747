"""One decode for training, prediction and golden inputs: any image file -> an RGB picture, upright.

    EXIF orientation   applied
    alpha              laid over white (RGBA, LA, and palettes with transparency)
    palette, 1-bit     expanded
    grey               the same value in R, G and B
    CMYK, YCbCr, LAB   converted as Pillow does, without colour profiles
    16-bit grey        the upper 8 bits
    32-bit, float      clipped to 0..255
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import DataError


def decode(content: bytes, *, name: str) -> Image.Image:
    """Decode a whole image file to RGB.

    Raises DataError naming the file: empty, not an image, truncated, damaged, or a decompression bomb.
    """
    if not content:
        raise DataError(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DataError(f"{name}: not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels: {error}") from None
    # Damaged files make Pillow's decoders raise nearly anything.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{name}: {str(error) or type(error).__name__}") from None


def read_image(path: Path) -> Image.Image:
    """Decode a file from disk. Raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return decode(content, name=str(path))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode by the rules above."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _narrow(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def _narrow(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
