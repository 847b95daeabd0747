"""Find, load, collect: three steps, one plugin at a time, so that a broken plugin costs only itself."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from zoo import hooks
from zoo.errors import PluginError

DISTRIBUTION = "zoo-registry"
STRICT = "ZOO_STRICT_PLUGINS"
DISABLE = "ZOO_DISABLE_PLUGINS"

PluginState = Literal["loaded", "broken", "disabled"]
Hook = Literal["zoo_backbones", "zoo_heads", "zoo_recipes"]

Spec = TypeVar("Spec")


@dataclass(kw_only=True, slots=True)
class Plugin:
    """An entry point of the group `zoo`, and what became of it."""

    name: str
    distribution: str
    version: str
    target: str
    state: PluginState = "loaded"
    error: str | None = None
    load_seconds: float = 0.0
    brings: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    module: ModuleType | None = field(default=None, repr=False)

    @property
    def own(self) -> bool:
        """Whether it belongs to zoo's own distribution, whose bare names cannot be taken over."""
        return _normalised(self.distribution) == DISTRIBUTION

    @property
    def label(self) -> str:
        """`name (distribution version)`, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True, slots=True)
class Contribution(Generic[Spec]):
    """A spec and the plugin that brought it."""

    spec: Spec
    plugin: Plugin


def find(points: Iterable[EntryPoint] | None = None) -> list[tuple[Plugin, EntryPoint]]:
    """Every entry point of the group, in a fixed order, zoo's own first. Imports nothing."""
    found = []
    for point in entry_points(group=hooks.PROJECT) if points is None else points:
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "unknown")
        found.append((Plugin(name=point.name, distribution=name, version=version, target=point.value), point))
    unique = {(plugin.name, plugin.distribution, plugin.target): (plugin, point) for plugin, point in found}
    return sorted(unique.values(), key=lambda pair: (not pair[0].own, pair[0].distribution, pair[0].name))


class Loader:
    """Loads found plugins into a pluggy manager of its own and calls their hooks one at a time."""

    def __init__(self, *, strict: bool, disabled: Iterable[str], report: Callable[[str], None]) -> None:
        self._strict = strict
        self._disabled = set(disabled)
        self._report = report
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def load(self, plugin: Plugin, point: EntryPoint) -> None:
        """Import and register one plugin; afterwards its `state` says what became of it."""
        if plugin.name in self._disabled:
            plugin.state = "disabled"
            return
        began = time.perf_counter()
        with self._isolated(plugin, "import"):
            plugin.module = point.load()
        if plugin.state == "loaded":
            with self._isolated(plugin, "registration"):
                self._register(plugin)
        plugin.load_seconds = time.perf_counter() - began

    def collect(self, plugin: Plugin, hook: Hook, expected: type[Any] | None = None) -> list[Any]:
        """What the plugin's implementation of `hook` returns; empty where it has none or fails."""
        collected: list[Any] = []
        if plugin.state != "loaded" or plugin.module is None:
            return collected
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin.module or implementation.plugin_name != _key(plugin):
                continue
            with self._isolated(plugin, hook):
                collected = _checked(hook, implementation.function(), expected)
        return collected

    def reject(self, plugin: Plugin, phase: str, error: BaseException) -> None:
        """Record a fault found after collecting, such as a catalogue that cannot be read."""
        with self._isolated(plugin, phase):
            raise error

    def _register(self, plugin: Plugin) -> None:
        module = plugin.module
        if not isinstance(module, ModuleType):
            raise TypeError(f"the entry point must name a module, {plugin.target!r} is {type(module).__name__}")
        _refuse_unmarked(module)
        try:
            self._manager.register(module, name=_key(plugin))
            # register() accepts a misspelt hook name; only this call notices.
            self._manager.check_pending()
        except Exception:
            # register() leaves a half-registered plugin behind when it raises.
            if self._manager.has_plugin(_key(plugin)):
                self._manager.unregister(name=_key(plugin))
            raise

    @contextlib.contextmanager
    def _isolated(self, plugin: Plugin, phase: str) -> Iterator[None]:
        try:
            # What a plugin prints must not end up in output that a program reads.
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit in a plugin ends the plugin, not zoo
            plugin.state = "broken"
            plugin.error = f"{phase}: {type(error).__name__}: {error}"
            message = f"Plugin {plugin.label} is left out; {plugin.error}"
            if self._strict:
                raise PluginError(message) from error
            self._report(message)


def strict_from_environment() -> bool:
    return os.environ.get(STRICT, "") not in ("", "0")


def disabled_from_environment() -> frozenset[str]:
    return frozenset(name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip())


def _key(plugin: Plugin) -> str:
    # The distribution is part of it: two distributions may use one entry-point name, and pluggy would skip the second.
    return f"{plugin.distribution}:{plugin.name}:{plugin.target}"


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _refuse_unmarked(module: ModuleType) -> None:
    marker = f"{hooks.PROJECT}_impl"
    for name, value in vars(module).items():
        own = callable(value) and getattr(value, "__module__", None) == module.__name__
        if name.startswith(f"{hooks.PROJECT}_") and own and not hasattr(value, marker):
            raise PluginError(f"{module.__name__}.{name} is not marked: put @zoo.hookimpl above it, or rename it")


def _checked(hook: Hook, returned: object, expected: type[Any] | None) -> list[Any]:
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise TypeError(f"must return an iterable of specs, returned {type(returned).__name__}")
    items = list(returned)
    for item in items:
        if expected is not None and not isinstance(item, expected):
            raise TypeError(f"must return {expected.__name__} objects, returned a {type(item).__name__}")
    return items
