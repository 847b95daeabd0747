"""Decode images ahead: in a process of its own, while this one imports torch, which takes seconds on one core.

What comes out is what decoding here would have given, byte for byte. Whatever goes wrong there, nothing is said and
nothing is lost: an image that was not decoded ahead is decoded here. Threads would not do: importing holds Python's
lock most of the time.

Later, while a model computes, `zoo.data.prefetch` decodes in threads. `zoo.data.decoded` holds no pixels: it records
which files could be decoded.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import mmap
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from zoo.data.dataset import ImageFile
from zoo.data.decode import Pixels, decode_closely, resized
from zoo.data.decoded import DecodedFiles
from zoo.data.file_index import Stamp, stamp_of
from zoo.errors import DataError
from zoo.process import LISTENER
from zoo.specs.preprocessing import Preprocessing

PIXELS = 512 << 20
"""Bytes of resized images that are decoded ahead at most: as many as an image store keeps in memory."""
_RECORDS = 4 << 20
"""Bytes of what is known of them, beside their pixels: a few hundred for an image."""
_PATIENCE = 2.0
"""Seconds that the process is given to finish the images that it has begun."""
_COUNT = 8
"""Bytes of the length of the records, at the beginning of their memory."""
Work = tuple[Sequence[ImageFile], Preprocessing, int]
"""The images in the order in which they are wanted, what they are prepared for, and the number of threads."""


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What the other process found of a file that can be decoded."""

    digest: str
    """SHA-256 of its bytes."""
    stamp: Stamp
    """Of the file, before its bytes were read and after."""
    place: tuple[int, int, int] | None
    """(offset, height, width) of its resized pixels; None for a file that was decoded in an earlier run."""


_begun: list[DecodingAhead] = []
"""The process of this one, while there is one."""


