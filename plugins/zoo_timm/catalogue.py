"""The catalogue of timm's architectures and weights, read from the shipped index.

Reading it imports neither torch nor timm. The index describes one version of timm. If another one is installed, timm
itself is asked once for its names, tags and preprocessing, and the answer is cached; facts that only building can
measure still come from the index.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo

from zoo_timm.index import Entry, Index, stored_index

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

INDEX = Path(__file__).with_name("index.json")


@functools.cache
def index() -> Index:
    """Return the shipped index, or one of the installed timm if that is another version."""
    text = INDEX.read_text("utf-8")
    shipped, installed = Index(json.loads(text)), version("timm")
    if installed == shipped.timm:
        return shipped
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Index(
        zoo.cached_json(
            f"timm-{installed}-{digest}.json",
            lambda: query_upstream(shipped),
            announce=f"timm {installed} is not the {shipped.timm} of zoo's index: asking it for its models, "
            "which takes some seconds, once.",
        )
    )


def query_upstream(shipped: Index) -> dict[str, Any]:
    """Return an index of the installed timm, with the facts of the shipped one. Imports timm."""
    from zoo_timm import upstream

    facts = shipped.facts()
    return stored_index({name: replace(upstream.entry(name), facts=facts.get(name)) for name in upstream.names()})


def architectures() -> Mapping[str, tuple[str, ...]]:
    """Return the weights tags of every architecture, the default first; no tags if no weights are published."""
    return index().tags()


@functools.cache
def resolve(architecture: str) -> zoo.BackboneSpec:
    """Return the spec of an architecture. Raises LookupError if timm has none of this name."""
    if architecture not in index():
        raise LookupError(f"timm {index().timm} has no architecture {architecture!r}")
    return spec(architecture, index().entry(architecture))


def spec(architecture: str, entry: Entry) -> zoo.BackboneSpec:
    """Return the backbone spec that an entry of the index describes."""
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


# Functions of the module, not of `build` and `upstream`: those import torch, and a spec must not.
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
