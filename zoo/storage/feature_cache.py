"""The cache of computed rows, in files that several runs and processes share.

There is one folder for each cache key (weights, preprocessing, precision, machine and whatever else rows depend on) and
one file for each block of images, named by the images' own digests. So a stale file cannot be taken for a fresh one,
and half a folder is half the work. A file is whole or absent, and is checked when it is read.

The unit is a block of padded chunks, not a row: in a chunk of other images the same image may have other bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import RunError
from zoo.storage.atomic import write_text
from zoo.storage.eviction import ABOUT, evict, features_folder, size_limit
from zoo.storage.table import Block

_LOCK, _ROWS = "lock", "rows"
_DRAFT, _OLD = ".draft-", 3600.0
"""Seconds after which a draft belongs to a process that was killed."""
PATIENCE, _POLL = 120.0, 0.2
"""Seconds without a new file after which a process that computes the same rows is no longer waited for."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Everything that the values of rows depend on, beside the images."""

    facts: Mapping[str, Any]
    """Plain JSON types."""

    @property
    def name(self) -> str:
        """Name of the key's folder. Other facts give another name."""
        text = json.dumps(self.facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class FeatureCache:
    """Cached rows in zoo's cache folder."""

    def __init__(self, folder: Path | None = None, *, limit: int | None = None, patience: float = PATIENCE) -> None:
        """Open the cache.

        Args:
            folder: Default: `features` in the cache folder.
            limit: Largest size in bytes. Default: what `ZOO_CACHE_LIMIT` allows.
            patience: Seconds without a new file after which a process that computes the same rows is not waited for.

        Raises:
            OptionError: `ZOO_CACHE_LIMIT` is not a size.
        """
        self.folder = folder or features_folder()
        self.limit = size_limit() if limit is None else limit
        self._patience = patience
        self._in_use: set[str] = set()

    def read(self, key: CacheKey, images: str) -> Block | None:
        """The block of some images, named by `name_of`, mapped from its file. None where there is none.

        A damaged file is removed.
        """
        path = self._path(key, images)
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                rows: Tensor = file.get_tensor(_ROWS)
        except (OSError, SafetensorError):
            self._remove(path)
            return None
        if facts.get("digest") != _digest(rows):
            self._remove(path)
            return None
        self._use(key)
        return Block(rows, tuple(int(dimension) for dimension in facts["order"].split()))

    def keep(self, key: CacheKey, images: str, block: Block) -> bool:
        """Write a block, and evict the folders that were used longest ago if needed -> whether it is stored.

        Where the disk or the limit has no room, or the folder cannot be written, nothing changes.
        """
        path = self._path(key, images)
        self._in_use.add(key.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not evict(self.folder, block.bytes, self.limit, self._in_use):
                return False
            about = path.parent / ABOUT
            if not about.exists():
                write_text(about, json.dumps(key.facts, ensure_ascii=False))
            facts = {"order": " ".join(map(str, block.order)), "digest": _digest(block.rows)}
            _write(path, {_ROWS: block.rows}, facts)
        except (OSError, RunError):
            return False
        return True

    def let_go(self) -> None:
        """Allow everything that was used so far to be evicted. Rows that are mapped stay readable."""
        self._in_use.clear()

    @contextlib.contextmanager
    def filling(self, key: CacheKey, waiting: Callable[[], None]) -> Iterator[None]:
        """Inside, no other process computes rows of the key. `waiting` is called again and again while one does.

        A process that makes no progress is not waited for. Computing the same rows twice costs time and does no harm.
        """
        try:
            folder = self._folder(key)
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / _LOCK)
            _wait_for(lock, folder, waiting, self._patience)
            self._remove_leftovers(folder)
        except OSError:
            yield  # nobody shares a folder that cannot be written
            return
        try:
            yield
        finally:
            lock.release()

    def drop(self, key: CacheKey) -> None:
        """Remove all rows of a key. Rows that are mapped stay readable."""
        for path in self._folder(key).glob("*.safetensors"):
            self._remove(path)

    def _remove_leftovers(self, folder: Path) -> None:
        """Remove drafts of processes that were killed."""
        for draft in folder.glob(f"{_DRAFT}*"):
            if time.time() - draft.stat().st_mtime > _OLD:
                self._remove(draft)

    def _use(self, key: CacheKey) -> None:
        if key.name not in self._in_use:
            self._in_use.add(key.name)
            with contextlib.suppress(OSError):
                os.utime(self._folder(key) / ABOUT)

    def _folder(self, key: CacheKey) -> Path:
        return self.folder / key.name

    def _path(self, key: CacheKey, images: str) -> Path:
        return self._folder(key) / f"{images}.safetensors"

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def name_of(images: Sequence[str]) -> str:
    """A file name for a block, from the digests of its images in order and whatever else tells blocks apart."""
    return hashlib.sha256("\n".join(images).encode()).hexdigest()[:32]


def _wait_for(lock: FileLock, folder: Path, waiting: Callable[[], None], patience: float) -> None:
    there, since = -1, time.monotonic()
    while time.monotonic() - since < patience:
        try:
            lock.acquire(timeout=_POLL)
        except Timeout:
            waiting()
            now = sum(1 for _ in folder.glob("*.safetensors"))
            if now != there:
                there, since = now, time.monotonic()
            continue
        return


def _write(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str]) -> None:
    """Write a file whole or not at all. It is not flushed to the disk: after a power cut the digest tells damage."""
    handle, draft = tempfile.mkstemp(prefix=_DRAFT, dir=path.parent)
    os.close(handle)
    try:
        save_file(dict(tensors), draft, metadata=facts)
        Path(draft).replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    finally:
        Path(draft).unlink(missing_ok=True)


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
