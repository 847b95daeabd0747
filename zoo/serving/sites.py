"""Keep pages of other sites, which somebody's browser has open, from using a server that is for this machine alone.

There are two ways for such a page. It may send a form to any address, without reading what is answered: the browser
says so in the header Sec-Fetch-Site. And its own site's name may be made to mean 127.0.0.1 (DNS rebinding), so that it
may read the answers, too: only the header Host tells. An address in Host is always the one that was connected to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers

from zoo.errors import OptionError
from zoo.serving.problems import Problem


class Sites:
    """Which requests are from a page of another site."""

    def __init__(self, names: Iterable[str] | None, *, own: str = "") -> None:
        """`names`: the host names to answer to, beside addresses, localhost and the server's `own`; None: any.

        Raises OptionError for what is not a name.
        """
        self._names = None if names is None else frozenset({own.lower(), *map(_checked, names)})

    def problem_of(self, method: str, headers: Headers) -> Problem | None:
        """What is wrong with a request; None where nothing is."""
        if method == "POST" and headers.get("sec-fetch-site") == "cross-site":
            return Problem(
                403,
                "other_site",
                "A page of another site sent this, and only the server's own page may. "
                "Next: open the server's own page, or ask it from a program.",
            )
        name = _name_in(headers.get("host", ""))
        # No browser leaves Host out.
        if self._names is None or not name or _is_here(name) or name in self._names:
            return None
        return Problem(
            403,
            "host",
            f"The request is for the host {name[:255]!r}, and this server answers to its address and to localhost "
            "alone, so that no other site can pass for it. Next: zoo serve --allow-host NAME for a name of your own.",
        )


def _checked(name: str) -> str:
    found = name.strip().lower().rstrip(".")
    if not found or any(letter in found for letter in "/:*?@[] "):
        raise OptionError(
            f"--allow-host takes the name of a host, such as flowers.example.org, got {name!r}.\n"
            "Next: leave out what stands before and after the name."
        )
    return found


def _name_in(host: str) -> str:
    """The name or the address in a header Host, without its port."""
    name, colon, port = host.strip().lower().rpartition(":")
    return (name if colon and port.isdecimal() else host.strip().lower()).rstrip(".")


def _is_here(name: str) -> bool:
    # Browsers take every name below localhost for this machine, without asking DNS (RFC 6761).
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
