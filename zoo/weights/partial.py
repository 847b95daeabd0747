"""Unfinished downloads: where the bytes received so far wait, and whether a later attempt may continue them.

What is asked of the host is in `zoo.weights.download`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from zoo.storage.atomic import parse_json

_SUFFIX = ".partial"
_CHUNK_BYTES = 1 << 20


class PartialFile:
    """The bytes of `target` received so far, in a file that only this process writes; `target` is always complete.

    A later attempt may continue it where it can tell that the host still has the same file: by the host's entity tag,
    or by the length together with the SHA-256 that the complete file must have.
    """

    def __init__(self, target: Path, path: Path, file: FileIO, lock: BaseFileLock | None) -> None:
        self.path = path
        self.done = os.fstat(file.fileno()).st_size
        """Bytes received so far."""
        self.discard = False
        """Set when the bytes are wrong: `close` then deletes them."""
        self._target = target
        self._file = file
        self._lock = lock
        """Held on the name that every process looks for; None for a private file that nobody else finds."""
        self._note = path.with_name(path.name + ".json")
        self._noted = _read_note(self._note) if lock else {}
        self._finished = False

    @property
    def etag(self) -> str:
        """The host's entity tag of the file; empty where it gave none."""
        return str(self._noted.get("etag") or "")

    @property
    def length(self) -> int | None:
        """Bytes of the complete file; None where the host did not say."""
        length = self._noted.get("length")
        return length if isinstance(length, int) else None

    @property
    def resumable(self) -> bool:
        """Whether `close` keeps the bytes for a later attempt."""
        usable = self._lock is not None and not self.discard and not self._finished
        return usable and self.continues(self._noted.get("sha256"))

    def continues(self, sha256: str | None) -> bool:
        """Whether a download of the file with this SHA-256 (or its first digits) may continue from here."""
        if self._noted.get("sha256") != sha256 or self.length is None or not 0 < self.done < self.length:
            return False
        return bool(self.etag or sha256)

    def begin(self, *, etag: str, length: int | None, sha256: str | None) -> None:
        """Delete the bytes, and note which file the next ones belong to. Raises OSError."""
        self._file.truncate(0)
        self.done = 0
        self._noted = {"etag": etag, "length": length, "sha256": sha256}
        if self._lock is not None:
            self._note.write_text(json.dumps(self._noted), "utf-8")

    def digest(self) -> Any:
        """A running SHA-256 of the bytes received so far, for the caller to update. Raises OSError."""
        digest = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return digest

    def write(self, chunk: bytes) -> None:
        """Append. Raises OSError; the bytes are then discarded, because the disk may be full."""
        rest = memoryview(chunk)
        try:
            while rest:
                written = self._file.write(rest)
                self.done += written
                rest = rest[written:]
        except OSError:
            self.discard = True
            raise

    def finish(self) -> None:
        """Rename the complete file to `target`. Raises OSError."""
        os.fsync(self._file.fileno())
        self._file.close()  # Windows does not rename open files.
        self._note.unlink(missing_ok=True)
        self.path.replace(self._target)
        self._finished = True

    def close(self) -> None:
        """Delete the bytes unless they are resumable, and let other processes use the file."""
        self._file.close()
        if not self._finished and not self.resumable:
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
        if self._lock is not None:
            # Deleted while it is held: a process that has opened it but not locked it yet is then refused by filelock,
            # which takes no lock on a deleted file. Windows deletes the file itself on release.
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink()
            self._lock.release()


def open_partial(target: Path, name: Path | None = None) -> PartialFile:
    """The partial download of `target`, with what an earlier attempt has left. Raises OSError.

    Where another process is writing that file, a private one that nobody else finds.

    Args:
        target: Path of the complete file.
        name: Path by which every attempt finds the bytes, on the same file system. Default: `target`.
    """
    name = name or target
    for path in (target, name):
        path.parent.mkdir(parents=True, exist_ok=True)
    return _open_shared(target, name) or _open_private(target, name)


def _open_shared(target: Path, name: Path) -> PartialFile | None:
    path = name.with_name(name.name + _SUFFIX)
    # The system releases the lock when the process dies, so that the next attempt can continue what it has left.
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):  # Another process has it, or the file system has no locks.
        return None
    try:
        return PartialFile(target, path, path.open("a+b", buffering=0), lock)
    except BaseException:
        lock.release()
        raise


def _open_private(target: Path, name: Path) -> PartialFile:
    path = name.with_name(f"{name.name}.{uuid.uuid4().hex}{_SUFFIX}")
    return PartialFile(target, path, path.open("x+b", buffering=0), None)


def _read_note(path: Path) -> dict[str, Any]:
    try:
        noted = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
