"""The catalogue that `zoo list backbones` shows: architectures filtered and sorted. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.errors import OptionError, PluginError, UnknownName, meant, without_step
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneFacts, BackboneSpec, WeightsSpec
from zoo.specs.head import HeadSpec, meets

UNSTATED = "unstated"
"""What `licence` takes for weights whose licence upstream does not state."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An architecture of the catalogue, with those of its weights that pass the filter."""

    spec: BackboneSpec
    weights: tuple[WeightsSpec, ...]
    """The weights that pass, the default first where it is among them."""
    bare: bool
    """Whether the architecture's bare name means this provider's."""

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
        """Facts of the architecture; None where they are not known before building."""
        return self.spec.facts

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels for the first of `weights`, or for random weights where there are none."""
        first = self.weights[0].preprocessing if self.weights else self.spec.preprocessing
        _, height, width = first.input_size
        return height, width

    @property
    def top1(self) -> float | None:
        """ImageNet-1k top-1 accuracy in percent of the first of `weights`; None where the library does not state it."""
        return self.weights[0].top1 if self.weights else None

    @property
    def usual(self) -> bool:
        """Whether the first of `weights` is the default, which the name alone means and the facts describe."""
        return self.tags[:1] == self.spec.tags[:1]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter of architectures; every field narrows it. An unknown fact does not satisfy a limit."""

    pattern: str = "*"
    """Pattern of bare or qualified names, with `*` and `?`. Without either, the name must contain it."""
    tag_pattern: str | None = None
    """The same for names of weights, `[provider/]architecture.tag`. Only these weights are listed."""
    provider: str | None = None
    pretrained: bool = False
    max_params: int | None = None
    """Largest number of parameters, without the classifier."""
    max_gmacs: float | None = None
    """Largest number of billion multiply-adds, at the default weights' input size."""
    licence: str | None = None
    """Licence of the weights as upstream states it, or `unstated`."""
    input_size: tuple[int, int] | None = None
    """(height, width) in pixels that the weights were made for."""
    head: HeadSpec | None = None
    """A head that the backbone must be able to take."""

    @property
    def of_weights(self) -> bool:
        """Whether only some weights of an architecture are asked for."""
        return self.licence is not None or self.input_size is not None or self.tag_pattern is not None


SORTS: dict[str, Callable[[Listed], Any]] = {
    "name": lambda listed: listed.name,
    "params": lambda listed: listed.facts and listed.facts.parameters,
    "gmacs": lambda listed: listed.facts and listed.facts.gmacs,
    "features": lambda listed: listed.facts and listed.facts.pooled,
    "input": lambda listed: listed.input_size,
    "top1": lambda listed: listed.top1 and -listed.top1,
}
"""Sort keys of a list, smallest first; for `top1` the best first. Unknown values come last."""

_ONE = "give one of these."


def find_backbones(registry: Registry, wanted: Filter, *, sort: str | None = None) -> list[Listed]:
    """The architectures that pass the filter, by provider and name or sorted. There may be none.

    Raises UnknownName for an unknown provider or licence, OptionError for an unknown `sort`.
    """
    if sort is not None and sort not in SORTS:
        raise OptionError(
            f"--sort {sort!r} is not a sort key.{meant(sort, SORTS)} There are: {', '.join(SORTS)}.\n"
            "Next: give one of these; or leave --sort out, for the order of names."
        )
    _refuse_unknown_provider(registry, wanted.provider)
    offered = _named(registry, wanted)
    if wanted.licence is not None:
        _refuse_unknown_licence(registry, wanted.licence)
    found = [kept for each in offered if (kept := _narrowed(each, wanted)) is not None]
    return sorted(found, key=lambda each: _last_if_unknown(SORTS[sort](each))) if sort else found


def matches(pattern: str, *names: str) -> bool:
    """Whether one of the names matches the pattern, with `*` and `?`; without either, whether one contains it."""
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
            # Specs are asked for last: a provider makes each one anew, and there are over a thousand.
            holders = shared.get(architecture, [qualified])
            # Of several third parties none holds a bare name: using it is an error.
            bare = holders[0] == qualified and (held.plugin.own or len(holders) == 1)
            try:
                spec = backbones.spec(held, architecture)
            except PluginError as error:
                # What its provider cannot resolve is missing in the list, and `zoo list plugins` says why.
                note = without_step(str(error))
                if note not in held.plugin.notes:
                    held.plugin.notes.append(note)
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
        and (wanted.head is None or meets(wanted.head.needs, facts))
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
        raise UnknownName(
            "provider of backbones", name, providers, hint=f"There are: {', '.join(providers)}.", step=_ONE
        )


def _refuse_unknown_licence(registry: Registry, licence: str) -> None:
    # Those of all backbones: a licence that exists, and that no backbone of this filter has, is no mistake.
    known = licences(_named(registry, Filter()))
    if licence not in known:
        raise UnknownName("licence of weights", licence, known, hint=f"There are: {', '.join(known)}.", step=_ONE)


def licences(listed: Iterable[Listed]) -> Sequence[str]:
    """Every licence that occurs, in lower case, the most frequent first."""
    count: dict[str, int] = {}
    for each in listed:
        for weights in each.weights:
            name = (weights.licence or UNSTATED).lower()
            count[name] = count.get(name, 0) + 1
    return sorted(count, key=lambda name: (-count[name], name))


def _last_if_unknown(value: Any) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else value)  # None itself cannot be compared with a number
