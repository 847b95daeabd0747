"""Writes `index.json` from the installed timm: `python -m zoo_timm.build_index`. It builds every model: minutes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch
import zoo

from zoo_timm import upstream
from zoo_timm.build import feature_width
from zoo_timm.catalogue import INDEX, Entry, usual_source


def measured(architectures: Iterable[str]) -> dict[str, Entry]:
    """What the index says of each architecture, which is built on the meta device to be measured."""
    return {name: _measured(name) for name in architectures}


def _measured(architecture: str) -> Entry:
    with torch.device("meta"):
        module = timm.create_model(architecture, num_classes=0)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return replace(upstream.entry(architecture), parameters=parameters, features=feature_width(module))


def write(path: Path, entries: dict[str, Entry]) -> None:
    """One line for each architecture and each preprocessing, so that a new timm makes a readable difference."""
    kinds = {entry.preprocessing for entry in entries.values()}
    kinds |= {weights.preprocessing for entry in entries.values() for weights in entry.weights}
    table = {_key(kind): _line(kind.to_dict()) for kind in kinds}
    if len(table) != len(kinds):
        raise ValueError("two kinds of preprocessing share a key: make the keys longer")
    preprocessing = [f"{_line(key)}: {line}" for key, line in sorted(table.items())]
    architectures = [f"{_line(name)}: {_line(_stored(name, entries[name]))}" for name in sorted(entries)]
    path.write_text(
        f'{{\n"timm": {_line(timm.__version__)},\n'
        f'"preprocessing": {{\n{_lines(preprocessing)}\n}},\n"architectures": {{\n{_lines(architectures)}\n}}\n}}\n',
        encoding="utf-8",
    )


def _stored(architecture: str, entry: Entry) -> dict[str, Any]:
    """An architecture as it stands in the index: preprocessing by its key, weights as rows."""
    return {
        "summary": entry.summary,
        "parameters": entry.parameters,
        "features": entry.features,
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


def main() -> None:
    """Measure and write everything."""
    entries = measured(timm.list_models())
    write(INDEX, entries)
    print(f"{INDEX}: {len(entries)} architectures, {INDEX.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
