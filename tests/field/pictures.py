"""Small random pictures for the inputs of this folder: one file for each kind of fault that users met."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, names: Iterable[str], *, side: int = 48) -> Path:
    """Write a random picture to every name below the folder. The same name always gives the same pixels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def pictures_of(*folders: str, count: int = 6) -> list[str]:
    """`count` names of pictures in each of the folders, such as `train/cat/1.jpg`."""
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(1, count + 1)]
