"""`zoo list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zoo.cli import backbones
from zoo.cli.extra_commands import command_plugins
from zoo.data.dataset import FOLDER
from zoo.data.sources import FOLDER_SUMMARY
from zoo.entry_points import DISTRIBUTION
from zoo.errors import Refused, UnknownName, either, nearest
from zoo.registry import Plugin, Registry, default_registry
from zoo.registry.catalogue import matches
from zoo.registry.names import qualified_name

KINDS = ("backbones", "weights", "heads", "recipes", "observers", "sources", "plugins")
_NEXT = {
    "zoo list backbones resnet": "names that contain it; * and ? are understood",
    "zoo list backbones --max-params 30M --sort top1": "small ones, the best first where that is stated",
    "zoo list backbones --head gem --licence apache-2.0": "those that this head can work on, free to use",
    "zoo show resnet18": "one backbone, head, recipe, ... with all that is known",
    "zoo finetune --backbone resnet18 --data photos/": "train on your images",
}
_OF_BACKBONES = ("backbones", "weights")


def show_list(
    kind: str, pattern: str, *, given: Mapping[str, Any], zoo_commands: Collection[str], as_json: bool
) -> None:
    """Print what there is of a kind; `given` are the filters of the command line, `zoo_commands` zoo's own commands.

    Raises Refused for an unknown kind or filter, UnknownName for a pattern without a match.
    """
    if kind and kind not in KINDS:
        close = nearest(kind, KINDS)
        look = f"There are: {', '.join(KINDS)}. To look for a backbone: zoo list backbones {kind!r}"
        raise Refused(f"zoo list does not know {kind!r}. {f'Did you mean {either(close)}?' if close else look}")
    registry = default_registry()
    if kind in _OF_BACKBONES:
        _show_backbones(kind, registry, pattern, backbones.filters(**given), as_json=as_json)
        return
    _refuse_filters(given)
    listings: dict[str, Callable[[], Any]] = {
        "": lambda: _overview(registry),
        "heads": lambda: _named(registry.heads(), "head", pattern),
        "recipes": lambda: _named(registry.recipes(), "recipe", pattern),
        "observers": lambda: _named(registry.observers(), "observer", pattern),
        "sources": lambda: _sources(registry, pattern),
        "plugins": lambda: _plugins(registry, pattern, zoo_commands),
    }
    rows = listings[kind]()
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif kind == "":
        _print_overview(rows)
    elif not rows:
        _say_empty(kind)
    elif kind == "plugins":
        _print_plugins(rows)
    else:
        _print_named(rows)


def _refuse_filters(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise Refused(f"{option} chooses among backbones. Next: zoo list backbones {option}")


def _show_backbones(kind: str, registry: Registry, pattern: str, wanted: dict[str, Any], *, as_json: bool) -> None:
    found = backbones.matching(registry, pattern, wanted, of_weights=kind == "weights")
    if as_json:
        rows = backbones.backbone_rows(found) if kind == "backbones" else backbones.weights_rows(found)
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif not registry.backbones().names():
        _say_empty(kind)
    elif found:
        backbones.print_backbones(found) if kind == "backbones" else backbones.print_weights(found)


def _say_empty(kind: str) -> None:
    print(f"There are no {kind}. See: zoo list plugins", file=sys.stderr)


def _named(offered: list[Any], kind: str, pattern: str) -> list[dict[str, Any]]:
    rows = [
        {"name": qualified_name(each), "summary": each.spec.summary, "distribution": each.plugin.distribution}
        for each in offered
        if matches(pattern, each.spec.name, qualified_name(each))
    ]
    if offered and not rows:
        raise UnknownName(
            f"{kind} like", pattern, [each.spec.name for each in offered], hint=f"See: zoo list {kind.split()[-1]}s"
        )
    return rows


def _sources(registry: Registry, pattern: str) -> list[dict[str, Any]]:
    """Class folders are read by zoo itself."""
    own = {"name": FOLDER, "summary": FOLDER_SUMMARY, "distribution": DISTRIBUTION}
    offered = registry.data_sources()
    if matches(pattern, FOLDER):
        others = [each for each in offered if matches(pattern, each.spec.name, qualified_name(each))]
        return [own, *(_named(others, "data source", "") if others else [])]
    return _named(offered, "data source", pattern)


def _print_named(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = "" if row["distribution"] == "zoo-registry" else f"  [{row['distribution']}]"
        print(f"{row['name']:<{width}}  {row['summary']}{origin}")


def _plugins(registry: Registry, pattern: str, zoo_commands: Collection[str]) -> list[dict[str, Any]]:
    plugins = [*registry.plugins(), *command_plugins(zoo_commands)]
    rows = [_plugin(each) for each in plugins if matches(pattern, each.name, each.distribution)]
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
        "observers": [each.spec.name for each in registry.observers()],
        "sources": [FOLDER, *(each.spec.name for each in registry.data_sources())],
        "plugins": [{"name": plugin.name, "state": plugin.state} for plugin in registry.plugins()],
    }


def _by_state(plugins: list[dict[str, str]]) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for plugin in plugins:
        states.setdefault(plugin["state"], []).append(plugin["name"])
    return states


def _print_overview(rows: dict[str, Any]) -> None:
    total = sum(rows["backbones"].values())
    parts = ", ".join(f"{count:,} of {name}" for name, count in rows["backbones"].items())
    unusual = [
        f", {state}: {', '.join(names)}" for state, names in _by_state(rows["plugins"]).items() if state != "loaded"
    ]
    print(f"backbones  {total:,}{f': {parts}' if parts else ''}")
    print(f"heads      {', '.join(rows['heads']) or 'none'}")
    print(f"recipes    {', '.join(rows['recipes']) or 'none'}")
    print(f"observers  {', '.join(rows['observers']) or 'none'}")
    print(f"sources    {', '.join(rows['sources'])}")
    print(f"plugins    {len(rows['plugins'])}{''.join(unusual)}")
    print("\nNext, for example:")
    for command, what in _NEXT.items():
        print(f"  {command:<56}  {what}")
