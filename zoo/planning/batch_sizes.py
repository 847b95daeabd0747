"""Batch sizes: how many images each optimizer step gets. Nothing here imports torch."""

from __future__ import annotations

import math


def batch_sizes(images: int, size: int) -> list[int]:
    """The sizes of an epoch's batches, for so many images and batches of `size`.

    A last batch of one image joins the batch before it. Batch norm cannot train on one image, and dropping the image
    would lose data.
    """
    whole, rest = divmod(images, size)
    sizes = [size] * whole + ([rest] if rest else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def part_sizes(images: int, size: int, accumulate: int) -> list[int]:
    """How many images go through the model at a time in an epoch.

    A step takes `accumulate` batches of `size`. It is divided into even parts, none larger than a batch.
    """
    # Not `size`: a batch that took in a last single image is one longer, and without accumulation it stays in one part.
    longest = max(batch_sizes(images, size))
    parts: list[int] = []
    for step in batch_sizes(images, size * accumulate):
        # Even parts, as whole batches and a rest could end with a single image.
        number = math.ceil(step / longest)
        whole, rest = divmod(step, number)
        parts += [whole + 1] * rest + [whole] * (number - rest)
    return parts
