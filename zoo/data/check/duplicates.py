"""Find duplicate and near-duplicate images: across splits, under two labels, or merely repeated.

Exact copies are found by digest, light enough for every plan. Near-duplicates are found by perceptual hash: images that
look alike have hashes that differ in few bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.check.bands import QUICK, near_pairs
from zoo.data.dataset import ImageFile, names_of
from zoo.data.digests import DigestColumn
from zoo.data.manifest import ImageRows, chosen
from zoo.specs.data import Split

_SIDE = 32
_FLAT = 2.0
"""Standard deviation of the grey values below which an image shows nothing but noise."""
_NO_MATCH = 65
"""More bits than two hashes of 64 bits can differ in."""
_PLACE = 40
"""Bits for an index in a number that holds a distance above it, so that the least is the nearest, then the first."""

Progressed = Callable[[int, int], None]
"""Called with (hashes compared with all others, different hashes); not for so few that it takes no time."""


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
    for split, files in _repeated(splits, digests).items():
        for file in files:
            if digest := digests.get(file.relative):
                groups.setdefault(digest, []).append(Copy(file.relative, split, file.label))
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _repeated(
    splits: Mapping[Split, Sequence[ImageFile]], digests: Mapping[str, str]
) -> Mapping[Split, Sequence[ImageFile]]:
    """The files that may have the same digest as another one, all that do among them: in most data sets few do."""
    rows = [
        files.rows
        for files in splits.values()
        if isinstance(files, ImageRows) and isinstance(digests, DigestColumn) and files.manifest is digests.manifest
    ]
    if rows and isinstance(digests, DigestColumn) and len(rows) == len(splits):
        repeated = _repeated_rows(digests, np.concatenate(rows))
        parts = np.split(repeated, np.cumsum([len(part) for part in rows])[:-1])
        return {split: chosen(files, part) for (split, files), part in zip(splits.items(), parts, strict=True)}
    seen: set[str] = set()
    twice: set[str] = set()
    for name in chain.from_iterable(names_of(files) for files in splits.values()):
        if digest := digests.get(name):
            (twice if digest in seen else seen).add(digest)
    if not twice:
        return {}
    return {split: [file for file in files if digests.get(file.relative) in twice] for split, files in splits.items()}


def _repeated_rows(digests: DigestColumn, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which of `rows[n]` have a digest that begins like that of another one: mask[n]."""
    # Eight of 32 bytes; whoever asks looks at the rest.
    begins = digests.bytes.view(np.uint64)[:, 0][rows]
    ordered = np.sort(begins)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return np.zeros(len(rows), np.bool_)
    found = np.searchsorted(twice, begins)
    found[found == len(twice)] = 0
    repeated: NDArray[np.bool_] = (twice[found] == begins) & digests.known[rows]
    return repeated


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


def nearest_earlier(
    hashes: Sequence[int] | NDArray[np.uint64], progress: Progressed | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar one before it that differs in at most `ALIKE` bits, the first of several.

    Returns:
        (indices[N], differing bits[N]); -1 and 65 where there is none.
    """
    values, firsts, places = np.unique(np.asarray(hashes, np.uint64), return_index=True, return_inverse=True)
    nearest = _Nearest(len(values))
    for one, other, bits in _near(values, progress):
        here, there = firsts[one], firsts[other]
        nearest.offer(np.where(here < there, other, one), bits, np.minimum(here, there))
    indices, distances = (found[places] for found in nearest.found())
    # Of equal hashes the first is nearest to all others.
    again = firsts[places] < np.arange(len(places))
    indices[again], distances[again] = firsts[places][again], 0
    return indices, distances


def nearest_in(
    hashes: Sequence[int] | NDArray[np.uint64],
    references: Sequence[int] | NDArray[np.uint64],
    progress: Progressed | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every hash the most similar of `references` that differs in at most `ALIKE` bits, the first of several.

    Returns:
        (indices[N], differing bits[N]); -1 and 65 where there is none.
    """
    given, known = np.asarray(hashes, np.uint64), np.asarray(references, np.uint64)
    values, places = np.unique(np.concatenate([known, given]), return_inverse=True)
    firsts = np.full(len(values), -1)
    # From the last to the first, so that the first of equal references stays.
    firsts[places[: len(known)][::-1]] = np.arange(len(known))[::-1]
    nearest = _Nearest(len(values))
    there = np.flatnonzero(firsts >= 0)
    nearest.offer(there, np.zeros(len(there), np.uint8), firsts[there])
    for one, other, bits in _near(values, progress):
        for row, reference in ((one, other), (other, one)):
            is_there = firsts[reference] >= 0
            nearest.offer(row[is_there], bits[is_there], firsts[reference[is_there]])
    indices, distances = (found[places[len(known) :]] for found in nearest.found())
    return indices, distances


class _Nearest:
    """The nearest that was offered to each hash, and of those the first."""

    def __init__(self, count: int) -> None:
        self._best = np.full(count, _NO_MATCH << _PLACE)

    def offer(self, rows: NDArray[np.int64], bits: NDArray[np.uint8], indices: NDArray[np.int64]) -> None:
        # `at`, because one row may be offered several at once, of which an assignment would take the last.
        np.minimum.at(self._best, rows, (bits.astype(np.int64) << _PLACE) | indices)

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (indices[N], differing bits[N]); -1 and 65 where nothing was offered."""
        distances = self._best >> _PLACE
        return np.where(distances == _NO_MATCH, -1, self._best & ((1 << _PLACE) - 1)), distances


def _near(
    values: NDArray[np.uint64], progress: Progressed | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    for done, one, other in near_pairs(values):
        if progress is not None and len(values) > QUICK:
            progress(done, len(values))
        yield one, other, np.bitwise_count(values[one] ^ values[other])
