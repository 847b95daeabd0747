"""What changes the process as a whole: where stdout goes, garbage collection, the allocator, threads.

Importing zoo calls none of it. The command line and runs do; stdout is also redirected while the code of a plugin runs.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Iterator
from importlib import import_module

LISTENER = "zoo-signals"
"""Name of the thread that waits for signals, of a process that carries out a command."""
_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Inside, what this process prints goes to stderr, for programs read zoo's stdout.

    It catches `print`, libraries in C, and processes that are started inside.
    """
    with contextlib.redirect_stdout(sys.stderr), _descriptor_to_stderr():
        yield


@contextlib.contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # stdout is closed, so nothing can get there
        yield
        return
    _flush()
    try:
        # Without stderr there is nowhere else to go: then only Python's own prints are kept away.
        with contextlib.suppress(OSError):
            os.dup2(_STDERR, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _flush() -> None:
    """Write out what is buffered, so that it goes where it was printed to."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.__stdout__.flush()  # type: ignore[union-attr]


# A list and no flag, as one `finishing` may begin and end inside another.
_finishing: list[object] = []


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Inside, what a process that is told to end still has to do: it is given more time than a second."""
    _finishing.append(None)
    try:
        yield
    finally:
        _finishing.pop()


def is_finishing() -> bool:
    """Whether the process is inside `finishing`."""
    return bool(_finishing)


def drop_stdout() -> None:
    """Drop what is still buffered for stdout, and all that follows: its reader (`| head`) has enough."""
    with contextlib.suppress(OSError, ValueError):
        _drop(sys.stdout.fileno())


def _drop(descriptor: int) -> None:
    # The descriptor and not the stream: Python flushes the stream once more at exit, and that must not fail then.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:  # else it was closed
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class _Told(io.TextIOWrapper):
    """Text for people. Where its reader leaves, the rest goes nowhere, and what writes it does not learn of it."""

    def __init__(self, first: io.TextIOWrapper) -> None:
        super().__init__(
            first.buffer, first.encoding, first.errors, line_buffering=True, write_through=first.write_through
        )
        # Kept: when it goes, it closes the buffer that both write to.
        self._first = first

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            _drop(self.fileno())
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            _drop(self.fileno())


def survive_reader_of_stderr() -> None:
    """Let a command finish its work where the reader of stderr leaves (`2>&1 | head`): nothing of the work goes there.

    To be called before anything is written there.
    """
    said = sys.stderr
    if isinstance(said, io.TextIOWrapper):
        sys.stderr = _Told(said)


def open_closed_stderr() -> None:
    """Where stderr was closed from the start, let what is said to people go nowhere.

    Python's `print` and rich would say it on stdout instead, in the middle of what programs read.
    """
    if sys.stderr is not None:
        return
    # The descriptor as well: the next file that is opened would get the number, and with it what C libraries print.
    try:
        os.fstat(_STDERR)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != _STDERR:
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
    sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection: importing makes many objects and no garbage, and collecting is a fifth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def start_computing(module: str) -> None:
    """Make ready for a command that computes: import the module that it needs, and torch with it, quickly."""
    share_the_processor()
    # Libraries may print while they are imported, and programs read zoo's stdout.
    with gc_paused(), prints_to_stderr():
        import_module(module)
        # What was imported stays until the end. The first collection would look at all of it, for a fifth of a second.
        gc.freeze()
    keep_freed_memory()


_SPINS = "1000"
"""Turns of a loop for which a thread waits awake for the others: less than a microsecond or so."""
_THEIR_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def share_the_processor() -> None:
    """Let torch's threads sleep while they wait for one another. To be called before torch is imported.

    By default a thread that is done waits awake, for milliseconds, hundreds of times in a pass. Where another program
    wants the processor too, it then holds up the very thread that it waits for: on two cores with five other busy
    processes a pass through EfficientNet-Lite0 took 4 seconds for 0.09 (docs/measurements.md). Nothing happens where
    one of OpenMP's own variables is set.
    """
    if not any(name in os.environ for name in _THEIR_WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: small matrices are no faster with more, and bits do not depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(count: int) -> None:
    """Let torch compute with so many threads: the number changes bits."""
    import torch

    torch.set_num_threads(count)


_TRIM, _MMAP, _ARENAS = -1, -3, -8
"""glibc's M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX, from its malloc.h."""
# mallopt takes an int of C: the last is the largest, and stands for never. Up to 2.34, glibc refuses a threshold above
# the second.
_LARGEST, _LARGEST_BEFORE, _MOST = 1 << 30, 32 << 20, 2**31 - 1
_THEIRS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next pass to use. It works where the C library is glibc.

    By default glibc maps every activation of 32 MB or more anew and gives it back afterwards. The kernel then clears
    all its pages in each pass, which may take as long as computing (docs/measurements.md). The price is that the
    process holds on to the memory between passes, and that its peak is somewhat higher. Nothing happens where one of
    glibc's own variables is set.
    """
    if any(name in os.environ for name in _THEIRS) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    # The trim threshold alone would do harm: with it, glibc no longer raises the other from 128 KB by itself.
    if _set_malloc(_MMAP, _LARGEST_BEFORE):
        _set_malloc(_MMAP, _LARGEST)
        _set_malloc(_TRIM, _MOST)


def share_one_heap() -> None:
    """Let all threads of this process take memory from one heap. To be called before there are any.

    By default glibc gives each thread a heap of its own, in pieces of 64 MB. What is larger, as activations are, it
    maps anew each time where another thread than the main one computes, whatever `keep_freed_memory` says; and what
    one thread has freed, no other can use. Nothing happens where the variable MALLOC_ARENA_MAX is set.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _set_malloc(_ARENAS, 1)


def _set_malloc(parameter: int, value: int) -> bool:
    """Set a parameter of glibc's malloc -> whether it was taken; it is not where the C library is another one."""
    import ctypes  # only here, for it takes as long as a tenth of `zoo --help`

    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
