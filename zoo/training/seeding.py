"""Randomness that depends on (seed, stage, epoch) alone, so that any epoch can be repeated by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from zoo.planning.batches import batch_sizes


def key(seed: int, stage: str, epoch: int) -> str:
    """Names the draws of one epoch."""
    return f"{seed}/{stage}/{epoch}"


def seed_torch(text: str) -> None:
    """Set torch's global generators (initialisation, dropout) from a key."""
    torch.manual_seed(_number(text))


def is_seeded(text: str) -> bool:
    """Whether the last seed that torch's global generator got is the key's."""
    return torch.initial_seed() == _number(text)


def shuffled_batches(count: int, size: int, *, text: str) -> list[Sequence[int]]:
    """The indices 0..count-1, shuffled by the key, in batches as `batch_sizes` says."""
    order = list(range(count))
    random.Random(f"order/{text}").shuffle(order)
    following = iter(order)
    return [list(islice(following, each)) for each in batch_sizes(count, size)]


def random_state(device: torch.device) -> dict[str, Tensor]:
    """What torch's generators would draw next, on the CPU and on the device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
