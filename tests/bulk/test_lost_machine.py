"""A worker whose machine is gone waits for a place on another one: its parts must not wait for ever with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from zoo.bulk.on_ray import compute_on_ray
from zoo.bulk.parts import BulkJob, FilePart
from zoo.cluster.connect import Cluster


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
    cluster = Cluster(ray, 2, 0, 2, False, of_machines=((1, 0), (1, 0)))
    job = BulkJob(task="embed", subject="x", identity="x", settings={}, part_size=1)
    given: dict[str, Any] = {"device": "cpu", "processes": None, "workers": None, "packed": None}
    found = compute_on_ray(
        cluster,
        job,
        "out",
        range(parts),
        lambda number: FilePart(number, (), ""),
        told=lambda done: None,
        report=lambda event: None,
        **given,
    )
    assert sorted(each.number for each in found) == list(range(parts))
    assert sorted(number for _, number in ray.computed) == list(range(parts)), "none twice"
    assert any(worker == 1 for worker, _ in ray.computed)
