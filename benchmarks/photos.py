"""Generated JPEGs of a photograph's size, as many as are asked for, in a folder with train/ and val/."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from zoo.data.sample import sample_image

CLASSES, DRAWN = 5, 250
"""Pictures beyond those drawn repeat their pixels, in a file of their own content: no program can tell that it has
seen one before by the file's digest."""
SIZE = (500, 375)
_VAL = 5
"""Every fifth picture of a class is for validation."""
_START = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


def photos(folder: Path, count: int, *, different: int = DRAWN, size: tuple[int, int] = SIZE) -> Path:
    """The folder with `count` pictures, a multiple of 25, below `folder`; drawn where it is not there yet.

    `size`: width and height; pictures that are there are not looked at, so another size wants another `folder`.

    Raises ValueError for another count.
    """
    if count % (CLASSES * _VAL):
        raise ValueError(f"{count} pictures do not go into {CLASSES} classes with a fifth for validation")
    made = photos_folder(folder, count)
    if made.is_dir():
        return made
    drawn = [_drawn(number, size) for number in range(min(count, different))]
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder))
    try:
        for number in range(count):
            position = number // CLASSES
            split = "val" if position % _VAL == 0 else "train"
            place = draft / split / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{position:05d}.jpg").write_bytes(_commented(drawn[number % len(drawn)], number))
        draft.rename(made)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made


def photos_folder(folder: Path, count: int) -> Path:
    """Where `photos` puts them."""
    return folder / f"photos-{count}"


def _drawn(number: int, size: tuple[int, int]) -> bytes:
    picture = sample_image(number % CLASSES, CLASSES, "train", number // CLASSES)
    with tempfile.TemporaryFile() as file:
        picture.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
        file.seek(0)
        return file.read()


def _commented(jpeg: bytes, number: int) -> bytes:
    """The same picture with its number in a comment (marker COM of ITU-T T.81)."""
    text = str(number).encode()
    return _START + _COMMENT + (len(text) + 2).to_bytes(2, "big") + text + jpeg.removeprefix(_START)
