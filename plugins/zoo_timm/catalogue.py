"""What timm has, from the index that ships with this package, so that a listing needs neither torch nor timm.

The index is right for the version of timm that it was made from. Where another one is installed, timm itself is asked,
which takes the seconds that importing it takes; only what cannot be had without building stays from the index.
"""

from __future__ import annotations

import functools
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the catalogue knows of one architecture."""

    preprocessing: zoo.Preprocessing
    weights: tuple[zoo.WeightsSpec, ...]
    """The default first."""
    summary: str
    parameters: int | None = None
    """Without the classifier; None where it was not built."""
    features: int | None = None
    """F of the pooled features[N, F]; None where it was not built."""


class Index:
    """The index file, taken apart only as far as is asked."""

    def __init__(self, path: Path) -> None:
        stored = json.loads(path.read_text(encoding="utf-8"))
        self.timm: str = stored["timm"]
        self._kinds: dict[str, dict[str, Any]] = stored["preprocessing"]
        self._architectures: dict[str, dict[str, Any]] = stored["architectures"]
        self._preprocessing = functools.cache(lambda key: zoo.Preprocessing.from_dict(self._kinds[key]))

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._architectures

    def tags(self) -> dict[str, tuple[str, ...]]:
        """architecture -> its weights tags, the default first."""
        return {name: tuple(row[0] for row in stored["weights"]) for name, stored in self._architectures.items()}

    def entry(self, architecture: str) -> Entry:
        """Raises KeyError for an architecture that it does not hold."""
        stored = self._architectures[architecture]
        return Entry(
            preprocessing=self._preprocessing(stored["preprocessing"]),
            weights=tuple(self._weights(architecture, *row) for row in stored["weights"]),
            summary=stored["summary"],
            parameters=stored["parameters"],
            features=stored["features"],
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
    return Index(INDEX)


@functools.cache
def index_is_current() -> bool:
    """Whether the index was made from the installed version of timm."""
    return version("timm") == index().timm


def architectures() -> Mapping[str, tuple[str, ...]]:
    """architecture -> its weights tags, the default first; empty where nobody published any."""
    if index_is_current():
        return index().tags()
    from zoo_timm import upstream

    return upstream.tags()


@functools.cache
def resolve(architecture: str) -> zoo.BackboneSpec:
    """The architecture's spec. Raises LookupError for a name that timm does not know."""
    entry = _entry(architecture)
    return zoo.BackboneSpec(
        provider="timm",
        architecture=architecture,
        build=functools.partial(_build, architecture),
        preprocessing=entry.preprocessing,
        weights=entry.weights,
        summary=f"{entry.summary}; {entry.features} features" if entry.features else entry.summary,
        parameters=entry.parameters,
        reference=functools.partial(_reference, architecture),
    )


def _entry(architecture: str) -> Entry:
    if architecture in index() and index_is_current():
        return index().entry(architecture)
    from zoo_timm import upstream

    entry = upstream.entry(architecture)
    if architecture not in index():
        return entry
    built = index().entry(architecture)
    return replace(entry, parameters=built.parameters, features=built.features)


def _build(architecture: str, *, tag: str | None, state: Mapping[str, Tensor] | None) -> zoo.Backbone:
    from zoo_timm.build import build

    return build(architecture, tag=tag, state=state)


def _reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    from zoo_timm.upstream import reference

    return reference(architecture, tag)
