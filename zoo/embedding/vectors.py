"""Compute a vector for every image: block by block through the cache, so that only the vectors fill the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.dataset import ImageFile
from zoo.data.decoded import DecodedFiles
from zoo.data.prefetch import resolve_workers
from zoo.data.store import ImageStore
from zoo.data.unused import as_rows
from zoo.embedding.embedder import Embedder
from zoo.embedding.found_images import Described, ImagesFound
from zoo.errors import DataError, FeaturesError
from zoo.evaluation.context import Clock, ComputeContext
from zoo.events import Event, Note, Progress, Report
from zoo.frozen.outputs import BLOCK, TableFiller
from zoo.planning.build_plan import CHUNK
from zoo.specs.data import Skipped
from zoo.storage.feature_cache import FeatureCache
from zoo.text import counted, some

DType = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedding:
    """A vector for each image that can be read, with what is known of the image. Row n belongs to the nth file."""

    vectors: NDArray[Any] = field(repr=False)
    """float32[N, F], or float16[N, F]."""
    files: tuple[str, ...]
    """Each image's name: its path below the data folder, with forward slashes."""
    sha256: tuple[str, ...]
    """The digest of each file's bytes."""
    labels: tuple[str, ...]
    """The class of each image; empty for one without."""
    splits: tuple[str, ...]
    """`train`, `val` or `test`; empty where the data have no splits and cannot be trained on as they are."""
    metadata: Mapping[str, Any]
    """What the vectors are, in plain JSON types: backbone, weights with digest, group, preprocessing, dtype, whether
    they are normalised, versions."""
    unreadable: Mapping[str, str]
    """Name -> what is wrong, of images that were left out."""
    skipped: tuple[Skipped, ...] = ()
    """Files of the data that are not used, with the reason."""
    path: Path | None = None
    """The file that was written."""
    images: tuple[ImageFile, ...] = field(default=(), repr=False)
    """Where each image is read again."""

    def __repr__(self) -> str:
        return f"Embedding({len(self):,} images, {self.vectors.shape[1]:,} {self.vectors.dtype} of each)"

    def __len__(self) -> int:
        return len(self.files)

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield (file, sha256, label, split) of each image."""
        return zip(self.files, self.sha256, self.labels, self.splits, strict=True)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vectors, in plain JSON types."""
        return {
            "path": None if self.path is None else str(self.path),
            "images": len(self),
            "dimensions": int(self.vectors.shape[1]),
            "labelled": sum(map(bool, self.labels)),
            "unreadable": dict(self.unreadable),
            "skipped": as_rows(self.skipped),
            "metadata": dict(self.metadata),
        }


def embed_images(
    embedder: Embedder,
    found: ImagesFound,
    report: Report,
    *,
    normalise: bool = False,
    dtype: DType = "float32",
    workers: int | None = None,
) -> Embedding:
    """Compute the vectors of images, or read them from the cache. Images that cannot be read are left out and named.

    Args:
        embedder: Computes them.
        found: The images.
        report: Called with every event.
        normalise: Whether each vector is divided by its length, so that products are cosines. Zeros stay zeros.
        dtype: Of the vectors.
        workers: Decoding threads. None: one per core, at most eight.

    Raises:
        DataError: No image can be read.
        FeaturesError: A vector is not finite, or too large for float16.
    """
    store = ImageStore(
        embedder.model.preprocessing,
        workers=resolve_workers(workers),
        known=DecodedFiles(embedder.model.preprocessing),
    )
    with contextlib.closing(store):
        rows = _Rows(embedder, store, found, report, normalise=normalise, dtype=dtype)
        with contextlib.ExitStack() as stack:
            # Also where it breaks off: what was opened until then need not be opened again.
            stack.callback(store.remember)
            rows.fill()
    if not rows.taken:
        fault = "\n".join(f"  {name}: {what}" for name, what in list(rows.faults.items())[:10])
        raise DataError(f"No image in {found.source} can be read:\n{fault}\nNext: repair these files, or give others.")
    if rows.zeros:
        text = f"{counted(rows.zeros, 'vector')} of zeros alone cannot be normalised and stayed as they are."
        report(Note(text=text, loud=True))
    metadata = {
        **embedder.about,
        "dimensions": int(rows.vectors.shape[1]),
        "dtype": dtype,
        "normalised": normalise,
    }
    return Embedding(
        vectors=rows.vectors,
        files=tuple(each.file.relative for each in rows.taken),
        sha256=tuple(rows.digests),
        labels=tuple(each.label for each in rows.taken),
        splits=tuple(each.split for each in rows.taken),
        metadata=metadata,
        unreadable=rows.faults,
        skipped=found.skipped,
        images=tuple(each.file for each in rows.taken),
    )


