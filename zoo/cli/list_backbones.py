"""`zoo list backbones` and `zoo list weights`: filters, rows and columns.

The columns are printed without rich: its table takes most of a second for 1,451 rows.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

import zoo
from zoo.display.console import Verbosity, hint
from zoo.display.wrapping import say
from zoo.errors import OptionError, UnknownName
from zoo.planning.request import parse_count, parse_input_size
from zoo.registry.catalogue import UNSTATED, Listed
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneSpec

_GAP = "  "
"""Between two columns."""


def _parse_number(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise OptionError(f"{option} {text!r} is not a number.\nNext: write it as 4 or 0.5.") from None
    # Written so that it refuses `nan`, which is a number to Python.
    if not value > 0:
        raise OptionError(f"{option} must be above 0, got {text}.\nNext: leave {option} out, for no limit.")
    return value


def filters(
    *,
    provider: str | None,
    pretrained: bool,
    max_params: str | None,
    max_gmacs: str | None,
    licence: str | None,
    input_size: str | None,
    head: str | None,
    sort: str | None,
) -> dict[str, Any]:
    """Filters as typed -> as `zoo.list_backbones` takes them. Raises OptionError for a value that it cannot take."""
    return {
        "provider": provider,
        "pretrained": pretrained,
        "max_params": None if max_params is None else parse_count("--max-params", max_params),
        "max_gmacs": None if max_gmacs is None else _parse_number("--max-gmacs", max_gmacs),
        "licence": licence,
        "input_size": None if input_size is None else parse_input_size(input_size),
        "head": head,
        "sort": sort,
    }


def matching(registry: Registry, pattern: str, filters: dict[str, Any], *, of_weights: bool) -> list[Listed]:
    """The backbones that match the pattern and pass the filters; if only the filters leave none, stderr says so.

    `of_weights`: the pattern is for names of weights, `architecture.tag`.

    Raises UnknownName for a pattern that matches no name.
    """
    name_filter: dict[str, Any] = {"tag_pattern" if of_weights else "pattern": pattern} if pattern else {}
    # Of weights, a backbone that has none adds no row: without such ones, an empty list means that nothing was found.
    limits = {**filters, "pretrained": of_weights or filters["pretrained"]}
    listed = zoo.list_backbones(registry=registry, **name_filter, **limits)
    if listed or not registry.backbones().names():
        return listed
    # Whether the pattern or a filter leaves nothing decides what to say.
    named = zoo.list_backbones(provider=filters["provider"], registry=registry, **name_filter)
    if named:
        # `named` has the provider already. Sorting leaves nothing out.
        narrowing = [name for name, value in filters.items() if value and name not in ("provider", "sort")]
        options = ", ".join(f"--{name.replace('_', '-')}" for name in narrowing)
        many = "1 backbone matches" if len(named) == 1 else f"{len(named):,} backbones match"
        # Without a filter, only a list of weights leaves out what matches.
        why = f"passes {options}. Next: widen or drop a filter" if options else "has weights. Next: zoo list backbones"
        say(f"{many} {pattern or '*'!r}, but none {why}.", to_stderr=True)
        return []
    candidates = zoo.list_backbones(provider=filters["provider"], registry=registry)
    names = [backbone.name if "/" in pattern else backbone.spec.architecture for backbone in candidates]
    # Such a pattern is for names with a tag, so suggestions have one.
    if of_weights:
        names = [f"{name}.{tag}" for name, backbone in zip(names, candidates, strict=True) for tag in backbone.tags]
    kind, of = ("weights", "weights") if of_weights else ("backbone", "backbones")
    raise UnknownName(f"{kind} like", pattern, names, hint="A pattern may hold * and ?.", step=f"zoo list {of}")


def backbone_rows(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    """One row for each architecture, as `--json` prints it."""
    return [_row(backbone) for backbone in listed]


def _row(backbone: Listed) -> dict[str, Any]:
    facts = backbone.facts
    return {
        "name": backbone.name,
        "bare_name": backbone.bare and backbone.usual,
        "parameters": facts and facts.parameters,
        "gmacs": facts and facts.gmacs,
        "features": facts and facts.pooled,
        "map": map_row(backbone.spec),
        "groups": facts and facts.groups,
        "input_size": list(backbone.input_size),
        "fixed_input": facts and facts.fixed_input,
        "note": facts.note if facts else "",
        "top1": backbone.top1,
        "default": next(iter(backbone.spec.tags), None),
        "weights": list(backbone.tags),
        "licences": sorted({weights.licence or UNSTATED for weights in backbone.weights}),
    }


def map_row(spec: BackboneSpec) -> dict[str, int] | None:
    """The map of one image of the default size; the stride is in pixels of the image's height. None without a map."""
    if spec.facts is None or spec.facts.map is None:
        return None
    channels, height, width = spec.facts.map
    default = spec.weights[0].preprocessing if spec.weights else spec.preprocessing
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "stride": round(default.input_size[1] / height),
    }


