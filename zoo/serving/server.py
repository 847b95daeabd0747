"""`zoo serve`: the port is taken first, then the classifier is loaded and checked, then requests are answered."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from zoo.artefact.classifier import BATCH_SIZE, Classifier
from zoo.artefact.config import FOLDER
from zoo.artefact.hub import local_folder, place_of
from zoo.artefact.verify import artefact_checks
from zoo.errors import TERMINATED, CheckFailed, OptionError, Terminated
from zoo.evaluation.out_of_memory import out_of_memory_as_error
from zoo.events import Note, Report
from zoo.process import finishing
from zoo.registry.registry import Registry
from zoo.serving.limits import RequestLimits
from zoo.serving.protocol import GuardedProtocol
from zoo.serving.routes import make_app
from zoo.serving.service import Service
from zoo.serving.sites import Sites
from zoo.serving.unsure import rule_of
from zoo.specs.run_result import Check
from zoo.text import counted, shell_word

_FINISH_SECONDS = 8
"""How long what is under way may take once the server is told to end: less than the command line's own patience."""
_BACKLOG = 512
"""Connections that wait to be accepted."""
_NEIGHBOURS = 20
"""How many ports above one that is taken are tried before any free one is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What a server says of itself when it begins to answer."""

    url: str
    digest: str
    name: str


def serve(
    path: str | Path,
    *,
    host: str,
    port: int,
    allow_hosts: Sequence[str],
    device: str,
    precision: str | None,
    limits: RequestLimits,
    report: Report,
    registry: Registry,
    on_ready: Callable[[Serving], None],
) -> None:
    """Answer requests until Ctrl-C or SIGTERM, and finish what is under way then.

    `allow_hosts`: names that a request may be for, beside addresses and localhost. Where others than this machine can
    connect, any name will do unless some are given.

    Raises:
        OptionError: A port that is taken, a host that is none of this machine, or a name that cannot be one.
        ArtefactError, DeviceError: As `Classifier.load`.
        CheckFailed: The classifier is not the one that was saved.
        KeyboardInterrupt, Terminated: The end, in the main thread.
    """
    sites = Sites(allow_hosts, own=host)
    with contextlib.closing(bind(host, port, again=_command(path, host))) as listener:
        # Before the classifier is loaded, which may take long: whoever starts this should know at once.
        if not _is_loopback(listener):
            sites = sites if allow_hosts else Sites(None)
            report(Note(text=_exposed(host), loud=True))
        folder = local_folder(path)
        classifier = Classifier.load(folder, device=device, report=report, registry=registry)
        _check(classifier.path, registry, report)
        if precision is not None:
            classifier = Classifier.load(folder, device=device, precision=precision, report=report, registry=registry)
        if classifier.fault:
            report(Note(text=classifier.fault, loud=True))
        _compute_the_largest_batch(classifier)
        name = _name(path, classifier.path)
        service = Service(classifier, name=name, rule=rule_of(classifier.path), limits=limits)
        try:
            _answer(
                service,
                sites,
                listener,
                lambda: on_ready(Serving(url=_url(listener), digest=service.digest, name=name)),
            )
        finally:
            service.close()


