"""`zoo list backbones` and `zoo list weights`: plain columns, because 1,451 rows take a rich table most of a second."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from zoo import api
from zoo.errors import OptionError, UnknownName
from zoo.planning.request import parse_input_size
from zoo.registry import Registry
from zoo.registry.catalogue import UNSTATED, Listed
from zoo.specs import BackboneSpec

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_GAP = "  "

Value = TypeVar("Value", int, float)


def parse_count(option: str, text: str) -> int:
    """`25M`, `1.5b`, `300000` -> a number. Raises OptionError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmbg]?)", text.strip().replace("_", "").lower())
    if found is None:
        raise OptionError(f"{option} {text!r} is no count: write 25M, 1.5B, 300k or 25000000.")
    return _positive(option, text, round(float(found.group(1)) * _UNITS[found.group(2)]))


def _parse_number(option: str, text: str) -> float:
    try:
        return _positive(option, text, float(text))
    except ValueError:
        raise OptionError(f"{option} {text!r} is no number: write 4 or 0.5.") from None


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
    """The command line's filters as `zoo.list_backbones` takes them. Raises OptionError for what makes no sense."""
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


def matching(registry: Registry, pattern: str, wanted: dict[str, Any], *, of_weights: bool) -> list[Listed]:
    """What passes; said on stderr where it is nothing. `of_weights`: the pattern is of names with their tags.

    Raises UnknownName for a pattern that matches no name.
    """
    key = "tag_pattern" if of_weights else "pattern"
    given: dict[str, Any] = {key: pattern} if pattern else {}
    limits = {**wanted, "pretrained": of_weights or wanted["pretrained"]}
    found = api.list_backbones(registry=registry, **given, **limits)
    if found or not registry.backbones().names():
        return found
    named = api.list_backbones(provider=wanted["provider"], registry=registry, **given)
    if named:
        filters = ", ".join(f"--{name.replace('_', '-')}" for name, value in wanted.items() if value and name != "sort")
        many = "1 backbone matches" if len(named) == 1 else f"{len(named):,} backbones match"
        print(f"{many} {pattern or '*'!r}, and none passes {filters}. Next: widen or drop a filter.", file=sys.stderr)
        return []
    every = api.list_backbones(provider=wanted["provider"], registry=registry)
    names = [each.name if "/" in pattern else each.spec.architecture for each in every]
    if of_weights:
        names = [f"{name}.{tag}" for name, each in zip(names, every, strict=True) for tag in each.tags]
    kind = "weights" if of_weights else "backbone"
    raise UnknownName(f"{kind} like", pattern, names, hint="A pattern may hold * and ?.")


def backbone_rows(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    """One row for each architecture, as `--json` prints it."""
    return [_row(each) for each in listed]


def _row(each: Listed) -> dict[str, Any]:
    facts = each.facts
    return {
        "name": each.name,
        "bare_name": each.bare and each.usual,
        "parameters": facts and facts.parameters,
        "gmacs": facts and facts.gmacs,
        "features": facts and facts.pooled,
        "map": map_row(each.spec),
        "groups": facts and facts.groups,
        "input_size": list(each.input_size),
        "fixed_input": facts and facts.fixed_input,
        "note": facts.note if facts else "",
        "top1": each.top1,
        "default": next(iter(each.spec.tags), None),
        "weights": list(each.tags),
        "licences": sorted({weights.licence or UNSTATED for weights in each.weights}),
    }


def map_row(spec: BackboneSpec) -> dict[str, int] | None:
    """The map of one image of the default size; stride is in pixels of the image's height."""
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
            "name": f"{each.name}.{weights.tag}",
            "licence": weights.licence,
            "top1": weights.top1,
            "input_size": list(weights.preprocessing.input_size[1:]),
            "preprocessing": weights.preprocessing.to_dict(),
        }
        for each in listed
        for weights in each.weights
    ]


