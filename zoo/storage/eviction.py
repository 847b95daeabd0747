"""The contents of the cache folder: listed, kept under the limit by evicting the oldest, and cleared.

All of it can be made again. Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import OptionError, RunError, meant
from zoo.storage.atomic import parse_json
from zoo.storage.cache import cache_folder

FOLDER = "features"
LIMIT = "ZOO_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9
"""Bytes of cached rows that are kept by default."""
_SAMPLE, _KEPT = "sample", "kept"
ABOUT = "about.json"
MEASURED = "precision-"
"""How the names of files begin that hold how fast a model is in each precision and memory layout."""
SPEEDS = "images_per_second"
"""Their key for the speeds."""
METHOD = "method"
"""Their key for how they were measured."""
IN_TURNS = "in turns"
"""The method since candidates take turns. Measurements without it are listed, and taken no more."""
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The folder of one cache key."""

    path: Path
    facts: Mapping[str, Any]
    """What the rows depend on, as `about.json` has it."""
    bytes: int
    files: int
    used: float
    """When it was last used, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class CachedItem:
    """An item in the cache folder."""

    kind: str
    """`features`, `measurements` or `sample`."""
    what: str
    path: Path
    bytes: int
    files: int
    used: float
    """When the item was last used or made, in seconds since the epoch; 0 where that is unknown."""
    measured: Mapping[str, Any] | None = None
    """Of a measurement of precisions: `of` what, `work`, the `precision` asked for, `machine`, when it was `measured`,
    what was `chosen`, `images_per_second` of each candidate, by which `method` (empty: a former one, which is taken no
    more), and whether it was `certain`."""

    def to_dict(self) -> dict[str, Any]:
        """The fields in plain JSON types."""
        facts = {**asdict(self), "path": str(self.path)}
        return facts if self.measured is not None else {key: facts[key] for key in facts if key != "measured"}


def features_folder() -> Path:
    """The folder of cached rows, in zoo's cache folder."""
    return cache_folder() / FOLDER


def entries(folder: Path) -> list[CacheEntry]:
    """The folders of all cache keys, the last used first."""
    if not folder.is_dir():
        return []
    return sorted((_entry(path) for path in folder.iterdir() if path.is_dir()), key=lambda entry: -entry.used)


def evict(folder: Path, size: int, limit: int, keep: Collection[str]) -> bool:
    """Evict the folders that were used longest ago, until `size` more bytes fit under the limit.

    Folders whose names are in `keep` stay. Returns whether the bytes fit now, under the limit and on the disk.
    """
    found = entries(folder)
    total = sum(entry.bytes for entry in found) + size
    for entry in reversed(found):
        if total <= limit:
            break
        if entry.path.name not in keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes
    return total <= limit and shutil.disk_usage(folder).free > 2 * size


def size_limit() -> int:
    """The bytes that `ZOO_CACHE_LIMIT` allows. It is a number of bytes, or text such as `20GB`; else raises
    OptionError."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)", text.upper())
    if found is None:
        raise OptionError(
            f"{LIMIT} is {text!r}, which is not a size.\nNext: a number of bytes, or one like 500MB or 20GB."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def cached_items() -> list[CachedItem]:
    """Every item, by kind. Features that were used last come first."""
    return [item for kind in _KINDS.values() for item in kind()]


def clear(kinds: Sequence[str] = ("features",)) -> list[CachedItem]:
    """Remove all items of some kinds, or of `all`. Returns what was removed. A run that uses files keeps them open.

    Raises OptionError for an unknown kind, RunError where something cannot be removed.
    """
    for kind in kinds:
        if kind not in (*_KINDS, "all"):
            hint = meant(kind, [*_KINDS, "all"], count=1)
            raise OptionError(f"The cache holds no {kind!r}. It holds {', '.join(_KINDS)}, and all means all.{hint}")
    chosen = [item for item in cached_items() if item.kind in kinds or "all" in kinds]
    for item in chosen:
        try:
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{item.path} cannot be removed: {error.strerror or error}.") from None
    return chosen


def _entry(path: Path) -> CacheEntry:
    files = [*path.glob("*.safetensors"), *path.glob(".draft-*")]
    try:
        facts = parse_json((path / ABOUT).read_text("utf-8"))
        used = (path / ABOUT).stat().st_mtime
    except (OSError, ValueError):
        facts, used = {}, 0.0
    return CacheEntry(path, facts, sum(_size(file) for file in files), len(files), used)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _features() -> Iterator[CachedItem]:
    for entry in entries(features_folder()):
        facts = entry.facts
        what = " ".join(str(facts[key]) for key in ("backbone", "outputs", "precision") if key in facts)
        yield CachedItem("features", what or "unknown", entry.path, entry.bytes, entry.files, entry.used)


def _measurements() -> Iterator[CachedItem]:
    for item in _files("measurements", cache_folder() / _KEPT):
        about = _measured(item.path) if item.path.name.startswith(MEASURED) else None
        yield item if about is None else replace(item, what=f"{about['of']}, {about['work']}", measured=about)


def _measured(path: Path) -> Mapping[str, Any] | None:
    """What was measured, and the speeds; None for a file that is damaged."""
    try:
        about = parse_json(path.read_text("utf-8"))
        machine, speeds = [str(fact) for fact in about["machine"]], dict(about[SPEEDS])
        names = ("of", "work", "precision", "measured", "chosen")
        found = {**{name: str(about[name]) for name in names}, "machine": machine, SPEEDS: speeds}
        return {**found, METHOD: str(about.get(METHOD, "")), "certain": bool(about.get("certain", True))}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _samples() -> Iterator[CachedItem]:
    folder = cache_folder() / _SAMPLE
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        files = [each for each in path.rglob("*") if each.is_file()]
        size = sum(each.stat().st_size for each in files)
        yield CachedItem("sample", path.name, path, size, len(files), path.stat().st_mtime)


def _files(kind: str, folder: Path) -> Iterator[CachedItem]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        found = path.stat()
        yield CachedItem(kind, path.stem, path, found.st_size, 1, found.st_mtime)


_KINDS: dict[str, Callable[[], Iterator[CachedItem]]] = {
    "features": _features,
    "measurements": _measurements,
    "sample": _samples,
}
