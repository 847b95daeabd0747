"""A machine of a Ray that is gone: its worker waits for a place on another one. And a connection that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from zoo.bulk.on_ray import compute_on_ray
from zoo.bulk.parts import BulkJob, FilePart
from zoo.bulk.worker import PartDone
from zoo.cluster.connect import Cluster
from zoo.errors import ClusterError


class RayError(Exception):
    """As Ray raises it for an actor that is no more."""


class TwoMachines:
    """Two machines of a Ray, with room for one worker each; that of worker 1 is gone after a few looks.

    A stand-in: a machine cannot be taken away from a Ray that is one machine. Worker 1 starts again where worker 0 was.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=type("RayTaskError", (RayError,), {}))

    def __init__(self) -> None:
        self.calls: dict[object, tuple[int, FilePart | None]] = {}
        self.ended: set[int] = set()
        self.computed: list[tuple[int, int]] = []
        self.workers = self.looks = 0

    def remote(self, **resources: Any) -> Any:
        return lambda worker: SimpleNamespace(remote=self._start)

    def is_initialized(self) -> bool:
        return True

    def kill(self, actor: Any) -> None:
        self.ended.add(actor.number)

    def wait(self, references: list[object], *, num_returns: int, timeout: float) -> tuple[list[object], list[object]]:
        self.looks += 1
        assert self.looks < 200, "it waits for ever"
        return [each for each in references if self._answers(self.calls[each][0])][:num_returns], []

    def get(self, reference: object) -> Any:
        worker, part = self.calls[reference]
        if worker in self.ended:
            raise RayError
        if part is None:
            return 0
        self.computed.append((worker, part.number))
        return part

    def _start(self, *given: Any, **options: Any) -> Any:
        number, self.workers = self.workers, self.workers + 1

        def call(part: FilePart | None = None) -> object:
            self.calls[reference := object()] = number, part
            return reference

        method = SimpleNamespace(remote=call)
        return SimpleNamespace(number=number, compute=method, images_done=method)

    def _answers(self, worker: int) -> bool:
        return worker == 0 or self.looks < 3 or 0 in self.ended or worker in self.ended


@pytest.mark.parametrize("parts", [3, 4, 8])
def test_its_parts_are_computed_where_another_one_has_nothing_left_to_do(parts: int) -> None:
    ray: Any = TwoMachines()
    found = computed(ray, parts)
    assert sorted(each.number for each in found) == list(range(parts))
    assert sorted(number for _, number in ray.computed) == list(range(parts)), "none twice"
    assert any(worker == 1 for worker, _ in ray.computed)


@pytest.mark.parametrize("known", [True, False], ids=["in a call", "between calls"])
def test_a_connection_that_breaks_is_told_with_what_to_do(known: bool) -> None:
    ray: Any = TwoMachines()
    found = computed(ray, 8)
    assert next(found)

    def gone(*given: Any, **options: Any) -> Any:
        assert known, "Ray would start another one"
        raise ConnectionError("Client is shutting down.")  # as Ray's client raises it

    ray.wait = ray.get = gone
    ray.is_initialized = lambda: known
    with pytest.raises(
        ClusterError, match=r"connection to Ray broke: .*\nNext: once .* reached again, the same command"
    ):
        list(found)


def test_a_connection_of_a_workers_own_that_breaks_is_its_own_error() -> None:
    """As to a bucket of files."""
    ray: Any = TwoMachines()
    found = computed(ray, 8)
    assert next(found)

    class OfTask(ray.exceptions.RayTaskError, ConnectionError):  # type: ignore[misc]
        cause = ConnectionResetError("the bucket is gone")

    def failed(reference: object) -> Any:
        raise OfTask

    ray.get = failed
    with pytest.raises(ConnectionResetError, match="the bucket is gone"):
        list(found)


def computed(ray: Any, parts: int) -> Iterator[PartDone]:
    cluster = Cluster(ray, 2, 0, 2, False, of_machines=((1, 0), (1, 0)))
    job = BulkJob(task="embed", subject="x", identity="x", settings={}, part_size=1)
    given: dict[str, Any] = {"device": "cpu", "processes": None, "workers": None, "packed": None}
    return compute_on_ray(
        cluster,
        job,
        "out",
        range(parts),
        lambda number: FilePart(number, (), ""),
        told=lambda done: None,
        report=lambda event: None,
        **given,
    )
