"""What the name of a backbone, head or recipe means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import NameConflict, UnknownName, nearest
from zoo.registry.plugins import Contribution
from zoo.specs import BackboneProvider, BackboneSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedBackbone:
    """What a name of a backbone meant."""

    asked: str
    spec: BackboneSpec
    tag: str | None
    """The weights tag that was named or is the default; None where nobody published weights."""
    also: tuple[str, ...] = ()
    """Other qualified names that the bare name could have meant."""

    @property
    def qualified(self) -> str:
        """`provider/architecture[.tag]`."""
        return f"{self.spec.name}.{self.tag}" if self.tag else self.spec.name


class Backbones:
    """The architectures of every provider, by qualified and by bare name."""

    def __init__(self, providers: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]]) -> None:
        # zoo's own come first, by precedence: the first that has a bare name holds it.
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
        """Bare names that several providers have -> their qualified names, the holder first."""
        by_name: dict[str, list[str]] = {}
        for held, catalogue in self._providers:
            for name in catalogue:
                by_name.setdefault(name, []).append(f"{held.spec.name}/{name}")
        return {name: qualified for name, qualified in by_name.items() if len(qualified) > 1}

    def resolve(self, name: str) -> ResolvedBackbone:
        """Raises UnknownName (architecture, provider or tag) or NameConflict."""
        provider_name, _, rest = name.rpartition("/")
        architecture, _, tag = rest.partition(".")
        candidates = self._providers
        if provider_name:
            candidates = [item for item in candidates if item[0].spec.name == provider_name]
            if not candidates:
                known = [held.spec.name for held, _ in self._providers]
                raise UnknownName("provider of backbones", provider_name, known, hint=f"There are: {', '.join(known)}.")
            _refuse_two_providers(provider_name, [held for held, _ in candidates])
        having = [item for item in candidates if architecture in item[1]]
        if not having:
            raise self._unknown_architecture(name, architecture, candidates)
        if tag:
            with_tag = [item for item in having if tag in item[1][architecture]]
            if not with_tag:
                raise _unknown_tag(architecture, tag, having)
            having = with_tag
        (holder, catalogue), *others = having
        if not provider_name and not holder.plugin.own and others:
            raise _conflict("backbone", name, [(held, f"{held.spec.name}/{rest}") for held, _ in having])
        tags = catalogue[architecture]
        return ResolvedBackbone(
            asked=name,
            spec=holder.spec.resolve(architecture),
            tag=tag or (tags[0] if tags else None),
            also=tuple(f"{held.spec.name}/{rest}" for held, _ in others),
        )

    def _unknown_architecture(
        self, name: str, architecture: str, candidates: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, Any]]]
    ) -> UnknownName:
        known = [each for _, catalogue in candidates for each in catalogue]
        close = nearest(architecture, known)
        pattern = close[0].split("_")[0] if close else architecture[:4]
        return UnknownName("backbone", name, known, hint=f"See: zoo list backbones '*{pattern}*'")


def resolve_spec(kind: str, name: str, offered: Iterable[Contribution[Any]]) -> Contribution[Any]:
    """The head or recipe that `name` (`NAME` or `plugin/NAME`) means. Raises UnknownName or NameConflict."""
    offered = list(offered)
    plugin_name, _, bare = name.rpartition("/")
    if plugin_name:
        found = [each for each in offered if each.plugin.name == plugin_name and each.spec.name == bare]
    else:
        found = [each for each in offered if each.spec.name == bare]
        own = [each for each in found if each.plugin.own]
        found = own or found
    if not found:
        known = [qualified_name(each) if plugin_name else each.spec.name for each in offered]
        raise UnknownName(kind, name, known, hint=f"See: zoo list {kind}s")
    if len(found) > 1:
        raise _conflict(kind, name, [(each, qualified_name(each)) for each in found])
    return found[0]


def qualified_name(offered: Contribution[Any]) -> str:
    """`plugin/name` of a head or recipe."""
    return f"{offered.plugin.name}/{offered.spec.name}"


def _conflict(kind: str, name: str, claims: Sequence[tuple[Contribution[Any], str]]) -> NameConflict:
    who = "\n".join(f"  {each.plugin.distribution} {each.plugin.version}: {qualified}" for each, qualified in claims)
    distinct = len({qualified for _, qualified in claims}) > 1
    way_out = "Use the qualified name" if distinct else "Switch one of them off with ZOO_DISABLE_PLUGINS, or uninstall it"
    return NameConflict(f"The {kind} name {name!r} is claimed by {len(claims)} distributions:\n{who}\n{way_out}.")


def _refuse_two_providers(name: str, held: Sequence[Contribution[BackboneProvider]]) -> None:
    if len(held) > 1 and not held[0].plugin.own:
        raise _conflict("provider", name, [(each, f"{name}/...") for each in held])


def _unknown_tag(
    architecture: str, tag: str, having: Sequence[tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]]
) -> UnknownName:
    lines = [f"{held.spec.name}/{architecture} has: {', '.join(tags[architecture]) or 'none'}." for held, tags in having]
    known = [each for _, tags in having for each in tags[architecture]]
    return UnknownName("weights tag", f"{architecture}.{tag}", [f"{architecture}.{each}" for each in known], hint=" ".join(lines))