def bind(host: str, port: int, *, again: str) -> socket.socket:
    """A socket that listens. Who connects before the classifier is loaded waits for it.

    `again`: the command, for the message. Raises OptionError.
    """
    if not 0 <= port <= 65535:
        raise OptionError(f"A port is a number from 0 (any free one) to 65535, got {port}.\nNext: {again} --port 0")
    try:
        listener = _bound(host, port)
        listener.listen(_BACKLOG)
        return listener
    except (socket.gaierror, UnicodeError) as error:  # the latter for a name that none can be
        reason = error.strerror if isinstance(error, socket.gaierror) else "that is not the name of a host"
        raise OptionError(
            f"There is no host {host!r}: {reason}.\n"
            "Next: --host 127.0.0.1 for this machine alone, 0.0.0.0 for all that can reach it."
        ) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            free = _free_port(host, port)
            raise OptionError(
                f"Port {port} of {host} cannot be used: {error.strerror or error}.\nNext: {again} --port {free}"
            ) from None
        raise OptionError(
            f"{host} is not an address of this machine: {error.strerror or error}.\n"
            "Next: --host 127.0.0.1 for this machine alone, 0.0.0.0 for all that can reach it."
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that has just ended hold its port for about a minute otherwise.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _free_port(host: str, taken: int) -> int:
    for port in [*range(taken + 1, min(taken + _NEIGHBOURS, 65535) + 1), 0]:
        with contextlib.suppress(OSError), contextlib.closing(_bound(host, port)) as found:
            return int(found.getsockname()[1])
    raise OSError


def _is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect: by the address that was bound, whatever name was asked for."""
    # A link-local address of IPv6 ends in %INTERFACE.
    address = ipaddress.ip_address(str(listener.getsockname()[0]).partition("%")[0])
    # ::ffff:127.0.0.1 is this machine, which Python says only since 3.13.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _exposed(host: str) -> str:
    return (
        f"--host {host}: whoever can reach this machine can use the classifier. There is no authentication and no "
        "encryption.\nNext: put a proxy that has both in front of it (docs/deploy.md), or leave --host out."
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _name(path: str | Path, folder: Path) -> str:
    place = place_of(path)
    if place is not None:
        return str(place)
    folder = folder.absolute()
    return folder.parent.name if folder.name == FOLDER and folder.parent.name else folder.name


def _check(folder: Path, registry: Registry, report: Report) -> None:
    """Check the artefact by its golden pictures. Raises CheckFailed."""
    checks = artefact_checks(folder, registry)
    failed = [check for check in checks if check.verdict == "failed"]
    if failed:
        raise CheckFailed(
            f"{folder} is not the classifier that was saved: {'; '.join(map(_finding, failed))}.\n"
            f"Next: zoo verify {shell_word(folder)}"
        )
    for check in checks:
        if check.verdict == "warning":
            report(Note(text=_finding(check), loud=True))
    passed = sum(check.verdict == "passed" for check in checks)
    report(Note(text=f"{passed} of {counted(len(checks), 'check')} of the saved classifier passed."))


def _compute_the_largest_batch(classifier: Classifier) -> None:
    """Whether memory suffices for a full batch is found out now, not under load; and what the first pass prepares,
    nobody waits for. Smaller batches then find their memory in what this one has left."""
    with out_of_memory_as_error("a batch of the server"):
        classifier.logits(torch.zeros(BATCH_SIZE, *classifier.model.preprocessing.input_size))


def _command(path: str | Path, host: str) -> str:
    elsewhere = "" if host == "127.0.0.1" else f" --host {shell_word(host)}"
    return f"zoo serve {shell_word(path)}{elsewhere}"


def _finding(check: Check) -> str:
    return f"{check.name}: {check.summary}"


def _answer(service: Service, sites: Sites, listener: socket.socket, ready: Callable[[], None]) -> None:
    # What a stranger sends is no fault of this server: these would log each as a warning.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        make_app(service, sites),
        http=GuardedProtocol,
        # With "auto", uvicorn imports a library for web sockets where there is one, and nothing here speaks it.
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )
    server = _Server(config, service, ready)
    with _ending_by_signal(server):
        _run(lambda: asyncio.run(server.serve(sockets=[listener])))


def _run(answer: Callable[[], None]) -> None:
    """Call `answer`, which begins an event loop, and wait for it: where this thread has a loop already, as that of a
    notebook has, in a thread beside it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        answer()
        return
    failures: list[BaseException] = []

    def beside() -> None:
        try:
            answer()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=beside, name="zoo-serve", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    """Leaves signals to the command line, and says when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # First, so that /readyz says so while what is under way is finished.
        self._service.is_stopping = True
        await super().shutdown(sockets)


@contextlib.contextmanager
def _ending_by_signal(server: uvicorn.Server) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM let the server finish; what they mean for the process is raised afterwards.

    In another thread than the main one, signals are not this server's concern.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)
        server.should_exit = True
        # A second signal does not wait for what is under way.
        server.force_exit = len(heard) > 1

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with finishing():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise Terminated(TERMINATED) if heard[0] == signal.SIGTERM else KeyboardInterrupt
