"""Whose stdout it is: programs read zoo's output, so nobody else may write there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Inside, what this process prints goes to stderr: by `print`, by libraries in C, and by processes it starts."""
    with contextlib.redirect_stdout(sys.stderr), _descriptor_to_stderr():
        yield


@contextlib.contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # closed, so nothing can get there
        yield
        return
    _flush()
    try:
        # Without stderr there is nowhere else to go: then Python's prints alone are kept away.
        with contextlib.suppress(OSError):
            os.dup2(_STDERR, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _flush() -> None:
    """What was printed on either side of the change goes where it was meant to."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.__stdout__.flush()  # type: ignore[union-attr]
