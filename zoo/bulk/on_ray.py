"""Parts computed by the actors of a Ray, one a core or a GPU.

Actors, and not the data sets of Ray: a part is written by the worker that computed it, so nothing flows through Ray but
names and counts; and its data sets do not work through `ray://`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.bulk.parts import BulkJob, FilePart
from zoo.bulk.worker import PartDone, Worker
from zoo.cluster.connect import Cluster, broken_as_error
from zoo.errors import ClusterError, DeviceError, first_line
from zoo.events import Note, Report

_RETRIES = 3
"""Times that a part is given out again because its worker was lost: what kills every worker is no accident."""
_PARTS_EACH = 2
"""Parts that a worker has at a time, one of which waits."""
_PATIENCE = 1.0
"""Seconds between two looks at how far the workers are."""
_LONG_SILENCE = 60.0
"""Seconds after which it is said that no worker has started, or answers any more."""
_GOES_ON = "once the cluster can be reached again, the same command goes on from here."


@dataclass
class _Crew:
    actors: dict[int, Any]
    """By number. Those that have nothing to do any more are let go."""
    started: set[int] = field(default_factory=set)
    """Numbers of the actors that have answered. Others wait for a free core, and are given nothing."""
    waiting: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """Call -> (number of the actor, number of the part)."""
    asked: dict[Any, int] = field(default_factory=dict)
    """Question how far it is -> number of the actor."""
    done: dict[int, int] = field(default_factory=dict)
    """Number of the actor -> files of its part under way that are done."""
    heard: float = field(default_factory=time.monotonic)
    """When the last answer came, or it was said that none comes."""


def device_on(cluster: Cluster, asked: str) -> str:
    """The device of workers: for `auto` a GPU each where the cluster has any, else what was asked for."""
    if asked == "auto":
        return "cuda" if cluster.gpus else "cpu"
    return asked


def compute_on_ray(
    cluster: Cluster,
    job: BulkJob,
    out: str,
    numbers: Sequence[int],
    part: Callable[[int], FilePart],
    *,
    device: str,
    processes: int | None,
    workers: int | None,
    packed: bytes | None,
    told: Callable[[int], None],
    report: Report,
) -> Iterator[PartDone]:
    """Compute parts, and yield them as they are done, in any order. A part of a lost worker is given out again.

    Args:
        cluster: The Ray.
        job: What is computed.
        out: Where parts are written.
        numbers: The numbers of the parts.
        part: The part of a number.
        device: `cpu` or `cuda`.
        processes: Workers. None: one a GPU, or one a core.
        workers: Decoding threads of each. None: one a core of it.
        packed: The artefact's files, for workers on other machines.
        told: Called once a second or more often with the number of files of parts under way that are done.
        report: Called with a note where no worker starts.

    Raises:
        ClusterError: A part was lost with four workers, a worker could not be started, or the connection broke.
        DeviceError: A GPU is asked for, and there is none.
        Exception: What a worker's own code raised, such as that of a plugin.
    """
    ray = cluster.ray
    on_gpu = device.startswith("cuda")
    if on_gpu and not cluster.gpus:
        raise DeviceError(f"--device {device}: {cluster.describe()}, and no GPU.\nNext: --device cpu.")
    most = max(cluster.gpus if on_gpu else cluster.cpus, 1)
    # More than there is room for would wait for ever.
    count = min(processes or most, most, len(numbers))
    cores = cluster.cores_for(count, on_gpu=True) if on_gpu else 1
    # Several calls at a time, so that a worker can say how far it is while it computes.
    actor = ray.remote(
        num_cpus=cores, num_gpus=1 if on_gpu else 0, max_restarts=-1, max_task_retries=_RETRIES, max_concurrency=4
    )(Worker)
    sent = None if packed is None else ray.put(packed)
    crew = _Crew(
        {
            number: actor.remote(job, out, device=device, workers=workers or cores, packed=sent)
            for number in range(count)
        }
    )
    crew.asked = {each.images_done.remote(): number for number, each in crew.actors.items()}
    coming = iter(numbers)
    left = len(numbers)
    # An actor gets parts when it has answered once. Given to one that waits for a core, they would wait with it, while
    # others have nothing to do.
    while left:
        try:
            with broken_as_error(ray, _GOES_ON):
                ended = list(_ended(ray, crew, coming, part))
        except ray.exceptions.RayTaskError as error:
            # The worker lives: what it computes with, a plugin perhaps, has failed, as it would in this process.
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        for done in ended:
            left -= 1
            yield done
        with broken_as_error(ray, _GOES_ON):
            for worker in _ask(ray, crew):
                for _ in range(_PARTS_EACH):
                    _give(ray, crew, worker, coming, part)
        _tell_silence(crew, report, "GPUs" if on_gpu else "cores")
        told(sum(crew.done.values()))


def _ended(ray: Any, crew: _Crew, coming: Iterator[int], part: Callable[[int], FilePart]) -> Iterator[PartDone]:
    """Wait for the next part, at most `_PATIENCE`, and give its worker another one."""
    unstarted = [question for question, worker in crew.asked.items() if worker not in crew.started]
    ready, _ = ray.wait([*crew.waiting, *unstarted], num_returns=1, timeout=_PATIENCE)
    for call in ready:
        if call not in crew.waiting:
            continue
        worker, number = crew.waiting.pop(call)
        try:
            done: PartDone = ray.get(call)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"Part {number} was lost with {_RETRIES + 1} workers: {first_line(error)}\n"
                "Next: fewer processes, if memory ran out (--processes); the same command goes on from here."
            ) from error
        crew.done.pop(worker, None)  # counted by the caller from now on, and not twice
        _give(ray, crew, worker, coming, part)
        yield done


def _give(ray: Any, crew: _Crew, worker: int, coming: Iterator[int], part: Callable[[int], FilePart]) -> None:
    """Give a worker the next part, or let it go where there is none and it has none."""
    number = next(coming, None)
    if number is not None:
        crew.waiting[crew.actors[worker].compute.remote(part(number))] = worker, number
    elif worker in crew.actors and all(busy != worker for busy, _ in crew.waiting.values()):
        # Its core or GPU may be what another one waits for that was lost with its machine, and has the last parts.
        ray.kill(crew.actors.pop(worker))


def _tell_silence(crew: _Crew, report: Report, what: str) -> None:
    silent = time.monotonic() - crew.heard
    if silent > _LONG_SILENCE:
        why = f"other work may hold the {what}"
        text = f"No worker has started for {silent:.0f} s: {why}. Next: ray status"
        if crew.started:
            text = f"No worker has answered for {silent:.0f} s: their machines may be gone, or {why}. Next: ray status"
        report(Note(text=text, loud=True))
        crew.heard = time.monotonic()


def _ask(ray: Any, crew: _Crew) -> set[int]:
    """Ask the workers how far they are, without waiting for answers -> those that answered for the first time."""
    answered, _ = ray.wait(list(crew.asked), num_returns=len(crew.asked), timeout=0)
    new = set()
    for question in answered:
        worker = crew.asked.pop(question)
        if worker not in crew.actors:
            continue  # it was let go
        try:
            crew.done[worker] = ray.get(question)
        except ray.exceptions.RayError as error:  # it was lost, and its part is given out again
            crew.done.pop(worker, None)
            if worker not in crew.started:
                raise ClusterError(
                    f"A worker could not be started: {first_line(error)}\n"
                    "Next: look at ray status; the same command goes on after the last finished part."
                ) from error
        else:
            crew.heard = time.monotonic()
            if worker not in crew.started:
                crew.started.add(worker)
                new.add(worker)
        crew.asked[crew.actors[worker].images_done.remote()] = worker
    return new
