"""Which precision and memory layout is faster, measured so that what else runs on the machine does not decide.

Candidates take turns, so that a busy moment meets all of them, and ratios within a turn are compared. On the CPU one
thread is timed by its own clock, which stands still while other programs have the processor: several threads wait for
one another, the longer the busier the machine is, and some kernels in bfloat16 far more than those in float32.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from zoo.errors import is_out_of_memory
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.events import Progress, Report, silent
from zoo.model.model import ZooModel
from zoo.process import one_thread
from zoo.specs.plan import Compute

WORTH_IT = 1.2
"""How many times faster than a simpler choice another one must be."""
_FEWEST, _MOST = 3, 15
"""Turns that count."""
_CLEARLY = 1.25
"""The fewest turns are enough where every one of them is so many times beyond, or short of, what is asked."""
_BY_CHANCE = 0.02
"""With more turns: how rarely so few may be on the other side, if either side were as likely."""
_BATCH, _BATCH_TO_TRAIN, _PASS_SECONDS = 8, 16, 0.12
"""Images of a pass; fewer where that would take longer than so many seconds, but at least two."""

Seconds = Mapping[Compute, float]
"""Of one turn: seconds of a pass by candidate."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found."""

    compute: Compute
    """The choice: a simpler one stands unless another is surely `WORTH_IT` times as fast."""
    certain: bool
    """Whether the turns agreed; if not, the simpler one stood."""
    turns: int
    rates: dict[str, float]
    """Images per second of every candidate that could be run; on the CPU, those of one core."""


def decide(candidates: Sequence[Compute], turns: Sequence[Seconds]) -> tuple[Compute, bool]:
    """-> (the choice among the candidates, the simplest first; whether the turns are certain of it).

    A candidate that is missing in a turn cannot be run.
    """
    runs = [each for each in candidates if turns and all(each in turn for turn in turns)]
    if not runs:
        return candidates[0], True
    chosen, certain = runs[0], True
    # Each is compared with what stands so far: the third has to be worth it over the second, too.
    for candidate in runs[1:]:
        sure = _is_worth_it([turn[chosen] / turn[candidate] for turn in turns])
        certain = certain and sure is not None
        chosen = candidate if sure else chosen
    return chosen, certain


def _is_worth_it(ratios: Sequence[float]) -> bool | None:
    """Whether something is `WORTH_IT` times as fast, of the ratios in every turn; None where that is not certain."""
    if len(ratios) < _FEWEST:
        return None
    if min(ratios) >= WORTH_IT * _CLEARLY:
        return True
    if max(ratios) <= WORTH_IT / _CLEARLY:
        return False
    above = sum(ratio >= WORTH_IT for ratio in ratios)
    fewer = min(above, len(ratios) - above)
    chance = 2 * sum(math.comb(len(ratios), number) for number in range(fewer + 1)) / 2 ** len(ratios)
    return above > fewer if chance <= _BY_CHANCE else None


def time_candidates(
    build: Callable[[], ZooModel],
    candidates: Sequence[Compute],
    *,
    device: str,
    trains: bool,
    report: Report = silent,
) -> Measured:
    """Let the candidates take turns until their order is certain, or the simpler one stands.

    Args:
        build: Makes a model of the run's shapes. Its values do not matter.
        candidates: The simplest first.
        device: The device that the run computes on.
        trains: Whether forward and backward passes are timed, else forward alone.
        report: Told how many turns are done.

    Raises:
        DeviceError: Memory ran out. It says nothing of the candidates: a moment later there may be enough.
    """
    with out_of_memory_as_error("measuring which precision is fastest"), _apart(device):
        course = _course(build, device, trains)
        turns: list[Seconds] = []
        while course is not None and len(turns) < _MOST:
            report(Progress(task="measure precision", done=len(turns), total=_MOST, unit="turns"))
            turns.append(course.turn(candidates))
            if len(turns) >= _FEWEST and decide(candidates, turns)[1]:
                break
        # It mostly ends before the last turn, and what shows progress waits for the end.
        report(Progress(task="measure precision", done=_MOST, total=_MOST, unit="turns"))
    compute, certain = decide(candidates, turns)
    return Measured(compute, certain, len(turns), rates_of(candidates, turns, course.count if course else 0))


def rates_of(candidates: Sequence[Compute], turns: Sequence[Seconds], count: int) -> dict[str, float]:
    """Images per second of passes of `count` images: the median of all turns, of each candidate that can be run."""
    runs = [each for each in candidates if turns and all(each in turn for turn in turns)]
    return {str(each): round(count / statistics.median(turn[each] for turn in turns), 2) for each in runs}


def take_turns(
    build: Callable[[], ZooModel], candidates: Sequence[Compute], *, device: str, trains: bool, turns: int
) -> list[Seconds]:
    """The seconds of so many turns, whatever they say; none where no model can be built."""
    with _apart(device):
        course = _course(build, device, trains)
        return [] if course is None else [course.turn(candidates) for _ in range(turns)]


class _Course:
    """A model, images, and a clock."""

    def __init__(self, model: ZooModel, device: str, *, trains: bool) -> None:
        self._model, self._device, self._trains = model, device, trains
        self._unable: set[Compute] = set()
        self._warm: set[Compute] = set()
        self.count = _BATCH_TO_TRAIN if trains else _BATCH
        # At least two images: of one, a batch norm in training may get a single value per channel.
        # The first pass prepares kernels and memory, so the second one tells the time.
        of_two = [self._pass(self._images(2)) for _ in range(2)][-1]
        self.count = max(2, min(self.count, int(2 * _PASS_SECONDS / max(of_two, 1e-9))))
        self._batch = self._images(self.count)

    def turn(self, candidates: Sequence[Compute]) -> Seconds:
        """Seconds of one pass of each candidate that can be run; each had one before that does not count."""
        seconds: dict[Compute, float] = {}
        for compute in candidates:
            if compute in self._unable:
                continue
            try:
                self._model.compute_as(compute)
                if compute not in self._warm:
                    self._pass(self._batch)
                    self._warm.add(compute)
                seconds[compute] = self._pass(self._batch)
            except Exception as error:  # the precision lacks an operation: it is not chosen
                if is_out_of_memory(error):
                    raise
                self._unable.add(compute)
        return seconds

    def _images(self, count: int) -> torch.Tensor:
        return torch.rand(count, *self._model.preprocessing.input_size, device=self._device)

    def _pass(self, images: torch.Tensor) -> float:
        clock = time.thread_time if self._device == "cpu" else time.perf_counter
        _wait_for(self._device)
        began = clock()
        with torch.set_grad_enabled(self._trains):
            features = self._model.features(images)
            if self._trains:
                # Any loss would do: the passes through the backbone are what takes time.
                features.sum().backward()  # type: ignore[no-untyped-call]
                self._model.zero_grad(set_to_none=True)
        _wait_for(self._device)
        return clock() - began


def _course(build: Callable[[], ZooModel], device: str, trains: bool) -> _Course | None:
    """None where a model cannot be run at all: building or training the run's own reports it."""
    try:
        model = build().to(device)
        if trains:
            # All of it trains: which parts of a recipe do is not asked, so the choice holds for every recipe.
            model.freeze_all_but(model.groups.names)
        model.train(trains)
        return _Course(model, device, trains=trains)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None


@contextmanager
def _apart(device: str) -> Iterator[None]:
    """Inside, one thread computes where the CPU does, and random numbers are drawn that are nobody else's."""
    with torch.random.fork_rng(devices=[]), one_thread() if device == "cpu" else nullcontext():
        yield


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device.startswith("mps"):
        torch.mps.synchronize()
