"""Names resolved: which backbone, head, recipe, observer or data source a name means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import NameConflict, OptionError, PluginError, UnknownName, ZooError, nearest
from zoo.process import prints_to_stderr
from zoo.registry.entry_points import DISABLE, Plugin, one_line
from zoo.registry.plugins import Contribution
from zoo.specs.backbone import BackboneProvider, BackboneSpec

_Offered = tuple[Contribution[BackboneProvider], Mapping[str, tuple[str, ...]]]
"""A provider with its catalogue: architecture -> tags."""
_ALL = "zoo list backbones"


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

    @property
    def package(self) -> str:
        """The distribution whose code it is. zoo's own plugins pass on a package that has the provider's name."""
        return self.spec.provider if self.plugin.own else self.plugin.distribution


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

    def usable_names(self) -> list[str]:
        """Every name without a provider; for those that several third parties claim, their qualified names."""
        return self._unambiguous(dict.fromkeys(name for _, catalogue in self._providers for name in catalogue))

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
                raise self._unknown_provider(provider_name, rest)
            _refuse_two_providers(provider_name, [held for held, _ in candidates])
        having = [item for item in candidates if architecture in item[1]]
        if not having:
            raise self._unknown_architecture(provider_name, architecture, tag, candidates)
        if dot:
            with_tag = [item for item in having if tag in item[1][architecture]]
            if not with_tag:
                raise self._unknown_tag(provider_name, architecture, tag, having)
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

    def accepts(self, name: str) -> bool:
        """Whether `resolve` knows what a name means. No provider is asked for a spec."""
        provider, slash, rest = name.rpartition("/")
        architecture, dot, tag = rest.partition(".")
        candidates = [item for item in self._providers if not slash or item[0].spec.name == provider]
        having = [
            held
            for held, catalogue in candidates
            if architecture in catalogue and (not dot or tag in catalogue[architecture])
        ]
        rivals = candidates if slash else having
        return bool(having) and (having[0].plugin.own or len(rivals) == 1)

    def _elsewhere(self, rest: str) -> list[str]:
        """Qualified names of what every provider has under a bare name."""
        qualified = [f"{held.spec.name}/{rest}" for held, _ in self._providers]
        return [name for name in dict.fromkeys(qualified) if self.accepts(name)]

    def _unambiguous(self, names: Iterable[str]) -> list[str]:
        """The names; in place of those that several third parties claim, their qualified names."""
        return [each for name in names for each in ([name] if self.accepts(name) else self._elsewhere(name))]

    def _unknown_provider(self, provider: str, rest: str) -> UnknownName:
        known = [held.spec.name for held, _ in self._providers]
        hint = f"There are: {', '.join(known) or 'none'}."
        having = [each for each in known if self.accepts(f"{each}/{rest}")]
        if nearest(provider, known) and not nearest(provider, having):
            # Both are misspelt, or the near provider lacks it: what is near as a whole.
            whole = f"{provider}/{rest}"
            return UnknownName(
                "backbone",
                whole,
                self.names(),
                first=self._elsewhere(rest),
                accepts=self.accepts,
                hint=f"Providers are: {', '.join(known)}.",
                step=_ALL,
            )
        return UnknownName(
            "provider of backbones", provider, having, hint=hint, step=_pass_it(provider, "backbone") or _ALL
        )

    def _unknown_architecture(
        self, provider: str, architecture: str, tag: str, candidates: Sequence[_Offered]
    ) -> UnknownName:
        known = [each for _, catalogue in candidates for each in catalogue]
        close = nearest(architecture, known)
        step = f"{_ALL} '*{close[0].split('_')[0]}*'" if close else _ALL
        prefix = f"{provider}/" if provider else ""
        if tag:
            # With that tag where there is such a name, so that nothing of what was asked gets lost.
            close = nearest(architecture, known, accepts=lambda each: self.accepts(f"{prefix}{each}.{tag}")) or close
        usable = [prefix + each for each in close] if prefix else self._unambiguous(close)
        first = [*(self._elsewhere(architecture) if prefix else ()), *usable]
        return UnknownName("backbone", prefix + architecture, (), first=first, step=step)

    def _unknown_tag(self, provider: str, architecture: str, tag: str, having: Sequence[_Offered]) -> UnknownName:
        lines = [
            f"{held.spec.name}/{architecture} has: {', '.join(tags[architecture]) or 'none'}." for held, tags in having
        ]
        known = [f"{architecture}.{each}" for _, tags in having for each in tags[architecture]]
        known = known if provider else self._unambiguous(known)
        first = self._elsewhere(f"{architecture}.{tag}") if provider else ()
        step = f"zoo show {having[0][0].spec.name}/{architecture}"
        return UnknownName("weights tag", f"{architecture}.{tag}", known, first=first, hint=" ".join(lines), step=step)


def resolve_spec(kind: str, name: str, offered: Iterable[Contribution[Any]]) -> Contribution[Any]:
    """The head, recipe, observer or data source that `name` (`NAME` or `plugin/NAME`) means.

    Raises UnknownName or NameConflict, OptionError for an object where only a name is taken.
    """
    offered = list(offered)
    if not isinstance(name, str):
        raise OptionError(
            f"The {kind} is given by its name here, not as {name!r:.60}.\nNext: zoo list {kind.split()[-1]}s"
        )
    found = _of_name(name, offered)
    if not found:
        raise _unknown_spec(kind, name, offered)
    if len(found) > 1:
        raise _conflict(kind, name, [(item, qualified_name(item)) for item in found])
    return found[0]


def usable_names(offered: Sequence[Contribution[Any]], *, qualified: bool) -> list[str]:
    """Names that mean one of the offered, as `resolve_spec` takes them: qualified, or bare where that is enough."""
    names = []
    for item in offered:
        bare_suffices = not qualified and len(_of_name(item.spec.name, offered)) == 1
        names.append(item.spec.name if bare_suffices else qualified_name(item))
    return [name for name in dict.fromkeys(names) if len(_of_name(name, offered)) == 1]


def _of_name(name: str, offered: Sequence[Contribution[Any]]) -> list[Contribution[Any]]:
    plugin_name, _, bare = name.rpartition("/")
    if plugin_name:
        found = [item for item in offered if item.plugin.name == plugin_name and item.spec.name == bare]
    else:
        found = [item for item in offered if item.spec.name == bare]
    # A third party may give its plugin the name of one of zoo's own. Then that name means zoo's.
    return [item for item in found if item.plugin.own] or found


def _unknown_spec(kind: str, name: str, offered: Sequence[Contribution[Any]]) -> UnknownName:
    plugin_name, _, bare = name.rpartition("/")
    known = usable_names(offered, qualified=bool(plugin_name))
    elsewhere = [each for each in known if plugin_name and each.endswith(f"/{bare}")]
    step = _pass_it(plugin_name, kind) or f"zoo list {kind.split()[-1]}s"
    return UnknownName(kind, name, known, first=elsewhere, step=step)


def _pass_it(plugin: str, kind: str) -> str:
    """What to do about a name of the session, which objects have for as long as a call lasts."""
    return f"pass the object itself as {kind}; such names stand for objects." if plugin == "session" else ""


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
