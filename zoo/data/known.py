"""Files that were decoded whole before, by digest: they need not be decoded again to know that they can be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo.caches import cache_folder
from zoo.errors import RunError
from zoo.files import write_text
from zoo.preprocessing import Preprocessing

_FOLDER = "kept"


class KnownFiles:
    """Digests of files that could be read under one preprocessing, by these versions of zoo and Pillow."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        facts = json.dumps([preprocessing.to_dict(), _version("zoo-registry"), _version("pillow")])
        self._path = cache_folder() / _FOLDER / f"readable-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.txt"
        self._known = _read(self._path)

    def __contains__(self, digest: str) -> bool:
        return digest in self._known

    def add(self, digests: Collection[str]) -> None:
        """Remember more of them; a cache folder that cannot be written costs only the next run's time."""
        if self._known.issuperset(digests):
            return
        # Another process may have added some in the meantime.
        self._known |= _read(self._path) | set(digests)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, "".join(f"{digest}\n" for digest in sorted(self._known)))
        except (OSError, RunError):
            return


def _read(path: Path) -> set[str]:
    try:
        return set(path.read_text("utf-8").split())
    except (OSError, ValueError):
        return set()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
