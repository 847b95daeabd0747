"""The connection to Ray: a Ray of zoo's own on this machine, ended with the work, or a cluster that is there."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.cluster.place import Place, refuse_without_ray
from zoo.cluster.probe import not_let_in, refuse_without_answer
from zoo.cluster.same_zoo import refuse_other_zoo
from zoo.cluster.surroundings import (
    LOOPBACK,
    for_this_process_alone,
    is_loopback_alone,
    modules_found_alike,
    new_socket_folder,
    on_loopback,
    quiet,
    signals_kept,
    usable_cores,
)
from zoo.errors import ClusterError, first_line
from zoo.events import Note, Report
from zoo.process import finishing
from zoo.text import counted

_OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory. zoo sends names and settings, no images; Ray would take a third of the machine's memory."""
_FAILED_THERE = "Initialization failure from server"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to Ray, for as long as `connected` is open."""

    ray: ModuleType
    """The package, connected."""
    cpus: int
    """Cores of all machines together."""
    gpus: int
    """GPUs of all machines together."""
    machines: int
    is_here: bool
    """Whether it is this machine alone, so that workers see its files and find its plugins."""
    of_machines: tuple[tuple[int, int], ...] = ()
    """(cores, GPUs) of each machine. Empty: all are on one."""

    def cores_for(self, at_once: int, *, on_gpu: bool) -> int:
        """Cores for each of so many workers, `on_gpu` with a GPU of its own.

        No more than every machine that they may be on has for one of them: Ray holds a task that asks for more than
        any machine has for ever, and says nothing.
        """
        machines = self.of_machines or ((self.cpus, self.gpus),)
        if on_gpu:
            return max(1, min((cores // gpus for cores, gpus in machines if gpus), default=1))
        return max(1, min(self.cpus // at_once, max(cores for cores, _ in machines)))

    def describe(self) -> str:
        """`Ray on this machine: 2 cores`, for people."""
        where = "on this machine" if self.is_here else f"on {counted(self.machines, 'machine')}"
        gpus = f", {counted(self.gpus, 'GPU')}" if self.gpus else ""
        return f"Ray {where}: {counted(self.cpus, 'core')}{gpus}"


@contextlib.contextmanager
def connected(place: Place, report: Report, *, cores: int | None = None) -> Iterator[Cluster]:
    """Connect to Ray, and let it go at the end. The Ray of this machine is started here and ended then.

    A Ray to which this process is connected already, as in a notebook, is used as it is, and stays.

    Args:
        place: A place that uses Ray.
        report: Called with notes.
        cores: Cores that a Ray on this machine may use. Default: all that this process may use.

    Raises:
        ClusterError: The address does not answer within 10 seconds, or Ray cannot be started here.
        Refused: The package ray is missing; or the cluster has another Ray, Python or zoo.
    """
    refuse_without_ray(place.address or "ray")  # a place may also be made without `parse_place`
    if place.kind == "cluster":
        # Asked by a process of its own, because Ray waits a minute and then ends the process that asks.
        refuse_without_answer(place)
    with contextlib.ExitStack() as stack:
        if place.kind == "ray":
            stack.enter_context(for_this_process_alone())
        with quiet():
            alone = place.kind == "ray" or (
                place.host_and_port is not None and is_loopback_alone(*place.host_and_port) and not place.is_client
            )
            # Ray reads where it may listen when it is imported.
            with on_loopback() if alone else contextlib.nullcontext():
                import ray
        # A process has one Ray at most. That of a notebook is not zoo's to replace, nor to end.
        if not ray.is_initialized():
            stack.enter_context(_started(ray, cores) if place.kind == "ray" else _joined(ray, place, alone=alone))
        cluster = _look_at(ray, place)
        if not cluster.is_here:  # workers of this machine have this very zoo, by `modules_found_alike`
            refuse_other_zoo(ray)
        report(Note(text=cluster.describe()))
        yield cluster


@contextlib.contextmanager
def broken_as_error(ray: ModuleType, step: str) -> Iterator[None]:
    """Tell of a connection that broke in the middle of the work. Ray's client tries for half a minute to have it again.

    Raises ClusterError, whose next step is `step`.
    """
    try:
        # Asked first: once its client has given up, Ray answers a call by starting a Ray of its own on this machine.
        if not ray.is_initialized():
            raise ConnectionError("Ray's client has given up.")
        yield
    except ConnectionError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise  # what a task raised, which came through this connection
        raise ClusterError(f"The connection to Ray broke: {first_line(error)}\nNext: {step}") from error


@contextlib.contextmanager
def _started(ray: ModuleType, cores: int | None) -> Iterator[None]:
    """A Ray on this machine, which listens on the loopback address alone and keeps its files in a folder of its own."""
    home = new_socket_folder()
    with _ended(ray, home):
        with quiet(), on_loopback(), modules_found_alike(), signals_kept():
            try:
                ray.init(
                    "local",
                    num_cpus=cores or usable_cores(),
                    object_store_memory=_OBJECT_STORE,
                    include_dashboard=False,
                    log_to_driver=False,  # what workers print would stand between zoo's own lines
                    logging_level=logging.ERROR,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=str(home),
                )
            except Exception as error:
                raise ClusterError(
                    f"Ray could not be started on this machine: {first_line(error)}\n"
                    "Next: --on local does the same work in this process."
                ) from error
        yield


@contextlib.contextmanager
def _joined(ray: ModuleType, place: Place, *, alone: bool) -> Iterator[None]:
    """A cluster that is there, and that answered a moment ago."""
    with _ended(ray, None):
        with quiet(), on_loopback() if alone else contextlib.nullcontext(), signals_kept():
            _join(ray, place, attempts=2 if place.is_client else 1)
        yield


def _join(ray: ModuleType, place: Place, *, attempts: int) -> None:
    """Join a cluster. Its client server starts a process for each client, which on a busy machine fails at times."""
    try:
        ray.init(place.address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        # Told by the text alone: Ray raises the same kind of error for another version, which stays another one.
        if attempts < 2 or _FAILED_THERE not in str(error):
            raise not_let_in(place, str(error)) from error
        _join(ray, place, attempts=attempts - 1)


@contextlib.contextmanager
def _ended(ray: ModuleType, home: Path | None) -> Iterator[None]:
    """Let Ray go at the end, and remove the folder of its files, where it has one of its own."""
    try:
        yield
    finally:
        # Ctrl-C leaves less than a second otherwise, and Ray's processes and files would stay.
        with finishing():
            ray.shutdown()
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)


def _look_at(ray: ModuleType, place: Place) -> Cluster:
    machines = [node for node in ray.nodes() if node["Alive"]]
    total: Mapping[str, Any] = ray.cluster_resources()
    # `ray` may also have found a Ray to which this process is connected already, and that may have more machines.
    is_here = place.kind == "ray" and len(machines) == 1
    resources = [node["Resources"] for node in machines]
    of_machines = tuple((int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources)
    return Cluster(
        ray, int(total.get("CPU", 0)), int(total.get("GPU", 0)), len(machines), is_here, of_machines=of_machines
    )
