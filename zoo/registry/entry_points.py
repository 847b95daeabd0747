"""Entry points of plugins: found among the installed distributions, and not imported here.

This module is light, because `zoo --help` looks for commands of plugins.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import PluginError, without_step

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

DISTRIBUTION = "zoo-registry"
DISABLE = "ZOO_DISABLE_PLUGINS"
PLUGINS, COMMANDS = "zoo", "zoo.commands"
"""Groups of entry points: modules with hooks, and subcommands."""

PluginState = Literal["loaded", "broken", "disabled", "on demand"]
Load = Callable[[], Any]


@dataclass(kw_only=True)
class Plugin:
    """An entry point of the group `zoo` or `zoo.commands`, and the state of loading it."""

    name: str
    distribution: str
    version: str
    target: str
    state: PluginState = "loaded"
    error: str | None = None
    load_seconds: float = 0.0
    """Seconds spent importing the plugin and calling its hooks so far."""
    brings: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    module: ModuleType | None = field(default=None, repr=False)

    @property
    def own(self) -> bool:
        """Whether the plugin belongs to zoo's own distribution, whose bare names cannot be taken over."""
        return self.distribution == DISTRIBUTION or _normalised(self.distribution) == DISTRIBUTION

    @property
    def label(self) -> str:
        """`name (distribution version)`, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"

    @property
    def installed_from(self) -> str | None:
        """The folder, file or address that its distribution was installed from; None for one from a package index."""
        return None if self.own else _origin(self.distribution)


def find(points: Iterable[EntryPoint] | None = None, *, group: str = PLUGINS) -> list[tuple[Plugin, Load]]:
    """(plugin, function that imports it) for every entry point of a group, zoo's own first. Imports nothing."""
    found = _installed(group) if points is None else [_found(point) for point in points]
    unique = {(plugin.name, plugin.distribution, plugin.target): (plugin, load) for plugin, load in found}
    return sorted(unique.values(), key=lambda pair: (not pair[0].own, pair[0].distribution, pair[0].name))


def disabled_from_environment() -> frozenset[str]:
    """The names of plugins in `ZOO_DISABLE_PLUGINS`."""
    return frozenset(name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip())


def one_line(error: BaseException) -> str:
    """An exception in one line, `Type: message`, without its next step: the message around it has one."""
    try:
        message = without_step(str(error))
    except Exception:
        message = "its message cannot be read"
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip()).replace(":;", ":")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _installed(group: str) -> list[tuple[Plugin, Load]]:
    from importlib.metadata import distributions, entry_points

    try:
        return [_found(point) for point in entry_points(group=group)]
    except Exception:
        # One unreadable entry_points.txt of any distribution breaks that call. Then they are asked one by one.
        # Reversed, so that of two distributions of one name the first on the path stands, as for Python itself.
        first = {_key(dist, number): dist for number, dist in reversed([*enumerate(distributions())])}
        return [pair for dist in first.values() for pair in _found_in(dist, group)]


def _found_in(dist: Distribution, group: str) -> list[tuple[Plugin, Load]]:
    try:
        return [_found(point) for point in dist.entry_points if point.group == group]
    except Exception as error:
        if f"[{group}]" not in (dist.read_text("entry_points.txt") or ""):
            return []
        fault = PluginError(f"its entry_points.txt cannot be read: {one_line(error)}")
        return [(_plugin("unknown", "unknown", dist), partial(_raise, fault))]


def _found(point: EntryPoint) -> tuple[Plugin, Load]:
    return _plugin(point.name, point.value, point.dist), point.load


def _plugin(name: str, target: str, dist: Distribution | None) -> Plugin:
    try:
        distribution, version = _name_and_version(dist) if dist else (None, None)
    except Exception:  # without METADATA, some versions of Python return None and others raise
        distribution, version = None, None
    return Plugin(name=name, target=target, distribution=distribution or "unknown", version=version or "unknown")


@lru_cache(maxsize=8)
def _name_and_version(dist: Distribution) -> tuple[str | None, str | None]:
    """Both from one reading, which all points of a distribution share: they come with the same object.

    Python would parse METADATA, README included, each time that it is asked for one of the two.
    """
    described = dist.metadata
    return described["Name"], described["Version"]


def _origin(distribution: str) -> str | None:
    """What `direct_url.json` says (PEP 610), as pip takes it again. Installers write it for all but an index."""
    from importlib.metadata import distribution as installed
    from urllib.parse import urlsplit, urlunsplit
    from urllib.request import url2pathname

    try:
        found = installed(distribution)
        content = json.loads(found.read_text("direct_url.json") or "{}")
        # A package of conda may hold that of the machine that built it.
        if (found.read_text("INSTALLER") or "").strip() == "conda" or "url" not in content:
            return None
        parts = urlsplit(content["url"])
        if parts.scheme == "file":
            return url2pathname(parts.path)
        # This is written into files that people share. What follows `?` may be a key that opens the address to whoever
        # holds it, and what is before the host a user and a token; only ssh needs its login name, such as `git`.
        login, _, host = parts.netloc.rpartition("@")
        host = f"{login.partition(':')[0]}@{host}" if login and parts.scheme.endswith("ssh") else host
        url, source = urlunsplit(parts._replace(netloc=host, query="", fragment="")), content.get("vcs_info")
        below = f"#subdirectory={content['subdirectory']}" if "subdirectory" in content else ""
        return (f"{source['vcs']}+{url}@{source['commit_id']}" if source else url) + below
    except Exception:  # none that is installed, or none that can be read
        return None


def _key(dist: Distribution, number: int) -> str:
    try:
        return _normalised(dist.name or str(number))
    except Exception:  # as above; the package importlib_metadata, once imported, answers instead of Python
        return str(number)


def _raise(error: Exception) -> None:
    raise error


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


STRICT = "ZOO_STRICT_PLUGINS"


def strict_from_environment() -> bool:
    """Whether `ZOO_STRICT_PLUGINS` asks for broken plugins to be errors."""
    return os.environ.get(STRICT, "") not in ("", "0")
