"""A download that is not whole yet: where its bytes wait, and how the next try knows that they are of the same file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from io import FileIO
from pathlib import Path
from typing import Any

from zoo.files import parse_json

if sys.platform != "win32":
    import fcntl

_ENDING = ".partial"
_PIECE = 1 << 20


class Partial:
    """Bytes of `target` so far, held by this process alone; `target` itself never holds a part.

    They are worth keeping where a later try can tell that they belong to the same file: by the host's entity tag, or
    by the length together with the SHA-256 that the whole file must have.
    """

    def __init__(self, target: Path, path: Path, file: FileIO, *, shared: bool) -> None:
        self.path = path
        self._target = target
        self._file = file
        self._noted = _read_note(_note_of(path)) if shared else {}
        self._shared = shared
        """Whether another process would find it."""
        self._finished = False
        self.worthless = False
        """Set where its bytes are wrong: then nothing is kept."""

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def etag(self) -> str:
        return str(self._noted.get("etag") or "")

    @property
    def length(self) -> int | None:
        """Of the whole file, as the host said; None where it did not."""
        length = self._noted.get("length")
        return length if isinstance(length, int) else None

    def continues(self, sha256: str | None) -> bool:
        """Whether a download of the file with this SHA-256 (or its beginning) may go on from here."""
        if self._noted.get("sha256") != sha256 or self.length is None or not 0 < self.done < self.length:
            return False
        return bool(self.etag or sha256)

    def begin(self, *, etag: str, length: int | None, sha256: str | None) -> None:
        """Drop what is here, and note what is coming. Raises OSError."""
        self._file.truncate(0)
        self._file.seek(0)
        self._noted = {"etag": etag, "length": length, "sha256": sha256}
        if self._shared:
            _note_of(self.path).write_text(json.dumps(self._noted), "utf-8")

    def digest(self) -> Any:
        """A SHA-256 that has seen what is here; the next write comes after it. Raises OSError."""
        seen = hashlib.sha256()
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            seen.update(piece)
        return seen

    def write(self, chunk: bytes) -> None:
        """Append. Raises OSError; then nothing is kept, for the disk may be full."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self.worthless = True
            raise

    def finish(self) -> None:
        """It is whole: from now on it is `target`. Raises OSError."""
        os.fsync(self._file.fileno())
        if sys.platform == "win32":
            self._file.close()  # an open file cannot be renamed there
        # The name is free as soon as the file has left it, and another process may take it.
        _note_of(self.path).unlink(missing_ok=True)
        self.path.replace(self._target)
        self._finished = True

    @property
    def kept(self) -> bool:
        """Whether its bytes will wait for a next try."""
        worth = self._shared and not self.worthless and not self._finished
        return worth and self.continues(self._noted.get("sha256"))

    def close(self) -> None:
        """Let go of it."""
        if not self._finished and not self.kept:
            self.path.unlink(missing_ok=True)
            _note_of(self.path).unlink(missing_ok=True)
        self._file.close()


def claim(target: Path) -> Partial:
    """The partial download of `target`, which an earlier try may have left; where another process is writing that one,
    a new one that nobody else sees. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return _shared(target) or _private(target)


def _shared(target: Path) -> Partial | None:
    if sys.platform == "win32":
        return None
    path = target.with_name(target.name + _ENDING)
    while True:
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        except OSError:  # held by another, or a file system without locks
            file.close()
            return None
        if same:
            return Partial(target, path, file, shared=True)
        file.close()  # whoever held it has finished or dropped it in the meantime


def _private(target: Path) -> Partial:
    path = target.with_name(f"{target.name}.{uuid.uuid4().hex}{_ENDING}")
    return Partial(target, path, path.open("x+b", buffering=0), shared=False)


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_note(path: Path) -> dict[str, Any]:
    try:
        noted = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
