"""Workers on Ray: a task for each job, with its share of cores, or a GPU.

Ray is not asked to repeat a task: whether a run goes on from its checkpoint, and how often, is decided in
`zoo.sweeping.run_queue`. Folders and images must be there under the same paths on every machine.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.errors import first_line
from zoo.sweeping.local_workers import CORES
from zoo.sweeping.run_queue import Ending
from zoo.sweeping.trial_runs import RunJob, carry_out_run, outcome_of_error

if TYPE_CHECKING:
    from zoo.cluster.connect import Cluster


class RayWorkers:
    """Tasks of a Ray cluster, as `zoo.sweeping.run_queue.Workers` says."""

    def __init__(self, cluster: Cluster, at_once: int | None, device: str) -> None:
        """Share the cluster.

        Args:
            cluster: The connection.
            at_once: Jobs at a time. None: as many as it has GPUs, or times `CORES` cores.
            device: That of the sweep: `auto` takes a GPU where the cluster has some.
        """
        self._ray = cluster.ray
        card = device.startswith("cuda") or (device == "auto" and cluster.gpus > 0)
        # As many as can run: a task that waits in Ray's own queue would only be harder to stop.
        self._most = at_once or max(1, cluster.gpus if card else cluster.cpus // CORES)
        self._cores = cluster.cores_for(self._most, on_gpu=card)
        # A process for each run: what one leaves behind, threads and memory, is not the next one's.
        task = self._ray.remote(max_retries=0, max_calls=1)(carry_out_run)
        self._task: Any = task.options(num_cpus=self._cores, num_gpus=1 if card else 0)
        self._running: dict[Any, int] = {}

    def has_room(self) -> bool:
        """Whether fewer jobs run than may."""
        return len(self._running) < self._most

    def start(self, job: RunJob) -> None:
        """Send a job to the cluster."""
        # Threads are part of a plan, so they are what Ray set aside. Which cores, Ray decides.
        self._running[self._task.remote(replace(job, threads=self._cores, cores=()))] = job.number

    def wait(self) -> list[Ending]:
        """Wait for the next end, at most a second."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=1.0)
        return [self._ending(each) for each in ended]

    def stop(self) -> None:
        """Kill what still runs: a checkpoint is whole or absent, so nothing is lost that was written."""
        for each in self._running:
            with contextlib.suppress(Exception):  # the connection may be what ended the sweep
                self._ray.cancel(each, force=True)
        self._running.clear()

    def _ending(self, reference: Any) -> Ending:
        number = self._running.pop(reference)
        try:
            return Ending(number, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            # The worker lives, and its code has raised something: Ray's own error begins with where that was.
            raised = error.cause if isinstance(error.cause, Exception) else error
            return Ending(number, outcome_of_error(raised), _in_words(raised))
        except Exception as error:  # a worker that was killed, or a machine that is gone
            return Ending(number, None, _in_words(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
