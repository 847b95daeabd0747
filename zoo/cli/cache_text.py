"""The cache folder's contents, for people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from zoo import amounts
from zoo.cli import console
from zoo.housekeeping import Kept

_GROUPED = "measurements"


def print_kept(found: Sequence[Kept], folder: Path, limit: int) -> None:
    """A row for each thing; measurements, which are many and small, in one."""
    screen = console.out()
    if not found:
        screen.print(f"{folder} holds nothing.")
        return
    rows = [_row(each) for each in found if each.kind != _GROUPED]
    small = [each for each in found if each.kind == _GROUPED]
    if small:
        size = sum(each.bytes for each in small)
        what = "speeds, lists and the like"
        rows.append([_GROUPED, what, str(len(small)), amounts.size(size), _ago(max(each.used for each in small))])
    columns = ["kind", "what", "files", "size", "last used"]
    console.show(screen, console.table(None, columns, rows, right=("files", "size")))
    total = amounts.size(sum(each.bytes for each in found))
    screen.print(f"\n{total} in {folder}; features are kept up to {amounts.size(limit)} (ZOO_CACHE_LIMIT)")


def print_cleared(gone: Sequence[Kept]) -> None:
    """How much was removed."""
    size = amounts.size(sum(each.bytes for each in gone))
    console.out().print(f"Removed {console.count(sum(each.files for each in gone), 'file')}, {size}.")


def _row(each: Kept) -> list[str]:
    return [each.kind, each.what, f"{each.files:,}", amounts.size(each.bytes), _ago(each.used)]


def _ago(when: float) -> str:
    if not when:
        return "unknown"
    passed = max(0.0, time.time() - when)
    if passed < 60:
        return "just now"
    return f"{passed / 86400:.0f} days ago" if passed > 2 * 86400 else f"{console.seconds(passed)} ago"
