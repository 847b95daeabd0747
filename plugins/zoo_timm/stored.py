"""The index as it is stored: preprocessing by key, because 1,900 sets of weights share some 200 kinds of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import zoo

from zoo_timm.catalogue import Entry, usual_source


def stored_index(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """What `catalogue.Index` reads, in plain JSON types."""
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
    """JSON with one line for each architecture and each preprocessing, so that a new timm makes a readable change."""
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
    """[tag, preprocessing, licence], then the source where it is not the usual one."""
    row = [weights.tag, _key(weights.preprocessing), weights.licence]
    return row if weights.source == usual_source(architecture, weights.tag) else [*row, asdict(weights.source)]


def _key(preprocessing: zoo.Preprocessing) -> str:
    # Not its place in the table: one more kind of preprocessing would then change the line of every architecture.
    return hashlib.sha256(_line(preprocessing.to_dict()).encode()).hexdigest()[:6]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lines(lines: list[str]) -> str:
    return ",\n".join(lines)
