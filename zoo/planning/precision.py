"""The precision and memory layout that a run computes in: the fastest measured on this machine for this model.

The default stands unless another is at least 1.2 times faster, so that noise does not change results.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

import torch

from zoo.errors import OptionError, meant
from zoo.events import Note, Report
from zoo.model.devices import machine_facts
from zoo.model.model import ZooModel
from zoo.specs.plan import Compute, Precision
from zoo.storage.cache import cached_json, stored_json
from zoo.storage.eviction import MEASURED, SPEEDS

WORTH_IT = 1.2
"""How many times faster than a simpler choice another one must be."""
_LAYOUT, _HALF = Compute("float32", "channels_last"), Compute("bfloat16", "channels_last")
_BATCH, _BATCH_TO_TRAIN, _PASSES, _MOST_SECONDS = 8, 16, 3, 2.0
_HOPELESS = 2.5
"""A candidate is given up whose first pass takes this many times as long as the best one's. First passes are slow."""


@dataclass(frozen=True, slots=True)
class ComputeChoice:
    """A choice of precision and memory layout."""

    compute: Compute
    speeds: dict[str, float]
    """Images per second of every candidate that was measured; empty where none was."""


def check_precision(asked: str) -> None:
    """Raise OptionError for anything but `auto` and the names of precisions."""
    known = ("auto", *get_args(Precision))
    if asked not in known:
        also = {"bf16": "bfloat16", "fp32": "float32"}.get(str(asked).lower())
        hint = f" Did you mean {also!r}?" if also else meant(str(asked), known, count=1)
        raise OptionError(f"--precision {asked!r} is not one of {', '.join(known)}.{hint}")


def choose_compute(
    build: Callable[[], ZooModel],
    *,
    name: str,
    device: str,
    trains: bool,
    precision: str,
    tune: bool,
    report: Report,
) -> ComputeChoice:
    """Choose how the backbone computes.

    Args:
        build: Makes a model of the run's shapes. Its values do not matter.
        name: Backbone, weights and input size. Measurements are stored under it for this machine.
        device: The device that the run computes on.
        trains: Whether the run trains the backbone. Then forward and backward passes are timed, else forward alone.
        precision: `auto`, `float32` or `bfloat16`.
        tune: Whether anything is measured. If not, the default or the asked precision is taken.
        report: Told when a measurement begins.
    """
    candidates = _candidates(precision)
    if not tune:
        return ComputeChoice(candidates[0], {})
    work = "training" if trains else "inference"
    machine = machine_facts(device)
    key = hashlib.sha256("\n".join([name, work, precision, *machine]).encode()).hexdigest()[:24]

    def measure() -> dict[str, Any]:
        # Until it was stored what was measured, the speeds alone were, under another name.
        rates = stored_json(f"speed-{key}.json")
        if rates is None:
            report(Note(text="Measuring once which precision and memory layout are fastest here. See: zoo cache show"))
            rates = measure_speeds(build, candidates, device, trains)
            measured = datetime.now(UTC).isoformat("T", "seconds")
        else:
            measured = ""
        chosen = _fastest(candidates, rates)
        about = {"of": name, "work": work, "precision": precision, "machine": machine, "measured": measured}
        return {**about, "chosen": str(chosen), SPEEDS: rates}

    kept = cached_json(f"{MEASURED}{key}.json", measure)
    rates = {str(name): float(rate) for name, rate in kept.get(SPEEDS, kept).items()}
    return ComputeChoice(_fastest(candidates, rates), rates)


def _candidates(precision: str) -> list[Compute]:
    """The candidates, the simplest first."""
    if precision == "float32":
        return [Compute(), _LAYOUT]
    return [Compute("bfloat16"), _HALF] if precision == "bfloat16" else [Compute(), _LAYOUT, _HALF]


def _fastest(candidates: Sequence[Compute], rates: dict[str, float]) -> Compute:
    chosen = candidates[0]
    for candidate in candidates[1:]:
        # A candidate that failed has no rate.
        if rates.get(str(candidate), 0.0) >= WORTH_IT * rates.get(str(chosen), 0.0) > 0:
            chosen = candidate
    return chosen


def measure_speeds(
    build: Callable[[], ZooModel], candidates: Sequence[Compute], device: str, trains: bool
) -> dict[str, float]:
    """Images per second of every candidate that this machine can run, by its name."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = build().to(device)
    except RuntimeError:
        return {}  # out of memory: building the run's own model reports it
    if trains:
        model.freeze_all_but(model.groups.names)
    model.train(trains)
    # At least two images: of one, a batch norm in training may get a single value per channel.
    for_two = _seconds(model, candidates[0], 2, trains, hopeless=0.0) or 0.0
    batch = _BATCH_TO_TRAIN if trains else _BATCH
    count = batch if for_two * batch / 2 < _MOST_SECONDS else max(2, int(2 * _MOST_SECONDS / for_two))
    took: dict[str, float | None] = {}
    for candidate in reversed(candidates):  # the likely fastest first, so that slow ones are given up after one pass
        best = min((seconds for seconds in took.values() if seconds is not None), default=math.inf)
        took[str(candidate)] = _seconds(model, candidate, count, trains, hopeless=_HOPELESS * best)
    rates = {name: round(count / seconds, 2) for name, seconds in took.items() if seconds is not None}
    return {str(candidate): rates[str(candidate)] for candidate in candidates if str(candidate) in rates}


def _seconds(
    model: ZooModel, compute: Compute, count: int, trains: bool, *, hopeless: float = math.inf
) -> float | None:
    """Seconds of the fastest of some passes of `count` images, after one that does not count; None where none can run.

    Where the first pass takes over `hopeless` seconds, it is the only one.
    """
    device = next(model.parameters()).device
    images = torch.rand(count, *model.preprocessing.input_size, device=device)
    try:
        model.compute_as(compute)
        began = time.perf_counter()
        first = _pass(model, images, trains)
        if first > hopeless:
            return first
        times = [_pass(model, images, trains)]
        while len(times) < _PASSES and time.perf_counter() - began < _MOST_SECONDS:
            times.append(_pass(model, images, trains))
    except Exception:  # the precision lacks an operation, or memory ran out: it is not chosen
        return None
    return min(times)


def _pass(model: ZooModel, images: torch.Tensor, trains: bool) -> float:
    began = time.perf_counter()
    with torch.set_grad_enabled(trains):
        features = model.features(images)
        if trains:
            features.sum().backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - began
