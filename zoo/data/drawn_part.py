"""A part of a data set, drawn so that every split and every class has its share of it.

What is true of the part is then true of the whole, as far as a part can tell: a class is not missed because it is rare,
and a split is not missed because it is small.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from zoo.data.dataset import Dataset, ImageFile
from zoo.specs.data import Split

_Part = TypeVar("_Part", bound=Hashable)


def draw_part(dataset: Dataset, count: int, seed: int) -> dict[Split, Sequence[ImageFile]]:
    """Draw `count` images of a data set, or all where it has no more: split -> images, in the data set's order.

    Splits have shares as in the whole, and so have the classes in each; none goes without, as far as the share reaches.
    The draw depends on `seed`, and in each class on nothing but how many images it has and their order.
    """
    shares = shared_out(count, {split: len(files) for split, files in dataset.splits.items()})
    return {split: _of_split(files, shares[split], f"{seed}/part/{split}") for split, files in dataset.splits.items()}


def shared_out(count: int, sizes: Mapping[_Part, int]) -> dict[_Part, int]:
    """Divide `count` among parts in proportion to their sizes, and give none more than it has: part -> its share.

    The shares add up to `count`, or to all there is. Each part that is not empty gets one at least, if there are
    enough; if not, the largest do.
    """
    total = sum(sizes.values())
    if count >= total:
        return dict(sizes)
    by_size = sorted((part for part, size in sizes.items() if size), key=lambda part: -sizes[part])
    shares, cut_off = dict.fromkeys(sizes, 0), {}
    for part in by_size:
        shares[part], cut_off[part] = divmod(count * sizes[part], total)
    # What rounding down left over goes where most was cut off; the larger part comes first among equals.
    for part in sorted(by_size, key=lambda part: -cut_off[part])[: count - sum(shares.values())]:
        shares[part] += 1
    # The richest gives, the larger part first among equals. A heap, as there may be tens of thousands of classes.
    richest = [(-shares[part], place) for place, part in enumerate(by_size)]
    heapq.heapify(richest)
    for part in by_size:
        if shares[part]:
            continue
        share, place = richest[0]
        if -share <= 1:
            break
        heapq.heapreplace(richest, (share + 1, place))
        shares[by_size[place]] -= 1
        shares[part] = 1
    return shares


def _of_split(files: Sequence[ImageFile], count: int, key: str) -> Sequence[ImageFile]:
    if count >= len(files):
        return files
    by_class: dict[int, list[int]] = {}
    for position, file in enumerate(files):
        by_class.setdefault(file.label, []).append(position)
    shares = shared_out(count, {label: len(positions) for label, positions in by_class.items()})
    drawn = [
        position
        # Each class has a generator of its own, so that another class with more images changes nothing here.
        for label, positions in by_class.items()
        for position in random.Random(f"{key}/{label}").sample(positions, shares[label])
    ]
    return [files[position] for position in sorted(drawn)]
