"""Index of files that were read before: which bytes a file has that has not changed, without reading it again.

A plan uses it. A run reads every byte that it uses, whatever the index says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import ImageFile
from zoo.storage.cache import cache_folder
from zoo.storage.eviction import FILES_READ

SETTLED = 3.0
"""Seconds for which a file must have been left alone before it is recorded. One that was changed just now may be
changed again within the same tick of a file system's clock, with the same size: nothing but its bytes would tell."""
MOST = 500 << 20
"""Bytes above which the index is begun anew: about five million files."""
_FOLDER, _NAME = "kept", f"{FILES_READ}1.sqlite"
_AT_ONCE = 500
"""Files that are looked up by one query."""
# Without row numbers, rows lie in the order of the key itself, and there is no second index.
_TABLE = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp BLOB, digest BLOB) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file, by which a change of its bytes shows."""

    size: int
    """Bytes."""
    times: tuple[int, int]
    """When its bytes were changed, which programs may set; when anything of it was, which they cannot. Nanoseconds."""
    inode: int

    def packed(self) -> bytes:
        """The stamp as 32 bytes."""
        # Times are signed: before 1970 they are negative.
        return struct.pack("<QqqQ", self.size, *self.times, self.inode)


def stamp_of(file: ImageFile) -> Stamp | None:
    """The stamp of an image's file; None for an image without a file of its own, and where there is no such file."""
    if file.reader is not None:
        return None
    try:
        found = file.path.stat()
    except (OSError, ValueError):
        return None
    return Stamp(found.st_size, (found.st_mtime_ns, found.st_ctime_ns), found.st_ino)


class FileIndex:
    """SHA-256 digests of files that were read, in zoo's cache folder, by path, size, times and inode.

    Where it cannot be read or written, nothing is known, and files are read again.
    """

    def __init__(self) -> None:
        """Use the index in the cache folder."""
        self._path = cache_folder().absolute() / _FOLDER / _NAME

    def digests(self, files: Sequence[ImageFile]) -> dict[str, str]:
        """The digests of those files that are as they were when they were read, by relative path."""
        found: dict[str, str] = {}
        if not os.path.exists(self._path):
            return found
        # For reading alone, because a plan may run where the cache folder cannot be written.
        with contextlib.suppress(sqlite3.Error), self._opened(f"{self._path.as_uri()}?mode=ro") as index:
            for start in range(0, len(files), _AT_ONCE):
                found |= _looked_up(index, files[start : start + _AT_ONCE])
        return found

    def before_reading(self, file: ImageFile) -> Stamp | None:
        """The stamp of a file that is about to be read; None for one that must not be recorded."""
        stamp = stamp_of(file)
        settled = stamp is not None and max(stamp.times) <= time.time_ns() - SETTLED * 1e9
        return stamp if settled else None

    def add(self, read: Mapping[str, tuple[Stamp, str]]) -> None:
        """Record files by path: the stamp, from before they were read and still so after it, and the SHA-256."""
        rows = [(_key(path), stamp.packed(), bytes.fromhex(digest)) for path, (stamp, digest) in read.items()]
        if not rows:
            return
        with contextlib.suppress(OSError, sqlite3.Error):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_damaged()
            with self._opened(self._path.as_uri()) as index, index:
                index.execute(_TABLE)
                if _bytes(index) > MOST:
                    index.execute("DELETE FROM files")
                index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)

    def _remove_damaged(self) -> None:
        """Another program's file, or what a full disk left: nothing could ever be recorded in it."""
        try:
            with self._opened(self._path.as_uri()) as index:
                index.execute("SELECT COUNT(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            return  # locked, or not there: not damaged
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            self._path.with_name(f"{_NAME}-journal").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, address: str) -> Iterator[sqlite3.Connection]:
        # A short wait for another process that writes: reading files again is no harm, only slower.
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=2.0)) as index:
            yield index


def _bytes(index: sqlite3.Connection) -> int:
    """Bytes in use; the file has free ones beside, which are used again."""
    pages, free, size = (
        index.execute(f"PRAGMA {fact}").fetchone()[0] for fact in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _looked_up(index: sqlite3.Connection, files: Sequence[ImageFile]) -> dict[str, str]:
    stamps = {file.relative: stamp for file in files if (stamp := stamp_of(file)) is not None}
    keys = {_key(os.fspath(file.path)): file.relative for file in files if file.relative in stamps}
    asked = ",".join("?" * len(keys))
    rows = index.execute(f"SELECT path, stamp, digest FROM files WHERE path IN ({asked})", list(keys))
    return {keys[path]: digest.hex() for path, stamp, digest in rows if stamp == stamps[keys[path]].packed() and digest}


def _key(path: str) -> bytes:
    # All keys have one length, however long the paths are, so `MOST` is a number of files, too.
    return hashlib.sha256(os.fsencode(Path(path).absolute())).digest()[:16]
