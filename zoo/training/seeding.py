"""Randomness that depends on (seed, stage, epoch) alone, so that any epoch can be repeated by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import islice

import torch

from zoo.planning.batches import batch_sizes


def key(seed: int, stage: str, epoch: int) -> str:
    """Names the draws of one epoch."""
    return f"{seed}/{stage}/{epoch}"


def seed_torch(text: str) -> None:
    """Set torch's global generators (initialisation, dropout) from a key."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def shuffled_batches(count: int, size: int, *, text: str) -> list[Sequence[int]]:
    """The indices 0..count-1, shuffled by the key, in batches as `batch_sizes` says."""
    order = list(range(count))
    random.Random(f"order/{text}").shuffle(order)
    following = iter(order)
    return [list(islice(following, each)) for each in batch_sizes(count, size)]
