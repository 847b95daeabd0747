"""Image store: decode and resize every image once, cache it in memory and on the disk, make batches from the cache.

What fits into neither cache is decoded again when it is needed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from zoo.data import transform
from zoo.data.ahead import ImagesAhead
from zoo.data.augment import apply_draw, draw, with_repeat_keys
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.decode import Decoded, decode_closely, image_needed
from zoo.data.decoded import DecodedFiles
from zoo.data.file_index import FileIndex, Stamp, stamp_of
from zoo.data.lost_values import Loss
from zoo.data.opened_images import OpenedImages
from zoo.data.prefetch import Done, Item, map_for_model, prefetch
from zoo.data.readings import Reading
from zoo.data.spool import Spool
from zoo.data.stored_order import as_stored
from zoo.errors import DataError
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.recipe import Augment
from zoo.specs.views import Views, passes

_RECORDED_AT_ONCE = 10_000
"""Files that `examine` records in the index together, so that memory stays flat, and an interruption loses few."""
DEFAULT_BUDGET = 512 << 20
"""Bytes of resized images that are cached in memory: 512 MiB."""


@dataclass(frozen=True, slots=True)
class ReadableBatch:
    """The images of a batch of files that can be read, and the faults of the others."""

    files: tuple[ImageFile, ...]
    """The N files that can be read."""
    images: Tensor
    """float32[N, 3, H, W] of `files`; N may be 0."""
    faults: dict[str, str]
    """What is wrong with each other file, by relative path."""
    others: tuple[Tensor, ...] = ()
    """Further views of `images`, each float32[N, 3, H, W], where they are asked for."""
    digests: tuple[str, ...] = ()
    """The SHA-256 of each of `files`."""


class ImageStore:
    """The images of a data set, prepared with one preprocessing. `workers` threads decode, beside the main thread."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        workers: int,
        budget: int = DEFAULT_BUDGET,
        disk_budget: int | None = 0,
        known: DecodedFiles | None = None,
        index: FileIndex | None = None,
        ahead: ImagesAhead | None = None,
    ) -> None:
        """Start the threads.

        `budget` is the bytes of resized images in memory, `disk_budget` that of further ones on the disk (None: a
        quarter of the free space). Files in `known` are only hashed by `examine`, and decoded when they are needed.
        `examine` records in `index` what it reads, and `recall` takes from it. It takes from `ahead` what was decoded
        there.
        """
        self.preprocessing = preprocessing
        self.workers = max(1, workers)
        self._budget = budget
        self._in_memory: dict[str, Tensor] = {}
        self._known = known
        self._index = index
        self._ahead = ahead
        self._stamps: dict[str, tuple[Stamp, str]] = {}
        self._opened = OpenedImages()
        self._spool = Spool.open(disk_budget)
        self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="zoo-decode")

    @property
    def kept_bytes(self) -> int:
        """Bytes of the resized images in memory."""
        return self._bytes

    def close(self) -> None:
        """Stop the threads, drop work that has not begun, and release the disk cache."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._spool.close()

    def expect(self, dataset: Dataset) -> None:
        """Prepare for images of a data set: what is found of them is then kept in little memory. Nothing is opened."""
        self._opened.expect(dataset)

    def examine(
        self, files: Sequence[ImageFile], *, progress: Callable[[int], None], remember: bool = True
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Read and decode every file once, and cache what fits. `progress` gets the number of files that are done.

        Returns (digests, faults) by relative path: the SHA-256 of each file, and what is wrong with unreadable ones.
        Where it is called for some files after others, `remember` is left to a call of that method at the end.
        """
        # Filled in the order in which the bytes are stored, and returned in the order that was given.
        digests: dict[str, str] = {file.relative: "" for file in files}
        faults: dict[str, str] = {}
        files = as_stored(files)
        examined = prefetch(self._pool, self._examine, files, pending=4 * self.workers)
        for done, (file, (digest, found, stamp)) in enumerate(zip(files, examined, strict=True), start=1):
            digests[file.relative] = digest
            if stamp is not None:
                self._stamps[os.fspath(file.path)] = stamp, digest
            if not isinstance(found, Reading):
                faults[file.relative] = found
            self._opened.put(file.relative, digest, found if isinstance(found, Reading) else None)
            if len(self._stamps) >= _RECORDED_AT_ONCE:
                self._record()
            progress(done)
        self._record()
        if remember:
            self.remember()
        return digests, faults

    def findings(self, files: Iterable[ImageFile]) -> tuple[dict[str, str], dict[str, Reading]]:
        """What `examine` found of the files: the SHA-256 of each, and what is known of each that can be decoded."""
        names = [file.relative for file in files]
        digests = {name: digest for name in names if (digest := self._opened.digest(name)) is not None}
        return digests, {name: reading for name in names if (reading := self._opened.reading(name)) is not None}

    def learn(self, digests: Mapping[str, str], readings: Mapping[str, Reading]) -> None:
        """Take what another process found of files that this one did not open; they are decoded when needed."""
        for name, digest in digests.items():
            self._opened.put(name, digest, readings.get(name))

    def remember(self) -> None:
        """Record for later runs which of the examined files could be decoded; does nothing without `known`."""
        if self._known is not None:
            self._known.add(self._opened.readings())

    def recall(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        """Take files as examined, unread, that were read and decoded before and have not changed. Returns the others.

        That is for what is shown, such as a plan. What uses the images examines them.
        """
        digests = self._index.digests(files) if self._index is not None and self._known is not None else {}
        others = []
        for file in files:
            digest = digests.get(file.relative, "")
            reading = self._known.get(digest) if self._known is not None else None
            if reading is None:
                others.append(file)
            else:
                self._opened.put(file.relative, digest, reading)
        return others

    def is_examined(self, file: ImageFile) -> bool:
        """Whether a file was examined or recalled, readable or not."""
        return self._opened.digest(file.relative) is not None

    def release(self, files: Sequence[ImageFile]) -> None:
        """Free the resized images of files that are not needed again; what is known of the files stays."""
        with self._lock:
            for file in files:
                pixels = self._in_memory.pop(file.relative, None)
                self._bytes -= 0 if pixels is None else pixels.numel()

    def batches(self, files: Sequence[ImageFile], size: int) -> Iterator[Tensor]:
        """Yield float32 images[N, 3, H, W] of the files in order, N <= `size`. Raises DataError for unreadable ones."""
        return self._prepare(self._load, _chunks(files, size), files)

    def readable_batches(
        self, files: Sequence[ImageFile], size: int, *, views: Views | None = None
    ) -> Iterator[ReadableBatch]:
        """Yield a batch for every `size` files, as `batches` does, but without the files that cannot be read.

        Each file is read now, whatever is cached. With `views`, a batch has further views of its images.
        """

        def load(chunk: Sequence[ImageFile]) -> ReadableBatch:
            return self._load_readable(chunk, views)

        return self._in_threads(load, _chunks(files, size))

    def training_batches(
        self,
        files: Sequence[ImageFile],
        order: Sequence[Sequence[int]],
        *,
        augment: Augment,
        key: str,
        anew: bool = False,
        begin: int = 0,
        positions: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Tensor]:
        """Yield float32 images[N, 3, H, W] for every batch of indices into `files` in `order`, from batch `begin` on.

        The augmentation of an image depends on `key` and the file's name alone. With `anew`, an image that comes again
        is augmented differently each time. `positions`: of each batch, only the images at these places, as they are in
        the whole batch.
        """

        def load(batch: Sequence[tuple[int, str]]) -> Tensor:
            images = self._empty(len(batch))
            for into, (index, draw_key) in zip(images, batch, strict=True):
                self._augment(files[index], augment, draw_key, into)
            return images

        keyed = with_repeat_keys(order, key) if anew else ([(index, key) for index in indices] for indices in order)
        if positions is not None:
            keyed = ([batch[place] for place in held] for batch, held in zip(keyed, positions, strict=True))
        return self._prepare(load, islice(keyed, begin, None), files)

    def digest_of(self, file: ImageFile) -> str:
        """SHA-256 of the bytes of a file that has been examined, with the rule that decodes it where that changed.

        So it names the pixels: rows that an older zoo computed from other pixels of the same file have another name.
        """
        reading = self._opened.reading(file.relative)
        return self.sha256_of(file) + (f" decoded by rule {reading.rule}" if reading and reading.rule else "")

    def sha256_of(self, file: ImageFile) -> str:
        """SHA-256 of the bytes of a file that has been examined."""
        digest = self._opened.digest(file.relative)
        assert digest is not None, f"{file.relative} was examined"
        return digest

    def contents(self, splits: Collection[Sequence[ImageFile]]) -> Mapping[str, str]:
        """SHA-256 of the bytes of files that have been examined, by relative path."""
        return self._opened.contents(splits)

    def losses(self) -> dict[str, Loss]:
        """What decoding destroyed of the files that have been examined, by relative path, where little is left."""
        return self._opened.losses()

    def resized(self, file: ImageFile) -> Tensor:
        """The resized image uint8[3, H', W'] from memory, from the disk, or decoded now. Raises DataError."""
        # Without the lock: single looks into a dictionary are whole, and what is missed is only decoded again.
        pixels = self._in_memory.get(file.relative)
        place = self._opened.place(file.relative) if pixels is None else None
        if place is not None:
            pixels = self._spool.get(place)
        return self._read(file) if pixels is None else pixels

    def _read(self, file: ImageFile) -> Tensor:
        content = file.content()
        digest = self._opened.digest(file.relative)
        # The plan and the proof name the data by the digests that `examine` took, so other bytes must not get through.
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise DataError(
                f"{file.relative}: the file was changed while it was in use.\n"
                "Next: put it back as it was, and go on; or start anew with the files as they are."
            )
        try:
            pixels, _ = self._decode(file, content)
        except DataError as error:
            raise image_needed(error) from None
        # Files that were not examined are read in a single pass, such as an evaluation: a cache would be of no use.
        if digest is not None:
            self._cache(file, pixels)
        return pixels

    def _record(self) -> None:
        """Record for later plans what bytes files have; does nothing without `index`."""
        read, self._stamps = self._stamps, {}
        if self._index is not None and read:
            self._index.add(read)

    def _examine(self, file: ImageFile) -> tuple[str, Reading | str, Stamp | None]:
        """(digest, what is known of the picture or what is wrong with the file, its stamp if it may be recorded)."""
        stamp = self._index.before_reading(file) if self._index is not None else None
        found = self._decoded_ahead(file)
        if found is not None:
            return *found, stamp
        try:
            content = file.content()
        except DataError as error:
            return "", file.fault(error), None
        digest = hashlib.sha256(content).hexdigest()
        # Of a file that was changed while it was read, the digest may be of neither content.
        stamp = stamp if stamp is not None and stamp_of(file) == stamp else None
        known = self._known.get(digest) if self._known is not None else None
        if known is not None:
            return digest, known, stamp
        try:
            pixels, decoded = self._decode(file, content)
        except DataError as error:
            return digest, file.fault(error), stamp
        self._cache(file, pixels)
        return digest, Reading(decoded.rule, decoded.loss), stamp

    def _decoded_ahead(self, file: ImageFile) -> tuple[str, Reading] | None:
        """(digest, what is known of the picture) of a file that was decoded ahead, whose pixels are cached then."""
        looked = self._ahead.get(file) if self._ahead is not None else None
        if looked is None or self._ahead is None:
            return None
        if looked.place is not None:
            self._cache(file, transform.as_tensor(self._ahead.pixels(looked.place)))
            return looked.digest, Reading()
        known = self._known.get(looked.digest) if self._known is not None else None
        return None if known is None else (looked.digest, known)

    def _cache(self, file: ImageFile, pixels: Tensor) -> None:
        with self._lock:
            if file.relative in self._in_memory or self._opened.place(file.relative) is not None:
                return
            if self._bytes + pixels.numel() <= self._budget:
                self._bytes += pixels.numel()
                self._in_memory[file.relative] = pixels
                return
        # Written without the lock, so that other threads do not wait for the disk.
        place = self._spool.put(pixels)
        if place is not None:
            self._opened.put_place(file.relative, place)

    def _decode(self, file: ImageFile, content: bytes) -> tuple[Tensor, Decoded]:
        """(resized uint8[3, H', W'], the picture with what is known of it)."""
        decoded = decode_closely(content, name=file.relative, preprocessing=self.preprocessing)
        try:
            return transform.resize(decoded.picture, self.preprocessing), decoded
        except DataError as error:
            raise DataError(f"{file.relative}: {error}") from None

    def _load(self, files: Sequence[ImageFile]) -> Tensor:
        images = self._empty(len(files))
        for file, into in zip(files, images, strict=True):
            transform.finish(self.resized(file), self.preprocessing, into=into)
        return images

    def _load_readable(self, files: Sequence[ImageFile], views: Views | None) -> ReadableBatch:
        images = [self._empty(len(files)) for _ in range(passes(views))]
        readable: list[ImageFile] = []
        digests: list[str] = []
        faults: dict[str, str] = {}
        for file in files:
            try:
                content = file.content()
                pixels, _ = self._decode(file, content)
            except DataError as error:
                faults[file.relative] = file.fault(error)
                continue
            place = len(readable)
            transform.finish_views(pixels, self.preprocessing, views, into=[view[place] for view in images])
            readable.append(file)
            digests.append(hashlib.sha256(content).hexdigest())
        plain, *others = (view[: len(readable)] for view in images)
        return ReadableBatch(tuple(readable), plain, faults, tuple(others), tuple(digests))

    def _augment(self, file: ImageFile, augment: Augment, key: str, into: Tensor) -> None:
        pixels = self.resized(file)
        _, height, width = self.preprocessing.input_size
        shape = width / height
        drawn = draw(augment, pixels.shape[-2], pixels.shape[-1], key=f"{key}/{file.relative}", shape=shape)
        apply_draw(pixels, drawn, self.preprocessing, into=into)

    def _empty(self, count: int) -> Tensor:
        # Images are normalised into the batch, while they are in the processor's cache, instead of being copied there.
        # Memory for a GPU is page-locked, so that the copy to it runs beside other work.
        return torch.empty(count, *self.preprocessing.input_size, pin_memory=_gpu_in_use())

    def _prepare(
        self, work: Callable[[Item], Tensor], items: Iterable[Item], files: Sequence[ImageFile]
    ) -> Iterator[Tensor]:
        """As `_in_threads`, but if all images are in memory and a CPU computes, in the main thread when needed.

        Threads and model would want the same cores then: an operation of the model is shared among all cores and waits
        for the one that a thread occupies, so that a millisecond in a thread costs two (docs/measurements.md).
        """
        if _gpu_in_use() or any(file.relative not in self._in_memory for file in files):
            return self._in_threads(work, items)
        return map(work, items)

    def _in_threads(self, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
        return map_for_model(self._pool, work, items, workers=self.workers, on_cpu=not _gpu_in_use())


def _gpu_in_use() -> bool:
    # Not `is_available`: a run on the CPU of a machine that has a GPU uses none.
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _chunks(files: Sequence[ImageFile], size: int) -> Iterator[Sequence[ImageFile]]:
    return (files[start : start + size] for start in range(0, len(files), size))
