"""Writes `index.json` from the installed timm: `python -m zoo_timm.build_index`. It builds every model: minutes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch

from zoo_timm import upstream
from zoo_timm.build import feature_width
from zoo_timm.catalogue import INDEX, Entry


def rows(architectures: Iterable[str]) -> dict[str, Entry]:
    """What the index says of each architecture, which is built on the meta device to be measured."""
    measured = {}
    for name in architectures:
        entry = upstream.entry(name)
        with torch.device("meta"):
            module = timm.create_model(name, num_classes=0)
        entry["parameters"] = sum(parameter.numel() for parameter in module.parameters())
        entry["features"] = feature_width(module)
        measured[name] = entry
    return measured


def write(path: Path, entries: dict[str, Entry]) -> None:
    """One line for each architecture and each preprocessing, so that a new timm makes a readable difference."""
    kinds = {_line(used): used for entry in entries.values() for used in _preprocessings(entry)}
    table = {_key(used): line for line, used in kinds.items()}
    if len(table) != len(kinds):
        raise ValueError("two kinds of preprocessing share a key: make the keys longer")
    preprocessing = [f"{json.dumps(key)}: {line}" for key, line in sorted(table.items())]
    architectures = [f"{json.dumps(name)}: {_line(stored(entries[name]))}" for name in sorted(entries)]
    path.write_text(
        f'{{\n"timm": {json.dumps(timm.__version__)},\n'
        f'"preprocessing": {{\n{_lines(preprocessing)}\n}},\n"architectures": {{\n{_lines(architectures)}\n}}\n}}\n',
        encoding="utf-8",
    )


def stored(entry: Entry) -> dict[str, Any]:
    """An architecture as it stands in the index: preprocessing by its key, weights as rows."""
    weights = []
    for each in entry["weights"]:
        row = [each["tag"], _key(each["preprocessing"]), each["licence"]]
        weights.append([*row, each["source"]] if each["source"] else row)
    return {**entry, "preprocessing": _key(entry["preprocessing"]), "weights": weights}


def _preprocessings(entry: Entry) -> list[dict[str, Any]]:
    return [entry["preprocessing"], *(each["preprocessing"] for each in entry["weights"])]


def _key(preprocessing: dict[str, Any]) -> str:
    # Not its place in the table: one more kind of preprocessing would then change the line of every architecture.
    return hashlib.sha256(_line(preprocessing).encode()).hexdigest()[:6]


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lines(lines: list[str]) -> str:
    return ",\n".join(lines)


def main() -> None:
    """Measure and write everything."""
    entries = rows(timm.list_models())
    write(INDEX, entries)
    print(f"{INDEX}: {len(entries)} architectures, {INDEX.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
