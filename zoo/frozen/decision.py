"""Whether caching the outputs of frozen groups pays: decided from numbers, with the reason where it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoo import text as amounts
from zoo.errors import first_line
from zoo.frozen.windows import RUN
from zoo.model.cut import CannotCut
from zoo.model.model import HEAD, ZooModel
from zoo.specs.plan import Source, StagePlan
from zoo.specs.recipe import Stage
from zoo.storage.eviction import DEFAULT_LIMIT, LIMIT, at_least, size_limit, size_named

MEMORY_BUDGET = 1 << 30
"""Bytes of cached rows that stay in memory. Larger sets are mapped from the files of the cache folder."""
STREAM = "ZOO_STREAM_ABOVE"
"""Names the size of cached rows from which on an epoch shuffles windows of them, instead of all rows at once."""
WINDOW = 1 << 29
"""Bytes of the rows that are read and shuffled together. Two windows are in memory: one is read, one trained on."""
_FLOAT = 4
# Operations that a machine could do in the time that it takes to write and check, or to read, one byte of cached rows:
# 1e11 a second against 5 and 0.5 ns a byte on a processor, a hundred times as many on a graphics card. These are fixed
# numbers, not measurements: a resumed run must decide as the first did.
_WRITTEN = {"cpu": 500, "cuda": 50_000}
_READ = {"cpu": 50, "cuda": 5_000}


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheDecision:
    """Where a stage's batches come from."""

    inputs: Source
    cut: str = ""
    """The first group that runs in every step, of a `prefix`."""
    bytes: int = 0
    """Bytes of cached rows."""
    why: str = ""
    """The reason where nothing is cached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How many images a stage uses, and how often."""

    train: int
    """Number of training images."""
    val: int
    """Number of validation images."""
    views: int
    """Augmented views of each training image; 0 for the images as they are."""
    epochs: int

    @property
    def rows(self) -> int:
        """Number of rows that would be cached."""
        return self.train * max(1, self.views) + self.val

    @property
    def looks(self) -> int:
        """Number of images that go through the stage in all epochs."""
        return (self.train + self.val) * self.epochs


def stream_above() -> int:
    """The bytes of cached rows above which their order is one of windows, as `ZOO_STREAM_ABOVE` says. Raises
    OptionError.

    Up to the default, all rows that the cache holds by default, a row is drawn from all: such sets fit into the memory
    of most machines that have room for them, and what they trained before windows were there stays as it was.
    """
    return size_named(STREAM, DEFAULT_LIMIT)


