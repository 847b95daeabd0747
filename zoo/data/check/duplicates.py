"""Find duplicate and near-duplicate images: across splits, under two labels, or merely repeated.

Exact copies are found by digest, light enough for every plan. Near-duplicates are found by perceptual hash: images that
look alike have hashes that differ in few bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.dataset import ImageFile
from zoo.specs.data import Split

ALIKE = 6
"""Hashes of near-duplicates differ in at most this many of 64 bits. Of 1,097 real photos, different ones differ in at
least 12; copies of 183 of them, half as large, compressed again at quality 40 or a tenth brighter, in at most 4."""
_SIDE = 32
_FLAT = 2.0
"""Standard deviation of the grey values below which an image shows nothing but noise."""
_BLOCK = 1 << 22
"""Pairs of hashes that are compared at a time: 32 MiB of differences."""
_NO_MATCH = 65
"""More bits than two hashes of 64 bits can differ in."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One of several files with the same picture."""

    relative: str
    split: Split
    label: int


def copies(splits: Mapping[Split, Sequence[ImageFile]], digests: Mapping[str, str]) -> list[tuple[Copy, ...]]:
    """Groups of two or more files with the same digest, in the order of the splits.

    `digests` maps relative paths to a digest of the bytes or of the pixels; a file without a digest is left out.
    """
    groups: dict[str, list[Copy]] = {}
    for split, files in splits.items():
        for file in files:
            digest = digests.get(file.relative)
            if digest:
                groups.setdefault(digest, []).append(Copy(file.relative, split, file.label))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def across_splits(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """The groups with copies in more than one split."""
    return [group for group in groups if len({copy.split for copy in group}) > 1]


def under_two_labels(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """The groups with copies under more than one label."""
    return [group for group in groups if len({copy.label for copy in group}) > 1]


def within_a_split(groups: Iterable[tuple[Copy, ...]]) -> list[tuple[Copy, ...]]:
    """Groups of copies in one split under one label."""
    repeated: list[tuple[Copy, ...]] = []
    for group in groups:
        places: dict[tuple[Split, int], list[Copy]] = {}
        for copy in group:
            places.setdefault((copy.split, copy.label), []).append(copy)
        repeated += [tuple(same) for same in places.values() if len(same) > 1]
    return repeated


def fingerprint(picture: Image.Image) -> int | None:
    """The pHash of an RGB picture, 64 bits: which low frequencies of its grey values are above their median.

    Resizing, recompression and small changes of brightness leave most bits as they are. None for a picture of a single
    grey, whose bits would be noise. The hash is that of `imagehash.phash`
    (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html).
    """
    from imagehash import phash

    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if float(np.asarray(small).std()) < _FLAT:
        return None
    return int.from_bytes(np.packbits(phash(small).hash).tobytes())


def nearest_earlier(hashes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar one before it: (indices[N], differing bits[N]); -1 and 65 for the first."""
    values = np.array(hashes, np.uint64)
    indices, distances = np.full(len(values), -1), np.full(len(values), _NO_MATCH)
    for start, stop in _blocks(len(values), len(values)):
        bits = np.bitwise_count(values[start:stop, None] ^ values[None, :stop])
        bits[np.arange(stop)[None, :] >= np.arange(start, stop)[:, None]] = _NO_MATCH
        indices[start:stop], distances[start:stop] = bits.argmin(1), bits.min(1)
    indices[distances == _NO_MATCH] = -1
    return indices, distances


def nearest_in(hashes: Sequence[int], references: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar of `references` (one or more): (indices[N], differing bits[N])."""
    values, compared = np.array(hashes, np.uint64), np.array(references, np.uint64)
    indices, distances = np.full(len(values), -1), np.full(len(values), _NO_MATCH)
    for start, stop in _blocks(len(values), len(compared)):
        bits = np.bitwise_count(values[start:stop, None] ^ compared[None, :])
        indices[start:stop], distances[start:stop] = bits.argmin(1), bits.min(1)
    return indices, distances


def _blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    # All pairs of 100,000 images at once would need 80 GB.
    size = max(1, _BLOCK // max(1, columns))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
