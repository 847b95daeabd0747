"""Facts of every file of a data set, from opening and decoding it once, and the survey of them all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from zoo.data.check.duplicates import fingerprint
from zoo.data.dataset import ImageFile, class_counts
from zoo.data.decode import decode_closely, open_file
from zoo.data.depth import bits_of
from zoo.data.lost_values import Loss
from zoo.errors import DataError
from zoo.specs.data import Skipped, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """Facts of one file. If it cannot be decoded, `fault` says why, and unknown values are empty or 0."""

    relative: str
    """Path below the data folder, with forward slashes."""
    bytes: int = 0
    content: str = ""
    """SHA-256 of the file."""
    fault: str = ""
    """Why the file cannot be decoded; empty if it can."""
    format: str = ""
    """Pillow's name of the format that the content has: `JPEG`, `PNG`, ..."""
    mode: str = ""
    """Pillow's name of the mode that is stored: `RGB`, `CMYK`, `P`, ..."""
    bits: int = 8
    """Bits per sample, as stored."""
    transparent: bool = False
    orientation: int = 1
    """EXIF orientation; 1 is upright."""
    width: int = 0
    height: int = 0
    """Size of the upright picture in pixels."""
    pixels: str = ""
    """SHA-256 of size and decoded RGB values; the same for a copy with other metadata."""
    fingerprint: int | None = None
    """Perceptual hash of 64 bits; None for a picture of one grey. See `zoo.data.check.duplicates`."""
    loss: Loss | None = None
    """What decoding destroyed, where little is left of the values in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All facts of a data set; the findings are derived from it alone."""

    path: Path
    classes: tuple[str, ...]
    """The classes of all splits, including those that some split lacks."""
    splits: Mapping[Split, Sequence[ImageFile]]
    facts: Mapping[str, FileFacts]
    """Facts of every image, by relative path."""
    unused: tuple[tuple[Skipped, FileFacts], ...] = ()
    """Files that no run uses, without hidden ones."""
    split_note: str = ""
    """How val was drawn; empty if the data have a val."""
    notes: tuple[str, ...] = ()
    """Sentences on how the data were read."""
    passed_over: tuple[Skipped, ...] = ()
    """Hidden files and system files. They are not opened."""

    def good(self, split: Split) -> list[ImageFile]:
        """The images of a split that can be decoded."""
        return [file for file in self.splits.get(split, ()) if not self.facts[file.relative].fault]

    def good_files(self) -> Iterator[tuple[Split, ImageFile, FileFacts]]:
        """Yield every image that can be decoded, with its split and facts."""
        for split in self.splits:
            for file in self.good(split):
                yield split, file, self.facts[file.relative]

    def counts(self, split: Split) -> list[int]:
        """Number of images that can be decoded, per class."""
        return class_counts(self.good(split), len(self.classes))


def read_facts(file: ImageFile) -> FileFacts:
    """Read a file and decode it fully; `fault` says what is wrong with it.

    Raises NoAnswer where it cannot be read now, which is no fault of it.
    """
    relative = file.relative
    try:
        if file.reader is None and os.path.exists(file.path) and not os.path.isfile(file.path):
            return FileFacts(relative=relative, fault="no regular file")  # reading a pipe would block forever
        content = file.content()
    except OSError as error:
        return FileFacts(relative=relative, fault=error.strerror or str(error))
    except DataError as error:
        return FileFacts(relative=relative, fault=file.fault(error))
    facts = {"relative": relative, "bytes": len(content), "content": hashlib.sha256(content).hexdigest()}
    try:
        decoded = decode_closely(content, name=relative)
    except DataError as error:
        return FileFacts(**facts, fault=file.fault(error))  # type: ignore[arg-type]
    picture = decoded.picture
    return FileFacts(
        **facts,  # type: ignore[arg-type]
        **_as_stored(content),  # type: ignore[arg-type]
        width=picture.width,
        height=picture.height,
        pixels=_pixel_digest(picture),
        fingerprint=fingerprint(picture),
        loss=decoded.loss,
    )


def _as_stored(content: bytes) -> dict[str, object]:
    # Opening a file with Pillow reads its header only: the pixels are not decoded again.
    with open_file(content) as image:
        return {
            "format": image.format or "",
            "mode": image.mode,
            "bits": bits_of(image, content),
            "transparent": image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
            "orientation": _orientation(image),
        }


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly anything, and is ignored
        return 1
    return orientation if orientation in range(1, 9) else 1


def _pixel_digest(picture: Image.Image) -> str:
    digest = hashlib.sha256(f"{picture.width}x{picture.height}\n".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()
