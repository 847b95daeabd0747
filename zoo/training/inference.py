"""Images through a model in evaluation mode: pooled features and logits.

Every piece is padded to the same number of images: a batch's size changes the bits of what comes out, so without
padding the last images of a split would depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.store import ImageStore
from zoo.model.model import ZooModel
from zoo.recipes import Augment
from zoo.training.memory import Pieces


def features(
    model: ZooModel, store: ImageStore, files: Sequence[ImageFile], *, pieces: Pieces, progress: Callable[[int], None]
) -> Tensor:
    """What the head gets of the files (pooled[N, F] or map[N, C, H, W]) on the CPU, in their order; each image goes
    through the backbone once."""
    return _through(model.features, model, store.batches(files, pieces.size), len(files), pieces, progress)


def view_features(
    model: ZooModel,
    store: ImageStore,
    files: Sequence[ImageFile],
    *,
    augment: Augment,
    key: str,
    pieces: Pieces,
    progress: Callable[[int], None],
) -> Tensor:
    """As `features`, of one augmented view of each file: the one that is drawn for `key` and the file."""
    order = [range(start, min(start + pieces.size, len(files))) for start in range(0, len(files), pieces.size)]
    images = store.training_batches(files, order, augment=augment, key=key)
    return _through(model.features, model, images, len(files), pieces, progress)


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


def head_logits(model: ZooModel, features: Tensor, *, size: int) -> Tensor:
    """logits[N, classes] from what the head gets, in padded pieces of `size` as `logits` computes them."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        return torch.cat([_padded(model.head, piece.to(device), size).cpu() for piece in torch.split(features, size)])


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
                    [_padded(forward, piece.to(device), size).cpu() for piece in torch.split(images, size)]
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
        batch = torch.cat([batch, batch.new_zeros(size - count, *batch.shape[1:])])
    return forward(batch)[:count]
