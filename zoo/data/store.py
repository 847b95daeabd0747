"""Images decoded and resized once, kept while they fit, decoded again where they do not."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from zoo.data import transform
from zoo.data.augment import augmented, draw
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode
from zoo.data.threads import in_order
from zoo.errors import DataError
from zoo.preprocessing import Preprocessing
from zoo.recipes import Augment

DEFAULT_BUDGET = 2 << 30
"""Bytes of resized images that are kept in memory."""


class ImageStore:
    """The images of a data set under one preprocessing. Decoding runs in `workers` threads, off the main one."""

    def __init__(self, preprocessing: Preprocessing, *, workers: int, budget: int = DEFAULT_BUDGET) -> None:
        self.preprocessing = preprocessing
        self.workers = max(1, workers)
        self._budget = budget
        self._kept: dict[str, Tensor] = {}
        self._digests: dict[str, str] = {}
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

    def examine(
        self, files: Sequence[ImageFile], *, progress: Callable[[int], None]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Decode every file once -> (digests, faults), both by relative path; `progress` gets the number done."""
        digests: dict[str, str] = {}
        faults: dict[str, str] = {}
        examined = in_order(self._pool, self._examine, files, ahead=4 * self.workers)
        for done, (file, (digest, fault)) in enumerate(zip(files, examined, strict=True), start=1):
            digests[file.relative] = self._digests[file.relative] = digest
            if fault is not None:
                faults[file.relative] = fault
            progress(done)
        return digests, faults

    def batches(self, files: Sequence[ImageFile], size: int) -> Iterator[Tensor]:
        """images[size or fewer, 3, H, W] in the files' order, as the backbone wants them."""
        return in_order(self._pool, self._plain, _chunks(files, size), ahead=self.workers + 1)

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
            return torch.stack([self._augmented(files[index], augment, name) for index, name in batch])

        named = _turns(order, key) if anew else ([(index, key) for index in indices] for indices in order)
        return in_order(self._pool, load, islice(named, begin, None), ahead=self.workers + 1)

    def digest_of(self, file: ImageFile) -> str:
        """SHA-256 of a file's bytes, which must have been examined."""
        return self._digests[file.relative]

    def resized(self, file: ImageFile) -> Tensor:
        """uint8[3, H', W'], from memory or decoded now. Raises DataError."""
        kept = self._kept.get(file.relative)
        return kept if kept is not None else self._decode(file, _content(file))

    def _examine(self, file: ImageFile) -> tuple[str, str | None]:
        try:
            content = _content(file)
        except DataError as error:
            return "", _detail(file, error)
        digest = hashlib.sha256(content).hexdigest()
        try:
            pixels = self._decode(file, content)
        except DataError as error:
            return digest, _detail(file, error)
        with self._lock:
            if file.relative not in self._kept and self._bytes + pixels.numel() <= self._budget:
                self._bytes += pixels.numel()
                self._kept[file.relative] = pixels
        return digest, None

    def _decode(self, file: ImageFile, content: bytes) -> Tensor:
        picture = decode(content, name=file.relative)
        try:
            return transform.resize(picture, self.preprocessing)
        except DataError as error:
            raise DataError(f"{file.relative}: {error}") from None

    def _plain(self, files: Sequence[ImageFile]) -> Tensor:
        return torch.stack([transform.finish(self.resized(file), self.preprocessing) for file in files])

    def _augmented(self, file: ImageFile, augment: Augment, key: str) -> Tensor:
        pixels = self.resized(file)
        _, height, width = self.preprocessing.input_size
        shape = width / height
        drawn = draw(augment, pixels.shape[-2], pixels.shape[-1], key=f"{key}/{file.relative}", shape=shape)
        return augmented(pixels, drawn, self.preprocessing)


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


def _content(file: ImageFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise DataError(f"{file.relative}: {error.strerror or error}") from None


def _detail(file: ImageFile, error: DataError) -> str:
    return str(error).removeprefix(f"{file.relative}: ")
