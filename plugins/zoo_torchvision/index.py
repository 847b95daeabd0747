"""The index of torchvision's architectures and weights: its types, and its text in `index.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TypedDict


class WeightsEntry(TypedDict):
    """One weights file of an architecture, in plain JSON types."""

    tag: str
    url: str
    sha256_prefix: str | None
    licence: str | None
    top1: float | None
    """ImageNet-1K top-1 accuracy in percent."""
    preprocessing: dict[str, Any]
    """The fields of `zoo.Preprocessing`."""


class Entry(TypedDict):
    """What the index says about one architecture without its classifier."""

    summary: str
    facts: dict[str, Any] | None
    """The fields of `zoo.BackboneFacts`; None if the architecture was not built to measure them."""
    weights: list[WeightsEntry]
    """The default weights first."""


class Index(TypedDict):
    """The content of `index.json`."""

    torchvision: str
    """The version of torchvision that the index describes."""
    architectures: dict[str, Entry]


def installed_version() -> str:
    """Return the version of the installed torchvision without its local part (`+cu126`)."""
    # A build for another accelerator has the same models.
    return metadata.version("torchvision").partition("+")[0]


def stored_index(entries: Mapping[str, Entry]) -> Index:
    """Return the index of these entries, for the installed torchvision."""
    return {"torchvision": installed_version(), "architectures": dict(entries)}


def index_text(index: Index) -> str:
    """Return the text of `index.json`. Each architecture has a line of its own, so that diffs are readable."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(index["architectures"].items())]
    body = ",\n".join(lines)
    return f'{{"torchvision": {json.dumps(index["torchvision"])}, "architectures": {{\n{body}\n}}}}\n'
