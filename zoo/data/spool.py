"""Resized images on the disk: what does not fit into memory, for as long as a store is open."""

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

from zoo.caches import cache_folder

SHARE = 4
"""The spool takes at most one part in so many of the free space."""
_FOLDER = "spool"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies."""

    offset: int
    height: int
    width: int


class Spool:
    """One file in zoo's cache folder that has no name: the system removes it with the process, however that ends.

    A full disk, a folder that cannot be written, a system without such files: nothing is kept, and nobody is told,
    for it costs time alone.
    """

    def __init__(self, budget: int) -> None:
        """`budget`: bytes that it may take."""
        self._left = budget
        self._end = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        # Read and written at an offset, by several threads at once; not mapped, for what is mapped counts as memory.
        if budget and hasattr(os, "pread"):
            self._file = tempfile.TemporaryFile(buffering=0, dir=_folder())  # noqa: SIM115 - open until `close`

    @classmethod
    def open(cls, budget: int | None) -> Spool:
        """At most `budget` bytes; None: a quarter of what is free when it is opened."""
        try:
            return cls(shutil.disk_usage(_folder()).free // SHARE if budget is None else budget)
        except OSError:
            return cls(0)

    def put(self, pixels: Tensor) -> Place | None:
        """Keep uint8[3, H, W]; None where there is no room for it."""
        reserved = self._reserve(pixels.numel())
        if self._file is None or reserved is None:
            return None
        # As Pillow has them, all channels of a pixel together: what is read has the layout of what was decoded.
        content = pixels.permute(1, 2, 0).numpy().tobytes()
        try:
            written = os.pwrite(self._file.fileno(), content, reserved)
        except OSError:
            written = 0
        if written < len(content):
            with self._lock:
                self._left = 0
            return None
        return Place(reserved, *pixels.shape[1:])

    def get(self, place: Place) -> Tensor | None:
        """uint8[3, H, W] as it was put; None where the disk does not give it back."""
        assert self._file is not None, "a place is one of this file"
        size = 3 * place.height * place.width
        content = bytearray()
        with contextlib.suppress(OSError):
            content += os.pread(self._file.fileno(), size, place.offset)
        if len(content) < size:
            return None
        return torch.frombuffer(content, dtype=torch.uint8).view(place.height, place.width, 3).permute(2, 0, 1)

    def close(self) -> None:
        """Give the space back."""
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
