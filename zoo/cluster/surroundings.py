"""What Ray looks at in the process that starts it: variables, signals, its address, the folder of its sockets."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"
_ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray asks this variable on every system whether it may be part of a cluster. Where not, it listens on the loopback
address alone; otherwise its servers take connections from everywhere."""
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No statistics are sent, and the CUDA_VISIBLE_DEVICES of the user stays."""
_SOCKET_ROOM = 40
"""Letters that the folder of Ray's sockets may have: the system takes paths of 107, and Ray's own part is about 65."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, Ray is imported and started without sending statistics."""
    with _environment(_QUIET):
        yield


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Inside, Ray is started, or reached, on the loopback address alone. It reads the variable when it is imported."""
    # Where Ray is imported already, as in a notebook, the variable comes too late, and its own constant is set.
    constants = sys.modules.get("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    with _environment(_ONLY_HERE):
        if before is not None:
            constants.ENABLE_RAY_CLUSTER = False  # type: ignore[union-attr]
        try:
            yield
        finally:
            if before is not None:
                constants.ENABLE_RAY_CLUSTER = before  # type: ignore[union-attr]


@contextlib.contextmanager
def modules_found_alike() -> Iterator[None]:
    """Inside, processes that are started find the modules that this process finds, zoo and its plugins among them."""
    # The empty path means the current folder, and Ray's workers have another one.
    paths = dict.fromkeys(path or str(Path.cwd()) for path in sys.path)
    with _environment({"PYTHONPATH": os.pathsep.join(paths)}):
        yield


@contextlib.contextmanager
def for_this_process_alone() -> Iterator[None]:
    """Inside, a Ray that is started takes orders from this process and its workers alone, not from other users here.

    To be entered before ray is imported, for it reads the token once. Where it is imported already, or where the user
    chose how Ray tells friends from others, that stays; Ray itself keeps a token in the user's home.
    """
    theirs = "RAY_AUTH_MODE" in os.environ or ("ray" in sys.modules and not _token.cache_info().currsize)
    own = {} if theirs else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    with _environment(own):
        yield


@functools.cache
def _token() -> str:
    # One for the life of the process: Ray reads it once.
    return secrets.token_hex(32)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Inside, whatever is called may set handlers of signals; afterwards they are as before. Ray takes SIGTERM."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def new_socket_folder() -> Path:
    """Make a folder whose name is short enough for sockets in it."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="zoo-ray-", dir=usual if len(usual) <= _SOCKET_ROOM - 17 else "/tmp"))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def takes_connections(host: str, port: int, *, seconds: float) -> bool:
    """Whether something takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def is_loopback_alone(host: str, port: int) -> bool:
    """Whether an address of this machine is served on the loopback address, and not on the one others see.

    Ray would look for `127.0.0.1` under the other one.
    """
    if host not in (LOOPBACK, "localhost", "::1"):
        return False
    return not takes_connections(_seen_by_others(), port, seconds=1.0)


def _seen_by_others() -> str:
    """The address of this machine on its way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            # An address that is reserved for documentation: the system only looks up by which way it would go.
            sock.connect(("192.0.2.1", 80))
            return str(sock.getsockname()[0])
        except OSError:
            return LOOPBACK


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
