"""`zoo cache ...`: what the cache folder holds, and clearing it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo import text
from zoo.cli.command_group import Application
from zoo.cli.document import print_document
from zoo.cli.options import Json
from zoo.display import console
from zoo.display.console import Verbosity

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.storage.eviction import CachedItem

_GROUPED = {"measurements": "speeds, lists and the like", "records": "images that were read or decoded before"}
"""The kinds of entries that share one row, because they are many and small, and what they are."""

cache_app = Application(no_args_is_help=True, rich_markup_mode=None, help="See and clear what zoo caches here.")


@cache_app.command("show")
def show_cache(ctx: typer.Context, as_json: Json = False) -> None:
    """List what the cache folder holds, with sizes, and what was measured on this machine."""
    from zoo.storage import eviction as housekeeping
    from zoo.storage.atomic import json_text
    from zoo.storage.cache import cache_folder
    from zoo.storage.eviction import size_limit

    entries = housekeeping.cached_items()
    if as_json:
        print_document(json_text([entry.to_dict() for entry in entries]))
    else:
        _print_entries(entries, cache_folder(), size_limit(), ctx.obj)


@cache_app.command("clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            help="features (the default), measurements, records, sample, listings, or all.", show_default=False
        ),
    ] = None,
) -> None:
    """Remove cached files, except what a running process uses. zoo makes them again when it needs them."""
    from zoo.storage import eviction as housekeeping

    # Measurements only where they are named: without them the next run may choose another precision, and other bits.
    kinds = kinds or ["features"]
    cleared = housekeeping.clear(kinds)
    console.out().print(f"Removed {_counted(cleared.removed)}.")
    if cleared.in_use:
        console.out().print(f"Left {_counted(cleared.in_use)}, which a running process uses.")
        console.out().print(f"Next: zoo cache clear {' '.join(kinds)}, when that has ended.")


def _counted(entries: Sequence[CachedItem]) -> str:
    files, size = sum(entry.files for entry in entries), sum(entry.bytes for entry in entries)
    return f"{console.count(files, 'file')}, {text.size(size)}"


def _print_entries(entries: Sequence[CachedItem], folder: Path, limit: int, verbosity: Verbosity) -> None:
    screen = console.out()
    if not entries:
        screen.print(f"{folder} holds nothing.")
        return
    rows = [_row(entry) for entry in entries if entry.kind not in _GROUPED]
    for kind, what in _GROUPED.items():
        if small := [entry for entry in entries if entry.kind == kind]:
            size, used = sum(entry.bytes for entry in small), max(entry.used for entry in small)
            rows.append([kind, what, str(len(small)), text.size(size), _ago(used)])
    columns = ["kind", "what", "files", "size", "last used"]
    console.show(screen, console.table(None, columns, rows, right=("files", "size")))
    _print_measured([entry.measured for entry in entries if entry.measured is not None], screen, verbosity)
    total = text.size(sum(entry.bytes for entry in entries))
    screen.print(f"\n{total} in {folder}; features are kept up to {text.size(limit)} (ZOO_CACHE_LIMIT)")


def _print_measured(measured: Sequence[Mapping[str, Any]], screen: Console, verbosity: Verbosity) -> None:
    """Print which precision and memory layout was found the fastest for what, on which machine."""
    if not measured:
        return
    screen.print("\nMeasured, in images per second:", style="bold")
    for about in measured:
        screen.print(f"  {about['of']}, {about['work']}: {_taken(about)}")
        for name, speed in about["images_per_second"].items():
            screen.print(f"      {name:<24}  {speed:,.1f}")
        facts: list[str] = about["machine"]
        # Padded: a file in the cache may hold fewer facts than this version stores, and is listed all the same.
        device, processor, torch, threads, _, *limits = (*facts, *[""] * 5)
        processor = processor.partition("\n")[0]  # below it are all that it can do
        torch = ", ".join([torch, *filter(None, limits)])
        when = f", {about['measured'][:10]}" if about["measured"] else ""
        core = "; speeds are those of one core" if about["method"] and device == "cpu" else ""
        screen.print(f"      on {device} ({processor}, torch {torch}, {_threads(threads)}{core}){when}")
    if not verbosity.quiet:
        screen.print("To measure again: zoo cache clear measurements")


def _taken(about: Mapping[str, Any]) -> str:
    """What became of a measurement."""
    if not about["method"]:
        return f"{about['chosen']} was taken; measured by an earlier version, and taken no more"
    return f"{about['chosen']} is taken" + ("" if about["certain"] else ", for no other was surely faster")


def _threads(number: str) -> str:
    return f"{number} thread" if number == "1" else f"{number} threads"


def _row(entry: CachedItem) -> list[str]:
    return [entry.kind, entry.what, f"{entry.files:,}", text.size(entry.bytes), _ago(entry.used)]


def _ago(when: float) -> str:
    if not when:
        return "unknown"
    passed = max(0.0, time.time() - when)
    if passed < 60:
        return "just now"
    return f"{passed / 86400:.0f} days ago" if passed > 2 * 86400 else f"{console.seconds(passed)} ago"
