"""Names resolved: which backbone, head, recipe, observer or data source a name means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import NameConflict, PluginError, UnknownName, ZooError, nearest
from zoo.process import prints_to_stderr
from zoo.registry.entry_points import DISABLE, Plugin, one_line
from zoo.registry.plugins import Contribution
from zoo.specs.backbone import BackboneProvider, BackboneSpec


@dataclass(frozen=True, kw_only=True)
class ResolvedBackbone:
    """The backbone that a name means."""

    asked: str
    """The name as it was given."""
    spec: BackboneSpec
    plugin: Plugin
    """The plugin of the backbone's provider."""
    tag: str | None
    """The weights tag that was named, or the default one; None where no weights are published."""
    also: tuple[str, ...] = ()
    """Other qualified names that the bare name could have meant."""

    @property
    def qualified(self) -> str:
        """`provider/architecture[.tag]`."""
        return f"{self.spec.name}.{self.tag}" if self.tag else self.spec.name


class Backbones:
    """The architectures of every provider, by qualified and by bare name."""

    def __init__(
        self, providers: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]]
    ) -> None:
        # zoo's own providers come first, by precedence: the first one that has a bare name holds it.
        self._providers = sorted(
            providers, key=lambda item: (not item[0].plugin.own, item[0].spec.precedence if item[0].plugin.own else 0)
        )

    def names(self) -> list[str]:
        """Every `provider/architecture`, sorted within each provider."""
        return [f"{held.spec.name}/{name}" for held, catalogue in self._providers for name in sorted(catalogue)]

    def catalogue(self) -> list[tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]]:
        """(provider, architecture -> tags), in the order in which bare names are looked up."""
        return list(self._providers)

    def shared(self) -> dict[str, list[str]]:
        """Bare names that several providers have -> their qualified names, that of the holder first."""
        by_name: dict[str, list[str]] = {}
        for held, catalogue in self._providers:
            for name in catalogue:
                by_name.setdefault(name, []).append(f"{held.spec.name}/{name}")
        return {name: qualified for name, qualified in by_name.items() if len(qualified) > 1}

    def spec(self, held: Contribution[BackboneProvider], architecture: str) -> BackboneSpec:
        """The spec of a provider's architecture. Raises PluginError where the provider fails."""
        return _spec(held, architecture)

    def resolve(self, name: str) -> ResolvedBackbone:
        """What `[provider/]architecture[.tag]` means. Raises UnknownName (architecture, provider or tag) or
        NameConflict."""
        provider_name, slash, rest = name.rpartition("/")
        architecture, dot, tag = rest.partition(".")
        candidates = self._providers
        if slash:
            candidates = [item for item in candidates if item[0].spec.name == provider_name]
            if not candidates:
                known = [held.spec.name for held, _ in self._providers]
                hint = f"There are: {', '.join(known) or 'none'}."
                raise UnknownName("provider of backbones", provider_name, known, hint=hint)
            _refuse_two_providers(provider_name, [held for held, _ in candidates])
        having = [item for item in candidates if architecture in item[1]]
        if not having:
            raise _unknown_architecture(provider_name, architecture, candidates)
        if dot:
            with_tag = [item for item in having if tag in item[1][architecture]]
            if not with_tag:
                raise _unknown_tag(architecture, tag, having)
            having = with_tag
        (holder, catalogue), *others = having
        if not slash and not holder.plugin.own and others:
            raise _conflict("backbone", name, [(held, f"{held.spec.name}/{rest}") for held, _ in having])
        tags = catalogue[architecture]
        return ResolvedBackbone(
            asked=name,
            spec=_spec(holder, architecture),
            plugin=holder.plugin,
            tag=tag or (tags[0] if tags else None),
            also=tuple(f"{held.spec.name}/{rest}" for held, _ in others),
        )


def resolve_spec(kind: str, name: str, offered: Iterable[Contribution[Any]]) -> Contribution[Any]:
    """The head, recipe, observer or data source that `name` (`NAME` or `plugin/NAME`) means.

    Raises UnknownName or NameConflict.
    """
    offered = list(offered)
    plugin_name, _, bare = name.rpartition("/")
    if plugin_name:
        found = [item for item in offered if item.plugin.name == plugin_name and item.spec.name == bare]
    else:
        found = [item for item in offered if item.spec.name == bare]
    # A third party may give its plugin the name of one of zoo's own. Then that name means zoo's.
    found = [item for item in found if item.plugin.own] or found
    if not found:
        known = [qualified_name(item) if plugin_name else item.spec.name for item in offered]
        raise UnknownName(kind, name, known, hint=f"See: zoo list {kind.split()[-1]}s")
    if len(found) > 1:
        raise _conflict(kind, name, [(item, qualified_name(item)) for item in found])
    return found[0]


def qualified_name(offered: Contribution[Any]) -> str:
    """`plugin/name` of a head, recipe, observer or data source."""
    return f"{offered.plugin.name}/{offered.spec.name}"


def _conflict(kind: str, name: str, claims: Sequence[tuple[Contribution[Any], str]]) -> NameConflict:
    who = "\n".join(f"  {each.plugin.distribution} {each.plugin.version}: {qualified}" for each, qualified in claims)
    if len({qualified for _, qualified in claims}) == len(claims):
        way_out = "use a qualified name"
    elif len({each.plugin.name for each, _ in claims}) == len(claims):
        way_out = f"switch one of them off, for example with {DISABLE}={claims[-1][0].plugin.name}"
    else:
        way_out = "uninstall one of them"
    return NameConflict(f"The {kind} name {name!r} is claimed more than once:\n{who}\nNext: {way_out}.")


def _spec(held: Contribution[BackboneProvider], architecture: str) -> BackboneSpec:
    name = f"{held.spec.name}/{architecture}"
    try:
        # Not for zoo's own providers, which print nothing: a list asks 1,451 times, and this takes time.
        with contextlib.nullcontext() if held.plugin.own else prints_to_stderr():
            spec = held.spec.resolve(architecture)
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"Plugin {held.plugin.label} lists {name} and cannot resolve it: {one_line(error)}"
        ) from error
    if not isinstance(spec, BackboneSpec) or spec.name != name:
        told = f"a spec of {spec.name}" if isinstance(spec, BackboneSpec) else f"a {type(spec).__name__}"
        raise PluginError(
            f"Plugin {held.plugin.label} must resolve {name} to a BackboneSpec of that name, and gave {told}."
        )
    return spec


def _refuse_two_providers(name: str, held: Sequence[Contribution[BackboneProvider]]) -> None:
    if len(held) > 1 and not held[0].plugin.own:
        raise _conflict("provider", name, [(each, f"{name}/...") for each in held])


def _unknown_architecture(
    provider: str, architecture: str, candidates: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, Any]]]
) -> UnknownName:
    known = [each for _, catalogue in candidates for each in catalogue]
    close = nearest(architecture, known)
    hint = f"See: zoo list backbones '*{close[0].split('_')[0]}*'" if close else "See: zoo list backbones"
    prefix = f"{provider}/" if provider else ""
    return UnknownName("backbone", prefix + architecture, [prefix + each for each in known], hint=hint)


def _unknown_tag(
    architecture: str, tag: str, having: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]]
) -> UnknownName:
    lines = [
        f"{held.spec.name}/{architecture} has: {', '.join(tags[architecture]) or 'none'}." for held, tags in having
    ]
    known = [each for _, tags in having for each in tags[architecture]]
    return UnknownName(
        "weights tag", f"{architecture}.{tag}", [f"{architecture}.{each}" for each in known], hint=" ".join(lines)
    )
