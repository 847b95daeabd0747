"""What one look at a file tells, of one decode."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import ExifTags, Image

from zoo.data.checking.fingerprint import fingerprint
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.errors import DataError

_PNG_DEPTH = 24
"""Where a PNG file says how many bits a sample has."""
_TIFF_DEPTH = 258


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """One file; where `fault` says that it cannot be decoded, what is unknown is empty or 0."""

    relative: str
    """Below the data folder, with forward slashes."""
    bytes: int = 0
    content: str = ""
    """SHA-256 of the file."""
    fault: str = ""
    """Why it cannot be decoded."""
    format: str = ""
    """As its content says: `JPEG`, `PNG`, ..."""
    mode: str = ""
    """As stored, in Pillow's words: `RGB`, `CMYK`, `P`, ..."""
    bits: int = 8
    """Of a sample, as stored."""
    transparent: bool = False
    orientation: int = 1
    """Of EXIF; 1 is upright."""
    width: int = 0
    height: int = 0
    """Pixels, upright."""
    pixels: str = ""
    """SHA-256 of size and decoded RGB values: a copy with other metadata has the same."""
    fingerprint: int | None = None
    """Perceptual hash; None where the picture has nothing to tell it by. See `zoo.data.checking.fingerprint`."""


def read_facts(file: ImageFile) -> FileFacts:
    """Open a file and decode it fully. What is wrong with it is in `fault`; nothing is raised."""
    relative = file.relative
    try:
        if file.reader is None and file.path.exists() and not file.path.is_file():
            return FileFacts(relative=relative, fault="no regular file")  # a pipe would be waited for without end
        content = file.content()
    except OSError as error:
        return FileFacts(relative=relative, fault=error.strerror or str(error))
    except DataError as error:
        return FileFacts(relative=relative, fault=str(error).removeprefix(f"{relative}: "))
    known = {"relative": relative, "bytes": len(content), "content": hashlib.sha256(content).hexdigest()}
    try:
        picture = decode(content, name=relative)
    except DataError as error:
        return FileFacts(**known, fault=str(error).removeprefix(f"{relative}: "))  # type: ignore[arg-type]
    return FileFacts(
        **known,  # type: ignore[arg-type]
        **_as_stored(content),  # type: ignore[arg-type]
        width=picture.width,
        height=picture.height,
        pixels=_pixel_digest(picture),
        fingerprint=fingerprint(picture),
    )


def _as_stored(content: bytes) -> dict[str, object]:
    """What the header says; the pixels are not decoded again."""
    with Image.open(io.BytesIO(content)) as image:
        return {
            "format": image.format or "",
            "mode": image.mode,
            "bits": _bits(image, content),
            "transparent": image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
            "orientation": _orientation(image),
        }


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly anything, and counts as none
        return 1
    return found if found in range(1, 9) else 1


def _bits(image: Image.Image, content: bytes) -> int:
    # Pillow narrows 16-bit colour when it opens a file, so the mode alone does not tell.
    if image.format == "PNG":
        return content[_PNG_DEPTH]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_TIFF_DEPTH, (8,))))  # type: ignore[attr-defined]
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def _pixel_digest(picture: Image.Image) -> str:
    digest = hashlib.sha256(f"{picture.width}x{picture.height}\n".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()
