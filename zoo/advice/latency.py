"""How many milliseconds a backbone takes for an image on this machine, alone and in a batch of 32."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from zoo.errors import RunError
from zoo.model.devices import machine_facts
from zoo.model.model import ZooModel
from zoo.specs.plan import Plan
from zoo.storage.atomic import write_text
from zoo.storage.cache import cache_folder

BATCH = 32
"""Images of the larger batch."""
_FOLDER = "kept"
_LEAST, _MOST, _LONG = 2, 10, 0.2
"""Fewest and most passes that are timed, and the seconds after which there are no more than the fewest. A first pass
that takes longer than this alone is the only one."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds an image, decoding and resizing left out."""

    alone: float
    """One image at a time."""
    in_batch: float
    """32 images at a time, for each of them."""


def latency_of(model: ZooModel, plan: Plan) -> Latency:
    """Measure the latency of a model with its head, in the precision and memory layout of its plan.

    The lowest that was ever measured for the same backbone, input size, way of computing and machine is kept in the
    cache folder, and is what counts: other programs can only make a measurement longer.
    """
    machine = machine_facts(plan.device)
    about = [plan.backbone.name, plan.preprocessing["input_size"], str(plan.compute), plan.threads, *machine]
    path = cache_folder() / _FOLDER / f"latency-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]}.json"
    found = _measured(model)
    # A record that is missing, or damaged, costs no more than what was measured before.
    with contextlib.suppress(OSError, ValueError, TypeError):
        before = Latency(**json.loads(path.read_text("utf-8")))
        found = Latency(min(found.alone, before.alone), min(found.in_batch, before.in_batch))
    # The measurement is good, also where the cache folder cannot be written to.
    with contextlib.suppress(OSError, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(found)))
    return found


def _measured(model: ZooModel) -> Latency:
    device = next(model.parameters()).device
    _, height, width = model.preprocessing.input_size
    model.eval()
    one = torch.zeros(1, 3, height, width, device=device)
    many = one.expand(BATCH, -1, -1, -1).contiguous()
    return Latency(round(1000 * _shortest(model, one), 3), round(1000 * _shortest(model, many) / BATCH, 3))


def _shortest(model: ZooModel, images: Tensor) -> float:
    """Return the seconds of the shortest of some forward passes of images[N, 3, H, W]."""
    times = [_seconds(model, images)]  # memory is found, and kernels are chosen
    while len(times) < _MOST and (len(times) < _LEAST or sum(times) < _LONG):
        if times[0] > _LONG:
            break
        times.append(_seconds(model, images))
    return min(times)


def _seconds(model: ZooModel, images: Tensor) -> float:
    """Seconds of one forward pass of images[N, 3, H, W]."""
    began = time.perf_counter()
    with torch.no_grad():
        float(model(images)[0, 0])  # waits for the device
    return time.perf_counter() - began
