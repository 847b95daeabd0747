"""Objects that stand where a name stands: a registry with one more plugin, the session, that holds their specs.

A head, recipe, backbone or data set that a caller passes as an object gets the name `session/NAME`, so that everything
after works by names as for an installed plugin. What is stored names it as well; only this process can find it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.events import ObserverSpec
from zoo.registry.entry_points import Plugin
from zoo.registry.names import Backbones
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneProvider, BackboneSpec
from zoo.specs.data import DataSourceSpec
from zoo.specs.head import HeadSpec

if TYPE_CHECKING:
    from zoo.specs.recipe import RecipeSpec

SESSION = "session"
"""The name of the plugin, and of the provider of backbones, that holds the objects of this process."""


def of_session(name: str) -> bool:
    """Whether a qualified name, `plugin/name` or `provider/architecture`, is that of an object of some process."""
    return name.startswith(f"{SESSION}/")


def session_plugin() -> Plugin:
    """A plugin that no distribution holds."""
    return Plugin(name=SESSION, distribution="this session", version="0", target="objects of this process")


class SessionRegistry(Registry):
    """A registry, and the objects that a caller passed in place of names. It lives as long as one call needs it."""

    def __init__(
        self,
        base: Registry,
        *,
        backbones: Iterable[BackboneSpec] = (),
        heads: Iterable[HeadSpec] = (),
        recipes: Iterable[RecipeSpec] = (),
        data_sources: Iterable[DataSourceSpec] = (),
    ) -> None:
        """Add objects to a registry, which itself stays as it is.

        Args:
            base: Where all other names are looked up.
            backbones: Their provider must be `session`.
            heads: Named `session/NAME` from then on.
            recipes: The same.
            data_sources: The same. No path is read by them unless `session/NAME:PATH` asks for it.
        """
        # Registry's own loads plugins, which the base has done.
        self._base = base
        self._plugin = session_plugin()
        self._architectures = {spec.architecture: spec for spec in backbones}
        self._heads = self._held(heads)
        self._recipes = self._held(recipes)
        self._sources = self._held(data_sources)

    def plugins(self) -> list[Plugin]:
        return self._base.plugins()

    def backbones(self) -> Backbones:
        known = self._base.backbones()
        if not self._architectures:
            return known
        provider = BackboneProvider(
            name=SESSION,
            summary="Backbones that were passed as objects.",
            architectures=lambda: {name: spec.tags for name, spec in self._architectures.items()},
            resolve=self._architectures.__getitem__,
        )
        return Backbones([*known.catalogue(), (Contribution(provider, self._plugin), provider.architectures())])

    def heads(self) -> list[Contribution[HeadSpec]]:
        return [*self._base.heads(), *self._heads]

    def recipes(self) -> list[Contribution[Any]]:
        return [*self._base.recipes(), *self._recipes]

    def observers(self) -> list[Contribution[ObserverSpec]]:
        return self._base.observers()

    def data_sources(self) -> list[Contribution[DataSourceSpec]]:
        return [*self._base.data_sources(), *self._sources]

    def recognising(self, path: Path) -> list[Contribution[DataSourceSpec]]:
        return self._base.recognising(path)

    def _held(self, specs: Iterable[Any]) -> list[Contribution[Any]]:
        return [Contribution(spec, self._plugin) for spec in specs]