def begin(work: Callable[[], Work | None]) -> None:
    """Start to decode in another process what `work`, called there, says; None: nothing.

    Nothing happens where this process has imported torch already, has threads, which a fork would leave behind, or is
    one of several, which share the cores; nor on systems other than Linux, whose libraries may not bear a fork.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    # The thread that waits for signals holds nothing that the other process could wait for.
    threads = [each for each in threading.enumerate() if each.name not in (threading.main_thread().name, LISTENER)]
    if sys.platform != "linux" or several or "torch" in sys.modules or threads or _begun:
        return
    with contextlib.suppress(OSError):  # no memory, or too many processes: decoding here only takes longer
        _begun.append(DecodingAhead(work))


def take_over(preprocessing: Preprocessing) -> ImagesAhead | None:
    """End decoding ahead, and return what was decoded for this preprocessing; None where that is nothing."""
    return _begun.pop().take_over(preprocessing) if _begun else None


class DecodingAhead:
    """A process that decodes images, and the memory that it shares with this one."""

    def __init__(self, work: Callable[[], Work | None]) -> None:
        """Start the process. `work`, called there, says what to decode; None: nothing. Raises OSError."""
        # Anonymous maps are shared with a fork, and pages that nobody writes to take no memory.
        self._pixels = mmap.mmap(-1, PIXELS)
        self._records = mmap.mmap(-1, _RECORDS)
        self._stop = mmap.mmap(-1, mmap.PAGESIZE)
        self._parent = os.getpid()
        self._child = -1
        try:
            self._child = os.fork()
            if self._child == 0:
                self._run(work)
        finally:
            if os.getpid() != self._parent:
                os._exit(0)  # whatever happens there, no second copy of this process goes on
        atexit.register(self.kill)

    def take_over(self, preprocessing: Preprocessing) -> ImagesAhead | None:
        """End the process, and return what it decoded for this preprocessing; None where that is nothing."""
        if not _read(self._records):
            self.kill()  # it has not come to the first image
            return None
        self.end()
        found = _read(self._records)
        if not found or found[0] != preprocessing:
            return None
        return ImagesAhead(self._pixels, found[1])

    def end(self) -> None:
        """End the process when it has finished the images that it has begun; kill it where that takes too long."""
        self._stop[0] = 1
        until = time.monotonic() + _PATIENCE
        with contextlib.suppress(ChildProcessError):
            while self._child and os.waitpid(self._child, os.WNOHANG) == (0, 0):
                if time.monotonic() > until:
                    return self.kill()
                time.sleep(0.001)
        self._child = 0
        atexit.unregister(self.kill)

    def kill(self) -> None:
        """End the process at once."""
        child, self._child = self._child, 0
        # What is forked from this process later inherits the exit handler, and has no business with the child.
        if not child or os.getpid() != self._parent:
            return
        atexit.unregister(self.kill)
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _run(self, work: Callable[[], Work | None]) -> None:
        """Do the work in the other process, and say nothing."""
        # Ctrl-C reaches both. This one ends when the other does, and must not tell it of signals.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # The descriptors and not sys.stderr: C libraries such as libtiff print past it.
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        found = work()
        if found is not None:
            _Decoder(self._pixels, self._records, self._ended).decode(*found)

    def _ended(self) -> bool:
        # A process that is killed stops nobody; who is left behind has another parent then.
        return self._stop[0] != 0 or os.getppid() != self._parent


class ImagesAhead:
    """Images that were decoded ahead, by the paths of their files."""

    def __init__(self, pixels: mmap.mmap, found: dict[str, LookedAt]) -> None:
        """`pixels`: the memory in which the places of `found` are."""
        self._pixels = pixels
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def get(self, file: ImageFile) -> LookedAt | None:
        """What was found of a file that has not changed since."""
        looked = self._found.get(os.fspath(file.path)) if file.reader is None else None
        return looked if looked is not None and looked.stamp == stamp_of(file) else None

    def pixels(self, place: tuple[int, int, int]) -> Pixels:
        """The resized image uint8[H', W', 3] at a place; no copy is made."""
        offset, height, width = place
        return np.frombuffer(self._pixels, np.uint8, height * width * 3, offset).reshape(height, width, 3)


class _Decoder:
    """What the other process does: decode, write the pixels, then the record that tells where they are."""

    def __init__(self, pixels: mmap.mmap, records: mmap.mmap, ended: Callable[[], bool]) -> None:
        self._pixels = pixels
        self._records = records
        self._ended = ended
        self._end = 0
        self._lock = threading.Lock()

    def decode(self, files: Sequence[ImageFile], preprocessing: Preprocessing, threads: int) -> None:
        known = DecodedFiles(preprocessing)
        self._write(preprocessing)

        def look(file: ImageFile) -> None:
            if not self._ended():
                with contextlib.suppress(DataError):  # this process says nothing: the other one finds it again
                    self._look(file, preprocessing, known)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(look, files):
                pass

    def _look(self, file: ImageFile, preprocessing: Preprocessing, known: DecodedFiles) -> None:
        stamp = stamp_of(file)
        content = file.content()
        digest, place = hashlib.sha256(content).hexdigest(), None
        if known.get(digest) is None:
            decoded = decode_closely(content, name=file.relative, preprocessing=preprocessing)
            # What needs a word beside its pixels is rare, and left to the process that can say it.
            if decoded.loss is not None or decoded.rule:
                return
            place = self._store(resized(decoded.picture, preprocessing))
            if place is None:
                return
        if stamp is not None and stamp == stamp_of(file):
            self._write((os.fspath(file.path), LookedAt(digest, stamp, place)))

    def _store(self, pixels: Pixels) -> tuple[int, int, int] | None:
        with self._lock:
            offset = self._end
            if offset + pixels.nbytes > len(self._pixels):
                return None
            self._end += pixels.nbytes
        self._pixels[offset : offset + pixels.nbytes] = pixels.tobytes()
        return offset, pixels.shape[0], pixels.shape[1]

    def _write(self, record: object) -> None:
        """Add a record. Its length counts last: whenever this process is killed, what is counted is whole."""
        content = pickle.dumps(record)
        with self._lock:
            end = _COUNT + int.from_bytes(self._records[:_COUNT], "little")
            if end + len(content) <= len(self._records):
                self._records[end : end + len(content)] = content
                self._records[:_COUNT] = (end + len(content) - _COUNT).to_bytes(_COUNT, "little")


def _read(records: mmap.mmap) -> tuple[Preprocessing, dict[str, LookedAt]] | None:
    """What the images were prepared for, and what was found of them by path; None where no record was written."""
    length = int.from_bytes(records[:_COUNT], "little")
    stream = io.BytesIO(records[_COUNT : _COUNT + length])
    if not length:
        return None
    # Unpickling is safe here: nobody but the fork of this process writes to that memory.
    preprocessing: Preprocessing = pickle.load(stream)
    found: dict[str, LookedAt] = {}
    while stream.tell() < length:
        path, looked = pickle.load(stream)
        found[path] = looked
    return preprocessing, found
