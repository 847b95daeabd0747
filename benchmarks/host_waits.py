"""How often a program waits for the device: once for every value that Python asks of it."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import zoo
from torch import Tensor
from torch.overrides import TorchFunctionMode
from zoo.events import Progress
from zoo.training.stage_watch import FIRST_STEPS

_ASKING = frozenset(
    (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, torch.equal)
)
"""How Python asks for values."""


class HostReads(TorchFunctionMode):
    """Counts how often Python asks tensors for values: on a CPU, which nobody waits for, what would be a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.count += func in _ASKING
        return func(*args, **(kwargs or {}))


class StepWaits:
    """Waits in each step of a run: to be given to it as `on_event`, within `counted`."""

    def __init__(self) -> None:
        self._stage = ""
        self._before = 0
        self._steps: dict[str, list[int]] = {}
        self.count = lambda: 0

    def __call__(self, event: zoo.Event) -> None:
        if isinstance(event, zoo.EpochStarted):
            self._stage, self._before = event.stage, self.count()
        elif isinstance(event, Progress) and event.task == self._stage:
            now = self.count()
            self._steps.setdefault(self._stage, []).append(now - self._before)
            self._before = now

    def of(self, stage: str) -> float:
        """The mean over a stage's steps after the first ones, whose weights the proof reads."""
        return statistics.fmean(self._steps[stage][FIRST_STEPS:])

    @contextmanager
    def counted(self, device: str) -> Iterator[None]:
        """Count: what torch warns of on a GPU, what Python asks for on a CPU."""
        if not device.startswith("cuda"):
            with HostReads() as reads:
                self.count = lambda: reads.count
                yield
            return
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self.count = lambda: sum("synchronizing CUDA operation" in str(each.message) for each in told)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(mode)
