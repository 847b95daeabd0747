"""`zoo list`."""

from __future__ import annotations

import json
from typing import Any

from zoo import api
from zoo.errors import Refused, UnknownName, either, nearest
from zoo.registry import Plugin, Registry, default_registry
from zoo.registry.names import qualified_name

KINDS = ("backbones", "heads", "recipes", "plugins")


def show_list(kind: str, pattern: str, *, provider: str | None, pretrained: bool, as_json: bool) -> None:
    """Print what there is of a kind. Raises Refused for an unknown kind, UnknownName for a pattern without a match."""
    registry = default_registry()
    if kind and kind not in KINDS:
        close = nearest(kind, KINDS)
        hint = f" Did you mean {either(close)}?" if close else f" There are: {', '.join(KINDS)}."
        raise Refused(f"zoo list does not know {kind!r}.{hint} To look for a backbone: zoo list backbones {kind!r}")
    rows = {
        "": lambda: _overview(registry),
        "backbones": lambda: _backbones(registry, pattern, provider, pretrained),
        "heads": lambda: _named(registry.heads(), "head", pattern),
        "recipes": lambda: _named(registry.recipes(), "recipe", pattern),
        "plugins": lambda: [_plugin(plugin) for plugin in registry.plugins()],
    }[kind]()
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif kind == "":
        _print_overview(rows)
    elif kind == "plugins":
        _print_plugins(rows)
    elif kind == "backbones":
        _print_backbones(rows)
    else:
        _print_named(rows)


def _backbones(registry: Registry, pattern: str, provider: str | None, pretrained: bool) -> list[dict[str, Any]]:
    providers = [held.spec.name for held, _ in registry.backbones().catalogue()]
    if provider is not None and provider not in providers:
        raise UnknownName("provider of backbones", provider, providers, hint=f"There are: {', '.join(providers)}.")
    found = api.list_backbones(pattern or "*", provider=provider, registry=registry)
    found = [each for each in found if each.tags or not pretrained]
    if not found:
        architectures = [name.partition("/")[2] for name in registry.backbones().names()]
        raise UnknownName("backbone like", pattern, architectures, hint="A pattern may hold * and ?.")
    return [
        {"name": each.name, "bare_name": each.bare, "weights": list(each.tags), "default": next(iter(each.tags), None)}
        for each in found
    ]


def _print_backbones(rows: list[dict[str, Any]]) -> None:
    # 1,451 rows take a rich table most of a second: plain columns.
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        more = len(row["weights"]) - 1
        weights = f"{row['default']}{f'  +{more}' if more > 0 else ''}" if row["default"] else "no weights"
        print(f"{row['name']:<{width}}  {weights}")
    import sys

    print(f"{len(rows)} backbones. Next: zoo show {rows[0]['name']}", file=sys.stderr)


def _named(offered: list[Any], kind: str, pattern: str) -> list[dict[str, Any]]:
    rows = [
        {"name": qualified_name(each), "summary": each.spec.summary, "distribution": each.plugin.distribution}
        for each in offered
        if pattern.strip("*") in qualified_name(each)
    ]
    if not rows:
        raise UnknownName(f"{kind} like", pattern, [each.spec.name for each in offered], hint=f"See: zoo list {kind}s")
    return rows


def _print_named(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = "" if row["distribution"] == "zoo-registry" else f"  [{row['distribution']}]"
        print(f"{row['name']:<{width}}  {row['summary']}{origin}")


def _plugin(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "state": plugin.state,
        "brings": plugin.brings,
        "load_seconds": round(plugin.load_seconds, 4),
        "notes": plugin.notes,
        "error": plugin.error,
    }


def _print_plugins(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        brings = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in row["brings"].items())
        milliseconds = f"{1000 * row['load_seconds']:.0f} ms"
        print(f"{row['name']}  {row['distribution']} {row['version']}  {row['state']}  {milliseconds}  {brings}".rstrip())
        for note in row["notes"]:
            print(f"    note: {note}")
        if row["error"]:
            print(f"    error: {row['error']}")


def _overview(registry: Registry) -> dict[str, Any]:
    return {
        "backbones": {held.spec.name: len(catalogue) for held, catalogue in registry.backbones().catalogue()},
        "heads": [each.spec.name for each in registry.heads()],
        "recipes": [each.spec.name for each in registry.recipes()],
        "plugins": {plugin.name: plugin.state for plugin in registry.plugins()},
    }


def _print_overview(rows: dict[str, Any]) -> None:
    total = sum(rows["backbones"].values())
    parts = ", ".join(f"{count} of {name}" for name, count in rows["backbones"].items())
    broken = [name for name, state in rows["plugins"].items() if state == "broken"]
    print(f"backbones  {total:,}: {parts}")
    print(f"heads      {', '.join(rows['heads'])}")
    print(f"recipes    {', '.join(rows['recipes'])}")
    print(f"plugins    {len(rows['plugins'])}" + (f", broken: {', '.join(broken)}" if broken else ""))
    print("\nNext: zoo list backbones resnet    zoo list heads    zoo list recipes    zoo show resnet18")
