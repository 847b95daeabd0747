"""Find, load, collect: three steps, one plugin at a time, so that a broken plugin costs only itself."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from zoo import hooks
from zoo.errors import PluginError, Terminated
from zoo.specs import BackboneProvider, check_catalogue
from zoo.streams import prints_to_stderr

DISTRIBUTION = "zoo-registry"
STRICT = "ZOO_STRICT_PLUGINS"
DISABLE = "ZOO_DISABLE_PLUGINS"

PluginState = Literal["loaded", "broken", "disabled"]
Hook = Literal["zoo_backbones", "zoo_heads", "zoo_recipes", "zoo_observers"]

Spec = TypeVar("Spec")
Load = Callable[[], Any]


@dataclass(kw_only=True)
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
        return self.distribution == DISTRIBUTION or _normalised(self.distribution) == DISTRIBUTION

    @property
    def label(self) -> str:
        """`name (distribution version)`, for messages."""
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class Contribution(Generic[Spec]):
    """A spec and the plugin that brought it."""

    spec: Spec
    plugin: Plugin


def find(points: Iterable[EntryPoint] | None = None) -> list[tuple[Plugin, Load]]:
    """(plugin, what imports it) for every entry point, in a fixed order, zoo's own first. Imports nothing."""
    found = _installed() if points is None else [_found(point) for point in points]
    unique = {(plugin.name, plugin.distribution, plugin.target): (plugin, load) for plugin, load in found}
    return sorted(unique.values(), key=lambda pair: (not pair[0].own, pair[0].distribution, pair[0].name))


class Loader:
    """Loads found plugins into a pluggy manager of its own and calls their hooks one at a time."""

    def __init__(self, *, strict: bool, disabled: Iterable[str], report: Callable[[str], None]) -> None:
        self._strict = strict
        self._disabled = set(disabled)
        self._report = report
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def load(self, plugin: Plugin, load: Load) -> None:
        """Import and register one plugin; afterwards its `state` says what became of it."""
        if plugin.name in self._disabled:
            plugin.state = "disabled"
            return
        began = time.perf_counter()
        with self._isolated(plugin, "import"):
            plugin.module = load()
        if plugin.state == "loaded":
            with self._isolated(plugin, "registration"):
                self._register(plugin)
        plugin.load_seconds = time.perf_counter() - began

    def collect(self, plugin: Plugin, hook: Hook, expected: type[Any]) -> list[Any]:
        """What the plugin's implementation of `hook` returns; empty where it has none or fails."""
        collected: list[Any] = []
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin.module or implementation.plugin_name != _key(plugin):
                continue
            with self._isolated(plugin, hook, left_out=f"What {hook} of plugin {plugin.label} returns"):
                collected = _checked(implementation.function(), expected)
        return collected

    def catalogue(self, held: Contribution[BackboneProvider]) -> dict[str, tuple[str, ...]] | None:
        """A provider's architectures and their tags; None where it cannot tell them."""
        found = None
        what = f"Provider {held.spec.name} of plugin {held.plugin.label}"
        with self._isolated(held.plugin, f"catalogue of {held.spec.name}", left_out=what):
            found = check_catalogue(held.spec.architectures())
        return found

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
    def _isolated(self, plugin: Plugin, phase: str, *, left_out: str = "") -> Iterator[None]:
        try:
            with prints_to_stderr():
                yield
        except (KeyboardInterrupt, Terminated):
            raise
        except BaseException as error:  # sys.exit in a plugin ends the plugin, not zoo
            plugin.state = "broken"
            fault = f"{phase}: {one_line(error)}"
            plugin.error = f"{plugin.error}; {fault}" if plugin.error else fault
            message = f"{left_out or f'Plugin {plugin.label}'} is left out; {fault}"
            if self._strict:
                raise PluginError(message) from error
            self._report(message)


def strict_from_environment() -> bool:
    return os.environ.get(STRICT, "") not in ("", "0")


def disabled_from_environment() -> frozenset[str]:
    return frozenset(name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip())


def one_line(error: BaseException) -> str:
    """`Type: message`, whatever the message's lines."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read"
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip()).replace(":;", ":")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _installed() -> list[tuple[Plugin, Load]]:
    try:
        return [_found(point) for point in entry_points(group=hooks.PROJECT)]
    except Exception:
        # One unreadable entry_points.txt, of any distribution, breaks that call: ask them one by one.
        first = {
            _normalised(dist.name or str(number)): dist for number, dist in reversed([*enumerate(distributions())])
        }
        return [each for dist in first.values() for each in _found_in(dist)]


def _found_in(dist: Distribution) -> list[tuple[Plugin, Load]]:
    try:
        return [_found(point) for point in dist.entry_points if point.group == hooks.PROJECT]
    except Exception as error:
        if f"[{hooks.PROJECT}]" not in (dist.read_text("entry_points.txt") or ""):
            return []
        fault = PluginError(f"its entry_points.txt cannot be read: {one_line(error)}")
        return [(_plugin("unknown", "unknown", dist), partial(_raise, fault))]


def _found(point: EntryPoint) -> tuple[Plugin, Load]:
    return _plugin(point.name, point.value, point.dist), point.load


def _plugin(name: str, target: str, dist: Distribution | None) -> Plugin:
    try:
        distribution, version = (dist.name, dist.version) if dist else (None, None)
    except Exception:  # without METADATA, some versions of Python return None and others raise
        distribution, version = None, None
    return Plugin(name=name, target=target, distribution=distribution or "unknown", version=version or "unknown")


def _raise(error: Exception) -> None:
    raise error


def _key(plugin: Plugin) -> str:
    # The distribution is part of it: two distributions may use one entry-point name, and pluggy would skip the second.
    return f"{plugin.distribution}:{plugin.name}:{plugin.target}"


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _refuse_unmarked(module: ModuleType) -> None:
    marker = f"{hooks.PROJECT}_impl"
    package = module.__name__.partition(".")[0]
    for name, value in vars(module).items():
        own = callable(value) and str(getattr(value, "__module__", None)).partition(".")[0] == package
        if name.startswith(f"{hooks.PROJECT}_") and own and not hasattr(value, marker):
            raise PluginError(f"{module.__name__}.{name} is not marked: put @zoo.hookimpl above it, or rename it")


def _checked(returned: object, expected: type[Any]) -> list[Any]:
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise TypeError(f"must return a list of {expected.__name__} objects, returned {type(returned).__name__}")
    items = list(returned)
    for item in items:
        if not isinstance(item, expected):
            raise TypeError(f"must return {expected.__name__} objects, one of them is {type(item).__name__}")
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"returns {', '.join(map(repr, twice))} more than once")
    return items
