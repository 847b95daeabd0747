"""Computed rows in files that several runs and processes share: whole or absent, checked when read, oldest gone first.

One folder a subject (what computed them: weights, preprocessing, precision, machine...), one file a block of images,
named by the images' own digests. So a stale file cannot be taken for a fresh one, and half a folder is half the work.
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
from zoo.features.folder import ABOUT, features_folder, make_room, size_limit
from zoo.features.table import Block
from zoo.files import write_text

_LOCK, _ROWS = "lock", "rows"
_DRAFT, _OLD = ".draft-", 3600.0
"""Seconds after which nobody writes a draft any more."""
_PATIENCE, _POLL = 120.0, 0.2
"""Seconds without a new file after which another process that holds a subject is waited for no longer."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What computed the rows: everything that their values depend on beside the images."""

    facts: Mapping[str, Any]
    """Plain JSON types."""

    @property
    def name(self) -> str:
        """Of its folder: other facts, another name."""
        text = json.dumps(self.facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class FeatureCache:
    """The part of zoo's cache folder that holds computed rows."""

    def __init__(self, folder: Path | None = None, *, limit: int | None = None) -> None:
        """Defaults: `features` in the cache folder, and what `ZOO_CACHE_LIMIT` says. Raises OptionError."""
        self.folder = folder or features_folder()
        self.limit = size_limit() if limit is None else limit
        self._in_use: set[str] = set()

    def read(self, subject: Subject, images: str) -> Block | None:
        """The block under the name that `name_of` gives its images, mapped from its file; None where there is none or
        it is damaged, which removes it."""
        path = self._path(subject, images)
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
        self._use(subject)
        return Block(rows, tuple(int(dimension) for dimension in facts["order"].split()))

    def keep(self, subject: Subject, images: str, block: Block) -> bool:
        """Write a block, making room by removing subjects that were used longest ago -> whether it is kept.

        Where the disk or the limit has no room, or the folder cannot be written, nothing is changed.
        """
        path = self._path(subject, images)
        self._in_use.add(subject.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not make_room(self.folder, block.bytes, self.limit, self._in_use):
                return False
            about = path.parent / ABOUT
            if not about.exists():
                write_text(about, json.dumps(subject.facts, ensure_ascii=False))
            facts = {"order": " ".join(map(str, block.order)), "digest": _digest(block.rows)}
            _write(path, {_ROWS: block.rows}, facts)
        except (OSError, RunError):
            return False
        return True

    def let_go(self) -> None:
        """What was used so far may make room; rows that are mapped stay readable."""
        self._in_use.clear()

    @contextlib.contextmanager
    def filling(self, subject: Subject, waiting: Callable[[], None]) -> Iterator[None]:
        """Inside, no other process computes rows of the subject. `waiting` is called while one does.

        One that makes no progress is not waited for: two that compute the same do no harm but the work.
        """
        try:
            folder = self._folder(subject)
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / _LOCK)
            _wait_for(lock, folder, waiting)
            self._remove_leftovers(folder)
        except OSError:
            yield  # a folder that cannot be written is shared by nobody
            return
        try:
            yield
        finally:
            lock.release()

    def drop(self, subject: Subject) -> None:
        """Remove all of a subject's rows. Those that are mapped stay readable."""
        for path in self._folder(subject).glob("*.safetensors"):
            self._remove(path)

    def _remove_leftovers(self, folder: Path) -> None:
        """Drafts of processes that were killed."""
        for draft in folder.glob(f"{_DRAFT}*"):
            if time.time() - draft.stat().st_mtime > _OLD:
                self._remove(draft)

    def _use(self, subject: Subject) -> None:
        if subject.name not in self._in_use:
            self._in_use.add(subject.name)
            with contextlib.suppress(OSError):
                os.utime(self._folder(subject) / ABOUT)

    def _folder(self, subject: Subject) -> Path:
        return self.folder / subject.name

    def _path(self, subject: Subject, images: str) -> Path:
        return self._folder(subject) / f"{images}.safetensors"

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def name_of(images: Sequence[str]) -> str:
    """A file name for some images, from the digests of their files in order and whatever else tells them apart."""
    return hashlib.sha256("\n".join(images).encode()).hexdigest()[:32]


def _wait_for(lock: FileLock, folder: Path, waiting: Callable[[], None]) -> None:
    there, since = -1, time.monotonic()
    while time.monotonic() - since < _PATIENCE:
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
    """Whole or not at all. Not flushed to the disk: after a power cut the digest says what is damaged."""
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
