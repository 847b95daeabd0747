"""The catalogue of torchvision's architectures and weights, read from the shipped index.

Reading it imports neither torch nor torchvision. The index describes one version of torchvision. If a newer one is
installed, torchvision itself is asked once for its names, tags and preprocessing, and the answer is cached; facts that
only building can measure still come from the index.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import zoo

from zoo_torchvision.index import installed_version, stored_index

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zoo_torchvision.index import Entry, Index, WeightsEntry

INDEX = Path(__file__).with_name("index.json")


@functools.cache
def index() -> Index:
    """Return the shipped index, or one of the installed torchvision if that is newer."""
    text = INDEX.read_text("utf-8")
    shipped: Index = json.loads(text)
    installed = installed_version()
    if _release(installed) <= _release(shipped["torchvision"]):
        return shipped
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    cached: Index = zoo.cached_json(
        f"torchvision-{installed}-{digest}.json",
        lambda: query_upstream(shipped),
        announce=f"torchvision {installed} is newer than the {shipped['torchvision']} of zoo's index: "
        "asking it for its models, which takes some seconds, once.",
    )
    return cached


def query_upstream(shipped: Index) -> Index:
    """Return an index of the installed torchvision, with the facts of the shipped one. Imports torchvision."""
    from zoo_torchvision import upstream

    facts = {name: entry["facts"] for name, entry in shipped["architectures"].items()}
    return stored_index({name: {**upstream.entry(name), "facts": facts.get(name)} for name in upstream.names()})


def architectures() -> Mapping[str, tuple[str, ...]]:
    """Return the weights tags of every architecture, the default first."""
    entries = index()["architectures"]
    return {name: tuple(weights["tag"] for weights in entry["weights"]) for name, entry in entries.items()}


def resolve(architecture: str) -> zoo.BackboneSpec:
    """Return the spec of an architecture. Raises LookupError if torchvision has none of this name."""
    entries = index()["architectures"]
    if architecture not in entries:
        raise LookupError(f"torchvision has no classification model {architecture!r}")
    return spec(architecture, entries[architecture])


def spec(architecture: str, entry: Entry) -> zoo.BackboneSpec:
    """Return the backbone spec that an entry of the index describes."""
    weights = tuple(_weights(stored) for stored in entry["weights"])
    return zoo.BackboneSpec(
        provider="torchvision",
        architecture=architecture,
        build=functools.partial(_build, architecture),
        preprocessing=weights[0].preprocessing,
        weights=weights,
        summary=entry["summary"],
        facts=zoo.BackboneFacts.from_dict(entry["facts"]) if entry["facts"] else None,
        reference=functools.partial(_reference, architecture),
    )


def _release(version: str) -> tuple[int, int]:
    # New architectures come with minor releases only, so a patch release need not import torchvision.
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _weights(stored: WeightsEntry) -> zoo.WeightsSpec:
    return zoo.WeightsSpec(
        tag=stored["tag"],
        preprocessing=zoo.Preprocessing.from_dict(stored["preprocessing"]),
        source=zoo.UrlFile(url=stored["url"], sha256_prefix=stored["sha256_prefix"]),
        licence=stored["licence"],
        top1=stored["top1"],
    )


# Functions of the module, not of `build` and `upstream`: those import torch, and a spec must not.
def _build(
    architecture: str,
    *,
    tag: str | None,
    state: Mapping[str, Tensor] | None,
    input_size: tuple[int, int] | None = None,
) -> zoo.Backbone:
    from zoo_torchvision.build import build

    return build(architecture, tag=tag, state=state, input_size=input_size)


def _reference(architecture: str, tag: str | None) -> Callable[[Image], Tensor]:
    from zoo_torchvision.upstream import reference

    return reference(architecture, tag)
