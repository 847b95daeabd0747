"""Plugins loaded and their hooks called, one at a time, so that a broken plugin costs only itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from zoo.errors import PluginError, Terminated
from zoo.process import prints_to_stderr
from zoo.registry import hooks
from zoo.registry.entry_points import (
    Load,
    Plugin,
    one_line,
)
from zoo.specs.backbone import BackboneProvider, check_catalogue
from zoo.specs.data import DataSourceSpec

Hook = Literal["zoo_backbones", "zoo_heads", "zoo_recipes", "zoo_observers", "zoo_data_sources"]

Spec = TypeVar("Spec")


@dataclass(frozen=True)
class Contribution(Generic[Spec]):
    """A spec, and the plugin that contributed it."""

    spec: Spec
    plugin: Plugin


class Loader:
    """Loads plugins into a pluggy manager of its own and calls their hooks one at a time."""

    def __init__(self, *, strict: bool, disabled: Iterable[str], report: Callable[[str], None]) -> None:
        self._strict = strict
        self._disabled = set(disabled)
        self._report = report
        self._manager = pluggy.PluginManager(hooks.PROJECT)
        self._manager.add_hookspecs(hooks)

    def load(self, plugin: Plugin, load: Load) -> None:
        """Import and register one plugin. Afterwards its `state` says whether that worked."""
        if plugin.name in self._disabled:
            plugin.state = "disabled"
            return
        with self._isolated(plugin, "import"):
            plugin.module = load()
        if plugin.state == "loaded":
            with self._isolated(plugin, "registration"):
                self._register(plugin)

    def collect(self, plugin: Plugin, hook: Hook, expected: type[Any]) -> list[Any]:
        """The specs that the plugin's implementation of `hook` returns; empty where it has none or fails."""
        collected: list[Any] = []
        # One at a time: where pluggy calls all of a hook, the first exception ends the call for every plugin.
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin.module or implementation.plugin_name != _key(plugin):
                continue
            with self._isolated(plugin, hook, left_out=f"What {hook} of plugin {plugin.label} returns"):
                collected = _checked(implementation.function(), expected)
        return collected

    def catalogue(self, held: Contribution[BackboneProvider]) -> dict[str, tuple[str, ...]] | None:
        """A provider's architectures and their tags; None where asking for them fails."""
        found = None
        what = f"Provider {held.spec.name} of plugin {held.plugin.label}"
        with self._isolated(held.plugin, f"catalogue of {held.spec.name}", left_out=what):
            found = check_catalogue(held.spec.architectures())
        return found

    def recognises(self, held: Contribution[DataSourceSpec], path: Path) -> bool:
        """Whether a data source claims a path. One that fails does not."""
        found = False
        what = f"Data source {held.spec.name} of plugin {held.plugin.label}"
        with self._isolated(held.plugin, f"recognises of {held.spec.name}", left_out=what):
            answer = held.spec.recognises(path)
            if not isinstance(answer, bool):
                raise TypeError(f"must return a bool, returned {type(answer).__name__}")
            found = answer
        return found

    def _register(self, plugin: Plugin) -> None:
        module = plugin.module
        if not isinstance(module, ModuleType):
            raise TypeError(f"the entry point must name a module, {plugin.target!r} is {type(module).__name__}")
        _refuse_unmarked(module)
        try:
            self._manager.register(module, name=_key(plugin))
            # register() accepts a misspelt hook name. Only this call notices it.
            self._manager.check_pending()
        except Exception:
            # register() leaves a half-registered plugin behind when it raises.
            if self._manager.has_plugin(_key(plugin)):
                self._manager.unregister(name=_key(plugin))
            raise

    @contextlib.contextmanager
    def _isolated(self, plugin: Plugin, phase: str, *, left_out: str = "") -> Iterator[None]:
        began = time.perf_counter()
        try:
            with prints_to_stderr():
                yield
        # Whoever ends the process means all of it, not this plugin.
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
        finally:
            plugin.load_seconds += time.perf_counter() - began


def _key(plugin: Plugin) -> str:
    # With the distribution: two distributions may use one entry-point name, and pluggy would skip the second.
    return f"{plugin.distribution}:{plugin.name}:{plugin.target}"


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
