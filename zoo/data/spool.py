"""Spool: resized images that do not fit into memory, kept on the disk for as long as an image store is open."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from zoo.storage.cache import cache_folder

SHARE = 4
"""The spool takes at most a quarter of the free space."""
_FOLDER = "spool"


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where in the spool an image is, and its size in pixels."""

    offset: int
    height: int
    width: int


class Spool:
    """An unnamed file in zoo's cache folder; the system removes it when the process ends, even if it is killed.

    If the disk is full, the folder cannot be written or the system has no such files, the spool keeps nothing and says
    nothing: the images are decoded again, which only takes longer.
    """

    def __init__(self, budget: int) -> None:
        """Open a spool of at most `budget` bytes. Raises OSError; `open` does not."""
        self._left = budget
        self._end = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        # Several threads read and write at their own offsets. Not a memory map, because that counts as memory in use.
        if budget and hasattr(os, "pread"):
            self._file = tempfile.TemporaryFile(buffering=0, dir=_folder())  # noqa: SIM115 - open until `close`

    @classmethod
    def open(cls, budget: int | None) -> Spool:
        """Open a spool of at most `budget` bytes; None: a quarter of the space that is free now."""
        try:
            return cls(shutil.disk_usage(_folder()).free // SHARE if budget is None else budget)
        except OSError:
            return cls(0)

    def put(self, pixels: Tensor) -> SpoolPlace | None:
        """Write uint8[3, H, W]; None if it does not fit into the budget or cannot be written."""
        offset = self._reserve(pixels.numel())
        if self._file is None or offset is None:
            return None
        # Channels last, as Pillow stores them: an image that is read back has the memory layout of a decoded one.
        content = pixels.permute(1, 2, 0).numpy().tobytes()
        try:
            written = os.pwrite(self._file.fileno(), content, offset)
        except OSError:
            written = 0
        if written < len(content):
            # The disk is full: try no further image.
            with self._lock:
                self._left = 0
            return None
        return SpoolPlace(offset, *pixels.shape[1:])

    def get(self, place: SpoolPlace) -> Tensor | None:
        """Read uint8[3, H, W] as it was written; None if it cannot be read."""
        assert self._file is not None, "the place is in this spool"
        size = 3 * place.height * place.width
        content = bytearray()
        with contextlib.suppress(OSError):
            content += os.pread(self._file.fileno(), size, place.offset)
        if len(content) < size:
            return None
        return torch.frombuffer(content, dtype=torch.uint8).view(place.height, place.width, 3).permute(2, 0, 1)

    def close(self) -> None:
        """Release the space on the disk."""
        if self._file is not None:
            self._file.close()

    def _reserve(self, size: int) -> int | None:
        with self._lock:
            if size > self._left:
                return None
            offset = self._end
            self._end += size
            self._left -= size
            return offset


def _folder() -> Path:
    folder = cache_folder() / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder
