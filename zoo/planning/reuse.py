"""What a stage need not compute in every epoch: decided from numbers, with the reason where it is nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo import amounts
from zoo.errors import first_line
from zoo.features.folder import size_limit
from zoo.model.cut import CannotCut
from zoo.model.model import HEAD, ZooModel
from zoo.planning.plan import Source
from zoo.recipes import Stage

MEMORY_BUDGET = 1 << 30
"""Bytes of kept rows in memory; with more they are mapped from the cache folder's files."""
_FLOAT = 4
# Operations that a machine does while it writes and checks, or reads, one byte of kept rows: 1e11 a second against 5
# and 0.5 ns a byte on a processor, a hundred times as many on a graphics card.
_WRITTEN = {"cpu": 500, "cuda": 50_000}
_READ = {"cpu": 50, "cuda": 5_000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reuse:
    """Where a stage's batches come from."""

    inputs: Source
    cut: str = ""
    """The first group that runs in every step, of a `prefix`."""
    bytes: int = 0
    """That are kept."""
    why: str = ""
    """Why not more is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How often a stage looks at how many images."""

    train: int
    val: int
    views: int
    """Of each training image; 0 for the images as they are."""
    epochs: int

    @property
    def rows(self) -> int:
        """That are kept."""
        return self.train * max(1, self.views) + self.val

    @property
    def looks(self) -> int:
        """In all epochs."""
        return (self.train + self.val) * self.epochs


def features_alone(outline: ZooModel, shape: Sequence[int], amount: Amount) -> Reuse:
    """For a stage that leaves the backbone alone; `shape` is of what the head gets for one image."""
    size = _FLOAT * math.prod(shape) * amount.rows
    if outline.closed_form or size <= max(MEMORY_BUDGET, size_limit()):
        return Reuse(inputs="features", bytes=size)
    return Reuse(
        inputs="images",
        why=f"its features are {amounts.size(size)}, over the cache's limit of {amounts.size(size_limit())}",
    )


def before_what_trains(stage: Stage, outline: ZooModel, moving: Sequence[str], amount: Amount, device: str) -> Reuse:
    """For a stage that trains some of the backbone; `moving` are the groups that hold what trains."""
    first = next((name for name in outline.groups.names if name in moving and name != HEAD), "")
    if reason := _nothing_to_keep(stage, outline, first, amount):
        return Reuse(inputs="images", why=reason)
    try:
        shape, operations = _prefix(outline, first)
    except CannotCut as error:
        return Reuse(inputs="images", why=f"{outline.name} cannot be cut before {first}: {error}")
    size = _FLOAT * math.prod(shape) * amount.rows
    if size > max(MEMORY_BUDGET, size_limit()):
        limit = amounts.size(size_limit())
        why = f"what crosses the cut before {first} is {amounts.size(size)}, over the cache's limit of {limit}"
        return Reuse(inputs="images", why=why)
    saved = operations * (amount.looks - amount.rows)
    kind = "cpu" if device == "cpu" else "cuda"
    cost = size * _WRITTEN[kind] + size / amount.rows * amount.looks * _READ[kind]
    if saved <= cost:
        why = f"keeping {amounts.size(size)} before {first} costs more than the {saved / 1e9:.3g} GFLOP that it saves"
        return Reuse(inputs="images", why=why)
    return Reuse(inputs="prefix", cut=first, bytes=size)


def _nothing_to_keep(stage: Stage, outline: ZooModel, first: str, amount: Amount) -> str:
    if stage.prefix == "off":
        return "prefix is off"
    if stage.gradient_checkpointing:
        return "gradient checkpointing is in the code between groups that a cut replaces"
    if first in ("", outline.groups.names[0]):
        return f"the first group, {outline.groups.names[0]}, trains"
    if stage.mixup or stage.cutmix:
        return f"{'mixup' if stage.mixup else 'cutmix'} blends the images of every batch anew"
    if stage.augment != "none" and not amount.views:
        return f"{stage.augment} draws every image anew in every epoch (views = K would keep K of them)"
    if amount.looks <= amount.rows:
        return "every image is looked at once"
    return ""


def _prefix(outline: ZooModel, first: str) -> tuple[tuple[int, ...], float]:
    """(Shape of what crosses the cut for one image, operations that compute it). Raises CannotCut."""
    cut = outline.cut_before(first)
    device = next(outline.parameters()).device
    images = torch.empty(2, *outline.preprocessing.input_size, device=device)
    was = [(each, each.requires_grad) for each in outline.parameters()]
    outline.requires_grad_(False)  # the counter trips over some modules whose parameters want gradients
    try:
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            crossing = cut.prefix(images)
            features = cut.suffix(crossing) if isinstance(crossing, Tensor) else None
    except Exception as error:  # a graph that was cut may miss what upstream's code had
        reason = first_line(error)
        raise CannotCut(f"its parts do not run by themselves ({reason})") from None
    finally:
        for each, wanted in was:
            each.requires_grad_(wanted)
    if features is None or len(crossing) != len(images) or len(features) != len(images):
        raise CannotCut("what crosses the cut is no tensor with a row for each image")
    return tuple(crossing.shape[1:]), counter.get_total_flops() / len(images)
