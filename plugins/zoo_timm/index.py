"""The index of timm's architectures and weights: its types, and its text in `index.json`.

Preprocessing is stored once per kind and referred to by key, because 1,900 sets of weights share some 200 kinds.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import zoo


def stored_index(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the index of these entries, for the installed timm, in plain JSON types."""
    kinds = {entry.preprocessing for entry in entries.values()}
    kinds |= {weights.preprocessing for entry in entries.values() for weights in entry.weights}
    table = {_key(kind): kind.to_dict() for kind in kinds}
    if len(table) != len(kinds):
        raise ValueError("two kinds of preprocessing share a key: make the keys longer")
    return {
        "timm": version("timm"),
        "preprocessing": dict(sorted(table.items())),
        "architectures": {name: _stored(name, entries[name]) for name in sorted(entries)},
    }


def index_text(index: Mapping[str, Any]) -> str:
    """Return the text of `index.json`. Architectures and kinds have a line each, so that diffs are readable."""
    preprocessing = [f"{_line(key)}: {_line(kind)}" for key, kind in index["preprocessing"].items()]
    architectures = [f"{_line(name)}: {_line(stored)}" for name, stored in index["architectures"].items()]
    return (
        f'{{\n"timm": {_line(index["timm"])},\n'
        f'"preprocessing": {{\n{_lines(preprocessing)}\n}},\n"architectures": {{\n{_lines(architectures)}\n}}\n}}\n'
    )


def _stored(architecture: str, entry: Entry) -> dict[str, Any]:
    return {
        "summary": entry.summary,
        "facts": entry.facts.to_dict() if entry.facts else None,
        "preprocessing": _key(entry.preprocessing),
        "weights": [_row(architecture, weights) for weights in entry.weights],
    }


def _row(architecture: str, weights: zoo.WeightsSpec) -> list[Any]:
    """Return [tag, key of the preprocessing, licence], and the source if it is not the usual one."""
    row = [weights.tag, _key(weights.preprocessing), weights.licence]
    return row if weights.source == usual_source(architecture, weights.tag) else [*row, asdict(weights.source)]


def _key(preprocessing: zoo.Preprocessing) -> str:
    # Not a position in the table: one new kind of preprocessing would then change the lines of all architectures.
    return hashlib.sha256(_line(preprocessing.to_dict()).encode()).hexdigest()[:6]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lines(lines: list[str]) -> str:
    return ",\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the index says about one architecture without its classifier."""

    preprocessing: zoo.Preprocessing
    """The preprocessing of the default weights."""
    weights: tuple[zoo.WeightsSpec, ...]
    """The default weights first; empty if timm publishes none."""
    summary: str
    facts: zoo.BackboneFacts | None = None
    """None if the architecture was not built to measure them."""


class Index:
    """The content of `index.json`. Entries are parsed one at a time, on request: parsing all takes too long."""

    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.timm: str = stored["timm"]
        self._kinds: dict[str, dict[str, Any]] = stored["preprocessing"]
        self._architectures: dict[str, dict[str, Any]] = stored["architectures"]
        self._preprocessing = functools.cache(lambda key: zoo.Preprocessing.from_dict(self._kinds[key]))

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._architectures

    def tags(self) -> dict[str, tuple[str, ...]]:
        """Return the weights tags of every architecture, the default first."""
        return {name: tuple(row[0] for row in stored["weights"]) for name, stored in self._architectures.items()}

    def facts(self) -> dict[str, zoo.BackboneFacts]:
        """Return the facts of every architecture that has them."""
        built = {name: stored["facts"] for name, stored in self._architectures.items() if stored["facts"]}
        return {name: zoo.BackboneFacts.from_dict(facts) for name, facts in built.items()}

    def entry(self, architecture: str) -> Entry:
        """Return the entry of an architecture. Raises KeyError if the index has none of this name."""
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
    """Return the place where timm keeps most weights. The index names a source only if it is another one."""
    return zoo.HubFile(repo_id=f"timm/{architecture}.{tag}")


def _source(stored: dict[str, Any]) -> zoo.HubFile | zoo.UrlFile:
    if "url" in stored:
        return zoo.UrlFile(**stored)
    return zoo.HubFile(**{**stored, "filenames": tuple(stored["filenames"])})
