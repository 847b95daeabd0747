"""The contents of the cache folder: listed, kept under the limit by evicting the oldest, and cleared.

All of it can be made again. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import OptionError, RunError, meant
from zoo.storage.atomic import existing_parent, parse_json
from zoo.storage.cache import cache_folder
from zoo.storage.in_use import unused

FOLDER = "features"
LIMIT = "ZOO_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9
"""Bytes of cached rows that are kept by default."""
LISTINGS = "listings"
"""The folder of listings of large data folders, in zoo's cache folder."""
_SAMPLE, _KEPT = "sample", "kept"
SAMPLE_HOLD = ".sample"
"""The folder in the cache folder that a process holds while it uses a sample set: a mark in the set itself would be
one of its files."""
_GONE = ".removed-"
_DRAFT_SECONDS = 3600.0
"""An older draft belongs to a process that was killed."""
ABOUT = "about.json"
DECODABLE, FILES_READ = "readable-", "files-read-"
"""How the names of files begin that hold which images could be decoded, and which files were read before."""
MEASURED = "precision-"
"""How the names of files begin that hold how fast a model is in each precision and memory layout."""
SPEEDS = "images_per_second"
"""Their key for the speeds."""
METHOD = "method"
"""Their key for how they were measured."""
IN_TURNS = "in turns"
"""The method since candidates take turns. Measurements without it are listed, and taken no more."""
# Powers of ten, as makers of disks and `df -H` count.
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
    """`features`, `measurements`, `records`, `sample` or `listings`."""
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
    return sorted((_entry(path) for path in _within(folder) if os.path.isdir(path)), key=lambda entry: -entry.used)


@dataclass(frozen=True, slots=True)
class CacheRoom:
    """How much room there is for further rows."""

    limit: int
    """Bytes of all rows that may be cached."""
    held: int
    """Bytes of cached rows that are there."""
    free: int
    """Free bytes on the disk."""

    def fits(self, size: int) -> bool:
        """Whether a file of so many bytes fits, under the limit and on the disk, where as much again stays free."""
        return self.held + size <= self.limit and self.free > 2 * size

    @property
    def left(self) -> int:
        """Bytes that still fit, in many files."""
        return max(0, min(self.limit - self.held, self.free))


def evict(folder: Path, size: int, limit: int, keep: Collection[str]) -> CacheRoom:
    """Evict the folders that were used longest ago, until `size` more bytes fit, under the limit and on the disk.

    Folders whose names are in `keep` stay, and those that another process uses. Where the bytes cannot fit even so,
    nothing is evicted.
    """
    found = entries(folder)
    room = CacheRoom(limit, sum(entry.bytes for entry in found), _free(folder))
    if room.fits(size):
        return room
    others = _evictable(found, keep)
    if not _without(room, others).fits(size):
        return room
    for entry in others:
        if room.fits(size):
            break
        # Asked once more, and locked: a run may have begun to use it since it was found to be unused.
        with unused(entry.path, entry.used) as free:
            if free:
                shutil.rmtree(entry.path, ignore_errors=True)
                room = CacheRoom(limit, room.held - entry.bytes, _free(folder))
    return room


def room_in(folder: Path, limit: int, keep: Collection[str] | None) -> CacheRoom:
    """How much room there would be if everything were evicted that may be: what others use and `keep` stay.

    With None for `keep`, even what is in use counts as evicted.
    """
    found = entries(folder)
    room = CacheRoom(limit, sum(entry.bytes for entry in found), _free(folder))
    return _without(room, found if keep is None else _evictable(found, keep))


def _evictable(found: Sequence[CacheEntry], keep: Collection[str]) -> list[CacheEntry]:
    """The folders that nobody uses, the one that was used longest ago first."""
    evictable = []
    # `entries` has the last used first.
    for entry in reversed(found):
        if entry.path.name not in keep:
            with unused(entry.path, entry.used) as free:
                evictable += [entry] if free else []
    return evictable


def _without(room: CacheRoom, gone: Sequence[CacheEntry]) -> CacheRoom:
    """The room that there is when some folders are gone."""
    freed = sum(entry.bytes for entry in gone)
    return CacheRoom(room.limit, room.held - freed, room.free + freed)


def _free(folder: Path) -> int:
    # A name below it, because `existing_parent` looks above: the folder itself counts where it exists.
    return shutil.disk_usage(existing_parent(folder / FOLDER)).free


def size_limit() -> int:
    """The bytes that `ZOO_CACHE_LIMIT` allows. It is a number of bytes, or text such as `20GB`; else raises
    OptionError."""
    return size_named(LIMIT, DEFAULT_LIMIT)


