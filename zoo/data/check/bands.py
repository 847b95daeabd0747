"""All pairs of hashes that differ in few bits, without comparing each with each.

Two hashes of 64 bits that differ in at most six have three of nine bands of bits in common, whichever bits they are.
So hashes are gathered by every three of nine bands, and compared where these are equal: with seven bits a band, few of
a million (Manku, Jain and Sarma, Detecting near-duplicates for web crawling, 2007). The bits of a band are chosen by
the hashes, so that every band divides them about equally. Where many hashes share three bands all the same, they are
divided once more, by bands of the bits in which they differ. No pair is missed; what is bad luck costs time only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIKE = 6
"""Hashes of near-duplicates differ in at most this many of 64 bits. Of 1,097 real photos, different ones differ in at
least 12; copies of 183 of them, half as large, compressed again at quality 40 or a tenth brighter, in at most 4."""
_EQUAL = 3
"""Bands that two hashes alike have in common, at least."""
_BANDS = ALIKE + _EQUAL
QUICK = 1 << 13
"""So many hashes are compared each with each, which takes a twentieth of a second: dividing them takes longer."""
_FEW_OF_BAND, _FEW_OF_THREE = 1 << 9, 1 << 7
"""The same for hashes with one band in common, and for those with three."""
_TOO_FEW_BITS = 21
"""Where hashes differ in fewer bits, three of nine bands leave so many equal that each with each is faster."""
_AT_ONCE = 1 << 20
"""Pairs that are compared at a time: 8 MiB of differences."""
_SAMPLE = 1 << 12
"""Hashes by which the bits of the bands are chosen."""

Hashes = NDArray[np.uint64]
Keys = NDArray[Any]
"""Unsigned integers of 16 or 64 bits."""
Indices = NDArray[np.int64]
Pairs = tuple[Indices, Indices]


def near_pairs(hashes: Hashes) -> Iterator[tuple[int, Indices, Indices]]:
    """Yield all pairs of hashes that differ in at most `ALIKE` bits, every pair once, in blocks.

    Memory is a few times that of the hashes, and time about proportional to their number, where not most of them are
    alike.

    Args:
        hashes: uint64[N], all different.

    Yields:
        (done, one, other): how many of N hashes have been compared with all others, and the indices [P] and [P] of
        the pairs of a block. A last block has done == N.
    """
    if len(hashes) <= QUICK or _differing(hashes).bit_count() < _TOO_FEW_BITS:
        for one, other in _each_with_each(hashes):
            yield 0, one, other
    else:
        yield from _by_bands(hashes)
    none = np.empty(0, np.int64)
    yield len(hashes), none, none


def _by_bands(hashes: Hashes) -> Iterator[tuple[int, Indices, Indices]]:
    dealt, bands = _deal(hashes)
    # Of nine bands three are equal, so the first of them is one of seven.
    for first in range(_BANDS - _EQUAL + 1):
        # A band has at most eight of 64 bits, and numpy sorts numbers of eight bits in linear time.
        order = np.argsort(bands[first].of(dealt).astype(np.uint8), kind="stable")
        gathered = dealt[order]
        for start, stop in _runs(bands[first].of(gathered)):
            rows = order[start:stop]
            done = (first * len(hashes) + start) // (_BANDS - _EQUAL + 1)
            yield done, rows[:0], rows[:0]
            for one, other in _of_band(gathered[start:stop], bands, first):
                yield done, rows[one], rows[other]


class _Band:
    """Bits of dealt hashes that lie beside one another."""

    def __init__(self, low: int, width: int) -> None:
        self.width = width
        self._low, self._mask = np.uint64(low), np.uint64((1 << width) - 1)

    def of(self, dealt: Hashes) -> Hashes:
        return dealt >> self._low & self._mask


def _deal(hashes: Hashes) -> tuple[Hashes, list[_Band]]:
    """Deal out the bits in which hashes differ: the hashes with these in another order, and the bands of them.

    The bits that divide the hashes best are dealt first, one to each band, so that no band is left with bits that say
    little. The bits in which hashes do not differ are left out; they count for no distance.
    """
    sample = hashes[:: max(1, len(hashes) // _SAMPLE)]
    differ = _differing(hashes)
    bits = [bit for bit in range(64) if differ >> bit & 1]
    uneven = {bit: abs(float((sample >> bit & 1).mean()) - 0.5) for bit in bits}
    bits.sort(key=lambda bit: (uneven[bit], bit))
    hands = [bits[band::_BANDS] for band in range(_BANDS)]
    bands, low = [], 0
    for hand in hands:
        bands.append(_Band(low, len(hand)))
        low += len(hand)
    return _moved(hashes, [bit for hand in hands for bit in hand]), bands


def _differing(hashes: Hashes) -> int:
    """The bits that not all hashes have alike."""
    return int(np.bitwise_or.reduce(hashes) ^ np.bitwise_and.reduce(hashes))


def _moved(hashes: Hashes, bits: list[int]) -> Hashes:
    """The hashes whose bits 0, 1, ... are the given ones of each."""
    places = {bit: place for place, bit in enumerate(bits)}
    moved = np.zeros_like(hashes)
    # A byte at a time, by a table of where its bits go: eight passes over the hashes instead of 64.
    for low in range(0, 64, 8):
        byte, table = np.arange(256, dtype=np.uint64), np.zeros(256, np.uint64)
        for bit in range(low, low + 8):
            if bit in places:
                table |= (byte >> (bit - low) & 1) << places[bit]
        for start in range(0, len(hashes), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            moved[part] |= table[hashes[part] >> low & 255]
    return moved


def _of_band(dealt: Hashes, bands: list[_Band], first: int) -> Iterator[Pairs]:
    """The pairs of hashes that share the band `first`, and that are alike, and that share none before it."""
    if len(dealt) <= _FEW_OF_BAND:
        for one, other in _each_with_each(dealt):
            yield _only_these(dealt, one, other, bands[:first])
        return
    values = [band.of(dealt).astype(np.uint16) for band in bands]
    for second, third in combinations(range(first + 1, _BANDS), 2):
        # Two of nine bands have at most 15 bits, and numpy sorts numbers of 16 bits in linear time.
        keys = values[second] << bands[third].width | values[third]
        order = np.argsort(keys, kind="stable")
        others = [bands[band] for band in range(third) if band not in (first, second)]
        for one, other in _in_runs(keys[order], dealt[order]):
            yield _only_these(dealt, order[one], order[other], others)


def _in_runs(keys: Keys, dealt: Hashes) -> Iterator[Pairs]:
    """The pairs of hashes alike among those with equal keys, which lie beside one another."""
    same = keys[1:] == keys[:-1]
    for start, stop in _long_runs(keys):
        same[start : stop - 1] = False
        for _, one, other in near_pairs(dealt[start:stop]):
            yield one + start, other + start
    # `together[i]`: whether all keys from row i to row i + apart are equal. Where none is left, all pairs were seen.
    found: list[Pairs] = []
    apart, together = 1, same
    while count := np.count_nonzero(together):
        if count > len(together) // 3:
            near = np.flatnonzero((np.bitwise_count(dealt[:-apart] ^ dealt[apart:]) <= ALIKE) & together)
        else:
            left = np.flatnonzero(together)
            near = left[np.bitwise_count(dealt[left] ^ dealt[left + apart]) <= ALIKE]
        if len(near):
            found.append((near, near + apart))
        if sum(len(one) for one, _ in found) > _AT_ONCE:
            yield _joined(found)
            found = []
        together = together[:-1] & same[apart:]
        apart += 1
    if found:
        yield _joined(found)


def _joined(found: list[Pairs]) -> Pairs:
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _runs(keys: Keys) -> list[tuple[int, int]]:
    """(start, stop) of equal keys beside one another."""
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return list(pairwise([*starts.tolist(), len(keys)]))


def _long_runs(keys: Keys) -> list[tuple[int, int]]:
    """(start, stop) of equal keys that are too many to be compared each with each."""
    # The keys are sorted: in a long run, a key is equal to that so many places before.
    if not (keys[_FEW_OF_THREE:] == keys[:-_FEW_OF_THREE]).any():
        return []
    return [(start, stop) for start, stop in _runs(keys) if stop - start > _FEW_OF_THREE]


def _only_these(dealt: Hashes, one: Indices, other: Indices, bands: list[_Band]) -> Pairs:
    """The pairs that share none of the bands: those that do are found where these are looked at."""
    differ = dealt[one] ^ dealt[other]
    own = np.ones(len(differ), bool)
    for band in bands:
        own &= band.of(differ) != 0
    return one[own], other[own]


def _each_with_each(hashes: Hashes) -> Iterator[Pairs]:
    size = max(1, _AT_ONCE // max(1, len(hashes)))
    for start in range(0, len(hashes), size):
        rows, columns = hashes[start : start + size], hashes[start:]
        near = np.bitwise_count(rows[:, None] ^ columns[None, :]) <= ALIKE
        one, other = near.nonzero()
        later = one < other
        yield one[later] + start, other[later] + start
