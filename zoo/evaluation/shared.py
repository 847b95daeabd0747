"""Inference that all processes of a run share: each computes its chunks, and all get the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.distributed.group import current
from zoo.evaluation import inference
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.model.model import ZooModel


def in_shares(count: int, micro_batches: MicroBatches, compute: Callable[[range], Tensor]) -> Tensor:
    """Return outputs[count, ...] of which every process computes a part, on the CPU.

    Processes take whole chunks, which one process alone would compute just so: what comes out has the same bits.

    Args:
        count: Number of images, at least one.
        micro_batches: How many of them are computed at a time.
        compute: Gives the outputs[N, ...] of N images, by their numbers. It is not called for none.
    """
    group = current()
    if not group.several:
        return compute(range(count))
    # Memory may have run out in one process alone: then all take what fits there.
    micro_batches.size = min(group.gather(micro_batches.size))
    # Whole chunks: a chunk of other images may give an image other bits.
    own = group.share(math.ceil(count / micro_batches.size))
    rows = range(count)[own.start * micro_batches.size : own.stop * micro_batches.size]
    parts = group.gather(compute(rows) if rows else None)
    found = torch.cat([part for part in parts if part is not None])
    assert len(found) == count, "every image is in one share"
    return found


def logits_in_shares(
    model: ZooModel,
    store: ImageStore,
    files: Sequence[ImageFile],
    *,
    micro_batches: MicroBatches,
    progress: Callable[[int], None],
) -> Tensor:
    """Return logits[N, classes] of N files in their order, as `inference.logits_of_files`, by all processes."""
    processes = current().count

    def compute(rows: range) -> Tensor:
        return inference.logits_of_files(
            model,
            store,
            files[rows.start : rows.stop],
            micro_batches=micro_batches,
            progress=lambda done: progress(min(done * processes, len(files))),
        )

    return in_shares(len(files), micro_batches, compute)
