"""An image of a request, from its bytes to the tensor that the classifier takes.

The bytes come from strangers. What decoding them may cost is looked up in the header first (`zoo.serving.limits`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoo.data.decode import decode, open_file
from zoo.data.depth import tiff_kind
from zoo.data.transform import transform
from zoo.errors import DataError
from zoo.serving.limits import RequestLimits
from zoo.specs.preprocessing import Preprocessing

_TAKEN = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats of which strangers may send files: the header says how large the picture is, and Pillow needs nothing else.
Among the others are those that hold a file of any format and size (icons, IPTC), and for which it starts a program."""
_WHAT_IS_TAKEN = "A server reads JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000 and AVIF. Next: save it as JPEG."
_SCANNED = ("JPEG", "MPO")
"""Formats whose pixels come in scans."""
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
"""Begins a part of a JPEG file. Between the pixels' bytes there is no such pair. 0x01 and 0xd0 to 0xd7 are marks that
nothing belongs to: what follows them is no length, by which scans could be passed over."""
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_TILE_SIDES = (322, 323)
"""Tags of a TIFF file: the width and the height of its tiles."""
_SCANS = 100
"""Most scans of a JPEG file. Progressive ones have about ten. Each one goes through all pixels again, however few
bytes it has: a file of 20 MB with a scan in every 92 bytes would be decoded for hours, and nobody else answered."""
_PARTS = 10_000
"""Most parts of a JPEG file that are looked at for that. A photograph has about twenty, with large texts hundreds."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as it was sent."""

    source: str
    """Its file name; `image N` without one, counted from 0."""
    content: bytes


class PictureRefused(Exception):
    """An image that cannot be classified, with the status and the code of its problem."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def prepare(upload: Upload, preprocessing: Preprocessing, limits: RequestLimits) -> Tensor:
    """The image as image[3, H, W], decoded and preprocessed as `zoo predict` does.

    Raises PictureRefused for what is not an image, is damaged, is of a format that is not taken, or has too many
    pixels.
    """
    try:
        _refuse_before_decoding(upload, preprocessing, limits)
        picture = decode(upload.content, name=upload.source, preprocessing=preprocessing, formats=_formats())
        return transform(picture, preprocessing)
    except DataError as error:
        text = str(error)
        raise PictureRefused(
            422, "unreadable", text if text.startswith(upload.source) else f"{upload.source}: {text}"
        ) from None


def _refuse_before_decoding(upload: Upload, preprocessing: Preprocessing, limits: RequestLimits) -> None:
    """Look at the header alone, which costs nothing. What it cannot tell, decoding finds."""
    try:
        with open_file(upload.content, formats=_formats()) as image:
            width, height, kind, at_once = image.width, image.height, image.format, _decoded_at_once(image)
    except Image.DecompressionBombError:
        raise PictureRefused(413, "too_many_pixels", f"{upload.source}: {_most(limits)}") from None
    except UnidentifiedImageError:
        if not upload.content or tiff_kind(upload.content):
            return
        raise PictureRefused(
            422, "unreadable", f"{upload.source}: not an image that can be read. {_WHAT_IS_TAKEN}"
        ) from None
    except Exception:
        return
    if kind in _SCANNED and _scans(upload.content) > _SCANS:
        raise PictureRefused(
            422,
            "unreadable",
            f"{upload.source}: it has more than {_SCANS} scans, or {_PARTS:,} parts. "
            "Next: save it as an ordinary JPEG.",
        )
    if width * height > limits.pixels:
        raise PictureRefused(
            413, "too_many_pixels", f"{upload.source}: it has {width:,} x {height:,} pixels. {_most(limits)}"
        )
    if at_once > limits.pixels:
        raise PictureRefused(
            413, "too_many_pixels", f"{upload.source}: a tile of it has {at_once:,} pixels. {_most(limits)}"
        )
    # A side of 0 would be divided by. Decoding has the words for such a file.
    if min(width, height) and _resized_pixels(width, height, preprocessing) > limits.pixels:
        raise PictureRefused(
            413,
            "too_many_pixels",
            f"{upload.source}: {width:,} x {height:,} pixels are too narrow to be "
            "resized. Next: send a part of it that is wider.",
        )


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of `_TAKEN` that this Pillow knows."""
    Image.init()
    return tuple(name for name in _TAKEN if name in Image.OPEN)


def _decoded_at_once(image: Image.Image) -> int:
    """Pixels of a tile of a TIFF file, which is decoded whole however small the picture is; 0 without tiles."""
    width, height = (getattr(image, "tag_v2", {}).get(side, 0) for side in _TILE_SIDES)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _scans(content: bytes) -> int:
    """How many scans the picture of a JPEG file has; at most one more than it may have, as of one with too many parts.

    Its parts are followed one by one: thumbnails and texts have bytes of their own, and behind the picture there may be
    a whole film.
    """
    found = place = parts = 0
    while found <= _SCANS and (marker := _MARKER.search(content, place)) is not None:
        kind, place = marker[1][0], marker.end()
        if kind == _END:
            break
        if kind != _START:
            # The stated length counts its own two bytes. A damaged file may say less, and the search must move on.
            place += max(2, int.from_bytes(content[place : place + 2], "big"))
        parts += 1
        found = _SCANS + 1 if parts > _PARTS else found + (kind == _SCAN)
    return found


def _most(limits: RequestLimits) -> str:
    return f"An image may have at most {limits.pixels / 1e6:,g} million pixels. Next: save it smaller."


def _resized_pixels(width: int, height: int, preprocessing: Preprocessing) -> float:
    """About as many as the resized copy will have: if the aspect ratio stays, a narrow picture becomes a long one."""
    target_height, target_width = preprocessing.resize_size
    if preprocessing.resize in ("exact", "longest"):
        return target_height * target_width
    scale = max(target_height / height, target_width / width)
    return scale * height * scale * width
