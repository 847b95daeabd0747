"""Samples of other than 8 bits, or with a sign: how they become 8 bits, whatever Pillow makes of them at first.

Every rule is for a kind of file, never for the range that a single picture happens to use: otherwise two pictures of
one set could not be compared. Only floats tell by their values whether 1 or 255 is white, because no tag says it.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from zoo.errors import DataError

CHANGED = "2"
"""Part of the name of rows that were computed from a picture which zoo 0.1 decoded otherwise: signed, WhiteIsZero, 12
bits, floats in 0..1, big-endian and compressed. So an older cache is still used, but not for such files."""
SLACK = 0.01
"""How far floats may lie outside of 0..1 or 0..255, as a share of it: resampling leaves values like 1.002."""
_NEXT = "Next: scale the values to 0..255, and save the picture with 8 bits."

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SIGNED = 2
_PNG_DEPTH = 24
"""Offset of the byte in a PNG file that says how many bits a sample has."""
_NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}
"""Pillow's layouts of big-endian samples -> of little-endian ones."""
_GREY_AND_ALPHA = "LA;16B"
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}


def bits_of(image: Image.Image, content: bytes) -> int:
    """Bits per sample, as stored in the opened file."""
    # Pillow reduces 16-bit colour to 8 bits when it opens a file, so the mode does not always tell the depth.
    if image.format == "PNG":
        return content[_PNG_DEPTH]
    if image.format == "TIFF":
        return int(max(_tag(image, _BITS, (8,))))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def mend_layout(image: Image.Image) -> bool:
    """Correct how Pillow is going to read the samples of an opened TIFF file -> whether that was needed.

    libtiff gives numbers in the order of this machine, but Pillow takes those of signed and float files for big-endian.
    And of 16-bit colours that are stored one after another, it reads bytes instead of numbers.
    """
    tiles = list(getattr(image, "tile", ()))
    if image.format != "TIFF" or not tiles or not isinstance(tiles[0].args, tuple):
        return False
    deep = bits_of(image, b"") == 16
    order = "L" if image.tag_v2.prefix == b"II" else "B"  # type: ignore[attr-defined]
    mended = []
    for tile in tiles:
        layout, *rest = tile.args
        if tile.codec_name == "libtiff":
            layout = _NATIVE.get(layout, layout) if sys.byteorder == "little" else layout
        elif deep and len(layout) == 1:
            layout = f"{layout};16{order}"
        mended.append(tile._replace(args=(layout, *rest)))
    image.tile = mended  # type: ignore[attr-defined]
    return mended != tiles


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has one band that `to_8_bits` is for: over 8 bits, or signed."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return True
    return image.format == "TIFF" and image.mode == "L" and _tag(image, _SAMPLE_FORMAT, (1,))[0] == _SIGNED


def to_8_bits(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[Any], bool]:
    """(pixels, values, changed) of a picture that is deep: what it becomes, what it held, both [H, W].

    `changed`: zoo 0.1 made other pixels of it. Raises DataError for values that no rule covers.
    """
    values = np.asarray(image)
    white_is_zero = image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == 0
    pixels, changed = _by_kind(image, values)
    if white_is_zero:
        pixels, changed = 255 - pixels, True
    if values.dtype.kind == "f":
        pixels[np.isnan(values)] = 0
    if isinstance(image.info.get("transparency"), int):
        pixels[values == image.info["transparency"]] = 255
    return pixels, values, changed


def colour_values(content: bytes, image: Image.Image) -> NDArray[Any] | None:
    """The samples [H, W, bands] of 16-bit colour, of which Pillow gives the upper bytes alone.

    `image` is the same file, loaded. Read in the other byte order, the file gives the lower bytes. None where Pillow
    knows no other order.
    """
    with Image.open(io.BytesIO(content)) as lower:
        mend_layout(lower)
        grey = any(tile.args == _GREY_AND_ALPHA for tile in lower.tile)
        try:
            lower.tile = [_of_other_byte(tile) for tile in lower.tile]
            lower.load()
        except (ValueError, KeyError):
            return None
        low, high = np.asarray(lower), np.asarray(image)
    if grey:  # the four bytes of a pixel: upper and lower one of grey, then of alpha
        low = low[..., [1, 1, 1, 3]]
    values: NDArray[np.uint16] = high.astype(np.uint16) << 8 | low
    return values


def tiff_kind(content: bytes) -> str:
    """What the samples of a TIFF file are, for people: `3 x 32-bit float, RGB, big-endian`. Empty for other files."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        bits, samples = tags.get(_BITS, (1,)), tags.get(277, 1)
        kind = _KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "unknown")
        meaning = {0: "WhiteIsZero", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}
        photometric = int(tags.get(_PHOTOMETRIC, 0))
        colours = meaning.get(photometric, f"photometric {photometric}")
    except Exception:  # a damaged directory makes Pillow raise nearly anything
        return ""
    order = "little-endian" if content[:2] == b"II" else "big-endian"
    return f"{f'{samples} x ' if samples != 1 else ''}{max(bits)}-bit {kind}, {colours}, {order}"


def _by_kind(image: Image.Image, values: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
    stored = image.format == "TIFF"
    bits = int(max(_tag(image, _BITS, (0,)))) if stored else 0
    signed = stored and _tag(image, _SAMPLE_FORMAT, (1,))[0] == _SIGNED
    if image.mode == "L":
        return values ^ np.uint8(128), True
    if image.mode.startswith("I;16"):
        # Pillow opens a file of 12 bits as one of 16, and leaves the upper 4 empty.
        few = bits == 12
        return (values >> (4 if few else 8)).astype(np.uint8), few
    if values.dtype.kind == "f":
        return _of_floats(values)
    # Pillow opens a 16-bit PGM file as 32-bit, and stretches its values to the whole range of 16 bits.
    if image.format == "PPM":
        return (values >> 8).astype(np.uint8), False
    if bits == 16 and signed:
        return ((values + 32768) >> 8).astype(np.uint8), True
    whole = values.view(np.uint32) if stored and not signed else values
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or high > 255:
        raise DataError(f"32-bit integers from {low} to {high}; they are read as they are within 0..255 alone. {_NEXT}")
    return whole.astype(np.uint8), False


def _of_floats(values: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    for white in (1.0, 255.0):
        if low >= -SLACK * white and high <= (1 + SLACK) * white:
            scaled = np.rint(values * 255) if white == 1 else values
            return np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8), white == 1 and high > 0
    raise DataError(f"floats from {low:g} to {high:g}; they are read within 0..1 (times 255) or 0..255 alone. {_NEXT}")


def _of_other_byte(tile: Any) -> Any:
    layout, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args
    other = "RGBA" if layout == _GREY_AND_ALPHA else layout[:-1] + _OTHER_BYTE[layout[-1]]
    return tile._replace(args=other if isinstance(tile.args, str) else (other, *rest))


def _tag(image: Image.Image, tag: int, default: Any) -> Any:
    return image.tag_v2.get(tag, default)  # type: ignore[attr-defined]
