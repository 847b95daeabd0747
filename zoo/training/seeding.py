"""Randomness that depends on (seed, stage, epoch) alone, so that any epoch can be repeated by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch


def key(seed: int, stage: str, epoch: int) -> str:
    """Names the draws of one epoch."""
    return f"{seed}/{stage}/{epoch}"


def seed_torch(text: str) -> None:
    """Set torch's global generators (initialisation, dropout) from a key."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def shuffled_batches(count: int, size: int, *, text: str) -> list[Sequence[int]]:
    """The indices 0..count-1, shuffled by the key, in batches of `size`.

    A last batch of one joins the one before it: batch norm cannot be trained on a single image.
    """
    order = list(range(count))
    random.Random(f"order/{text}").shuffle(order)
    batches = [order[start : start + size] for start in range(0, count, size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = batches[-1] + last
    return list(batches)
