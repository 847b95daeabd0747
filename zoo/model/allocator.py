"""What becomes of memory that a forward or backward pass has let go of."""

from __future__ import annotations

import ctypes
import os

_TRIM, _MMAP = -1, -3
"""glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, from its malloc.h."""
_LARGEST, _MOST = 1 << 30, 2**31 - 1
_THEIRS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next pass to use, where the C library is glibc.

    By default glibc maps every activation of 32 MB or more anew and gives it back afterwards; the kernel then has to
    clear all its pages in each pass, which may take as long as computing (docs/measurements.md). The price: between
    passes the process holds on to it, and its peak is somewhat higher, for a freed block and the few bytes beside it
    that glibc keeps at hand become one again only later. Who has set one of glibc's own variables is left alone.
    """
    if any(name in os.environ for name in _THEIRS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_MMAP, _LARGEST)
    mallopt(_TRIM, _MOST)