def print_backbones(listed: Sequence[Listed]) -> None:
    """A line for each architecture; on a narrow terminal with fewer columns."""
    # In the order in which they give way: the last is dropped first.
    columns = {
        "name": [_name(each) for each in listed],
        "params": [_parameters(each) for each in listed],
        "weights": [_weights(each) for each in listed],
        "input": [_size(each.input_size) for each in listed],
        "GMACs": [_at_default_size(each, f"{each.facts.gmacs:.2f}") if each.facts else "?" for each in listed],
        "features": [str(each.facts.pooled) if each.facts else "?" for each in listed],
        "map": [_map(each) for each in listed],
        "top-1": ["" if each.top1 is None else f"{each.top1:.1f}" for each in listed],
        "licence": [_licences(each) for each in listed],
    }
    order = ["name", "params", "GMACs", "features", "map", "input", "top-1", "weights", "licence"]
    _print_columns(columns, order, right=("params", "GMACs", "features", "top-1"))
    many = f"{len(listed):,} backbone{'s' if len(listed) > 1 else ''}"
    print(f"{many}. Next: zoo show {_name(listed[0])}", file=sys.stderr)


def print_weights(listed: Sequence[Listed]) -> None:
    """A line for each set of weights."""
    rows = [(f"{each.name}.{weights.tag}", weights) for each in listed for weights in each.weights]
    columns = {
        "name": [name for name, _ in rows],
        "licence": [weights.licence or UNSTATED for _, weights in rows],
        "input": [_size(weights.preprocessing.input_size[1:]) for _, weights in rows],
        "top-1": ["" if weights.top1 is None else f"{weights.top1:.1f}" for _, weights in rows],
    }
    _print_columns(columns, list(columns), right=("top-1",))
    if rows:
        print(f"{len(rows):,} sets of weights. Next: zoo show {rows[0][0]}", file=sys.stderr)


def _print_columns(columns: dict[str, list[str]], order: Sequence[str], *, right: Sequence[str]) -> None:
    widths = {name: max(len(name), *map(len, cells)) if cells else len(name) for name, cells in columns.items()}
    terminal = sys.stdout.isatty()
    shown = list(columns)
    # Where it is no terminal, nothing is left out.
    while terminal and len(shown) > 1 and _total(shown, widths) > shutil.get_terminal_size().columns:
        shown.pop()
    visible = [name for name in order if name in shown]
    template = _GAP.join(f"{{:{'>' if name in right else '<'}{widths[name]}}}" for name in visible)
    rows = zip(*(columns[name] for name in visible), strict=True)
    print("\n".join([template.format(*row).rstrip() for row in [visible, *rows]]))
    hidden = [name for name in order if name not in shown]
    if hidden:
        print(f"Not shown for want of width: {', '.join(hidden)}.", file=sys.stderr)


def _total(names: Sequence[str], widths: dict[str, int]) -> int:
    return sum(widths[name] for name in names) + len(_GAP) * (len(names) - 1)


def _parameters(each: Listed) -> str:
    return f"{each.facts.parameters / 1e6:.1f}M" if each.facts else "?"


def _map(each: Listed) -> str:
    if each.facts is None:
        return "?"
    return _at_default_size(each, "x".join(map(str, each.facts.map))) if each.facts.map else "none"


def _name(each: Listed) -> str:
    """What to pass to --backbone for the weights shown: with the tag where they are not the default."""
    return each.name if each.usual else f"{each.name}.{each.tags[0]}"


def _at_default_size(each: Listed, fact: str) -> str:
    """Facts are of the default weights' input size; of another they are not known."""
    default = each.spec.weights[0].preprocessing if each.spec.weights else each.spec.preprocessing
    return fact if each.input_size == default.input_size[1:] else ""


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _weights(each: Listed) -> str:
    if not each.tags:
        return "no weights"
    more = len(each.tags) - 1
    return f"{each.tags[0]} +{more}" if more else each.tags[0]


def _licences(each: Listed) -> str:
    return ", ".join(sorted({weights.licence or UNSTATED for weights in each.weights}))


def _positive(option: str, text: str, value: Value) -> Value:
    if not value > 0:
        raise OptionError(f"{option} must be above 0, got {text}.")
    return value
