"""Image files without their metadata: whether pixels can be read is never decided by a text, a profile or a date.

Pillow refuses a file for a colour profile of over 1 MB, or for a damaged tag. It is right not to unpack such data
without limit, so they are left out instead: nothing here unpacks anything. What turns a picture upright stays as long
as it can.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
_TURNING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_JPEG_JFIF, _JPEG_EXIF, _JPEG_ADOBE, _JPEG_COMMENT, _JPEG_SCAN = 0xE0, 0xE1, 0xEE, 0xFE, 0xDA
# APP14 says whether three channels are YCbCr or RGB: without it the colours would be others.
_JPEG_WHOLE = {_JPEG_JFIF: 14, _JPEG_ADOBE: 12}
"""Bytes that a segment which says how colours are stored has at least."""
_TIFF_ENTRY = 12
_TIFF_PIXELS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | set(range(512, 522))
    | {529, 530, 531, 532}
)
"""Tags that say how pixels are stored."""
_TIFF_ORIENTATION = 274
_WEBP_PIXELS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
_WEBP_TURNING = frozenset({b"EXIF", b"XMP "})
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}


def without_metadata(content: bytes) -> Iterator[bytes]:
    """Yield the file without metadata, first with what turns the picture upright, then without that too.

    Nothing is yielded for formats other than PNG, JPEG, TIFF and WebP, and where there is nothing to leave out.
    """
    strip = _strip_for(content)
    if strip is None:
        return
    tried = content
    for turning in (True, False):
        try:
            stripped = strip(content, turning)
        except (struct.error, IndexError, ValueError):
            return
        if stripped != tried:
            yield stripped
        tried = stripped


def _strip_for(content: bytes) -> Callable[[bytes, bool], bytes] | None:
    if content.startswith(_PNG):
        return _png
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _tiff
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp
    return None


def _png(content: bytes, turning: bool) -> bytes:
    kept, start = [_PNG], len(_PNG)
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + length + 12
        # Capital letters mark what a decoder must know (PNG 5.4). Anything else is no part of the picture.
        if kind in _PNG_PIXELS or kind[:1].isupper() or (turning and _turns(content[start + 4 : end])):
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def _turns(chunk: bytes) -> bool:
    """Whether a chunk of a PNG file, from its kind to its checksum, is whole and may say how to turn the picture."""
    kind, data = chunk[:4], chunk[4:-4]
    if kind != b"eXIf" and not (kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(_TURNING_TEXTS)):
        return False
    return struct.pack(">I", zlib.crc32(chunk[:-4])) == chunk[-4:]


def _jpeg(content: bytes, turning: bool) -> bytes:
    kept, start = [content[:2]], 2
    while start + 4 <= len(content):
        mark, kind, length = struct.unpack_from(">BBH", content, start)
        if mark != 0xFF or kind == _JPEG_SCAN:
            break
        if kind == 0xFF:  # padding
            start += 1
            continue
        end = start + 2 + length
        if kind in _JPEG_WHOLE:
            keep = length - 2 >= _JPEG_WHOLE[kind]
        elif kind == _JPEG_EXIF:
            keep = turning
        else:
            keep = not (0xE0 <= kind <= 0xEF or kind == _JPEG_COMMENT)
        if keep:
            kept.append(content[start:end])
        start = end
    return b"".join([*kept, content[start:]])


def _tiff(content: bytes, turning: bool) -> bytes:
    """Add a directory that lacks the metadata to the end, and point to it: every offset in the file stays right."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    entries = []
    for number in range(count):
        at = start + 2 + number * _TIFF_ENTRY
        (tag,) = struct.unpack_from(f"{order}H", content, at)
        if tag in _TIFF_PIXELS or (turning and tag == _TIFF_ORIENTATION):
            entries.append(content[at : at + _TIFF_ENTRY])
    if len(entries) == count:
        return content
    # A directory begins at an even offset (TIFF 6.0). It is the last one: further frames are not read anyway.
    padding = b"\0" * (len(content) % 2)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0" * 4
    pointer = struct.pack(f"{order}I", len(content) + len(padding))
    return content[:4] + pointer + content[8:] + padding + directory


def _webp(content: bytes, turning: bool) -> bytes:
    kept, start, gone = [], 12, 0
    while start + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, start)
        end = start + 8 + length + length % 2
        if kind in _WEBP_PIXELS or (turning and kind in _WEBP_TURNING and end <= len(content)):
            kept.append(bytearray(content[start:end]))
        else:
            gone |= _WEBP_FLAGS.get(kind, 0)
        start = end
    # The header announces chunks by flags, and one that is announced must be there.
    for chunk in kept:
        if chunk[:4] == b"VP8X":
            chunk[8] &= ~gone
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
