"""Trials on a Ray that changes meanwhile: no machine is left that they fit on, or the connection to it breaks."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from zoo.cluster.connect import Cluster
from zoo.errors import ClusterError
from zoo.events import Event, Note
from zoo.sweeping.ray_workers import RayWorkers
from zoo.sweeping.run_queue import carry_out_jobs
from zoo.sweeping.trial_runs import RunJob

RESUMING = "zoo sweep --resume sweeps/a"


class Waiting:
    """A Ray whose tasks wait for a machine. A stand-in: no machine can be taken from a Ray that is one machine."""

    exceptions = SimpleNamespace(RayTaskError=type("RayTaskError", (Exception,), {}))

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines, self.begun, self.cancelled, self.is_there = list(machines), 0, 0, True

    def remote(self, **options: Any) -> Any:
        return lambda function: SimpleNamespace(options=lambda **resources: SimpleNamespace(remote=self._begin))

    def is_initialized(self) -> bool:
        return self.is_there

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": each} for each in self.machines)]

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert self.is_there, "Ray would start another one"
        return [], references

    def cancel(self, reference: Any, *, force: bool) -> None:
        self.cancelled += 1

    def _begin(self, job: RunJob) -> object:
        self.begun += 1
        return object()


def workers(ray: Any, said: list[Event], *, gpus: int = 0) -> RayWorkers:
    """Workers of a cluster that had a machine with 8 cores, and perhaps GPUs, when the sweep began."""
    cluster = Cluster(ray, 8, gpus, 1, False, of_machines=((8, gpus),))
    return RayWorkers(cluster, 2, "auto", resuming=RESUMING, report=said.append)


def job(number: int) -> RunJob:
    return RunJob(number=number, request={}, run="run", threads=1)


@pytest.mark.parametrize(
    ("machine", "gpus", "told"),
    [
        ({"CPU": 2.0}, 0, "a machine with 4 cores, and the cluster has none now: 1 trial cannot begin"),
        ({"CPU": 8.0}, 2, "a machine with 4 cores and a GPU, and the cluster has none now"),
        ({"CPU": 8.0}, 0, ""),  # other work may hold them, or the trial takes long
        ({"CPU": 8.0, "GPU": 1.0}, 2, ""),
    ],
)
def test_a_trial_that_fits_no_machine_any_more_is_told(
    machine: dict[str, float], gpus: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    now = time.monotonic()
    found = workers(Waiting(machine), said, gpus=gpus)
    found.start(job(1))
    assert found.wait() == [] and said == [], "not at once"
    monkeypatch.setattr(time, "monotonic", lambda: now + 100)
    for _ in range(3):
        assert found.wait() == []
    texts = [event.text for event in said if isinstance(event, Note) and event.loud]
    assert len(texts) == bool(told), "once a minute"
    assert all(told in text and f"\nNext: add such a machine; or end this, and {RESUMING}" in text for text in texts)


@pytest.mark.parametrize("broken", ["start", "wait", "get", "between calls"])
def test_a_connection_that_breaks_ends_the_sweep_with_how_to_go_on(broken: str) -> None:
    ray: Any = Waiting({"CPU": 8.0})

    def gone(*given: Any, **options: Any) -> Any:
        ray.is_there = False
        raise ConnectionError("Client is shutting down.")  # as Ray's client raises it

    found = workers(ray, [])
    if broken == "start":
        ray._begin = gone
        found = workers(ray, [])
    elif broken == "wait":
        ray.wait = gone
    elif broken == "get":
        ray.wait, ray.get = (lambda references, **options: (references[:1], [])), gone
    else:
        ray.is_there = False
    with pytest.raises(ClusterError, match=rf"connection to Ray broke: .*\nNext: once .* reached again, {RESUMING}"):
        carry_out_jobs([job(1), job(2)], found, lambda *ended: None, lambda event: None)
    assert ray.cancelled == 0, "Ray would start another one"
