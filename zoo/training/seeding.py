"""Randomness from keys: what an epoch draws depends on seed, stage and epoch alone.

So any epoch can be repeated by itself, which resuming and `zoo verify` rely on. The keys are part of a run's result:
another key means other draws and another model.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice

import torch
from torch import Tensor

from zoo.frozen.windows import WindowedOrder
from zoo.planning.batch_sizes import batch_sizes
from zoo.specs.recipe import Sampling


def epoch_key(seed: int, stage: str, epoch: int) -> str:
    """Return the key of one epoch's draws."""
    return f"{seed}/{stage}/{epoch}"


def adapters_key(seed: int, stage: str) -> str:
    """Return the key of the initial values of a stage's adapters. It differs from every epoch's key."""
    return f"{seed}/{stage}/adapters"


def seed_torch(key: str) -> None:
    """Seed torch's global generators, which initialisation and dropout draw from."""
    torch.manual_seed(_number(key))


def is_seeded(key: str) -> bool:
    """Return whether the last seed of torch's global generator was this key's."""
    return torch.initial_seed() == _number(key)


def epoch_batches(
    sampling: Sampling,
    labels: Sequence[int],
    size: int,
    *,
    key: str,
    window: int = 0,
    stored: Sequence[int] | None = None,
) -> Sequence[Sequence[int]]:
    """Draw the image indices of one epoch, in batches.

    There are as many draws as images, and the key alone decides them.

    Args:
        sampling: `shuffled`: every image once. `balanced`: every class equally often.
        labels: The class index of every training image.
        size: Images in a batch.
        key: As `epoch_key` returns it.
        window: Images that are shuffled together, of a shuffled order that is read from the disk; 0: all.
        stored: The images by number, as their rows lie on the disk; None: in the order of their numbers.
    """
    if window and sampling == "shuffled":
        return WindowedOrder(len(labels), batch_sizes(len(labels), size), window, key=f"order/{key}", stored=stored)
    if sampling == "balanced":
        return _batches(_balanced(labels, random.Random(f"balanced/{key}")), size)
    return shuffled_batches(len(labels), size, key=key)


def shuffled_batches(count: int, size: int, *, key: str) -> list[Sequence[int]]:
    """Return the indices 0 to count - 1, shuffled by the key, in batches of the lengths that `batch_sizes` gives."""
    # Numbers side by side: of ten million, a list's are all over the memory, which takes twice as long to shuffle.
    order = array("q", range(count))
    random.Random(f"order/{key}").shuffle(order)
    return _batches(order, size)


def batches_done(images: int, order: Sequence[Sequence[int]]) -> int:
    """Return how many batches of an epoch's order so many images are."""
    if not images:
        return 0  # an order of windows is drawn as it is used
    return list(accumulate((len(batch) for batch in order), initial=0)).index(images)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators: uint8[B] for `cpu`, and for `cuda` where the device is one."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_state` returned: uint8[B] for each generator."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _balanced(labels: Sequence[int], generator: random.Random) -> Sequence[int]:
    """Draw every class equally often. Where that leaves a remainder, some classes drawn by lot get one image more."""
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    per_class, rest = divmod(len(labels), len(members))
    one_more = set(generator.sample(sorted(members), rest))
    order = array("q")
    for label in sorted(members):
        order.extend(islice(_cycles(members[label], generator), per_class + (label in one_more)))
    generator.shuffle(order)
    return order


def _cycles(indices: Sequence[int], generator: random.Random) -> Iterator[int]:
    """Yield all indices in random order, then all again in another order, without end."""
    while True:
        yield from generator.sample(indices, len(indices))


def _batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    # `batch_sizes` lets a last batch of one join the one before it: batch norm cannot train on one image.
    indices = iter(order)
    return [list(islice(indices, length)) for length in batch_sizes(len(order), size)]


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
