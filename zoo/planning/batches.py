"""How many images each optimizer step gets."""

from __future__ import annotations


def batch_sizes(images: int, size: int) -> list[int]:
    """The sizes of an epoch's batches.

    A last batch of one joins the one before it: batch norm cannot be trained on a single image.
    """
    whole, rest = divmod(images, size)
    sizes = [size] * whole + ([rest] if rest else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes
