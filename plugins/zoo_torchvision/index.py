"""The catalogue of architectures and weights: shipped as `index.json`, read without torch.

`python -m zoo_torchvision.build_index` writes it from the installed torchvision. Where a newer one is installed, that
one is asked once for its names and weights, and the answer kept; what only building can tell stays from the index.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

import zoo


class Weights(TypedDict):
    """One weights file of an architecture."""

    tag: str
    url: str
    sha256_prefix: str | None
    licence: str | None
    top1: float | None
    """ImageNet-1K top-1 accuracy in percent."""
    preprocessing: dict[str, Any]
    """As `zoo.Preprocessing.to_dict` gives it."""


class Architecture(TypedDict):
    """One architecture without its classifier, and its weights, the default first."""

    summary: str
    facts: dict[str, Any] | None
    """The fields of `zoo.BackboneFacts`; None where it was not built."""
    weights: list[Weights]


class Index(TypedDict):
    """The whole file."""

    torchvision: str
    architectures: dict[str, Architecture]


@lru_cache(maxsize=1)
def read() -> Index:
    """The shipped index, or, where a newer torchvision is installed, one of that version's names and weights."""
    text = Path(__file__).with_name("index.json").read_text(encoding="utf-8")
    shipped: Index = json.loads(text)
    installed = metadata.version("torchvision").partition("+")[0]
    if _release(installed) <= _release(shipped["torchvision"]):
        return shipped
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    kept: Index = zoo.kept_json(
        f"torchvision-{installed}-{digest}.json",
        lambda: _asked_of_torchvision(shipped),
        announce=f"torchvision {installed} is newer than the {shipped['torchvision']} of zoo's index: "
        "asking it for its models, which takes some seconds, once.",
    )
    return kept


def tags() -> dict[str, tuple[str, ...]]:
    """architecture -> its weights tags, the default first."""
    return {name: tuple(each["tag"] for each in entry["weights"]) for name, entry in read()["architectures"].items()}


def architecture(name: str) -> Architecture:
    """Raises LookupError for an unknown name."""
    known = read()["architectures"]
    if name not in known:
        raise LookupError(f"torchvision has no classification model {name!r}")
    return known[name]


def _asked_of_torchvision(shipped: Index) -> Index:
    from zoo_torchvision.build_index import describe, names

    known = shipped["architectures"]
    facts = {name: entry["facts"] for name, entry in known.items()}
    return {
        "torchvision": metadata.version("torchvision"),
        "architectures": {name: {**describe(name), "facts": facts.get(name)} for name in names()},
    }


def _release(version: str) -> tuple[int, int]:
    # Architectures come with minor releases, so a patch release does not cost the import of torchvision.
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
