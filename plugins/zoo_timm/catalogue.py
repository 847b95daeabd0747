"""What timm has, from the index that ships with this package, so that a listing needs neither torch nor timm.

The index is right for the version of timm that it was made from. Where another one is installed, timm itself is asked
once for its names, tags and preprocessing, and the answer kept; what only building can tell stays from the index.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

INDEX = Path(__file__).with_name("index.json")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the catalogue knows of one architecture."""

    preprocessing: zoo.Preprocessing
    weights: tuple[zoo.WeightsSpec, ...]
    """The default first."""
    summary: str
    facts: zoo.BackboneFacts | None = None
    """None where it was not built."""


class Index:
    """The index file's content, taken apart only as far as is asked."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.timm: str = stored["timm"]
        self._kinds: dict[str, dict[str, Any]] = stored["preprocessing"]
        self._architectures: dict[str, dict[str, Any]] = stored["architectures"]
        self._preprocessing = functools.cache(lambda key: zoo.Preprocessing.from_dict(self._kinds[key]))

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._architectures

    def tags(self) -> dict[str, tuple[str, ...]]:
        """architecture -> its weights tags, the default first."""
        return {name: tuple(row[0] for row in stored["weights"]) for name, stored in self._architectures.items()}

    def facts(self) -> dict[str, zoo.BackboneFacts]:
        """Of every architecture that was built."""
        built = {name: stored["facts"] for name, stored in self._architectures.items() if stored["facts"]}
        return {name: zoo.BackboneFacts.from_dict(facts) for name, facts in built.items()}

    def entry(self, architecture: str) -> Entry:
        """Raises KeyError for an architecture that it does not hold."""
        stored = self._architectures[architecture]
        return Entry(
            preprocessing=self._preprocessing(stored["preprocessing"]),
            weights=tuple(self._weights(architecture, *row) for row in stored["weights"]),
            summary=stored["summary"],
            facts=zoo.BackboneFacts.from_dict(stored["facts"]) if stored["facts"] else None,
        )

    def _weights(
        self, architecture: str, tag: str, preprocessing: str, licence: str | None, source: dict[str, Any] | None = None
    ) -> zoo.WeightsSpec:
        return zoo.WeightsSpec(
            tag=tag,
            preprocessing=self._preprocessing(preprocessing),
            source=_source(source) if source else usual_source(architecture, tag),
            licence=licence,
        )


def usual_source(architecture: str, tag: str) -> zoo.HubFile:
    """Where timm keeps most weights; the index names only other places."""
    return zoo.HubFile(repo_id=f"timm/{architecture}.{tag}")


def _source(stored: dict[str, Any]) -> zoo.HubFile | zoo.UrlFile:
    if "url" in stored:
        return zoo.UrlFile(**stored)
    return zoo.HubFile(**{**stored, "filenames": tuple(stored["filenames"])})


@functools.cache
def index() -> Index:
    """The shipped index, or, where another timm is installed, one of that version's names."""
    text = INDEX.read_text("utf-8")
    shipped, installed = Index(json.loads(text)), version("timm")
    if installed == shipped.timm:
        return shipped
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Index(
        zoo.kept_json(
            f"timm-{installed}-{digest}.json",
            lambda: _asked_of_timm(shipped),
            announce=f"timm {installed} is not the {shipped.timm} of zoo's index: asking it for its models, "
            "which takes some seconds, once.",
        )
    )


def _asked_of_timm(shipped: Index) -> dict[str, Any]:
    from zoo_timm import upstream
    from zoo_timm.stored import stored_index

    facts = shipped.facts()
    return stored_index({name: replace(upstream.entry(name), facts=facts.get(name)) for name in upstream.names()})


def architectures() -> Mapping[str, tuple[str, ...]]:
    """architecture -> its weights tags, the default first; empty where nobody published any."""
    return index().tags()


@functools.cache
def resolve(architecture: str) -> zoo.BackboneSpec:
    """The architecture's spec. Raises LookupError for a name that timm does not know."""
    if architecture not in index():
        raise LookupError(f"timm {index().timm} has no architecture {architecture!r}")
    return spec(architecture, index().entry(architecture))


def spec(architecture: str, entry: Entry) -> zoo.BackboneSpec:
    """An entry as zoo's registry takes it."""
    return zoo.BackboneSpec(
        provider="timm",
        architecture=architecture,
        build=functools.partial(_build, architecture),
        preprocessing=entry.preprocessing,
        weights=entry.weights,
        summary=entry.summary,
        facts=entry.facts,
        reference=functools.partial(_reference, architecture),
    )


def _build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    from zoo_timm.build import build

    return build(architecture, tag=tag, state=state, input_size=input_size)


def _reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    from zoo_timm.upstream import reference

    return reference(architecture, tag)