def weights_rows(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    """One row for each set of weights, as `--json` prints it."""
    return [
        {
            "name": f"{backbone.name}.{weights.tag}",
            "licence": weights.licence,
            "top1": weights.top1,
            "input_size": list(weights.preprocessing.input_size[1:]),
            "preprocessing": weights.preprocessing.to_dict(),
        }
        for backbone in listed
        for weights in backbone.weights
    ]


def print_backbones(listed: Sequence[Listed], verbosity: Verbosity) -> None:
    """Print a line for each architecture. On a narrow terminal, some columns are left out."""
    # By importance: on a narrow terminal the last is left out first.
    columns = {
        "name": [_name(backbone) for backbone in listed],
        "params": [_parameters(backbone) for backbone in listed],
        "weights": [_weights(backbone) for backbone in listed],
        "input": [_size(backbone.input_size) for backbone in listed],
        "GMACs": [_gmacs(backbone) for backbone in listed],
        "features": [str(backbone.facts.pooled) if backbone.facts else "?" for backbone in listed],
        "map": [_map(backbone) for backbone in listed],
        "top-1": ["" if backbone.top1 is None else f"{backbone.top1:.1f}" for backbone in listed],
        "licence": [_licences(backbone) for backbone in listed],
    }
    order = ["name", "params", "GMACs", "features", "map", "input", "top-1", "weights", "licence"]
    _print_columns(columns, order, right=("params", "GMACs", "features", "top-1"))
    many = f"{len(listed):,} backbone{'s' if len(listed) > 1 else ''}"
    hint(f"{many}. Next: zoo show {_name(listed[0])}", verbosity)


def print_weights(listed: Sequence[Listed], verbosity: Verbosity) -> None:
    """Print a line for each set of weights."""
    rows = [(f"{backbone.name}.{weights.tag}", weights) for backbone in listed for weights in backbone.weights]
    columns = {
        "name": [name for name, _ in rows],
        "licence": [weights.licence or UNSTATED for _, weights in rows],
        "input": [_size(weights.preprocessing.input_size[1:]) for _, weights in rows],
        "top-1": ["" if weights.top1 is None else f"{weights.top1:.1f}" for _, weights in rows],
    }
    _print_columns(columns, list(columns), right=("top-1",))
    if rows:
        hint(f"{len(rows):,} sets of weights. Next: zoo show {rows[0][0]}", verbosity)


def _name(backbone: Listed) -> str:
    """The name for `--backbone`, with a tag if the weights shown are not the default ones."""
    return backbone.name if backbone.usual else f"{backbone.name}.{backbone.tags[0]}"


def _parameters(backbone: Listed) -> str:
    return f"{backbone.facts.parameters / 1e6:.1f}M" if backbone.facts else "?"


def _gmacs(backbone: Listed) -> str:
    return _at_default_size(backbone, f"{backbone.facts.gmacs:.2f}") if backbone.facts else "?"


def _at_default_size(backbone: Listed, fact: str) -> str:
    """The fact, or nothing for another input size: facts are measured at that of the default weights."""
    default = backbone.spec.weights[0].preprocessing if backbone.spec.weights else backbone.spec.preprocessing
    return fact if backbone.input_size == default.input_size[1:] else ""


def _map(backbone: Listed) -> str:
    if backbone.facts is None:
        return "?"
    return _at_default_size(backbone, "x".join(map(str, backbone.facts.map))) if backbone.facts.map else "none"


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _weights(backbone: Listed) -> str:
    if not backbone.tags:
        return "no weights"
    more = len(backbone.tags) - 1
    return f"{backbone.tags[0]} +{more}" if more else backbone.tags[0]


def _licences(backbone: Listed) -> str:
    return ", ".join(sorted({weights.licence or UNSTATED for weights in backbone.weights}))


def _print_columns(columns: dict[str, list[str]], order: Sequence[str], *, right: Sequence[str]) -> None:
    widths = {name: max(len(name), *map(len, cells)) if cells else len(name) for name, cells in columns.items()}
    terminal = sys.stdout.isatty()
    shown = list(columns)
    # Off a terminal nothing is left out: a program may read it.
    while terminal and len(shown) > 1 and _total(shown, widths) > shutil.get_terminal_size().columns:
        shown.pop()
    visible = [name for name in order if name in shown]
    template = _GAP.join(f"{{:{'>' if name in right else '<'}{widths[name]}}}" for name in visible)
    rows = zip(*(columns[name] for name in visible), strict=True)
    print("\n".join([template.format(*row).rstrip() for row in [visible, *rows]]))
    hidden = [name for name in order if name not in shown]
    if hidden:
        say(f"Not shown, the terminal is too narrow: {', '.join(hidden)}.", to_stderr=True)


def _total(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + len(_GAP) * (len(names) - 1)
