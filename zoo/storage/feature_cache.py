"""The cache of computed rows, in files that several runs and processes share.

There is one folder for each cache key (weights, preprocessing, precision, machine and whatever else rows depend on) and
one file for each block of images, named by the images' own digests. So a stale file cannot be taken for a fresh one,
and half a folder is half the work. A file is whole or absent, and is checked when it is read.

The unit is a block of padded chunks, not a row: in a chunk of other images the same image may have other bits.

Rows of a backbone that computes in bfloat16 are float32 numbers whose lower half is zeros. They are stored as bfloat16,
which is exact and takes half the room; a block of which one number would lose a bit is stored as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections import OrderedDict
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
from zoo.storage.eviction import ABOUT, CacheRoom, evict, features_folder, room_in, size_limit
from zoo.storage.in_use import Hold
from zoo.storage.table import Block

_LOCK, _ROWS, _WIDENS = "lock", "rows", "widens_to"
_DRAFT, _OLD = ".draft-", 3600.0
"""Seconds after which a draft belongs to a process that was killed."""
PATIENCE, _POLL = 120.0, 0.2
"""Seconds without a new file after which a process that computes the same rows is no longer waited for."""
_SHARE = 16
"""One part in so many of the room that is left is written before the cache folder is looked through again: that takes
as long as there are files, and other processes write, too."""
_MAPPED = 128
"""Files of large tables that are mapped at a time. A system allows some 65,000 in a process, and each
counts as memory as long as it is mapped."""


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
        self._in_use: dict[str, Hold | None] = {}
        self._allowance = 0
        self._mapped = _MappedFiles()

    def read(self, key: CacheKey, images: str) -> Block | None:
        """The block of some images, named by `name_of`, mapped from its file. None where there is none.

        A damaged file is removed.
        """
        self._use(key)
        return _read(self._path(key, images))

    def stored(self, key: CacheKey, images: str) -> StoredBlock | None:
        """The same block, whose file is mapped only while rows are read from it. None where there is none.

        It is looked at now: what is damaged is removed.
        """
        block = self.read(key, images)
        if block is None:
            return None
        return StoredBlock(self._path(key, images), block.order, block.dtype, block.shape, self._mapped)

    def keep(self, key: CacheKey, images: str, block: Block) -> bool:
        """Write a block, and evict the folders that were used longest ago if needed -> whether it is stored.

        Where the disk or the limit has no room, or the folder cannot be written, nothing changes.
        """
        path, halved = self._path(key, images), block.halved()
        try:
            self._use(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._makes_room(halved.bytes):
                return False
            about = path.parent / ABOUT
            # Before the first row: a folder without it counts as never used, and would be evicted first.
            if not about.exists():
                write_text(about, json.dumps(key.facts, ensure_ascii=False))
            facts = {"order": " ".join(map(str, halved.order)), "digest": _digest(halved)}
            _write(path, {_ROWS: halved.rows}, facts | ({_WIDENS: "float32"} if halved.widens_to else {}))
        except (OSError, RunError):
            # There is less room than was thought, so the folder is looked through again for the next block.
            self._allowance = 0
            return False
        return True

    def room(self, *, with_everything: bool = False) -> CacheRoom:
        """How much room further rows would find, if everything were evicted that nobody uses; or everything."""
        return room_in(self.folder, self.limit, None if with_everything else self._in_use)

    def _makes_room(self, size: int) -> bool:
        if size > self._allowance:
            room = evict(self.folder, size, self.limit, self._in_use)
            if not room.fits(size):
                return False
            self._allowance = size + (room.left - size) // _SHARE
        self._allowance -= size
        return True

    def let_go(self) -> None:
        """Allow everything that was used so far to be evicted. Rows that are mapped stay readable."""
        for hold in self._in_use.values():
            if hold is not None:
                hold.release()
        self._in_use.clear()
        self._mapped.clear()

    @contextlib.contextmanager
    def filling(self, key: CacheKey, waiting: Callable[[], None]) -> Iterator[None]:
        """Inside, no other process computes rows of the key. `waiting` is called again and again while one does.

        A process that makes no progress is not waited for. Computing the same rows twice costs time and does no harm.
        What `waiting` raises is raised.
        """
        folder = self._folder(key)
        # Nobody shares a folder that cannot be written.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        # Where the file system has no locks, computing the same rows twice is better than waiting for a lock file
        # that a killed process left.
        lock = FileLock(folder / _LOCK, fallback_to_soft=False)
        try:
            if _wait_for(lock, folder, waiting, self._patience):
                self._remove_leftovers(folder)
            yield
        finally:
            lock.release()

    def drop(self, key: CacheKey) -> None:
        """Remove all rows of a key. Rows that are mapped stay readable."""
        with contextlib.suppress(OSError):  # another process may remove the folder
            for path in self._folder(key).glob("*.safetensors"):
                _remove(path)

    def _remove_leftovers(self, folder: Path) -> None:
        """Remove drafts of processes that were killed."""
        # A draft may have got its name in the meantime, and the folder may be gone.
        with contextlib.suppress(OSError):
            for draft in folder.glob(f"{_DRAFT}*"):
                if time.time() - draft.stat().st_mtime > _OLD:
                    draft.unlink()

    def _use(self, key: CacheKey) -> None:
        """Hold a key's rows, where it has any, so that no process evicts them."""
        if key.name in self._in_use:
            return
        folder = self._folder(key)
        # Without locks the time of its last use has to do.
        self._in_use[key.name] = None
        with contextlib.suppress(OSError):
            self._in_use[key.name] = Hold(folder)
        with contextlib.suppress(OSError):
            os.utime(folder / ABOUT)

    def _folder(self, key: CacheKey) -> Path:
        return self.folder / key.name

    def _path(self, key: CacheKey, images: str) -> Path:
        return self._folder(key) / f"{images}.safetensors"


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of rows in a file of the cache, as `zoo.storage.table.RowBlock` says."""

    path: Path
    order: tuple[int, ...]
    dtype: torch.dtype
    shape: tuple[int, ...]
    mapped: _MappedFiles

    @property
    def rows(self) -> Tensor:
        """rows[N, ...] as they are stored, mapped from the file. Raises RunError where that is gone."""
        return self.mapped.rows(self.path)


class _MappedFiles:
    """The files that were read last, mapped."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Path, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, path: Path) -> Tensor:
        """rows[N, ...] of a file. May be called in any thread."""
        with self._lock:
            found = self._rows.get(path)
            if found is None:
                found = self._rows[path] = _mapped(path)
                if len(self._rows) > _MAPPED:
                    self._rows.popitem(last=False)
            else:
                self._rows.move_to_end(path)
        return found

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()


