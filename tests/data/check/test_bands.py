"""Hashes that are alike are found by bands of bits exactly as by comparing each with each."""

from __future__ import annotations

import itertools
import random
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from zoo.data.check.bands import ALIKE, near_pairs
from zoo.data.check.duplicates import nearest_earlier, nearest_in
from zoo.data.check.similar import joined_groups

Hashes, Pairs = NDArray[np.uint64], NDArray[np.int64]
ONE = np.uint64(1)


def by_each_with_each(hashes: Hashes) -> Pairs:
    """The reference: (earlier, later) of all pairs alike, int64[P, 2], in order."""
    found = []
    for start in range(0, len(hashes), 64):
        rows, columns = hashes[start : start + 64], hashes[start:]
        one, other = (np.bitwise_count(rows[:, None] ^ columns[None, :]) <= ALIKE).nonzero()
        found.append(np.column_stack([one, other])[other > one] + start)
    return np.concatenate(found)


def found_by_bands(hashes: Hashes) -> Pairs:
    """All pairs as they were found, in order, so that one found twice stands there twice."""
    pairs = np.concatenate([np.column_stack([one, other]) for _, one, other in near_pairs(hashes)])
    pairs = np.sort(pairs, axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def flipped(hashes: Hashes, times: int, draw: np.random.Generator, bits: int = 64) -> Hashes:
    """Each with up to so many bits turned, among the lowest `bits`."""
    for _ in range(times):
        turned = hashes ^ (ONE << draw.integers(0, bits, len(hashes), dtype=np.uint64))
        hashes = np.where(draw.random(len(hashes)) < 0.8, turned, hashes)
    return hashes


def clusters(draw: np.random.Generator) -> Hashes:
    """A few of each picture, as frames of films are."""
    return flipped(np.repeat(draw.integers(0, 1 << 64, 2500, dtype=np.uint64), 4), 5, draw)


def few_bits(draw: np.random.Generator, bits: int, count: int = 9500) -> Hashes:
    """All alike but for some bits, which lie anywhere: bands of the hash as it is would hold them all in one bucket."""
    places = draw.permutation(64)[:bits]
    values = draw.integers(0, 1 << bits, count, dtype=np.uint64)
    spread = np.full(count, draw.integers(0, 1 << 64, dtype=np.uint64))
    for bit, place in enumerate(places.tolist()):
        spread ^= ((values >> np.uint64(bit)) & ONE) << np.uint64(place)
    return spread


def heaps(draw: np.random.Generator, count: int = 9500) -> Hashes:
    """Ten heaps: in every bit half of them differ, and nearly all within one heap are equal in most bands."""
    centres = draw.integers(0, 1 << 64, 10, dtype=np.uint64)
    return flipped(centres[draw.integers(0, 10, count)], 9, draw)


def one_stranger(draw: np.random.Generator) -> Hashes:
    """All differ in the same 30 bits, but for some that differ in all."""
    return np.concatenate([few_bits(draw, 30), draw.integers(0, 1 << 64, 30, dtype=np.uint64)])


KINDS: dict[str, Callable[[np.random.Generator], Hashes]] = {
    "nothing alike": lambda draw: draw.integers(0, 1 << 64, 9500, dtype=np.uint64),
    "clusters": clusters,
    "20 bits": lambda draw: few_bits(draw, 20),
    "26 bits": lambda draw: few_bits(draw, 26),
    "40 bits": lambda draw: few_bits(draw, 40),
    "heaps": heaps,
    "one stranger": one_stranger,
    "few": lambda draw: clusters(draw)[:700],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_found_once_and_no_other(kind: str) -> None:
    draw = np.random.default_rng(7)
    hashes = np.unique(KINDS[kind](draw))
    draw.shuffle(hashes)
    assert np.array_equal(found_by_bands(hashes), by_each_with_each(hashes))


def test_pairs_that_differ_in_six_bits_are_found_wherever_these_are_and_in_seven_never() -> None:
    draw = random.Random(1)
    hashes = np.random.default_rng(1).integers(0, 1 << 64, 10_000, dtype=np.uint64)
    wanted = []
    for row in range(0, 4000, 2):
        bits = ALIKE + row // 2 % 2
        # Beside one another, or one every few bits: so that each way of dividing the bits is hit.
        start, step = draw.randrange(64), draw.choice((1, 7, 9, 10))
        places = draw.sample(range(64), bits) if row % 3 else [(start + step * each) % 64 for each in range(bits)]
        hashes[row + 1] = int(hashes[row]) ^ sum(1 << place for place in set(places))
        wanted += [[row, row + 1]] if len(set(places)) <= ALIKE else []
    assert found_by_bands(hashes).tolist() == wanted == by_each_with_each(hashes).tolist()


def brute_earlier(hashes: list[int]) -> tuple[list[int], list[int]]:
    indices, distances = [-1] * len(hashes), [65] * len(hashes)
    for at, value in enumerate(hashes):
        apart = [(value ^ other).bit_count() for other in hashes[:at]]
        if apart and min(apart) <= ALIKE:
            indices[at], distances[at] = apart.index(min(apart)), min(apart)
    return indices, distances


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_is_that_of_comparing_each_with_each(seed: int) -> None:
    """Also among equal hashes, and where several are equally near: then the first."""
    draw = np.random.default_rng(seed)
    hashes = flipped(draw.integers(0, 1 << 64, 60, dtype=np.uint64)[draw.integers(0, 60, 400)], 1 + 2 * seed, draw)
    indices, distances = nearest_earlier(hashes.tolist())
    assert (indices.tolist(), distances.tolist()) == brute_earlier(hashes.tolist())
    given, known = hashes[:150], hashes[150:]
    indices, distances = nearest_in(given.tolist(), known.tolist())
    bits = np.bitwise_count(given[:, None] ^ known[None, :])
    near = bits.min(1) <= ALIKE
    assert indices.tolist() == np.where(near, bits.argmin(1), -1).tolist()
    assert distances.tolist() == np.where(near, bits.min(1), 65).tolist()


def test_nothing_and_one_hash_have_no_nearest() -> None:
    for hashes in ([], [5]):
        indices, distances = nearest_earlier(hashes)
        assert indices.tolist() == [-1] * len(hashes) and distances.tolist() == [65] * len(hashes)
    indices, distances = nearest_in([5], [])
    assert indices.tolist() == [-1] and distances.tolist() == [65]
    assert [len(each) for each in nearest_in([], [5])] == [0, 0]
    assert joined_groups([], []) == ()


def test_many_copies_of_one_picture_and_a_chain_of_near_ones_take_no_longer() -> None:
    draw = random.Random(0)
    copies = [7] * 100_000 + [7 ^ (1 << 40)]
    began = time.process_time()
    indices, distances = nearest_earlier(copies)
    assert indices.tolist() == [-1] + [0] * 100_000 and distances.tolist() == [65] + [0] * 99_999 + [1]
    assert set(joined_groups([""] * len(copies), copies)) == {0}
    # Each differs from the one before it in one bit, and from those far before it in half of all.
    chain = list(itertools.accumulate((1 << draw.randrange(64) for _ in range(20_000)), int.__xor__))
    assert set(joined_groups([""] * len(chain), chain)) == {0}
    assert time.process_time() - began < 10, "comparing each with each would take 10 s for the copies alone"


@pytest.mark.parametrize("joined", [False, True])
def test_progress_ends_with_all_hashes_and_does_not_go_back(joined: bool) -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 10_000, dtype=np.uint64)
    seen: list[tuple[int, int]] = []
    if joined:
        joined_groups([""] * len(hashes), hashes.tolist(), lambda *at: seen.append(at))
    else:
        nearest_earlier(hashes, lambda *at: seen.append(at))
    assert seen == sorted(seen) and seen[-1] == (10_000, 10_000) and len(seen) > 1
    assert nearest_earlier(hashes[:5], lambda *at: seen.clear()) and seen, "so few take no time"


@pytest.mark.long
def test_a_million_hashes_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 1 << 64, 1_000_000, dtype=np.uint64)
    began = time.process_time()
    nearest_earlier(hashes)
    assert time.process_time() - began < 60


@pytest.mark.long
def test_memory_is_a_few_times_that_of_the_hashes() -> None:
    draw = np.random.default_rng(0)
    hashes = flipped(np.repeat(draw.integers(0, 1 << 64, 10_000, dtype=np.uint64), 8), 3, draw)
    tracemalloc.start()
    nearest_earlier(hashes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * hashes.nbytes + (16 << 20), "of all pairs there would be 50 GB"


@pytest.mark.long
def test_heaps_of_many_are_divided_again_and_again() -> None:
    draw = np.random.default_rng(3)
    hashes = np.unique(np.concatenate([heaps(draw, 30_000), few_bits(draw, 26, 20_000)]))
    count = sum(len(one) for _, one, _ in near_pairs(hashes))
    rows = (hashes[start : start + 64] for start in range(0, len(hashes), 64))
    wanted = sum(int((np.bitwise_count(part[:, None] ^ hashes) <= ALIKE).sum()) for part in rows)
    assert count == (wanted - len(hashes)) // 2
