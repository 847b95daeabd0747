"""The folder of computed rows: what is in it, how large it may be. Nothing here imports torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.caches import cache_folder
from zoo.errors import OptionError
from zoo.files import parse_json

FOLDER = "features"
LIMIT = "ZOO_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9
"""Bytes of computed rows that are kept."""
ABOUT = "about.json"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class Entry:
    """One subject's folder."""

    path: Path
    facts: Mapping[str, Any]
    bytes: int
    files: int
    used: float
    """Seconds since the epoch."""


def features_folder() -> Path:
    """In zoo's cache folder."""
    return cache_folder() / FOLDER


def entries(folder: Path) -> list[Entry]:
    """Every subject, the last used first."""
    if not folder.is_dir():
        return []
    return sorted((_entry(path) for path in folder.iterdir() if path.is_dir()), key=lambda entry: -entry.used)


def make_room(folder: Path, size: int, limit: int, keep: Collection[str]) -> bool:
    """Remove the subjects that were used longest ago until `size` more bytes fit under the limit -> whether they do, on
    the disk as well. Those named in `keep` stay."""
    there = entries(folder)
    total = sum(entry.bytes for entry in there) + size
    for entry in reversed(there):
        if total <= limit:
            break
        if entry.path.name not in keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.bytes
    return total <= limit and shutil.disk_usage(folder).free > 2 * size


def size_limit() -> int:
    """Bytes that `ZOO_CACHE_LIMIT` allows, `20GB` or a number of bytes. Raises OptionError for anything else."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B|)", text.upper())
    if found is None:
        raise OptionError(
            f"{LIMIT} is {text!r}, which is no size.\nNext: a number of bytes, or one like 500MB or 20GB."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def _entry(path: Path) -> Entry:
    files = [*path.glob("*.safetensors"), *path.glob(".draft-*")]
    try:
        facts = parse_json((path / ABOUT).read_text("utf-8"))
        used = (path / ABOUT).stat().st_mtime
    except (OSError, ValueError):
        facts, used = {}, 0.0
    return Entry(path, facts, sum(_size(each) for each in files), len(files), used)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
