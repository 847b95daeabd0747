"""An image of a request, from its bytes to the tensor that the classifier takes.

The bytes come from strangers. What decoding them may cost is looked up in the header first (`zoo.serving.limits`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from zoo.data.decode import decode, open_file
from zoo.data.transform import transform
from zoo.errors import DataError
from zoo.serving.limits import RequestLimits
from zoo.specs.preprocessing import Preprocessing

_PROGRAMS = ("EPS", "WMF")
"""Formats for which Pillow starts another program, or the system draws: no stranger may have that done."""
_SCANNED = ("JPEG", "MPO")
"""Formats whose pixels come in scans."""
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""Begins a part of a JPEG file. Between the pixels' bytes there is no such pair."""
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_SCANS = 100
"""Most scans of a JPEG file. Progressive ones have about ten. Each one goes through all pixels again, however few
bytes it has: a file of 20 MB with a scan in every 92 bytes would be decoded for hours, and nobody else answered."""


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

    Raises PictureRefused for what is not an image, is damaged, or has too many pixels.
    """
    try:
        _refuse_before_decoding(upload, preprocessing, limits)
        return transform(decode(upload.content, name=upload.source, preprocessing=preprocessing), preprocessing)
    except DataError as error:
        text = str(error)
        raise PictureRefused(
            422, "unreadable", text if text.startswith(upload.source) else f"{upload.source}: {text}"
        ) from None


def _refuse_before_decoding(upload: Upload, preprocessing: Preprocessing, limits: RequestLimits) -> None:
    """Look at the header alone, which costs nothing. What it cannot tell, decoding finds."""
    try:
        with open_file(upload.content) as image:
            width, height, kind = image.width, image.height, image.format
    except Image.DecompressionBombError:
        raise PictureRefused(413, "too_many_pixels", f"{upload.source}: {_most(limits)}") from None
    except Exception:
        return
    if kind in _PROGRAMS:
        raise PictureRefused(
            422,
            "unreadable",
            f"{upload.source}: {kind} is drawn by another program, which a server does not start. "
            "Next: save it as a JPEG or PNG file.",
        )
    if kind in _SCANNED and _scans(upload.content) > _SCANS:
        raise PictureRefused(
            422, "unreadable", f"{upload.source}: it has more than {_SCANS} scans. Next: save it as an ordinary JPEG."
        )
    if width * height > limits.pixels:
        raise PictureRefused(
            413, "too_many_pixels", f"{upload.source}: it has {width:,} x {height:,} pixels. {_most(limits)}"
        )
    # A side of 0 would be divided by. Decoding has the words for such a file.
    if min(width, height) and _resized_pixels(width, height, preprocessing) > limits.pixels:
        raise PictureRefused(
            413,
            "too_many_pixels",
            f"{upload.source}: {width:,} x {height:,} pixels are too narrow to be "
            "resized. Next: send a part of it that is wider.",
        )


def _scans(content: bytes) -> int:
    """How many scans the picture of a JPEG file has; at most one more than it may have.

    Its parts are followed one by one: thumbnails and texts have bytes of their own, and behind the picture there may be
    a whole film.
    """
    found = place = 0
    while found <= _SCANS and (marker := _MARKER.search(content, place)) is not None:
        kind, place = marker[1][0], marker.end()
        if kind == _END:
            break
        if kind != _START:
            # The stated length counts its own two bytes. A damaged file may say less, and the search must move on.
            place += max(2, int.from_bytes(content[place : place + 2], "big"))
        found += kind == _SCAN
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