def window_of(decision: CacheDecision, amount: Amount, stage: Stage) -> int:
    """Number of rows of the windows in which an epoch shuffles a stage's cached rows; 0 where it shuffles all at once.

    Balanced sampling draws each row by itself, whatever the size.
    """
    if decision.inputs == "images" or stage.sampling != "shuffled" or decision.bytes <= stream_above():
        return 0
    row = max(1, decision.bytes // amount.rows)
    return max(1, WINDOW // (row * RUN)) * RUN


def decide_for_head(shape: Sequence[int], amount: Amount, *, in_one_go: bool) -> CacheDecision:
    """Decide for a stage that trains the head alone.

    Args:
        shape: The shape of the features of one image.
        amount: How many images the stage uses, and how often.
        in_one_go: Whether the head is fitted to all features at once, by a closed form or a solver.
    """
    size = _FLOAT * math.prod(shape) * amount.rows
    if in_one_go or size <= max(MEMORY_BUDGET, size_limit()):
        return CacheDecision(inputs="features", bytes=size)
    return CacheDecision(
        inputs="images",
        why=f"its features are {amounts.size(size)}, over the cache's limit of {amounts.size(size_limit())}; "
        f"{LIMIT}={at_least(size)} would keep them",
    )


def decide_for_backbone(
    stage: Stage,
    outline: ZooModel,
    moving: Sequence[str],
    amount: Amount,
    device: str,
    cut_fault: Callable[[str], str] | None = None,
) -> CacheDecision:
    """Decide for a stage that trains groups of the backbone.

    Args:
        stage: The stage's settings.
        outline: The model on the meta device.
        moving: Names of the groups that hold trained parameters.
        amount: How many images the stage uses, and how often.
        device: The device that the run computes on.
        cut_fault: Takes the name of a group and returns what is wrong with the backbone cut before it, or an empty
            text. It is asked only for a cut that would be used. None: no model was built to ask.
    """
    first = next((name for name in outline.groups.names if name in moving and name != HEAD), "")
    if reason := _no_caching(stage, outline, first, amount):
        return CacheDecision(inputs="images", why=reason)
    try:
        shape, operations = _prefix(outline, first)
    except CannotCut as error:
        return CacheDecision(inputs="images", why=f"{outline.name} cannot be cut before {first}: {error}")
    size = _FLOAT * math.prod(shape) * amount.rows
    if size > max(MEMORY_BUDGET, size_limit()):
        limit = amounts.size(size_limit())
        why = (
            f"what crosses the cut before {first} is {amounts.size(size)}, over the cache's limit of {limit}; "
            f"{LIMIT}={at_least(size)} would keep it"
        )
        return CacheDecision(inputs="images", why=why)
    # Each row is computed once in any case.
    saved = operations * (amount.looks - amount.rows)
    kind = "cpu" if device == "cpu" else "cuda"
    cost = size * _WRITTEN[kind] + size / amount.rows * amount.looks * _READ[kind]
    if saved <= cost:
        why = f"keeping {amounts.size(size)} before {first} costs more than the {saved / 1e9:.3g} GFLOP that it saves"
        return CacheDecision(inputs="images", why=why)
    # Asked last, as it computes the images of a batch twice.
    if fault := cut_fault(first) if cut_fault is not None else "":
        return CacheDecision(inputs="images", why=f"{outline.name} cut before {first} {fault}")
    return CacheDecision(inputs="prefix", cut=first, bytes=size)


@dataclass(frozen=True, slots=True)
class KeptOutputs:
    """Outputs of validation images that are worth keeping in memory."""

    before: str
    """The first group that the stage may change: they are those of the groups before it."""
    bytes: int


def worth_keeping_before(stage: StagePlan, model: ZooModel, *, images: int, passes: int) -> KeptOutputs | None:
    """Which outputs of validation images are worth keeping in memory while a stage trains on images.

    Args:
        stage: The stage.
        model: The model at the stage's beginning. It is left in evaluation mode.
        images: Number of validation images.
        passes: How often they go through the model.

    Returns: None where nothing is worth keeping.
    """
    settings, names = stage.settings, model.groups.names
    tensors = [name for name in model.state_dict() if name.startswith("backbone.")]
    changing = {model.group_of(n) for n in tensors if model.trains(n, stage.trains, stage.tensors, stage.batch_norm)}
    first = next((name for name in names if name in changing), "")
    # Adapters come and go, and gradient checkpointing is in the code between groups that a cut replaces.
    impossible = settings.prefix == "off" or settings.gradient_checkpointing or bool(stage.adapters)
    if stage.inputs != "images" or impossible or passes < 2 or first in ("", names[0]):
        return None
    model.eval()
    try:
        shape, operations = _prefix(model, first)
    except CannotCut:
        return None
    size = _FLOAT * math.prod(shape) * images
    saved = operations * images * (passes - 1)
    kind = "cpu" if next(model.parameters()).device.type == "cpu" else "cuda"
    return KeptOutputs(first, size) if size <= MEMORY_BUDGET and saved > size * _READ[kind] * passes else None


def _no_caching(stage: Stage, outline: ZooModel, first: str, amount: Amount) -> str:
    if stage.prefix == "off":
        return "prefix is off"
    if stage.gradient_checkpointing:
        return "gradient checkpointing is in the code between groups that a cut replaces"
    if first in ("", outline.groups.names[0]):
        return f"the first group, {outline.groups.names[0]}, trains"
    if stage.mixup or stage.cutmix:
        return f"{'mixup' if stage.mixup else 'cutmix'} blends the images of every batch anew"
    if stage.augment != "none" and not amount.views:
        return f"augment={stage.augment} is random, which prevents caching; set views=K to cache K views of each image"
    if amount.looks <= amount.rows:
        return "every image is used once"
    return ""


def _prefix(outline: ZooModel, first: str) -> tuple[tuple[int, ...], float]:
    """-> (shape of what crosses the cut for one image, operations that compute it). Raises CannotCut."""
    cut = outline.cut_before(first)
    device = next(outline.parameters()).device
    images = torch.empty(2, *outline.preprocessing.input_size, device=device)
    before = [(parameter, parameter.requires_grad) for parameter in outline.parameters()]
    outline.requires_grad_(False)  # the counter trips over some modules whose parameters want gradients
    try:
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            crossing = cut.prefix(images)
            features = cut.suffix(crossing) if isinstance(crossing, Tensor) else None
    except Exception as error:  # a traced part may lack what upstream's code had at hand
        reason = first_line(error)
        raise CannotCut(f"its parts do not run by themselves ({reason})") from None
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)
    if features is None or len(crossing) != len(images) or len(features) != len(images):
        raise CannotCut("what crosses the cut is not a tensor with one row per image")
    return tuple(crossing.shape[1:]), counter.get_total_flops() / len(images)
