"""Images decoded and resized once, kept in memory and on the disk while they fit, decoded again where they do not."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from zoo.data import transform
from zoo.data.ahead import Done, Item, map_ahead, map_for_model
from zoo.data.augment import augmented, draw
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.known import KnownFiles
from zoo.data.spool import Place, Spool
from zoo.errors import DataError
from zoo.preprocessing import Preprocessing
from zoo.recipes import Augment

DEFAULT_BUDGET = 512 << 20
"""Bytes of resized images that are kept in memory."""


@dataclass(frozen=True, slots=True)
class Readable:
    """What of some files can be read."""

    files: tuple[ImageFile, ...]
    images: Tensor
    """float32[N, 3, H, W] of `files`; N may be 0."""
    faults: dict[str, str]
    """Relative path -> what is wrong, of the others."""


class ImageStore:
    """The images of a data set under one preprocessing. Decoding runs in `workers` threads, off the main one."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        workers: int,
        budget: int = DEFAULT_BUDGET,
        disk_budget: int | None = 0,
        known: KnownFiles | None = None,
    ) -> None:
        """`budget`: bytes of resized images in memory. `disk_budget`: of those on the disk besides; None: a quarter of
        what is free there. `known`: files that are examined by their digest alone, and decoded when they are needed."""
        self.preprocessing = preprocessing
        self.workers = max(1, workers)
        self._budget = budget
        self._kept: dict[str, Tensor] = {}
        self._known = known
        self._digests: dict[str, str] = {}
        self._spool = Spool.open(disk_budget)
        self._places: dict[str, Place] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="zoo-decode")

    @property
    def kept_bytes(self) -> int:
        """Of the resized images in memory."""
        return self._bytes

    def close(self) -> None:
        """Stop the threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._spool.close()

    def examine(
        self, files: Sequence[ImageFile], *, progress: Callable[[int], None]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Decode every file once -> (digests, faults), both by relative path; `progress` gets the number done."""
        digests: dict[str, str] = {}
        faults: dict[str, str] = {}
        examined = map_ahead(self._pool, self._examine, files, ahead=4 * self.workers)
        for done, (file, (digest, fault)) in enumerate(zip(files, examined, strict=True), start=1):
            digests[file.relative] = self._digests[file.relative] = digest
            if fault is not None:
                faults[file.relative] = fault
            progress(done)
        if self._known is not None:
            self._known.add([digests[file.relative] for file in files if file.relative not in faults])
        return digests, faults

    def batches(self, files: Sequence[ImageFile], size: int) -> Iterator[Tensor]:
        """images[size or fewer, 3, H, W] in the files' order, as the backbone wants them."""
        return self._ready(self._plain, _chunks(files, size), files)

    def readable_batches(self, files: Sequence[ImageFile], size: int) -> Iterator[Readable]:
        """As `batches`, of files that nobody has examined: every `size` of them, less those that cannot be read."""
        return self._in_threads(self._readable, _chunks(files, size))

    def training_batches(
        self,
        files: Sequence[ImageFile],
        order: Sequence[Sequence[int]],
        *,
        augment: Augment,
        key: str,
        anew: bool = False,
        begin: int = 0,
    ) -> Iterator[Tensor]:
        """images[N, 3, H, W] for every batch of indices in `order`, augmented by draws for `key` and the file.

        `anew`: a file that comes again has other draws than before. `begin`: the first batch that is wanted.
        """

        def load(batch: Sequence[tuple[int, str]]) -> Tensor:
            images = self._empty(len(batch))
            for into, (index, name) in zip(images, batch, strict=True):
                self._augment(files[index], augment, name, into)
            return images

        named = _turns(order, key) if anew else ([(index, key) for index in indices] for indices in order)
        return self._ready(load, islice(named, begin, None), files)

    def digest_of(self, file: ImageFile) -> str:
        """SHA-256 of a file's bytes, which must have been examined."""
        return self._digests[file.relative]

    def resized(self, file: ImageFile) -> Tensor:
        """uint8[3, H', W'], from memory, from the disk or decoded now. Raises DataError."""
        kept = self._kept.get(file.relative)
        place = self._places.get(file.relative)
        if kept is None and place is not None:
            kept = self._spool.get(place)
        return self._read_again(file) if kept is None else kept

    def _read_again(self, file: ImageFile) -> Tensor:
        content = file.content()
        examined = self._digests.get(file.relative)
        if examined is not None and hashlib.sha256(content).hexdigest() != examined:
            raise DataError(f"{file.relative}: the file was changed while it was in use")
        pixels = self._decode(file, content)
        if examined is not None:
            self._keep(file, pixels)
        return pixels

    def _examine(self, file: ImageFile) -> tuple[str, str | None]:
        try:
            content = file.content()
        except DataError as error:
            return "", _detail(file, error)
        digest = hashlib.sha256(content).hexdigest()
        if self._known is not None and digest in self._known:
            return digest, None
        try:
            pixels = self._decode(file, content)
        except DataError as error:
            return digest, _detail(file, error)
        self._keep(file, pixels)
        return digest, None

    def _keep(self, file: ImageFile, pixels: Tensor) -> None:
        with self._lock:
            if file.relative in self._kept or file.relative in self._places:
                return
            if self._bytes + pixels.numel() <= self._budget:
                self._bytes += pixels.numel()
                self._kept[file.relative] = pixels
                return
        place = self._spool.put(pixels)
        if place is not None:
            self._places[file.relative] = place

    def _decode(self, file: ImageFile, content: bytes) -> Tensor:
        picture = decode(content, name=file.relative)
        try:
            return transform.resize(picture, self.preprocessing)
        except DataError as error:
            raise DataError(f"{file.relative}: {error}") from None

    def _plain(self, files: Sequence[ImageFile]) -> Tensor:
        images = self._empty(len(files))
        for file, into in zip(files, images, strict=True):
            transform.finish(self.resized(file), self.preprocessing, into=into)
        return images

    def _readable(self, files: Sequence[ImageFile]) -> Readable:
        images = self._empty(len(files))
        read: list[ImageFile] = []
        faults: dict[str, str] = {}
        for file in files:
            try:
                pixels = self.resized(file)
            except DataError as error:
                faults[file.relative] = _detail(file, error)
                continue
            transform.finish(pixels, self.preprocessing, into=images[len(read)])
            read.append(file)
        return Readable(tuple(read), images[: len(read)], faults)

    def _augment(self, file: ImageFile, augment: Augment, key: str, into: Tensor) -> None:
        pixels = self.resized(file)
        _, height, width = self.preprocessing.input_size
        shape = width / height
        drawn = draw(augment, pixels.shape[-2], pixels.shape[-1], key=f"{key}/{file.relative}", shape=shape)
        augmented(pixels, drawn, self.preprocessing, into=into)

    def _empty(self, count: int) -> Tensor:
        # Filled in place: an image is normalised while it is in the processor's cache, and not copied into a batch.
        # Page-locked where a GPU is in use: the copy to it then goes on while something else is computed.
        return torch.empty(count, *self.preprocessing.input_size, pin_memory=_gpu_in_use())

    def _ready(
        self, work: Callable[[Item], Tensor], items: Iterable[Item], files: Sequence[ImageFile]
    ) -> Iterator[Tensor]:
        """As `_in_threads`; where the images are in memory and a CPU computes, only when they are wanted.

        Both then want the same cores: an operation that is shared among all of them waits for the one that a worker
        has taken, so that a millisecond of a worker's costs two (docs/measurements.md).
        """
        if _gpu_in_use() or any(file.relative not in self._kept for file in files):
            return self._in_threads(work, items)
        return map(work, items)

    def _in_threads(self, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
        return map_for_model(self._pool, work, items, workers=self.workers, on_cpu=not _gpu_in_use())


def _gpu_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _chunks(files: Sequence[ImageFile], size: int) -> Iterator[Sequence[ImageFile]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _turns(order: Iterable[Sequence[int]], key: str) -> Iterator[Sequence[tuple[int, str]]]:
    """Every index with the key of its draws, which says how often it has come before."""
    seen: Counter[int] = Counter()
    for indices in order:
        named = []
        for index in indices:
            named.append((index, f"{key}/again {seen[index]}" if seen[index] else key))
            seen[index] += 1
        yield named


def _detail(file: ImageFile, error: DataError) -> str:
    return str(error).removeprefix(f"{file.relative}: ")
