"""When memory runs out: the same work in smaller pieces, said and recorded."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from zoo.errors import DeviceError, first_line
from zoo.events import Note, Report

Done = TypeVar("Done")

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class Halving:
    """A record for the result: at what work, and to how many images at a time."""

    work: str
    size: int


class Pieces:
    """How many images go through at a time. Starts at `size`; halves whenever memory runs out."""

    def __init__(self, size: int, *, work: str, report: Report, halvings: list[Halving]) -> None:
        self.size = size
        self._work = work
        self._report = report
        self._halvings = halvings

    def run(self, attempt: Callable[[int], Done]) -> Done:
        """`attempt(size)`, repeated with half the size while memory runs out.

        `attempt` must start from the beginning each time. Raises DeviceError where one image is too much.
        """
        while True:
            try:
                return attempt(self.size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the handler: the exception's traceback would keep the tensors alive.
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.size == 1:
            raise DeviceError(
                f"Memory does not suffice for one image at a time ({self._work}): {reason}\n"
                "Next: free memory, take a smaller backbone, or a recipe that trains less of it (--recipe head_only)."
            )
        self.size = (self.size + 1) // 2
        self._halvings.append(Halving(self._work, self.size))
        self._report(
            Note(
                text=f"Memory ran out ({self._work}): going on with {self.size} images at a time "
                "(training adds up their gradients).",
                loud=True,
            )
        )


@contextlib.contextmanager
def memory_suffices(work: str) -> Iterator[None]:
    """What cannot be done in pieces (an optimizer's state, the model itself): running out is a DeviceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        reason = first_line(error)
        raise DeviceError(
            f"Memory does not suffice ({work}): {reason}\n"
            "Next: free memory, take a smaller backbone or head, or a recipe that trains less (--recipe head_only)."
        ) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
