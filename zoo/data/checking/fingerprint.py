"""Perceptual hashes: pictures that look alike have hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
_FLAT = 2.0
"""Standard deviation of grey values; below it there is noise alone."""
_BLOCK = 1 << 22
"""Pairs that are compared at a time: 32 MiB of differences."""


def fingerprint(picture: Image.Image) -> int | None:
    """64-bit pHash of an RGB picture: which low frequencies of its grey values are above the median.

    Resizing, recompression and small changes of brightness leave most bits as they are. None for a picture of one
    grey, whose bits would be noise. The hash is `imagehash.phash`
    (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html).
    """
    from imagehash import phash

    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if float(np.asarray(small).std()) < _FLAT:
        return None
    return int.from_bytes(np.packbits(phash(small).hash).tobytes())


def nearest_earlier(hashes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar one before it -> (indices[N], differing bits[N]); -1 and 65 for the first."""
    values = np.array(hashes, np.uint64)
    indices, distances = np.full(len(values), -1), np.full(len(values), 65)
    for start, stop in _blocks(len(values), len(values)):
        found = np.bitwise_count(values[start:stop, None] ^ values[None, :stop])
        found[np.arange(stop)[None, :] >= np.arange(start, stop)[:, None]] = 65
        indices[start:stop], distances[start:stop] = found.argmin(1), found.min(1)
    indices[distances == 65] = -1
    return indices, distances


def nearest_in(hashes: Sequence[int], others: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar one of `others`, which must not be empty -> (indices[N], differing bits[N])."""
    values, against = np.array(hashes, np.uint64), np.array(others, np.uint64)
    indices, distances = np.full(len(values), -1), np.full(len(values), 65)
    for start, stop in _blocks(len(values), len(against)):
        found = np.bitwise_count(values[start:stop, None] ^ against[None, :])
        indices[start:stop], distances[start:stop] = found.argmin(1), found.min(1)
    return indices, distances


def _blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    size = max(1, _BLOCK // max(1, columns))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
