"""Whether a Ray answers at an address.

Ray itself waits for more than a minute, and then ends the process that asked. So another process asks:
`python -m zoo.cluster.probe ADDRESS`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from typing import Any

from zoo.cluster.place import Place, parse_place
from zoo.cluster.surroundings import is_loopback_alone, modules_found_alike, on_loopback, quiet, takes_connections
from zoo.errors import ClusterError, Refused, first_line

PATIENCE = 9.0
"""Seconds in which a Ray must answer: with the start of the process that asks, people wait ten."""
_CONNECTING = 4.0
"""The part of it in which a connection must be made."""
_WELCOME = 60.0
"""Seconds from the first answer until a Ray has let the process in: it may be busy."""
_IMPORTING = 60.0
"""Seconds that importing ray may take before: on a busy machine it is slow, which says nothing of the address."""
_NO_TOKEN = re.compile("Unauthenticated|InvalidAuthToken|AuthenticationError", re.IGNORECASE)
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def refuse_without_answer(place: Place) -> None:
    """Raise ClusterError where no Ray answers within 10 seconds, Refused where it is another Ray, or another Python."""
    began = time.monotonic()
    asked = place.host_and_port
    if asked is not None and not takes_connections(*asked, seconds=_CONNECTING):
        raise ClusterError(_silence(place, "nothing takes connections there"))
    answer = _ask(place, time.monotonic() - began)
    if answer is not None and answer.get("wants_token"):
        raise ClusterError(
            f"The Ray at {place.address} lets in only who has its token.\n"
            "Next: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as on the cluster."
        )
    if answer is None:
        raise ClusterError(_silence(place, "something takes connections there, but it does not answer as a Ray does"))
    if answer.get("answers"):
        return
    raise not_let_in(place, str(answer.get("said", "")))


def not_let_in(place: Place, said: str) -> Refused | ClusterError:
    """The error for what Ray says where it lets nobody in: Refused where it is another Ray, or another Python."""
    versions = _VERSIONS.findall(said)
    # Ray names two versions, the cluster's first and then that of who asks, only where it refuses for them.
    if len(versions) < 2:
        return ClusterError(_silence(place, first_line(ValueError(said)).rstrip(".:")))
    (ray, python), (own_ray, own_python) = versions[:2]
    return Refused(
        f"The Ray at {place.address} is version {ray} on Python {python}, and here is {own_ray} on Python "
        f"{own_python}. Both must be the same.\n" + _same_versions(ray, python, own_ray, own_python)
    )


def _same_versions(ray: str, python: str, own_ray: str, own_python: str) -> str:
    if python != own_python:
        return f"Next: run zoo with Python {python}, or give the cluster's machines Python {own_python}."
    return (
        f"Next: pip install 'ray[client,data]=={ray}' here, or 'ray[client,data]=={own_ray}' on the cluster's machines."
    )


def _silence(place: Place, why: str) -> str:
    if place.address == "auto":
        return (
            f"No Ray was found from here: {why}\n"
            "Next: ray start on this machine, --on ray://HOST:PORT, or --on ray for a Ray of this machine alone."
        )
    port = (
        "10001 for ray://, unless the cluster says otherwise" if place.is_client else "6379, unless it says otherwise"
    )
    return (
        f"No Ray answers at {place.address}: {why}.\n"
        f"Next: compare with what `ray status` or `ray start` says on the cluster (by default port {port}), "
        "or --on ray for a Ray of this machine alone."
    )


def _ask(place: Place, passed: float) -> dict[str, Any] | None:
    """What the other process says; None if nothing in time. `passed`: seconds that have been used already."""
    with modules_found_alike(), quiet():
        asking = subprocess.Popen(
            [sys.executable, "-m", "zoo.cluster.probe", place.address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    # Read by threads: no read of a pipe takes a time limit on every system.
    lines: queue.Queue[str] = queue.Queue()
    threads = [
        threading.Thread(target=read, args=(asking, lines), name="zoo-ray-answers", daemon=True)
        for read in (_read, _read_complaints)
    ]
    for thread in threads:
        thread.start()
    try:
        with contextlib.suppress(queue.Empty):
            answer: dict[str, Any] = {}
            # One limit for each of the lines that `main` prints: only the second says something of the address.
            for seconds in (_IMPORTING, max(PATIENCE - passed, 1.0), _WELCOME):
                line = lines.get(timeout=seconds)
                answer = json.loads(line) if line else {"said": "the connection broke off"}
                if "step" not in answer:
                    break
            return answer
        return None
    finally:
        asking.kill()
        asking.wait()
        for thread in threads:
            thread.join()


def _read(asking: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert asking.stdout is not None
    with asking.stdout as stdout:
        for line in stdout:
            lines.put(line)
    lines.put("")  # Ray may end the process without a word


def _read_complaints(asking: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Ray tries again and again where it is not let in, and says so only on stderr."""
    assert asking.stderr is not None
    with asking.stderr as stderr:
        for line in stderr:
            if _NO_TOKEN.search(line):
                lines.put(json.dumps({"wants_token": True}))


def main() -> None:
    """Print a line of JSON when ray is imported, one when something speaks its language, and one with the outcome."""
    place = parse_place(sys.argv[1])
    asked = place.host_and_port
    alone = asked is not None and not place.is_client and is_loopback_alone(*asked)
    with on_loopback() if alone else contextlib.nullcontext():
        import ray

        _say(step="imported")
        if asked is not None and "RAY_USE_TLS" not in os.environ:
            _wait_for_grpc(*asked)
        if place.is_client:
            # Its errors are exceptions, and a process that joins it takes seconds on the cluster's side as well.
            _say(answers=True)
            return
        _say(step="speaks")
        try:
            ray.init(place.address, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            _say(said=str(error))
        else:
            _say(answers=True)


def _wait_for_grpc(host: str, port: int) -> None:
    """Wait until a server of gRPC answers, for which it takes a few bytes."""
    import grpc

    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        grpc.channel_ready_future(channel).result()


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
