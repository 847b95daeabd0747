"""Images through a model in evaluation mode: pooled features and logits.

Every piece is padded to the same number of images: a batch's size changes the bits of what comes out, so without
padding the last images of a split would depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.features.table import Block, Table, block_of
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.recipes import Augment
from zoo.training.memory import Pieces


def logits(
    model: ZooModel, store: ImageStore, files: Sequence[ImageFile], *, pieces: Pieces, progress: Callable[[int], None]
) -> Tensor:
    """logits[N, classes] of the files on the CPU, in their order."""
    return logits_of(model, store.batches(files, pieces.size), len(files), pieces=pieces, progress=progress)


def logits_of(
    model: ZooModel, batches: Iterable[Tensor], most: int, *, pieces: Pieces, progress: Callable[[int], None]
) -> Tensor:
    """logits[N, classes] of batches of images[.., 3, H, W], together at most `most`, and at least one."""
    return _through(model, model, batches, most, pieces, progress)


def kept_logits(model: ZooModel, rows: Table, cut: Cut | None, *, pieces: Pieces) -> Tensor:
    """logits[N, classes] from kept features, or from what crosses the cut, in padded pieces as in `logits`."""

    def forward(piece: Tensor) -> Tensor:
        logits: Tensor = model.head(piece if cut is None else model.features_after(cut, piece))
        return logits

    return torch.cat(list(outputs(forward, model, rows.chunks(pieces.size), pieces)))


def outputs(
    forward: Callable[[Tensor], Tensor], model: ZooModel, batches: Iterable[Tensor], pieces: Pieces
) -> Iterator[Tensor]:
    """What `forward` makes of each batch, on the CPU, in the layout that it comes in; training can go on from it."""
    device = next(model.parameters()).device
    for batch in batches:
        model.eval()

        def attempt(size: int, batch: Tensor = batch) -> Tensor:
            done = [_padded(forward, moved(piece, device), size).cpu() for piece in torch.split(batch, size)]
            return done[0] if len(done) == 1 else torch.cat(done)

        with torch.no_grad():
            output = pieces.run(attempt)
        yield output


def view_batches(
    store: ImageStore, files: Sequence[ImageFile], size: int, *, augment: Augment, key: str
) -> Iterator[Tensor]:
    """images[size or fewer, 3, H, W] in the files' order, each augmented as drawn for `key` and the file."""
    order = [range(start, min(start + size, len(files))) for start in range(0, len(files), size)]
    return store.training_batches(files, order, augment=augment, key=key)


def moved(images: Tensor, device: torch.device) -> Tensor:
    """Any tensor on the device; from page-locked memory the copy is under way when this returns."""
    return images.to(device, non_blocking=images.is_pinned())


def targets_of(files: Sequence[ImageFile]) -> Tensor:
    """int64[N]: the files' class indices."""
    return torch.tensor([file.label for file in files], dtype=torch.int64)


def _through(
    forward: Callable[[Tensor], Tensor],
    model: ZooModel,
    batches: Iterable[Tensor],
    count: int,
    pieces: Pieces,
    progress: Callable[[int], None],
) -> Tensor:
    device = next(model.parameters()).device
    model.eval()
    outputs: Tensor | None = None
    done = 0
    with torch.inference_mode():
        for images in batches:

            def attempt(size: int, images: Tensor = images) -> Tensor:
                return torch.cat(
                    [_padded(forward, moved(piece, device), size).cpu() for piece in torch.split(images, size)]
                )

            output = pieces.run(attempt)
            if outputs is None:
                outputs = _room_for(count, output)
            outputs[done : done + len(images)] = output
            done += len(images)
            progress(done)
    assert outputs is not None, "there are images"
    return outputs[:done]


def _room_for(count: int, like: Tensor) -> Tensor:
    """Filled piece by piece: maps may be most of the memory, so there is no room for them twice."""
    with torch.inference_mode(False):  # heads train on it
        return torch.empty(count, *like.shape[1:], dtype=like.dtype)


def _padded(forward: Callable[[Tensor], Tensor], batch: Tensor, size: int) -> Tensor:
    count = len(batch)
    if count < size:
        block = block_of(batch)
        rows = torch.cat([block.rows, block.rows.new_zeros(size - count, *block.rows.shape[1:])])
        batch = Block(rows, block.order).seen
    return forward(batch)[:count]
