"""`zoo list`: which backbones, weights, heads, recipes, observers, data sources and plugins there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zoo.cli import list_backbones
from zoo.cli.command_group import command_plugins
from zoo.cli.document import print_document
from zoo.cli.options import LIST_KINDS
from zoo.display.console import Verbosity
from zoo.display.wrapping import say
from zoo.errors import Refused, UnknownName, either, nearest
from zoo.registry.catalogue import Filter, find_backbones, matches
from zoo.registry.entry_points import DISTRIBUTION, Plugin
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry, default_registry
from zoo.specs.data import FOLDER
from zoo.text import shell_word

_BACKBONE_KINDS = ("backbones", "weights")
"""The kinds that filters apply to."""
_NEXT = {
    "zoo list backbones resnet": "names that contain resnet; * and ? work too",
    "zoo list backbones --max-params 30M --sort top1": "small ones, best ImageNet accuracy first",
    "zoo list backbones --head gem --licence apache-2.0": "those that this head can use, under this licence",
    "zoo show resnet18": "everything known about a backbone, head, recipe, ...",
    "zoo finetune --backbone resnet18 --data photos/": "train on your images",
}
"""Command -> what it shows, for the end of the overview."""


def show_list(
    kind: str,
    pattern: str,
    *,
    given: Mapping[str, Any],
    zoo_commands: Collection[str],
    verbosity: Verbosity,
    as_json: bool,
) -> None:
    """Print everything of a kind whose name matches `pattern`; with an empty kind, an overview.

    `given` are the filters of the command line as typed, `zoo_commands` the names of zoo's own commands.

    Raises Refused for an unknown kind or filter, UnknownName for a pattern without a match.
    """
    if kind and kind not in LIST_KINDS:
        raise Refused(_kind_hint(kind))
    registry = default_registry()
    if kind in _BACKBONE_KINDS:
        _show_backbones(kind, registry, pattern, list_backbones.filters(**given), verbosity, as_json=as_json)
        return
    _refuse_filters(given)
    # As functions: a hook of plugins is called only for the kind that is asked for.
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
        print_document(json.dumps(rows, indent=2, ensure_ascii=False))
    elif kind == "":
        _print_overview(rows, verbosity)
    elif not rows:
        _print_none(kind)
    elif kind == "plugins":
        _print_plugins(rows)
    else:
        _print_named(rows)


def _kind_hint(asked: str) -> str:
    """The message for an unknown kind: the nearest; else all kinds, and the search for a backbone of that name."""
    unknown = f"zoo list does not know {asked!r}."
    # A slip in the kind first: many words are contained in the name of some backbone.
    if close := nearest(asked, LIST_KINDS):
        return f"{unknown} Did you mean {either(close)}?\nNext: zoo list {close[0]}"
    there = find_backbones(default_registry(), Filter(pattern=asked))
    step = f"to look for a backbone: zoo list backbones {shell_word(asked)}" if there else "zoo list"
    return f"{unknown} There are: {', '.join(LIST_KINDS)}.\nNext: {step}"


def _refuse_filters(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise Refused(f"{option} filters backbones only.\nNext: zoo list backbones {option}")


def _show_backbones(
    kind: str, registry: Registry, pattern: str, filters: dict[str, Any], verbosity: Verbosity, *, as_json: bool
) -> None:
    listed = list_backbones.matching(registry, pattern, filters, of_weights=kind == "weights")
    if as_json:
        rows = list_backbones.backbone_rows(listed) if kind == "backbones" else list_backbones.weights_rows(listed)
        print_document(json.dumps(rows, indent=2, ensure_ascii=False))
    elif not registry.backbones().names():
        _print_none(kind)
    # Of filters that leave nothing, `matching` has said so.
    elif listed:
        printed = list_backbones.print_backbones if kind == "backbones" else list_backbones.print_weights
        printed(listed, verbosity)


def _print_none(kind: str) -> None:
    say(f"There are no {kind}. See: zoo list plugins", to_stderr=True)


def _overview(registry: Registry) -> dict[str, Any]:
    return {
        "backbones": {held.spec.name: len(catalogue) for held, catalogue in registry.backbones().catalogue()},
        "heads": [head.spec.name for head in registry.heads()],
        "recipes": [recipe.spec.name for recipe in registry.recipes()],
        "observers": [observer.spec.name for observer in registry.observers()],
        "sources": [FOLDER, *(source.spec.name for source in registry.data_sources())],
        "plugins": [{"name": plugin.name, "state": plugin.state} for plugin in registry.plugins()],
    }


def _print_overview(rows: dict[str, Any], verbosity: Verbosity) -> None:
    total = sum(rows["backbones"].values())
    parts = ", ".join(f"{count:,} of {name}" for name, count in rows["backbones"].items())
    unusual = [
        f", {state}: {', '.join(names)}" for state, names in _by_state(rows["plugins"]).items() if state != "loaded"
    ]
    say(f"backbones  {total:,}{f': {parts}' if parts else ''}")
    say(f"heads      {', '.join(rows['heads']) or 'none'}")
    say(f"recipes    {', '.join(rows['recipes']) or 'none'}")
    say(f"observers  {', '.join(rows['observers']) or 'none'}")
    say(f"sources    {', '.join(rows['sources'])}")
    say(f"plugins    {len(rows['plugins'])}{''.join(unusual)}")
    if verbosity.quiet:
        return
    say("\nNext, for example:")
    for command, purpose in _NEXT.items():
        say(f"  {command:<56}  {purpose}")


def _by_state(plugins: list[dict[str, str]]) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for plugin in plugins:
        states.setdefault(plugin["state"], []).append(plugin["name"])
    return states


def _named(offered: list[Any], kind: str, pattern: str) -> list[dict[str, Any]]:
    rows = [
        {"name": qualified_name(item), "summary": item.spec.summary, "distribution": item.plugin.distribution}
        for item in offered
        if matches(pattern, item.spec.name, qualified_name(item))
    ]
    if offered and not rows:
        names = [item.spec.name for item in offered]
        raise UnknownName(f"{kind} like", pattern, names, step=f"zoo list {kind.split()[-1]}s")
    return rows


def _sources(registry: Registry, pattern: str) -> list[dict[str, Any]]:
    from zoo.data.sources import FOLDER_SUMMARY  # with eight more modules, which no other list needs

    # zoo itself reads class folders: no plugin offers them.
    own = {"name": FOLDER, "summary": FOLDER_SUMMARY, "distribution": DISTRIBUTION}
    offered = registry.data_sources()
    if matches(pattern, FOLDER):
        # The pattern has a match, so that none among the plugins' sources is no error.
        matching = [source for source in offered if matches(pattern, source.spec.name, qualified_name(source))]
        return [own, *_named(matching, "data source", "")]
    return _named(offered, "data source", pattern)


def _print_named(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = "" if row["distribution"] == DISTRIBUTION else f"  [{row['distribution']}]"
        say(f"{row['name']:<{width}}  {row['summary']}{origin}")


def _plugins(registry: Registry, pattern: str, zoo_commands: Collection[str]) -> list[dict[str, Any]]:
    plugins = [*registry.plugins(), *command_plugins(zoo_commands)]
    rows = [_plugin(plugin) for plugin in plugins if matches(pattern, plugin.name, plugin.distribution)]
    if plugins and not rows:
        # The pattern is for either name: that of the entry point, and what pip installs.
        names = [name for plugin in plugins for name in (plugin.name, plugin.distribution)]
        raise UnknownName("plugin like", pattern, names, step="zoo list plugins")
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
        say(f"{row['name']}  {row['distribution']} {row['version']}  {row['state']}  {milliseconds}  {brings}".rstrip())
        for note in row["notes"]:
            say(f"    note: {note}")
        if row["error"]:
            say(f"    error: {row['error']}")