def size_named(variable: str, default: int) -> int:
    """The bytes that an environment variable says, as a number or as text such as `20GB`, or the default where it says
    nothing. Raises OptionError for anything else."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)", text.upper())
    if found is None:
        raise OptionError(
            f"{variable} is {text!r}, which is not a size.\nNext: a number of bytes, or one like 500MB or 20GB."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def at_least(size: int) -> str:
    """A number of bytes as these variables take it, such as `20GB`, with one part in fifty to spare."""
    # Two digits at least, so that rounding up adds a tenth at most.
    unit, name = next(((unit, name) for name, unit in reversed(_UNITS.items()) if size >= 10 * unit), (1, ""))
    return f"{math.ceil(size * 1.02 / unit)}{name}"


def cached_items() -> list[CachedItem]:
    """Every item, by kind. Features that were used last come first."""
    return [item for kind in _KINDS.values() for item in kind()]


@dataclass(frozen=True, slots=True)
class Cleared:
    """What became of the items of some kinds."""

    removed: tuple[CachedItem, ...]
    in_use: tuple[CachedItem, ...]
    """Left, because another process uses or writes them."""


def clear(kinds: Sequence[str] = ("features",)) -> Cleared:
    """Remove all items of some kinds, or of `all`, except those that a running process uses.

    Raises OptionError for an unknown kind, RunError where something cannot be removed.
    """
    for kind in kinds:
        if kind not in (*_KINDS, "all"):
            hint = meant(kind, [*_KINDS, "all"], count=1)
            raise OptionError(
                f"The cache holds no {kind!r}. It holds {', '.join(_KINDS)}, and all means all.{hint}\n"
                "Next: zoo cache show"
            )
    chosen = [item for item in cached_items() if item.kind in kinds or "all" in kinds]
    removed: list[CachedItem] = []
    left: list[CachedItem] = []
    for item in chosen:
        try:
            (removed if _remove(item) else left).append(item)
        except FileNotFoundError:  # another process was faster
            continue
        except OSError as error:
            raise RunError(
                f"{item.path} cannot be removed: {error.strerror or error}.\n"
                "Next: make its folder writable, or remove it as whoever made it."
            ) from None
    return Cleared(tuple(removed), tuple(left))


def _remove(item: CachedItem) -> bool:
    """Remove an item -> whether nobody uses it. Raises OSError."""
    is_draft = item.path.name.startswith(".") and not item.path.name.startswith(_GONE)
    if is_draft and time.time() - item.used < _DRAFT_SECONDS:
        return False  # it gets its name as soon as it is complete
    if not os.path.isdir(item.path):
        item.path.unlink()
        return True
    held = item.path
    if item.kind == "sample":
        held = cache_folder() / SAMPLE_HOLD
        held.mkdir(exist_ok=True)
    if not os.access(held, os.W_OK | os.X_OK):
        # Else it would look as if it were in use.
        held.stat()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # Without locks nothing tells what is in use, and whoever clears the cache asks for it to be removed.
    # Windows renames no folder in which a file is open, and that of the lock is.
    renames = os.name != "nt"
    with unused(held, last_use=0.0) as free:
        if free and renames:
            # Renamed first, so that nobody finds a part of it.
            shutil.rmtree(item.path.rename(item.path.with_name(f"{_GONE}{uuid.uuid4().hex}")))
    if free and not renames:
        shutil.rmtree(item.path)
    return free


def _entry(path: Path) -> CacheEntry:
    # Drafts take room, too, also those of killed processes.
    files = [each for each in _within(path) if each.suffix == ".safetensors" or each.name.startswith(".draft-")]
    try:
        facts = parse_json((path / ABOUT).read_text("utf-8"))
        used = (path / ABOUT).stat().st_mtime
    except (OSError, ValueError):
        # It is written before the first row, so that a folder without it holds nothing of use, and goes first.
        facts, used = {}, 0.0
    return CacheEntry(path, facts, sum(_size(file) for file in files), len(files), used)


def _within(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is not there, as when another process has just removed it."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stat(path: Path) -> os.stat_result | None:
    """Facts of what lies at a path; None where it is gone, as a draft that has got its name."""
    try:
        return path.stat()
    except OSError:
        return None


def _size(path: Path) -> int:
    found = _stat(path)
    return 0 if found is None else found.st_size


def _features() -> Iterator[CachedItem]:
    for entry in entries(features_folder()):
        facts = entry.facts
        what = " ".join(str(facts[key]) for key in ("backbone", "outputs", "precision") if key in facts)
        yield CachedItem("features", what or "unknown", entry.path, entry.bytes, entry.files, entry.used)


def _measurements() -> Iterator[CachedItem]:
    for item in _files("measurements", cache_folder() / _KEPT):
        if _is_record(item.path):
            continue
        about = _measured(item.path) if item.path.name.startswith(MEASURED) else None
        yield item if about is None else replace(item, what=f"{about['of']}, {about['work']}", measured=about)


def _records() -> Iterator[CachedItem]:
    """Records of images that were read or decoded before."""
    return (item for item in _files("records", cache_folder() / _KEPT) if _is_record(item.path))


def _is_record(path: Path) -> bool:
    # The name of a draft begins with a dot.
    return path.name.removeprefix(".").startswith((DECODABLE, FILES_READ))


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
    for path in sorted(path for path in _within(cache_folder() / _SAMPLE) if os.path.isdir(path)):
        # `walk` passes over folders that are gone.
        sizes = [_size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names]
        found = _stat(path)
        if found is not None:
            yield CachedItem("sample", path.name, path, sum(sizes), len(sizes), found.st_mtime)


def _listings() -> Iterator[CachedItem]:
    return _files("listings", cache_folder() / LISTINGS)


def _files(kind: str, folder: Path) -> Iterator[CachedItem]:
    for path in sorted(_within(folder)):
        found = _stat(path)
        if found is not None:
            yield CachedItem(kind, path.stem, path, found.st_size, 1, found.st_mtime)


_KINDS: dict[str, Callable[[], Iterator[CachedItem]]] = {
    "features": _features,
    "measurements": _measurements,
    "records": _records,
    "sample": _samples,
    "listings": _listings,
}