def _mapped(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            rows: Tensor = file.get_tensor(_ROWS)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path}, a file of cached rows that this run trains on, cannot be read any more: {error}\n"
            "Next: zoo finetune --resume RUN, which computes again what is missing."
        ) from None
    return rows


def _read(path: Path) -> Block | None:
    """The block in a file, mapped. A damaged file is removed."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            rows: Tensor = file.get_tensor(_ROWS)
    except (OSError, SafetensorError):
        _remove(path)
        return None
    widens_to = {None: None, "float32": torch.float32}.get(facts.get(_WIDENS))
    block = Block(rows, tuple(int(dimension) for dimension in facts.get("order", "").split()), widens_to)
    if facts.get("digest") != _digest(block):
        _remove(path)
        return None
    return block


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def name_of(images: Sequence[str]) -> str:
    """A file name for a block, from the digests of its images in order and whatever else tells blocks apart."""
    return hashlib.sha256("\n".join(images).encode()).hexdigest()[:32]


def _wait_for(lock: FileLock, folder: Path, waiting: Callable[[], None], patience: float) -> bool:
    """Whether the lock is held at the end: not where the folder has no locks, or patience was too short."""
    # No number of files, so that patience is counted from the first look on.
    there, since = -1, time.monotonic()
    while time.monotonic() - since < patience:
        try:
            lock.acquire(timeout=_POLL)
            return True
        except Timeout:
            now = _blocks_in(folder)
        except (OSError, NotImplementedError):
            return False
        # Not among what is caught above: an error of whoever is told is no error of the folder.
        waiting()
        if now != there:
            there, since = now, time.monotonic()
    return False


def _blocks_in(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.glob("*.safetensors"))
    except OSError:  # it was removed just now
        return 0


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


def _digest(block: Block) -> str:
    """SHA-256 of the rows as they are stored. Halved ones have another than the same bytes as they are."""
    # Blocks that are stored as they are keep the digest that they had before there were halved ones.
    digest = hashlib.sha256(f"widens to {block.widens_to}".encode() if block.widens_to else b"")
    digest.update(block.rows.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
