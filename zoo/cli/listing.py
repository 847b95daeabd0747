"""`zoo list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from zoo import api
from zoo.errors import Refused, UnknownName, either, nearest
from zoo.registry import Plugin, Registry, default_registry
from zoo.registry.names import qualified_name

KINDS = ("backbones", "heads", "recipes", "plugins")


def show_list(kind: str, pattern: str, *, provider: str | None, pretrained: bool, as_json: bool) -> None:
    """Print what there is of a kind. Raises Refused for an unknown kind, UnknownName for a pattern without a match."""
    if kind and kind not in KINDS:
        close = nearest(kind, KINDS)
        look = f"There are: {', '.join(KINDS)}. To look for a backbone: zoo list backbones {kind!r}"
        raise Refused(f"zoo list does not know {kind!r}. {f'Did you mean {either(close)}?' if close else look}")
    if kind != "backbones" and (pretrained or provider is not None):
        option = "--pretrained" if pretrained else f"--provider {provider}"
        raise Refused(f"{option} chooses among backbones. Next: zoo list backbones {option}")
    registry = default_registry()
    listings: dict[str, Callable[[], Any]] = {
        "": lambda: _overview(registry),
        "backbones": lambda: _backbones(registry, pattern, provider, pretrained),
        "heads": lambda: _named(registry.heads(), "head", pattern),
        "recipes": lambda: _named(registry.recipes(), "recipe", pattern),
        "plugins": lambda: _plugins(registry, pattern),
    }
    rows = listings[kind]()
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif kind == "":
        _print_overview(rows)
    elif not rows:
        print(f"There are no {kind}. See: zoo list plugins", file=sys.stderr)
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
    offered = api.list_backbones(provider=provider, registry=registry)
    offered = [each for each in offered if each.tags or not pretrained]
    matching = {each.name for each in api.list_backbones(pattern or "*", provider=provider, registry=registry)}
    found = [each for each in offered if each.name in matching]
    if offered and not found:
        known = [each.name if "/" in pattern else each.name.partition("/")[2] for each in offered]
        raise UnknownName("backbone like", pattern, known, hint="A pattern may hold * and ?.")
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
    print(f"{len(rows)} backbone{'s' if len(rows) > 1 else ''}. Next: zoo show {rows[0]['name']}", file=sys.stderr)


def _named(offered: list[Any], kind: str, pattern: str) -> list[dict[str, Any]]:
    rows = [
        {"name": qualified_name(each), "summary": each.spec.summary, "distribution": each.plugin.distribution}
        for each in offered
        if _matches(pattern, each.spec.name, qualified_name(each))
    ]
    if offered and not rows:
        raise UnknownName(f"{kind} like", pattern, [each.spec.name for each in offered], hint=f"See: zoo list {kind}s")
    return rows


def _matches(pattern: str, *names: str) -> bool:
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return any(fnmatchcase(name, wanted) for name in names)


def _print_named(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = "" if row["distribution"] == "zoo-registry" else f"  [{row['distribution']}]"
        print(f"{row['name']:<{width}}  {row['summary']}{origin}")


def _plugins(registry: Registry, pattern: str) -> list[dict[str, Any]]:
    plugins = registry.plugins()
    rows = [_plugin(each) for each in plugins if _matches(pattern, each.name, each.distribution)]
    if plugins and not rows:
        known = [name for each in plugins for name in (each.name, each.distribution)]
        raise UnknownName("plugin like", pattern, known, hint="See: zoo list plugins")
    return rows


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
        print(
            f"{row['name']}  {row['distribution']} {row['version']}  {row['state']}  {milliseconds}  {brings}".rstrip()
        )
        for note in row["notes"]:
            print(f"    note: {note}")
        if row["error"]:
            print(f"    error: {row['error']}")


def _overview(registry: Registry) -> dict[str, Any]:
    return {
        "backbones": {held.spec.name: len(catalogue) for held, catalogue in registry.backbones().catalogue()},
        "heads": [each.spec.name for each in registry.heads()],
        "recipes": [each.spec.name for each in registry.recipes()],
        "plugins": [{"name": plugin.name, "state": plugin.state} for plugin in registry.plugins()],
    }


def _by_state(plugins: list[dict[str, str]]) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for plugin in plugins:
        states.setdefault(plugin["state"], []).append(plugin["name"])
    return states


def _print_overview(rows: dict[str, Any]) -> None:
    total = sum(rows["backbones"].values())
    parts = ", ".join(f"{count} of {name}" for name, count in rows["backbones"].items())
    unusual = [
        f", {state}: {', '.join(names)}" for state, names in _by_state(rows["plugins"]).items() if state != "loaded"
    ]
    print(f"backbones  {total:,}{f': {parts}' if parts else ''}")
    print(f"heads      {', '.join(rows['heads']) or 'none'}")
    print(f"recipes    {', '.join(rows['recipes']) or 'none'}")
    print(f"plugins    {len(rows['plugins'])}{''.join(unusual)}")
    print("\nNext: zoo list backbones resnet    zoo list heads    zoo list recipes    zoo show resnet18")
