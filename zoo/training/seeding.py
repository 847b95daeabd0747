"""Randomness that depends on (seed, stage, epoch) alone, so that any epoch can be repeated by itself."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from zoo.planning.batches import batch_sizes
from zoo.planning.plan import StagePlan
from zoo.recipes import Sampling


def key(seed: int, stage: str, epoch: int) -> str:
    """Names the draws of one epoch."""
    return f"{seed}/{stage}/{epoch}"


def view_keys(seed: int, stage: StagePlan) -> tuple[str, ...]:
    """Names the draws of each augmented view of a stage that has some; no epoch's key is among them."""
    return tuple(f"{seed}/{stage.settings.name}/view/{number}" for number in range(1, stage.views + 1))


def adapters_key(seed: int, stage: str) -> str:
    """Names the draws of a stage's adapters; no epoch's key is among them."""
    return f"{seed}/{stage}/adapters"


def seed_torch(text: str) -> None:
    """Set torch's global generators (initialisation, dropout) from a key."""
    torch.manual_seed(_number(text))


def is_seeded(text: str) -> bool:
    """Whether the last seed that torch's global generator got is the key's."""
    return torch.initial_seed() == _number(text)


def epoch_batches(sampling: Sampling, labels: Sequence[int], size: int, *, text: str) -> list[Sequence[int]]:
    """The indices that one epoch draws of the images with these class indices, in the batches that train.

    The key alone decides. There are as many draws as images.
    """
    if sampling == "balanced":
        return _batches(_balanced(labels, random.Random(f"balanced/{text}")), size)
    return shuffled_batches(len(labels), size, text=text)


def shuffled_batches(count: int, size: int, *, text: str) -> list[Sequence[int]]:
    """The indices 0..count-1, shuffled by the key, in batches as `batch_sizes` says."""
    order = list(range(count))
    random.Random(f"order/{text}").shuffle(order)
    return _batches(order, size)


def _balanced(labels: Sequence[int], generator: random.Random) -> list[int]:
    """Every class equally often, but for the rest of the division: that goes to classes drawn by lot."""
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    each, rest = divmod(len(labels), len(members))
    one_more = set(generator.sample(sorted(members), rest))
    order = [
        index
        for label in sorted(members)
        for index in islice(_cycles(members[label], generator), each + (label in one_more))
    ]
    generator.shuffle(order)
    return order


def _cycles(indices: Sequence[int], generator: random.Random) -> Iterator[int]:
    """Without end: all of them, shuffled, then all of them again, shuffled anew."""
    while True:
        yield from generator.sample(indices, len(indices))


def _batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    following = iter(order)
    return [list(islice(following, each)) for each in batch_sizes(len(order), size)]


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
