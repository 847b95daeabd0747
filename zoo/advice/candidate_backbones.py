"""The backbones that a shortlist compares: named by the user, or what is on this machine and can be fetched."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from zoo.errors import OptionError, Refused, UnknownName, WeightsError, first_line
from zoo.planning.resolved_model import check_compatible
from zoo.registry.catalogue import UNSTATED, Filter, Listed, find_backbones, licences
from zoo.registry.names import ResolvedBackbone
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneFacts, BackboneSpec, WeightsSpec
from zoo.text import size as in_bytes
from zoo.weights.inventory import held_weights
from zoo.weights.obtain import WeightsChoice, choose_weights

PERMISSIVE = "permissive"
PERMISSIVE_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc0-1.0", "isc", "unlicense")
"""Licences that allow every use, commercial use and changes included, if the authors are named."""
_BYTES = 4
"""Of a parameter in a file of weights."""
_KINDS = 4
"""Most kinds of reasons that one line names; the others are counted together."""
_CHANCE = 0.1
"""ImageNet top-1 accuracy of random weights, in percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateBackbone:
    """A backbone with weights."""

    name: str
    """`provider/architecture.tag`, or `=random` or `=FILE` in place of the tag. No two candidates have the same."""
    backbone: str
    """The value of `--backbone`."""
    weights: str
    """The value of `--weights`."""
    parameters: int | None
    """Without the classifier; None where that is not known before building."""
    gmacs: float | None
    """Billions of multiply-adds for one image."""
    top1: float | None
    """ImageNet top-1 accuracy in percent as upstream states it."""
    prior: float
    """The same, or what backbones with as much compute have in the mean; for random weights that of chance."""
    licence: str | None
    """Licence of the weights as upstream states it; None for random weights, which need none, and for a user's file."""
    here: bool
    """Whether nothing has to be downloaded."""
    download_bytes: int
    """About how many bytes are still to be downloaded; 0 where nothing is, and where nobody knows."""

    @property
    def label(self) -> str:
        """The name for people: without the provider, and of a file without its folder."""
        name, _, weights = self.name.partition("=")
        return f"{name.rpartition('/')[2]}={Path(weights).name}" if weights else name.rpartition("/")[2]

    @property
    def random(self) -> bool:
        """Whether nothing pretrained is in it."""
        return self.weights == "random"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A backbone that is not compared, or not to the end, and why."""

    name: str
    reason: str


def grouped(left_out: Sequence[LeftOut]) -> str:
    """How many were left out for which kind of reason: `900 no time, 12 too slow for this budget`."""
    # What follows a colon is of one candidate alone: its seconds, its p-value.
    kinds = Counter(each.reason.partition(":")[0] for each in left_out)
    listed = [f"{count:,} {kind}" for kind, count in kinds.most_common(_KINDS)]
    rest = sum(kinds.values()) - sum(count for _, count in kinds.most_common(_KINDS))
    return ", ".join([*listed, f"{rest:,} for other reasons"] if rest else listed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a candidate must be like."""

    max_params: int | None = None
    licence: str | None = None
    """`permissive`, or a licence as upstream states it."""
    head: str = "linear"


@dataclass(frozen=True, slots=True)
class CandidateBackbones:
    """The candidates in the order in which they are tried, and what was left out."""

    chosen: tuple[CandidateBackbone, ...]
    left_out: tuple[LeftOut, ...]


