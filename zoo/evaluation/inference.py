"""Run images through a model in evaluation mode, and collect its logits or features on the CPU.

Every micro-batch is padded to the same number of images. The size of a batch changes the last bits of its outputs, so
without padding the outputs of a split's last images would depend on the size of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.dataset import ImageFile, labels_of
from zoo.data.store import ImageStore
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.specs.recipe import Augment
from zoo.storage.table import Block, Table, block_of

_WAITING = 16
"""Batches whose logits may lie on a GPU, before they are copied to main memory."""


def logits_of_files(
    model: ZooModel,
    store: ImageStore,
    files: Sequence[ImageFile],
    *,
    micro_batches: MicroBatches,
    progress: Callable[[int], None],
) -> Tensor:
    """Return logits[N, classes] of N files in their order, on the CPU; `progress` is told how many are done."""
    return logits_of_batches(
        model, store.batches(files, micro_batches.size), len(files), micro_batches=micro_batches, progress=progress
    )


def logits_of_batches(
    model: ZooModel,
    batches: Iterable[Tensor],
    max_images: int,
    *,
    micro_batches: MicroBatches,
    progress: Callable[[int], None],
) -> Tensor:
    """Return logits[N, classes] of batches of images, on the CPU.

    Args:
        model: The model; it is left in evaluation mode.
        batches: images[B, 3, H, W] each, with at least one image in all.
        max_images: At least the number of images in all batches, N.
        micro_batches: How many images are computed at a time.
        progress: Called after each batch with the number of images that are done, or that a GPU was given.
    """
    device = next(model.parameters()).device
    model.eval()
    collected = _Collected(max_images)
    with torch.inference_mode():
        for images in batches:

            def attempt(size: int, images: Tensor = images) -> Tensor:
                # Of the whole batch, as a retry begins it again with another size.
                parts = torch.split(images, size)
                return torch.cat([_forward_padded(model, to_device(part, device), size) for part in parts])

            collected.add(micro_batches.run(attempt))
            progress(collected.count)
    return collected.rows()


def cached_logits(model: ZooModel, rows: Table, cut: Cut | None, *, micro_batches: MicroBatches) -> Tensor:
    """Return logits[N, classes] from N cached rows, on the CPU, padded as in `logits_of_files`.

    The rows are the head's inputs, or with a cut the outputs at the cut.
    """

    def forward(part: Tensor) -> Tensor:
        logits: Tensor = model.head(part if cut is None else model.features_after(cut, part))
        return logits

    collected = _Collected(len(rows))
    for output in _computed(forward, model, rows.chunks(micro_batches.size), micro_batches):
        collected.add(output)
    return collected.rows()


def outputs(
    forward: Callable[[Tensor], Tensor], model: ZooModel, batches: Iterable[Tensor], micro_batches: MicroBatches
) -> Iterator[Tensor]:
    """Yield `forward(batch)` for each batch[B, ...], on the CPU and in the memory layout that `forward` gives.

    The model is in evaluation mode while a batch is computed. Between batches its mode may be changed.
    """
    # One by one, as where memory is short those of a whole batch may not fit into it.
    return _computed(lambda part: forward(part).cpu(), model, batches, micro_batches)


def _computed(
    forward: Callable[[Tensor], Tensor], model: ZooModel, batches: Iterable[Tensor], micro_batches: MicroBatches
) -> Iterator[Tensor]:
    """As `outputs`, where `forward` leaves them."""
    device = next(model.parameters()).device
    for batch in batches:
        model.eval()

        def attempt(size: int, batch: Tensor = batch) -> Tensor:
            parts = torch.split(batch, size)
            done = [_forward_padded(forward, to_device(part, device), size) for part in parts]
            return done[0] if len(done) == 1 else torch.cat(done)

        # Not inference mode: heads are trained on these tensors.
        with torch.no_grad():
            output = micro_batches.run(attempt)
        yield output


def view_batches(
    store: ImageStore, files: Sequence[ImageFile], size: int, *, augment: Augment, key: str
) -> Iterator[Tensor]:
    """Yield images[B, 3, H, W], B at most `size`, in the files' order, augmented as drawn for `key` and each file."""
    order = [range(start, min(start + size, len(files))) for start in range(0, len(files), size)]
    return store.training_batches(files, order, augment=augment, key=key)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Return images[N, ...], or any other tensor, on the device. The copy to a GPU may still be running."""
    if device.type != "cuda":
        return images.to(device)
    # A copy from memory that is not page-locked waits for all work that the GPU has been given.
    return (images if images.is_cuda or images.is_pinned() else images.pin_memory()).to(device, non_blocking=True)


def targets_of(files: Sequence[ImageFile]) -> Tensor:
    """Return the class indices of N files, int64[N]."""
    return torch.from_numpy(np.fromiter(labels_of(files), np.int64, len(files)))


class _Collected:
    """Outputs of batches, joined on the CPU. A GPU is waited for once for many of them, as they are small."""

    def __init__(self, most: int) -> None:
        """Make room for so many rows, when the first ones come."""
        self.count = 0
        self._most = most
        self._joined: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._fetched = 0

    def add(self, output: Tensor) -> None:
        """Add the output[B, ...] of a batch."""
        self._waiting.append(output)
        self.count += len(output)
        if output.device.type == "cpu" or len(self._waiting) == _WAITING:
            self._fetch()

    def rows(self) -> Tensor:
        """Return rows[N, ...] of all batches, of which there must be one."""
        if self._waiting:
            self._fetch()
        assert self._joined is not None, "there is at least one row"
        return self._joined[: self.count]

    def _fetch(self) -> None:
        together = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        if self._joined is None:
            self._joined = _allocate(self._most, together)
        self._joined[self._fetched : self.count] = together.cpu()
        self._fetched = self.count
        self._waiting = []


def _allocate(count: int, like: Tensor) -> Tensor:
    """An empty tensor[count, ...] with rows like those of `like`[B, ...].

    It is filled batch by batch. Joining all batches at the end would need twice the memory.
    """
    with torch.inference_mode(False):  # gradients may be computed with it later
        return torch.empty(count, *like.shape[1:], dtype=like.dtype)


def _forward_padded(forward: Callable[[Tensor], Tensor], batch: Tensor, size: int) -> Tensor:
    """Return `forward` of batch[B, ...], which is padded with zeros to [size, ...] in its own memory layout."""
    count = len(batch)
    if count < size:
        block = block_of(batch)
        rows = torch.cat([block.rows, block.rows.new_zeros(size - count, *block.rows.shape[1:])])
        batch = Block(rows, block.order).outputs
    # In evaluation mode no image depends on the others of its batch, so the padding changes nothing but rounding.
    return forward(batch)[:count]