class _Rows:
    """The vectors as they come, and the images that they belong to."""

    def __init__(
        self,
        embedder: Embedder,
        store: ImageStore,
        found: ImagesFound,
        report: Report,
        *,
        normalise: bool,
        dtype: DType,
    ) -> None:
        self._embedder = embedder
        self._store = store
        self._found = found
        self._pass_on = report
        self._notes: set[str] = set()
        self._normalise = normalise
        self._dtype = dtype
        self._cache = FeatureCache()
        self._clear()

    def _clear(self) -> None:
        self.taken: list[Described] = []
        self.digests: list[str] = []
        self.faults: dict[str, str] = {}
        self.zeros = 0
        self._shown = -1
        self._held: NDArray[Any] | None = None

    @property
    def vectors(self) -> NDArray[Any]:
        assert self._held is not None, "there is at least one image"
        return self._held[: len(self.taken)]

    def fill(self) -> None:
        """Compute or read all vectors; from the beginning again, in smaller batches, where memory runs out."""
        context = ComputeContext(store=self._store, model=self._embedder.model, report=self._told, clock=Clock())
        micro_batches = context.micro_batches(CHUNK, "embedding")
        while True:
            # Of an attempt in larger batches nothing is kept: one file must not hold vectors of both.
            self._clear()
            filler = TableFiller(context, self._cache, self._embedder.key, None, micro_batches, in_memory=True)
            size, fresh = BLOCK * micro_batches.size, True
            for block in self._blocks(size):
                files = [each.file for each in block]
                # With the first block alone: what this machine computes differently is different in every block.
                if fresh and filler.is_stale(files):
                    self._cache.drop(self._embedder.key)
                    text = "The cached vectors differ from what this machine computes now: they are computed again."
                    self._report(Note(text=text, loud=True))
                fresh = False
                self._add(block, filler.fill_table(files, "of images").rows(range(len(files))))
                self._store.release(files)
                if filler.in_smaller_batches:
                    break
            if not filler.in_smaller_batches:
                self._show()  # those at the very end may be unreadable
                return
            # Memory ran out. Smaller batches give other bits, so everything is computed again in batches of that size.

    def _blocks(self, size: int) -> Iterator[list[Described]]:
        """Yield the readable images of each list, `size` at a time, which is how the cache divides them."""
        for images in self._found.lists:
            waiting: list[Described] = []
            for start in range(0, len(images), size):
                waiting += self._readable(images[start : start + size])
                if len(waiting) >= size:
                    yield waiting[:size]
                    waiting = waiting[size:]
            if waiting:
                yield waiting

    def _readable(self, images: Sequence[Described]) -> list[Described]:
        files = [each.file for each in images]
        _, faults = self._store.examine(files, progress=lambda done: None, remember=False)
        for name, what in faults.items():
            self._report(Note(text=f"Left out, unreadable: {name}: {what}", loud=True))
        self.faults |= faults
        return [each for each in images if each.file.relative not in faults]

    def _add(self, block: Sequence[Described], outputs: Tensor) -> None:
        """Take the vectors[B, F] of a block."""
        values = outputs.double()
        if not bool(values.isfinite().all()):
            where = next(each for each, row in zip(block, values, strict=True) if not bool(row.isfinite().all()))
            raise FeaturesError(
                f"{self._embedder.backbone} gives {where.file.relative} a vector that is not finite.\n"
                "Next: --precision float32, or other weights."
            )
        if self._normalise:
            lengths = values.norm(dim=1, keepdim=True)
            self.zeros += int((lengths == 0).sum())
            values = values / torch.where(lengths == 0, torch.ones_like(lengths), lengths)
        rows: NDArray[Any] = values.numpy().astype(np.float32)
        if self._dtype == "float16":
            rows = self._halved(block, rows)
        if self._held is None:
            # Once, for as many as there can be: joining all blocks at the end would need twice the memory.
            self._held = np.empty((len(self._found), rows.shape[1]), rows.dtype)
        begin = len(self.taken)
        self._held[begin : begin + len(rows)] = rows
        self.taken += block
        self.digests += [self._store.sha256_of(each.file) for each in block]
        self._show()

    def _halved(self, block: Sequence[Described], rows: NDArray[np.float32]) -> NDArray[np.float16]:
        largest = float(np.abs(rows).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            row = int(np.abs(rows).max(axis=1).argmax())
            raise FeaturesError(
                f"float16 holds numbers up to 65,504; the vector of {block[row].file.relative} has {largest:,.0f}.\n"
                "Next: --normalise, or --dtype float32."
            )
        halved = rows.astype(np.float16)
        # Single numbers may round to 0. A vector of nothing else would be a direction lost without a word.
        vanished = rows.any(axis=1) & ~halved.any(axis=1)
        if vanished.any():
            name = block[int(vanished.argmax())].file.relative
            raise FeaturesError(
                f"float16 holds no numbers below 6e-8; the vector of {name} would be all zeros.\n"
                "Next: --normalise, or --dtype float32."
            )
        return halved

    def _report(self, event: Event) -> None:
        """Pass on an event; a note only once, though an attempt in smaller batches finds the same again."""
        if isinstance(event, Note):
            if event.text in self._notes:
                return
            self._notes.add(event.text)
        self._pass_on(event)

    def _told(self, event: Event) -> None:
        """Pass on what a block reports; its progress, which begins anew with every block, as part of the whole."""
        if not isinstance(event, Progress):
            self._report(event)
        elif event.unit == "images":
            self._show(event.done)

    def _show(self, further: int = 0) -> None:
        total = len(self._found)
        done = min(len(self.taken) + len(self.faults) + further, total)
        if done > self._shown:
            self._shown = done
            self._report(Progress(task="embed", done=done, total=total))


def of_one(embedder: Embedder, image: ImageFile, report: Report) -> Embedding:
    """Compute the vector of a single image, normalised. Raises DataError if it cannot be read."""
    alone = ImagesFound(image.relative, ((Described(image, "", ""),),))

    def without_progress(event: Event) -> None:
        if not isinstance(event, Progress):
            report(event)

    return embed_images(embedder, alone, without_progress, normalise=True, workers=1)


def describe(made: Embedding) -> str:
    """What was embedded, in one line for people."""
    labelled = sum(map(bool, made.labels))
    classes = len({label for label in made.labels if label})
    known = f"{labelled:,} of them labelled, {counted(classes, 'class', 'classes')}" if labelled else "without labels"
    left_out = f"; left out, unreadable: {some(list(made.unreadable))}" if made.unreadable else ""
    return f"{counted(len(made), 'image')} ({known}), {made.vectors.shape[1]:,} numbers each{left_out}"
