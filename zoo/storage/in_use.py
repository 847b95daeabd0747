"""Which folders of the cache are in use, by this process or another: what is in use is not evicted.

The system's locks tell it. A lock ends with its process, so a killed one leaves nothing behind. On a file system
without locks, as some network drives are, a folder counts as in use for a while after its last use.
"""

from __future__ import annotations

import errno
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MARK = "in-use"
"""The file in a folder of the cache that is locked while the folder is in use."""
RECENT = 48 * 3600.0
"""Seconds after its last use in which a folder counts as in use, where there are no locks."""
_TRIES, _POLL = 50, 0.02


class NoLocks(OSError):
    """The file system has no locks, or this system none that zoo knows."""


class Hold:
    """One use of a folder. It ends with `release`, with this object or with the process."""

    def __init__(self, folder: Path) -> None:
        """Begin to use a folder, which is made where it is missing.

        Raises NoLocks, or another OSError where the folder cannot be written.
        """
        for _ in range(_TRIES):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                handle = _open(folder)
            except FileNotFoundError:
                time.sleep(_POLL)  # somebody has just removed the folder
                continue
            # Closing a file ends its lock.
            self._end = weakref.finalize(self, os.close, handle)
            if _lock(handle, exclusive=False) and os.fstat(handle).st_nlink:
                return
            # Somebody is just removing the folder.
            self._end()
            time.sleep(_POLL)
        raise OSError(errno.EBUSY, f"{folder} is being removed again and again")

    def release(self) -> None:
        """End the use."""
        self._end()


@contextmanager
def unused(folder: Path, last_use: float) -> Iterator[bool]:
    """Whether nobody uses a folder; inside the block nobody begins to.

    Args:
        folder: Of the cache.
        last_use: When it was last used, in seconds since the epoch; it counts where there are no locks.
    """
    try:
        handle = _open(folder)
    except OSError:
        yield False
        return
    try:
        try:
            free = _lock(handle, exclusive=True)
        except NoLocks:
            free = time.time() - last_use > RECENT
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    # For reading and writing: locks of network drives ask for both.
    return os.open(folder / MARK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)


def _lock(handle: int, *, exclusive: bool) -> bool:
    """Lock an open file without waiting -> whether it is locked now. Raises NoLocks where that cannot be."""
    if fcntl is None:
        raise NoLocks(errno.ENOSYS, "this system has no flock")
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EACCES:
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise NoLocks(error.errno, error.strerror) from None
        raise
    return True
