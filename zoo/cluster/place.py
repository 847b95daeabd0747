"""`--on`: this process, Ray on this machine, or a Ray cluster. This module needs neither ray nor torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from zoo.errors import OptionError, Refused, meant

PLACES = ("local", "ray", "auto")
"""The words for a place; the others are addresses."""
_SCHEME = "ray://"
_KINDS = "local, ray, auto, HOST:PORT or ray://HOST:PORT"


@dataclass(frozen=True, slots=True)
class Place:
    """Where pieces of work run."""

    kind: Literal["local", "ray", "cluster"]
    """`local`: in this process. `ray`: in a Ray of its own on this machine. `cluster`: on a Ray that is there."""
    address: str = ""
    """Of a cluster: `auto`, `HOST:PORT` or `ray://HOST:PORT`."""

    @property
    def uses_ray(self) -> bool:
        """Whether the package ray is needed."""
        return self.kind != "local"

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Where the cluster answers; None for `auto`, which Ray finds by itself, and where there is no cluster."""
        if self.kind != "cluster" or self.address == "auto":
            return None
        host, _, port = self.address.removeprefix(_SCHEME).rpartition(":")
        return host.strip("[]"), int(port)  # an address of IPv6 stands in brackets, and sockets take it without

    @property
    def is_client(self) -> bool:
        """Whether the cluster is reached through Ray's client, from a machine that does not belong to it."""
        return self.address.startswith(_SCHEME)


def parse_place(text: str) -> Place:
    """The place that a word or an address means: `local`, `ray`, `auto`, `HOST:PORT` or `ray://HOST:PORT`.

    `auto` is the cluster to which this machine belongs, or the one that RAY_ADDRESS names.

    Raises:
        OptionError: It is none of them.
        Refused: It needs the package ray, which is not installed.
    """
    place = _parsed(text.strip())
    if place.uses_ray:
        refuse_without_ray(text)
    return place


def refuse_without_ray(asked: str) -> None:
    """Raise Refused where the package ray is missing."""
    if find_spec("ray") is None:
        raise Refused(
            f"--on {asked} needs the package ray, which is not installed here.\n"
            "Next: pip install 'zoo-registry[ray]', or --on local."
        )


def _parsed(text: str) -> Place:
    if text == "local":
        return Place("local")
    if text == "ray":
        return Place("ray")
    if text == "auto":
        # Ray's own variable, by which it finds its cluster.
        named = os.environ.get("RAY_ADDRESS", "auto")
        return Place("cluster", "auto") if named in ("auto", "local", "") else _parsed(named)
    address = text.removeprefix(_SCHEME)
    found = re.fullmatch(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})", address)
    if found and 0 < int(found["port"]) < 65536:
        return Place("cluster", text)
    # Told apart, so that a mistyped port is not answered with words that are no addresses at all.
    if text.startswith(_SCHEME) or re.fullmatch(r"[^/:]+:[^/:]*", text):
        raise OptionError(
            f"--on {text!r} is no address: after the host there is a port from 1 to 65535, as in "
            f"{_SCHEME if text.startswith(_SCHEME) else ''}10.0.0.5:{10001 if text.startswith(_SCHEME) else 6379}.\n"
            f"Next: --on {_KINDS}."
        )
    raise OptionError(f"--on {text!r} is no place to compute.{meant(text, PLACES)}\nNext: --on {_KINDS}.")