class _Finder:
    """Turns names, patterns or nothing into candidates, and notes which of them are beyond the limits."""

    def __init__(self, registry: Registry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.head = registry.head(limits.head)
        self.left_out: list[LeftOut] = []
        # A misspelt licence is told before anything is looked up.
        self._check_licence()

    @cached_property
    def held(self) -> set[str]:
        """`provider/architecture.tag` of the weights on this machine."""
        # Once for all candidates, and only where one asks: it looks through the folders of weights.
        return {each.name for each in held_weights(self.registry)}

    @cached_property
    def prior(self) -> ExpectedTop1:
        return ExpectedTop1(find_backbones(self.registry, Filter()))

    def named(self, text: str) -> list[CandidateBackbone]:
        """The candidates that one word of `--backbones` names: a name, NAME=WEIGHTS or a pattern."""
        name, _, weights = text.partition("=")
        if any(sign in name for sign in "*?["):
            if weights:
                raise OptionError(
                    f"--backbones {text!r} gives weights to a pattern of names.\n"
                    "Next: name one backbone before '=', or leave the weights out."
                )
            return self._matching(name)
        backbone = self.registry.backbone(name)
        try:
            choice = choose_weights(backbone, weights or "default")
        except WeightsError as error:
            # The message is written for --weights, which nobody gave here.
            raise WeightsError(str(error).replace("given to --weights", f"in --backbones {text}")) from None
        return [self._candidate(backbone, choice)]

    def _matching(self, pattern: str) -> list[CandidateBackbone]:
        found = find_backbones(self.registry, Filter(pattern=pattern, pretrained=True))
        if not found:
            raise OptionError(
                f"No backbone with published weights matches {pattern!r}.\n"
                "Next: zoo list backbones PATTERN --pretrained shows which there are."
            )
        return [self._default(each) for each in found]

    def everything(self, *, offline: bool) -> list[CandidateBackbone]:
        """All weights on this machine; unless offline, the default weights of all other architectures as well."""
        listed = find_backbones(self.registry, Filter(pretrained=True))
        held = [
            self._candidate(backbone, WeightsChoice(kind="tag", tag=backbone.tag))
            for each in listed
            for weights in each.weights
            if f"{each.name}.{weights.tag}" in self.held
            for backbone in [self.registry.backbone(f"{each.name}.{weights.tag}")]
        ]
        if offline:
            return held
        # The names of architectures hold no dot, so the first one begins the tag.
        there = {each.name.partition(".")[0] for each in held}
        return [*held, *(self._default(each) for each in listed if each.name not in there)]

    def _default(self, listed: Listed) -> CandidateBackbone:
        backbone = self.registry.backbone(f"{listed.name}.{listed.weights[0].tag}")
        return self._candidate(backbone, WeightsChoice(kind="tag", tag=backbone.tag))

    def _candidate(self, backbone: ResolvedBackbone, choice: WeightsChoice) -> CandidateBackbone:
        published = backbone.spec.weights_for(choice.tag) if choice.kind == "tag" else None
        facts = _facts(backbone.spec, published)
        qualified = f"{backbone.spec.name}.{choice.tag}" if choice.tag else backbone.spec.name
        # A user's file and random weights need no download.
        there = choice.kind != "tag" or qualified in self.held
        return CandidateBackbone(
            name=qualified if choice.kind == "tag" else f"{backbone.spec.name}={choice.path or 'random'}",
            backbone=qualified if choice.kind == "tag" else backbone.asked,
            weights="default" if choice.kind == "tag" else str(choice.path or "random"),
            parameters=facts.parameters if facts else None,
            gmacs=facts.gmacs if facts else None,
            top1=published.top1 if published else None,
            prior=self._prior(choice, facts, published),
            licence=published.licence or UNSTATED if published else None,
            here=there,
            download_bytes=0 if there else _BYTES * (facts.parameters if facts else 0),
        )

    def _prior(self, choice: WeightsChoice, facts: BackboneFacts | None, published: WeightsSpec | None) -> float:
        # By its compute, a large network that was never trained would come before small ones that were.
        if choice.kind == "random":
            return _CHANCE
        if published is not None and published.top1 is not None:
            return published.top1
        return self.prior.of(facts)

    def passes(self, candidate: CandidateBackbone) -> bool:
        """Whether it is within the limits; if not, it is noted with the reason."""
        reason = self._beyond(candidate, self.limits)
        if reason:
            self.left_out.append(LeftOut(candidate.name, reason))
        return not reason

    def passes_but_for_size(self, candidate: CandidateBackbone) -> bool:
        """Whether a higher `--max-params` would let it in."""
        return not self._beyond(candidate, replace(self.limits, max_params=None))

    def _beyond(self, candidate: CandidateBackbone, limits: Limits) -> str:
        if limits.max_params is not None:
            if candidate.parameters is None:
                return "its number of parameters is not known"
            if candidate.parameters > limits.max_params:
                return f"over --max-params {limits.max_params:,}: {candidate.parameters:,} parameters"
        if limits.licence is not None and not candidate.random and not _allows(limits.licence, candidate.licence):
            return f"its licence is {candidate.licence or 'not known: the weights are a file'}"
        try:
            check_compatible(self.registry.backbone(candidate.backbone), self.head, self.registry)
        except Refused as error:
            return f"no {self.head.spec.name} on it: {first_line(error)}"
        return ""

    def _check_licence(self) -> None:
        if self.limits.licence in (None, PERMISSIVE):
            return
        known = licences(find_backbones(self.registry, Filter()))
        if str(self.limits.licence).lower() not in known:
            usual = [PERMISSIVE, *known]
            raise UnknownName(
                "licence of weights",
                str(self.limits.licence),
                usual,
                hint=f"There are: {', '.join(usual)}.",
                step="give one of these.",
            )


def find_candidates(registry: Registry, named: Sequence[str], limits: Limits, *, offline: bool) -> CandidateBackbones:
    """Find the candidates: first those whose weights are on this machine, in the order of the prior.

    Args:
        registry: Where names are looked up.
        named: `NAME`, `NAME=FILE`, `NAME=random` or patterns with `*` and `?`. Empty: all weights that are on this
            machine and, unless `offline`, the default weights of all other backbones.
        limits: What they must be like.
        offline: Whether the network is off limits. Weights that are not on this machine are left out then.

    Raises:
        UnknownName: No such backbone, tag, licence or head.
        OptionError: A word that cannot be read, or limits that leave nothing.
        WeightsError: A file that is not there, or no pretrained weights at all on this machine while offline.
    """
    finder = _Finder(registry, limits)
    found = [each for text in named for each in finder.named(text)] if named else finder.everything(offline=offline)
    if not found:
        raise WeightsError(
            "There are no pretrained weights on this machine, and the network is off limits (--offline).\n"
            "Next: on a machine with a network, zoo weights fetch NAME --out FOLDER; then here, zoo weights import "
            "FOLDER. Or name files: --backbones NAME=FILE"
        )
    found = list({each.name: each for each in found}.values())  # patterns may overlap
    passing = [each for each in found if finder.passes(each)]
    if not passing:
        raise OptionError(_nothing_left(found, finder))
    if offline:
        passing = _without_downloads(passing, finder.left_out)
    # What is here costs no download, so that it comes first.
    ordered = sorted(passing, key=lambda each: (not each.here, -each.prior, each.name))
    return CandidateBackbones(tuple(ordered), tuple(finder.left_out))


def _without_downloads(candidates: list[CandidateBackbone], left_out: list[LeftOut]) -> list[CandidateBackbone]:
    there = [each for each in candidates if each.here]
    left_out += [
        LeftOut(each.name, f"not on this machine, and --offline: {in_bytes(each.download_bytes)}")
        for each in candidates
        if not each.here
    ]
    if not there:
        names = ", ".join(each.name for each in candidates[:5])
        raise WeightsError(
            f"None of the {len(candidates)} candidates has its weights on this machine, and the network is off limits "
            f"(--offline): {names}.\nNext: zoo weights fetch {candidates[0].backbone}, or give files: NAME=FILE"
        )
    return there


def _nothing_left(found: Sequence[CandidateBackbone], finder: _Finder) -> str:
    """What was asked, what there is, and the nearest limit that would leave something."""
    limits, left_out = finder.limits, finder.left_out
    # A backbone whose size is not known is no example of one that is small enough.
    only_size = [each for each in found if each.parameters and finder.passes_but_for_size(each)]
    listed = "\n".join(f"  {each.name}: {each.reason}" for each in left_out[:5])
    more = f"\n  and {len(left_out) - 5:,} more" if len(left_out) > 5 else ""
    if limits.max_params is not None and only_size:
        smallest = min(only_size, key=lambda each: each.parameters or math.inf)
        step = f"--max-params {smallest.parameters}, which {smallest.name} has."
    elif limits.licence is not None and limits.max_params is None:
        step = "leave --licence out, or name backbones whose licence you accept; zoo list backbones --licence L"
    else:
        step = "a limit less, or other backbones; zoo list backbones shows what there is."
    return f"The limits leave none of {len(found):,} candidates:\n{listed}{more}\nNext: {step}"


def _facts(spec: BackboneSpec, weights: WeightsSpec | None) -> BackboneFacts | None:
    """Facts of a backbone with these weights; None for the default ones, random ones or a file.

    A spec has those of its default weights. Where others are for images of another size, they are measured.
    """
    if (
        weights is None
        or spec.facts is None
        or weights.preprocessing.input_size == spec.weights[0].preprocessing.input_size
    ):
        return spec.facts
    from zoo.model.measure import measure

    try:
        return measure(replace(spec, weights=(weights,)))
    except Exception:  # whatever building it raises: told where it is built to be probed
        return spec.facts


def _allows(asked: str, licence: str | None) -> bool:
    if licence is None:
        return False
    return licence.lower() in PERMISSIVE_LICENCES if asked == PERMISSIVE else licence.lower() == asked.lower()


class ExpectedTop1:
    """The ImageNet accuracy to expect of a backbone whose own is not stated: that of others with as much compute."""

    def __init__(self, listed: Iterable[Listed]) -> None:
        """Fit a line, top-1 against the logarithm of multiply-adds, to the weights whose accuracy upstream states."""
        known = [
            (math.log(each.facts.gmacs), each.top1)
            for each in listed
            if each.facts is not None and each.facts.gmacs > 0 and each.top1 is not None
        ]
        # Where upstream states nothing at all, every backbone gets the same prior, 0.
        count = max(1, len(known))
        self._mean_x = sum(x for x, _ in known) / count
        self._mean_y = sum(y for _, y in known) / count
        spread = sum((x - self._mean_x) ** 2 for x, _ in known)
        self._slope = sum((x - self._mean_x) * (y - self._mean_y) for x, y in known) / spread if spread else 0.0

    def of(self, facts: BackboneFacts | None) -> float:
        """The expected accuracy in percent; where nothing is known of a backbone, the mean of all."""
        if facts is None or facts.gmacs <= 0:
            return self._mean_y
        # The line goes on for ever, and accuracy does not.
        return min(100.0, self._mean_y + self._slope * (math.log(facts.gmacs) - self._mean_x))
