"""The registry: plugins, and the backbones, heads, recipes, observers and data sources that they contribute."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import either, nearest
from zoo.registry.entry_points import (
    COMMANDS,
    DISABLE,
    Plugin,
    disabled_from_environment,
    find,
    strict_from_environment,
)
from zoo.registry.names import Backbones, ResolvedBackbone, resolve_spec
from zoo.registry.plugins import Contribution, Hook, Loader
from zoo.specs.backbone import BackboneProvider
from zoo.specs.data import DataSourceSpec
from zoo.specs.head import HeadSpec

if TYPE_CHECKING:
    from zoo.events import ObserverSpec

_Known = TypeVar("_Known", bound="Registry")
_Found = TypeVar("_Found")


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def _once(method: Callable[[_Known], _Found]) -> Callable[[_Known], _Found]:
    """Call a method without arguments once for each object, which holds what it returned."""
    # Not functools.cache, which would keep every registry, and the images that a session holds, until the process ends.
    name = f"_once_{method.__name__}"

    @functools.wraps(method)
    def find_once(self: _Known) -> _Found:
        held = self.__dict__
        if name not in held:
            held[name] = method(self)
        found: _Found = held[name]
        return found

    return find_once


class Registry:
    """The installed plugins. They are loaded at once; a hook is called when something of its kind is first asked
    for."""

    def __init__(
        self,
        points: Iterable[EntryPoint] | None = None,
        *,
        strict: bool | None = None,
        disabled: Iterable[str] | None = None,
        report: Callable[[str], None] = _to_stderr,
    ) -> None:
        """Load the plugins.

        Args:
            points: Entry points of plugins. Default: the installed ones.
            strict: Whether a broken plugin raises PluginError. Default: as `ZOO_STRICT_PLUGINS` says.
            disabled: Names of plugins to leave out. Default: those in `ZOO_DISABLE_PLUGINS`.
            report: Called with a line about each broken plugin. Default: prints to stderr.
        """
        self._loader = Loader(
            strict=strict_from_environment() if strict is None else strict,
            disabled=disabled_from_environment() if disabled is None else disabled,
            report=report,
        )
        self._plugins = []
        for plugin, load in find(points):
            self._loader.load(plugin, load)
            self._plugins.append(plugin)
        if disabled is None:
            self._report_unknown_disabled(report)

    def _report_unknown_disabled(self, report: Callable[[str], None]) -> None:
        names = [plugin.name for plugin in self._plugins]
        if not disabled_from_environment().difference(names):
            return
        # Commands can be switched off, too. They are looked for only now, as a name is rarely unknown.
        names += [plugin.name for plugin, _ in find(group=COMMANDS)]
        for name in sorted(disabled_from_environment().difference(names)):
            close = nearest(name, names)
            hint = f"did you mean {either(close)}?" if close else "see zoo list plugins."
            report(f"{DISABLE} names {name!r}, and there is no such plugin; {hint}")

    def plugins(self) -> list[Plugin]:
        """Every plugin with everything that it contributes. Calls every hook."""
        self.backbones()
        self.heads()
        self.recipes()
        self.observers()
        self.data_sources()
        return list(self._plugins)

    @_once
    def backbones(self) -> Backbones:
        """The architectures of every provider."""
        providers = []
        for held in self._collect("zoo_backbones", BackboneProvider):
            architectures = self._loader.catalogue(held)
            if architectures is None:
                continue
            held.plugin.brings.setdefault("backbones", []).append(f"{held.spec.name} ({len(architectures)})")
            providers.append((held, architectures))
        self._note_claims("provider", [held for held, _ in providers])
        backbones = Backbones(_without_taken_over(providers))
        self._note_backbone_claims(backbones)
        return backbones

    @_once
    def heads(self) -> list[Contribution[HeadSpec]]:
        """Every head, with its plugin."""
        heads = self._collect("zoo_heads", HeadSpec)
        self._note_claims("head", heads)
        for head in heads:
            head.plugin.brings.setdefault("heads", []).append(head.spec.name)
        return heads

    @_once
    def recipes(self) -> list[Contribution[Any]]:
        """Every recipe (`RecipeSpec`), with its plugin."""
        from zoo.specs.recipe import RecipeSpec  # pydantic, which `zoo list backbones` can do without

        recipes = self._collect("zoo_recipes", RecipeSpec)
        self._note_claims("recipe", recipes)
        for recipe in recipes:
            recipe.plugin.brings.setdefault("recipes", []).append(recipe.spec.name)
        return recipes

    @_once
    def observers(self) -> list[Contribution[ObserverSpec]]:
        """Every observer, with its plugin."""
        from zoo.events import ObserverSpec  # with all of a run's events, which light commands can do without

        observers = self._collect("zoo_observers", ObserverSpec)
        self._note_claims("observer", observers)
        for observer in observers:
            observer.plugin.brings.setdefault("observers", []).append(observer.spec.name)
        return observers

    @_once
    def data_sources(self) -> list[Contribution[DataSourceSpec]]:
        """Every data source, with its plugin."""
        sources = self._collect("zoo_data_sources", DataSourceSpec)
        self._note_claims("data source", sources)
        for source in sources:
            source.plugin.brings.setdefault("sources", []).append(source.spec.name)
        return sources

    def backbone(self, name: str) -> ResolvedBackbone:
        """What `[provider/]architecture[.tag]` means. Raises UnknownName or NameConflict."""
        return self.backbones().resolve(name)

    def head(self, name: str) -> Contribution[HeadSpec]:
        """What `[plugin/]head` means. Raises UnknownName or NameConflict."""
        return resolve_spec("head", name, self.heads())

    def recipe(self, name: str) -> Contribution[Any]:
        """What `[plugin/]recipe` means. Raises UnknownName or NameConflict."""
        return resolve_spec("recipe", name, self.recipes())

    def observer(self, name: str) -> Contribution[ObserverSpec]:
        """What `[plugin/]observer` means. Raises UnknownName or NameConflict."""
        return resolve_spec("observer", name, self.observers())

    def data_source(self, name: str) -> Contribution[DataSourceSpec]:
        """What `[plugin/]source` means. Raises UnknownName or NameConflict."""
        return resolve_spec("data source", name, self.data_sources())

    def recognising(self, path: Path) -> list[Contribution[DataSourceSpec]]:
        """The data sources that claim a path, zoo's own first."""
        return [source for source in self.data_sources() if self._loader.recognises(source, path)]

    def _collect(self, hook: Hook, expected: type[Any]) -> list[Contribution[Any]]:
        return [
            Contribution(spec, plugin)
            for plugin in self._plugins
            for spec in self._loader.collect(plugin, hook, expected)
        ]

    def _note_claims(self, kind: str, offered: Iterable[Contribution[Any]]) -> None:
        by_name: dict[str, list[Contribution[Any]]] = {}
        for item in offered:
            by_name.setdefault(item.spec.name, []).append(item)
        for name, claims in by_name.items():
            own = [item for item in claims if item.plugin.own]
            others = [item for item in claims if not item.plugin.own]
            for item in others if own else []:
                item.plugin.notes.append(f"its claim on the {kind} name {name!r} is not honoured: zoo holds it")
            for item in others if not own and len(others) > 1 else []:
                parties = ", ".join(sorted(other.plugin.distribution for other in others if other is not item))
                item.plugin.notes.append(f"the {kind} name {name!r} is also claimed by {parties}")

    def _note_backbone_claims(self, backbones: Backbones) -> None:
        plugins = {held.spec.name: held.plugin for held, _ in backbones.catalogue()}
        claims: dict[tuple[str, str], list[str]] = {}
        for name, qualified in backbones.shared().items():
            holder, *others = dict.fromkeys(each.split("/")[0] for each in qualified)
            for claimant in others if plugins[holder].own else [holder, *others]:
                rivals = ", ".join(each for each in [holder, *others] if each != claimant)
                what = f"held by {holder}" if plugins[holder].own else f"also claimed by {rivals}"
                if rivals:
                    claims.setdefault((claimant, what), []).append(name)
        for (claimant, what), names in claims.items():
            few = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            are = "s {} are" if len(names) > 1 else " {} is"
            plugins[claimant].notes.append(f"the bare name{are.format(few)} {what}; use {claimant}/NAME")


def _without_taken_over(providers: list[tuple[Contribution[BackboneProvider], Any]]) -> list[Any]:
    # Left out whole: with it, `timm/resnet50` could be somebody else's.
    own = {held.spec.name for held, _ in providers if held.plugin.own}
    return [(held, names) for held, names in providers if held.plugin.own or held.spec.name not in own]


@functools.cache
def default_registry() -> Registry:
    """The registry of the installed plugins, loaded once a process. `default_registry.cache_clear()` forgets it."""
    return Registry()
