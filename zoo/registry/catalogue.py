"""Architectures by pattern, size, licence and what they give a head: what `zoo list backbones` shows. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.errors import OptionError, PluginError, UnknownName, either, nearest
from zoo.registry.registry import Registry
from zoo.specs import BackboneFacts, BackboneSpec, HeadSpec, WeightsSpec

UNSTATED = "unstated"
"""What `licence` takes for weights whose licence upstream does not state."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An architecture in the catalogue, with those of its weights that were asked for."""

    spec: BackboneSpec
    weights: tuple[WeightsSpec, ...]
    """The default first, where it is among them."""
    bare: bool
    """Whether the architecture's bare name means this one."""

    @property
    def name(self) -> str:
        """`provider/architecture`."""
        return self.spec.name

    @property
    def summary(self) -> str:
        return self.spec.summary

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple([each.tag for each in self.weights])

    @property
    def facts(self) -> BackboneFacts | None:
        """None where they are not known before building."""
        return self.spec.facts

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the first of `weights`; without any, of random ones."""
        first = self.weights[0].preprocessing if self.weights else self.spec.preprocessing
        _, height, width = first.input_size
        return height, width

    @property
    def top1(self) -> float | None:
        """ImageNet-1k top-1 in percent of the first of `weights`; None where the library does not state it."""
        return self.weights[0].top1 if self.weights else None

    @property
    def usual(self) -> bool:
        """Whether the first of `weights` is the default: what the name alone means, and what the facts are of."""
        return self.tags[:1] == self.spec.tags[:1]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which architectures; every field narrows. What is not known of an architecture does not satisfy a limit."""

    pattern: str = "*"
    """`*` and `?`; without either: contained in the bare or qualified name."""
    tag_pattern: str | None = None
    """The same for names of weights, `[provider/]architecture.tag`; narrows to these weights."""
    provider: str | None = None
    pretrained: bool = False
    max_params: int | None = None
    """Parameters without the classifier."""
    max_gmacs: float | None = None
    """At the default weights' input size."""
    licence: str | None = None
    """As upstream states it, or `unstated`."""
    input_size: tuple[int, int] | None = None
    """(height, width) that weights were made for."""
    head: HeadSpec | None = None
    """A head that can work on it."""

    @property
    def of_weights(self) -> bool:
        """Whether only some weights of an architecture are asked for."""
        return self.licence is not None or self.input_size is not None or self.tag_pattern is not None


SORTS: dict[str, Callable[[Listed], Any]] = {
    "name": lambda each: each.name,
    "params": lambda each: each.facts and each.facts.parameters,
    "gmacs": lambda each: each.facts and each.facts.gmacs,
    "features": lambda each: each.facts and each.facts.pooled,
    "input": lambda each: each.input_size,
    "top1": lambda each: each.top1 and -each.top1,
}
"""What a list can be sorted by, smallest first; `top1` best first. What is not known comes last."""


def find_backbones(registry: Registry, wanted: Filter, *, sort: str | None = None) -> list[Listed]:
    """The architectures that pass, by provider and name, or sorted; possibly none.

    Raises UnknownName for a provider or licence that nothing has, OptionError for an unknown `sort`.
    """
    if sort is not None and sort not in SORTS:
        close = nearest(sort, SORTS)
        meant = f" Did you mean {either(close)}?" if close else ""
        raise OptionError(f"--sort {sort!r} is no order.{meant} There are: {', '.join(SORTS)}.")
    _refuse_unknown_provider(registry, wanted.provider)
    offered = _named(registry, wanted)
    if wanted.licence is not None:
        _refuse_unknown_licence(registry, wanted.licence)
    found = [kept for each in offered if (kept := _narrowed(each, wanted)) is not None]
    return sorted(found, key=lambda each: _last_if_unknown(SORTS[sort](each))) if sort else found


def matches(pattern: str, *names: str) -> bool:
    """Whether one of the names matches: `*` and `?`; without either, contains it."""
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return any(fnmatchcase(name, wanted) for name in names)


def _named(registry: Registry, wanted: Filter) -> list[Listed]:
    backbones = registry.backbones()
    shared = backbones.shared()
    listed = []
    for held, catalogue in backbones.catalogue():
        provider = held.spec.name
        if wanted.provider not in (None, provider):
            continue
        for architecture in sorted(catalogue):
            qualified = f"{provider}/{architecture}"
            if wanted.pattern != "*" and not matches(wanted.pattern, architecture, qualified):
                continue
            holders = shared.get(architecture, [qualified])
            # Of several third parties none holds a bare name: it is an error to use it.
            bare = holders[0] == qualified and (held.plugin.own or len(holders) == 1)
            try:
                spec = backbones.spec(held, architecture)
            except PluginError as error:
                held.plugin.notes.append(str(error))
                continue
            listed.append(Listed(spec=spec, weights=spec.weights, bare=bare))
    return listed


def _narrowed(each: Listed, wanted: Filter) -> Listed | None:
    facts = each.facts
    weights = tuple(weights for weights in each.weights if _weights_pass(each, weights, wanted))
    keep = (
        (weights or not (wanted.pretrained or wanted.of_weights))
        and (wanted.max_params is None or (facts is not None and facts.parameters <= wanted.max_params))
        and (wanted.max_gmacs is None or (facts is not None and facts.gmacs <= wanted.max_gmacs))
        and (wanted.head is None or wanted.head.needs == "pooled" or (facts is not None and facts.map is not None))
    )
    return Listed(spec=each.spec, weights=weights, bare=each.bare) if keep else None


def _weights_pass(each: Listed, weights: WeightsSpec, wanted: Filter) -> bool:
    licence = (weights.licence or UNSTATED).lower()
    if wanted.tag_pattern is not None:
        name = f"{each.spec.architecture}.{weights.tag}"
        if not matches(wanted.tag_pattern, name, f"{each.spec.provider}/{name}"):
            return False
    return wanted.licence in (None, licence) and wanted.input_size in (None, weights.preprocessing.input_size[1:])


def _refuse_unknown_provider(registry: Registry, name: str | None) -> None:
    providers = [held.spec.name for held, _ in registry.backbones().catalogue()]
    if name is not None and name not in providers:
        raise UnknownName("provider of backbones", name, providers, hint=f"There are: {', '.join(providers)}.")


def _refuse_unknown_licence(registry: Registry, licence: str) -> None:
    known = licences(_named(registry, Filter()))
    if licence not in known:
        raise UnknownName("licence of weights", licence, known, hint=f"There are: {', '.join(known)}.")


def licences(listed: Iterable[Listed]) -> Sequence[str]:
    """Every licence that occurs, in small letters, the most frequent first."""
    count: dict[str, int] = {}
    for each in listed:
        for weights in each.weights:
            name = (weights.licence or UNSTATED).lower()
            count[name] = count.get(name, 0) + 1
    return sorted(count, key=lambda name: (-count[name], name))


def _last_if_unknown(value: Any) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)
