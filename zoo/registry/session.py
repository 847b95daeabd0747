"""Objects that stand where a name stands: a registry with one more plugin, the session, that holds their specs.

A head, recipe, backbone or data set that a caller passes as an object gets the name `session/NAME`, so that everything
after works by names as for an installed plugin. What is stored names it as well; only this process can find it again.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.registry.entry_points import Plugin
from zoo.registry.names import Backbones
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneProvider, BackboneSpec
from zoo.specs.data import DataSourceSpec
from zoo.specs.head import HeadSpec

if TYPE_CHECKING:
    from zoo.events import ObserverSpec
    from zoo.specs.plan import Plan
    from zoo.specs.recipe import RecipeSpec

SESSION = "session"
"""The name of the plugin, and of the provider of backbones, that holds the objects of this process."""


def of_session(name: str) -> bool:
    """Whether a qualified name, `plugin/name` or `provider/architecture`, is that of an object of some process."""
    return name.startswith(f"{SESSION}/")


def missing_objects(
    registry: Registry, *, backbone: str, head: str, whose: str, call: str, data: str = ""
) -> str | None:
    """The sentence for what was stored with objects that nobody gave; None where all of them are there.

    Args:
        registry: Where they would be found.
        backbone: The stored name of the backbone.
        head: The stored name of the head.
        whose: What they belong to: `This classifier`.
        call: The function that takes them, with its first argument: `zoo.load(PATH`.
        data: What read the data of a run. Of an object that is not given either, the call names it as well.
    """
    missing = {}
    if of_session(backbone) and not registry.backbones().accepts(backbone):
        missing["backbone"] = backbone
    if of_session(head) and all(_qualified(each) != head for each in registry.heads()):
        missing["head"] = head
    if not missing:
        return None
    given = any(_qualified(source) == data for source in registry.data_sources())
    arguments = object_arguments(missing if given else {**missing, "data": data})
    return f"{whose}'s {were_objects(missing)}, which no package provides.\nNext: {call}{arguments})"


def were_objects(names: Mapping[str, str]) -> str:
    """`head `mine` was an object`: what was stored under names of a session, `names` by kind."""
    listed = " and ".join(f"{kind} `{_bare(name)}`" for kind, name in names.items())
    return f"{listed} {'were objects' if len(names) > 1 else 'was an object'}"


def object_arguments(names: Mapping[str, str]) -> str:
    """`, head=mine`: the arguments that give the objects again, for those of `names`, by kind, that are of a session.

    The variables are guessed from the names; what cannot be a variable, as `lambda`, is called `my_head`.
    """
    return "".join(f", {kind}={_variable(kind, name)}" for kind, name in names.items() if of_session(name))


def arguments_of_run(plan: Plan) -> str:
    """`, head=mine, data=data`: the arguments by which a call in Python gets the objects of a run again."""
    return object_arguments({"backbone": plan.backbone.name, "head": plan.head.name, "data": plan.data.reader})


def _variable(kind: str, stored: str) -> str:
    name = _bare(stored).replace("-", "_")
    name = name.lower() if kind == "backbone" else name  # of a module, the name is that of its class
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"my_{kind}"


def _qualified(held: Contribution[Any]) -> str:
    return f"{held.plugin.name}/{held.spec.name}"


def _bare(stored: str) -> str:
    return stored.removeprefix(f"{SESSION}/").partition(".")[0]


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
        # Without the session, which nobody installed.
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
