"""Record of files that were decoded without a fault before: their digests, in zoo's cache folder.

A later run hashes such a file instead of decoding it to know that it is readable, and decodes it when a stage needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo.errors import RunError
from zoo.specs.preprocessing import Preprocessing
from zoo.storage.atomic import write_text
from zoo.storage.cache import cache_folder

_FOLDER = "kept"


class DecodedFiles:
    """Digests of the files that could be decoded and resized for one preprocessing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        # Another version of zoo or Pillow may fail on a file that this one reads, so the versions are part of the name.
        facts = json.dumps([preprocessing.to_dict(), _version("zoo-registry"), _version("pillow")])
        self._path = cache_folder() / _FOLDER / f"readable-{hashlib.sha256(facts.encode()).hexdigest()[:24]}.txt"
        self._digests = _read(self._path)

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digests: Collection[str]) -> None:
        """Remember more digests. If the cache folder cannot be written, the next run only takes longer."""
        if self._digests.issuperset(digests):
            return
        # Another process may have added digests in the meantime.
        self._digests |= _read(self._path) | set(digests)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, "".join(f"{digest}\n" for digest in sorted(self._digests)))
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
