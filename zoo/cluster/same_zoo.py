"""Whether the machines of a cluster have the zoo of this machine: compared before any work is sent to them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo.errors import ClusterError, Refused
from zoo.text import some

_PATIENCE = 120.0
"""Seconds in which every machine must say what it has: a busy one first has to start a process for it."""
_NAMES = {"code": "zoo's code (of the same version)"}


def refuse_other_zoo(ray: ModuleType) -> None:
    """Compare what every machine of the cluster has with what is here.

    Raises:
        Refused: A machine has no zoo, or another one, another torch, or another Python. Bits would differ.
        ClusterError: A machine gives no answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = installed()
    here = look()
    machines = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    # No core is asked for, so that machines answer whose cores are all in use.
    remote = ray.remote(num_cpus=0, max_retries=1)(look)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)).remote(): name
        for node, name in machines.items()
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE)
    if silent:
        names = some(sorted(asked[each] for each in silent), 3)
        raise ClusterError(f"No answer within {_PATIENCE:.0f} s from {names}.\nNext: ray status, on the cluster.")
    for each in answered:
        _compare(here, ray.get(each), asked[each])


def installed() -> Callable[[], dict[str, str]]:
    """A function that says what is installed where it runs.

    It is made inside of this one, so that Ray sends its code and not its name: it has to run where there is no zoo.
    """

    def look() -> dict[str, str]:
        # What it needs comes with it: names of this module would not be there.
        import hashlib
        import platform
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec
        from pathlib import Path

        found = {"Python": ".".join(platform.python_version_tuple()[:2])}
        for name, package in (("zoo-registry", "zoo"), ("torch", "torch")):
            spec = find_spec(package)
            if spec is None:
                continue
            try:
                found[name] = version(name)
            except PackageNotFoundError:  # on the path without being installed
                found[name] = "of unknown version"
            # Of a zoo that is being worked on, the version says nothing.
            if package == "zoo" and spec.origin is not None:
                digest = hashlib.sha256()
                folder = Path(spec.origin).parent
                for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
                    digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
                found["code"] = digest.hexdigest()[:12]
        return found

    return look


def _compare(here: dict[str, str], there: dict[str, Any], machine: str) -> None:
    if "zoo-registry" not in there:
        raise Refused(
            f"Machine {machine} of the cluster has no zoo.\n"
            f"Next: pip install 'zoo-registry[ray]=={here.get('zoo-registry', '')}' on all of its machines."
        )
    for what, own in here.items():
        other = there.get(what, "missing")
        if other != own:
            raise Refused(
                f"Machine {machine} of the cluster has another {_NAMES.get(what, what)}: {other}, and here is {own}. "
                "What it computes could differ.\nNext: install the same on all machines and here."
            )
