"""What timm has, from the index that ships with this package, so that a listing needs neither torch nor timm.

The index is right for the version of timm that it was made from. Where another one is installed, timm itself is asked,
which takes the seconds that importing it takes; only what cannot be had without building stays from the index.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import zoo

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

INDEX = Path(__file__).with_name("index.json")


class Weights(TypedDict):
    """One pretrained tag of an architecture."""

    tag: str
    preprocessing: dict[str, Any]
    licence: str | None
    source: dict[str, Any] | None
    """Arguments of `zoo.HubFile` or `zoo.UrlFile`; None: the hub's `timm/ARCHITECTURE.TAG`."""


class Entry(TypedDict):
    """What the catalogue knows of one architecture."""

    preprocessing: dict[str, Any]
    weights: list[Weights]
    """The default first."""
    summary: str
    parameters: NotRequired[int]
    features: NotRequired[int]


class Index:
    """The index file, taken apart only as far as is asked."""

    def __init__(self, path: Path) -> None:
        stored = json.loads(path.read_text(encoding="utf-8"))
        self.timm: str = stored["timm"]
        self._preprocessing: dict[str, dict[str, Any]] = stored["preprocessing"]
        self._architectures: dict[str, dict[str, Any]] = stored["architectures"]

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._architectures

    def tags(self) -> dict[str, tuple[str, ...]]:
        """architecture -> its weights tags, the default first."""
        return {name: tuple(row[0] for row in stored["weights"]) for name, stored in self._architectures.items()}

    def entry(self, architecture: str) -> Entry:
        """Raises KeyError for an architecture that it does not hold."""
        stored = self._architectures[architecture]
        return Entry(
            preprocessing=self._preprocessing[stored["preprocessing"]],
            weights=[self._weights(row) for row in stored["weights"]],
            summary=stored["summary"],
            parameters=stored["parameters"],
            features=stored["features"],
        )

    def _weights(self, row: list[Any]) -> Weights:
        tag, preprocessing, licence, *source = row
        return Weights(
            tag=tag,
            preprocessing=self._preprocessing[preprocessing],
            licence=licence,
            source=source[0] if source else None,
        )


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
    weights = tuple(_weights_spec(architecture, each) for each in entry["weights"])
    features = f"; {entry['features']} features" if "features" in entry else ""
    return zoo.BackboneSpec(
        provider="timm",
        architecture=architecture,
        build=functools.partial(_build, architecture),
        preprocessing=_preprocessing(entry["preprocessing"]),
        weights=weights,
        summary=entry["summary"] + features,
        parameters=entry.get("parameters"),
        reference=functools.partial(_reference, architecture),
    )


def _entry(architecture: str) -> Entry:
    if architecture in index() and index_is_current():
        return index().entry(architecture)
    from zoo_timm import upstream

    entry = upstream.entry(architecture)
    if architecture in index():
        known = index().entry(architecture)
        entry["parameters"], entry["features"] = known["parameters"], known["features"]
    return entry


def _weights_spec(architecture: str, stored: Weights) -> zoo.WeightsSpec:
    return zoo.WeightsSpec(
        tag=stored["tag"],
        preprocessing=_preprocessing(stored["preprocessing"]),
        source=_source(f"timm/{architecture}.{stored['tag']}", stored["source"]),
        licence=stored["licence"],
    )


def _source(usual: str, stored: dict[str, Any] | None) -> zoo.HubFile | zoo.UrlFile:
    if stored is None:
        return zoo.HubFile(repo_id=usual)
    if "url" in stored:
        return zoo.UrlFile(**stored)
    filenames = {"filenames": tuple(stored["filenames"])} if "filenames" in stored else {}
    return zoo.HubFile(**{**stored, **filenames})


def _preprocessing(stored: dict[str, Any]) -> zoo.Preprocessing:
    return zoo.Preprocessing.from_dict(stored)


def _build(architecture: str, *, tag: str | None, state: Mapping[str, Tensor] | None) -> zoo.Backbone:
    from zoo_timm.build import build

    return build(architecture, tag=tag, state=state)


def _reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    from zoo_timm.upstream import reference

    return reference(architecture, tag)
