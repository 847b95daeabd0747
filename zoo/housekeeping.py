"""What zoo's cache folder holds, and making room in it. All of it can be made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.caches import cache_folder
from zoo.errors import OptionError, RunError, nearest
from zoo.features.folder import FOLDER as FEATURES
from zoo.features.folder import entries

_SAMPLE, _KEPT = "sample", "kept"


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing in the cache folder."""

    kind: str
    """`features`, `measurements` or `sample`."""
    what: str
    path: Path
    bytes: int
    files: int
    used: float
    """When it was last used or made, in seconds since the epoch; 0 where that is not known."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "path": str(self.path)}


def kept() -> list[Kept]:
    """Everything, by kind; features that were used last come first."""
    return [each for kind in _KINDS.values() for each in kind()]


def clear(kinds: Sequence[str] = ("features",)) -> list[Kept]:
    """Remove all of these kinds, `all` for every one -> what is gone. A run that uses it goes on: it holds its files.

    Raises OptionError for an unknown kind, RunError where something cannot be removed.
    """
    for kind in kinds:
        if kind not in (*_KINDS, "all"):
            close = nearest(kind, [*_KINDS, "all"])
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"The cache holds no {kind!r}; it holds {', '.join(_KINDS)}, and all means all.{hint}")
    chosen = [each for each in kept() if each.kind in kinds or "all" in kinds]
    for each in chosen:
        try:
            shutil.rmtree(each.path) if each.path.is_dir() else each.path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{each.path} cannot be removed: {error.strerror or error}.") from None
    return chosen


def _features() -> Iterator[Kept]:
    for entry in entries(cache_folder() / FEATURES):
        facts = entry.facts
        what = " ".join(str(facts[key]) for key in ("backbone", "outputs", "precision") if key in facts)
        yield Kept("features", what or "unknown", entry.path, entry.bytes, entry.files, entry.used)


def _measurements() -> Iterator[Kept]:
    yield from _files("measurements", cache_folder() / _KEPT)


def _samples() -> Iterator[Kept]:
    folder = cache_folder() / _SAMPLE
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        files = [each for each in path.rglob("*") if each.is_file()]
        size = sum(each.stat().st_size for each in files)
        yield Kept("sample", path.name, path, size, len(files), path.stat().st_mtime)


def _files(kind: str, folder: Path) -> Iterator[Kept]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        found = path.stat()
        yield Kept(kind, path.stem, path, found.st_size, 1, found.st_mtime)


_KINDS: dict[str, Callable[[], Iterator[Kept]]] = {
    "features": _features,
    "measurements": _measurements,
    "sample": _samples,
}
