"""The catalogue of architectures and weights: shipped as `index.json`, read without torch.

`python -m zoo_torchvision.build_index` writes it from the installed torchvision.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import metadata, resources
from typing import Any, TypedDict


class Weights(TypedDict):
    """One weights file of an architecture."""

    tag: str
    url: str
    sha256_prefix: str | None
    licence: str | None
    top1: float | None
    """ImageNet-1K top-1 accuracy in percent."""
    megabytes: float | None
    preprocessing: dict[str, Any]
    """As `zoo.Preprocessing.to_dict` gives it."""


class Architecture(TypedDict):
    """One architecture without its classifier, and its weights, the default first."""

    summary: str
    parameters: int
    pooled: int
    weights: list[Weights]


class Index(TypedDict):
    """The whole file."""

    torchvision: str
    architectures: dict[str, Architecture]


@lru_cache(maxsize=1)
def read() -> Index:
    """The shipped index."""
    index: Index = json.loads(resources.files(__package__).joinpath("index.json").read_text(encoding="utf-8"))
    return index


def tags() -> dict[str, tuple[str, ...]]:
    """architecture -> its weights tags, the default first.

    That is the index; only a torchvision newer than the index is imported and asked for the names it added.
    """
    known = {name: tuple(each["tag"] for each in entry["weights"]) for name, entry in read()["architectures"].items()}
    return known | _added() if _newer_installed() else known


def architecture(name: str) -> Architecture:
    """From the index, or from an installed torchvision that is newer. Raises LookupError for an unknown name."""
    known = read()["architectures"]
    if name in known:
        return known[name]
    if _newer_installed() and name in _added():
        from zoo_torchvision.build_index import describe

        return describe(name)
    raise LookupError(f"torchvision has no classification model {name!r}")


def _newer_installed() -> bool:
    # Architectures come with minor releases, so a patch release does not cost the import of torchvision.
    return _release(metadata.version("torchvision")) > _release(read()["torchvision"])


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@lru_cache(maxsize=1)
def _added() -> dict[str, tuple[str, ...]]:
    from zoo_torchvision.build_index import installed_tags

    known = read()["architectures"]
    return {name: tags for name, tags in installed_tags().items() if name not in known}
