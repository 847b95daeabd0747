"""Workers on Ray: a task for each job, with its share of cores, or a GPU.

Ray is not asked to repeat a task: whether a run goes on from its checkpoint, and how often, is decided in
`zoo.sweeping.run_queue`. Folders and images must be there under the same paths on every machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.cluster.connect import broken_as_error
from zoo.errors import ClusterError, first_line
from zoo.events import Note, Report
from zoo.sweeping.local_workers import CORES
from zoo.sweeping.run_queue import Ending
from zoo.sweeping.trial_runs import RunJob, carry_out_run, outcome_of_error
from zoo.text import counted

if TYPE_CHECKING:
    from zoo.cluster.connect import Cluster

_LONG_SILENCE = 60.0
"""Seconds without an end after which it is looked whether a machine can run a trial at all, and said if none can."""


class RayWorkers:
    """Tasks of a Ray cluster, as `zoo.sweeping.run_queue.Workers` says."""

    def __init__(self, cluster: Cluster, at_once: int | None, device: str, *, resuming: str, report: Report) -> None:
        """Share the cluster.

        Args:
            cluster: The connection.
            at_once: Jobs at a time. None: as many as it has GPUs, or times `CORES` cores.
            device: That of the sweep: `auto` takes a GPU where the cluster has some.
            resuming: The command that goes on with the sweep.
            report: Told where trials wait for a machine that there is not.
        """
        self._ray = cluster.ray
        card = device.startswith("cuda") or (device == "auto" and cluster.gpus > 0)
        # As many as can run: a task that waits in Ray's own queue would only be harder to stop.
        self._most = at_once or max(1, cluster.gpus if card else cluster.cpus // CORES)
        self._cores = cluster.cores_for(self._most, on_gpu=card)
        # A process for each run: what one leaves behind, threads and memory, is not the next one's.
        task = self._ray.remote(max_retries=0, max_calls=1)(carry_out_run)
        self._gpus = 1 if card else 0
        self._task: Any = task.options(num_cpus=self._cores, num_gpus=self._gpus)
        self._running: dict[Any, int] = {}
        self._resuming, self._report = resuming, report
        self._heard = time.monotonic()

    def has_room(self) -> bool:
        """Whether fewer jobs run than may."""
        return len(self._running) < self._most

    def start(self, job: RunJob) -> None:
        """Send a job to the cluster. Raises ClusterError where it cannot be reached any more."""
        # Threads are part of a plan, so they are what Ray set aside. Which cores, Ray decides.
        with self._told_if_broken():
            self._running[self._task.remote(replace(job, threads=self._cores, cores=()))] = job.number

    def wait(self) -> list[Ending]:
        """Wait for the next end, at most a second. Raises ClusterError where the cluster cannot be reached any more."""
        with self._told_if_broken():
            ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=1.0)
            if ended:
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard > _LONG_SILENCE:
                self._tell_if_none_fits()
            return [self._ending(each) for each in ended]

    def stop(self) -> None:
        """Kill what still runs: a checkpoint is whole or absent, so nothing is lost that was written."""
        for each in self._running:
            with contextlib.suppress(Exception):  # the connection may be what ended the sweep
                self._ray.cancel(each, force=True)
        self._running.clear()

    @contextlib.contextmanager
    def _told_if_broken(self) -> Iterator[None]:
        try:
            with broken_as_error(self._ray, f"once the cluster can be reached again, {self._resuming}"):
                yield
        except ClusterError:
            self._running.clear()  # nothing can be stopped there any more
            raise

    def _tell_if_none_fits(self) -> None:
        """Say that no machine can run a trial, which Ray does not: it waits for one, as more may be added."""
        machines = [each["Resources"] for each in self._ray.nodes() if each["Alive"]]
        if not any(each.get("CPU", 0) >= self._cores and each.get("GPU", 0) >= self._gpus for each in machines):
            gpu = " and a GPU" if self._gpus else ""
            text = (
                f"A trial needs a machine with {counted(self._cores, 'core')}{gpu}, and the cluster has none now: "
                f"{counted(len(self._running), 'trial')} cannot begin.\n"
                f"Next: add such a machine; or end this, and {self._resuming} goes on with the machines that are there."
            )
            self._report(Note(text=text, loud=True))
        self._heard = time.monotonic()

    def _ending(self, reference: Any) -> Ending:
        number = self._running.pop(reference)
        try:
            return Ending(number, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            # The worker lives, and its code has raised something: Ray's own error begins with where that was.
            raised = error.cause if isinstance(error.cause, Exception) else error
            return Ending(number, outcome_of_error(raised), _in_words(raised))
        except ConnectionError:
            raise  # nothing is known of the worker, nor of any other
        except Exception as error:  # a worker that was killed, or a machine that is gone
            return Ending(number, None, _in_words(error))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
