"""Running out of memory: the same work is repeated in smaller micro-batches, and each time is reported and recorded.

Work that cannot be split ends in a clean error.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from zoo.errors import DeviceError, first_line, is_out_of_memory
from zoo.events import Note, Report

Output = TypeVar("Output")


@dataclass(frozen=True, slots=True)
class OutOfMemoryRetry:
    """One time that memory ran out, for the result."""

    work: str
    """The work that was repeated."""
    size: int
    """Images in each micro-batch of the retry."""


class MicroBatches:
    """The number of images that are computed at a time. It starts at `size`, and halves whenever memory runs out."""

    def __init__(self, size: int, *, work: str, report: Report, retries: list[OutOfMemoryRetry]) -> None:
        """`work` names the work in messages; each retry is told to `report`, and appended to `retries`."""
        self.size = size
        self._work = work
        self._report = report
        self._retries = retries

    def run(self, attempt: Callable[[int], Output]) -> Output:
        """Return `attempt(size)`; while memory runs out, repeat it with half the size.

        `attempt` must start from the beginning each time. Raises DeviceError where one image is too much.
        """
        while True:
            try:
                return attempt(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the handler: the exception's traceback would keep the tensors alive.
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        # What the attempt left in reference cycles and in CUDA's cache is still taken.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        # Last, so that who catches the error finds the memory free.
        if self.size == 1:
            raise DeviceError(
                f"Not enough memory for one image at a time ({self._work}): {reason}\n"
                "Next: free memory, take a smaller backbone, or a recipe that trains less of it (--recipe head_only)."
            )
        self.size = (self.size + 1) // 2
        self._retries.append(OutOfMemoryRetry(self._work, self.size))
        self._report(
            Note(
                text=f"Out of memory ({self._work}): continuing with {self.size} images at a time "
                "(in training, their gradients are added up).",
                loud=True,
            )
        )


_OF_TRAINING = "free memory, take a smaller backbone or head, or a recipe that trains less (--recipe head_only)."
"""What helps where a run has too little memory."""


@contextlib.contextmanager
def out_of_memory_as_error(work: str, *, step: str = _OF_TRAINING) -> Iterator[None]:
    """Turn running out of memory into a DeviceError that names the work, and the next step.

    For work that cannot be split, such as building the model or an optimizer's state.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise DeviceError(f"Not enough memory ({work}): {reason}\nNext: {step}") from None


def without_training(device: str) -> str:
    """The next step where a model that is trained already finds too little memory on a device."""
    return "free memory." if device == "cpu" else f"free memory on {device}, or --device cpu."
