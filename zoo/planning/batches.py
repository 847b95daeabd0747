"""How many images each optimizer step gets."""

from __future__ import annotations

import math


def batch_sizes(images: int, size: int) -> list[int]:
    """The sizes of an epoch's batches.

    A last batch of one joins the one before it: batch norm cannot be trained on a single image.
    """
    whole, rest = divmod(images, size)
    sizes = [size] * whole + ([rest] if rest else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def part_sizes(images: int, size: int, accumulate: int) -> list[int]:
    """Images that go through the model at a time in an epoch: steps of `accumulate` batches of `size`, each in even
    parts no longer than a batch."""
    longest = max(batch_sizes(images, size))
    parts: list[int] = []
    for step in batch_sizes(images, size * accumulate):
        number = math.ceil(step / longest)
        whole, rest = divmod(step, number)
        parts += [whole + 1] * rest + [whole] * (number - rest)
    return parts
