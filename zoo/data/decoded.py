"""Record of files that were decoded without a fault before: their digests, in zoo's cache folder.

A later run hashes such a file instead of decoding it to know that it is readable, and decodes it when a stage needs it.
What decoding destroyed is recorded too: a warning stays as long as its file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zoo.data.readings import Reading, Readings
from zoo.errors import RunError
from zoo.specs.preprocessing import Preprocessing
from zoo.storage.atomic import new_text
from zoo.storage.cache import cache_folder
from zoo.storage.eviction import DECODABLE

_FOLDER = "kept"
MOST = 100 << 20
"""Bytes of all records above which old ones are removed: those of about a million and a half images. What a data set
needs of itself always stays."""
_FORMAT = 2
"""Raised when files may be decoded to other pixels than before, or be refused: they have to be decoded again."""


class DecodedFiles:
    """Digests of the files that could be decoded and resized for one preprocessing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        # Another version of zoo or Pillow may fail on a file that this one reads, so the versions are part of the name.
        facts = json.dumps([preprocessing.to_dict(), _version("zoo-registry"), _version("pillow"), _FORMAT])
        self._path = cache_folder() / _FOLDER / f"{DECODABLE}{hashlib.sha256(facts.encode()).hexdigest()[:24]}.txt"
        self._readings = _read(self._path)

    def get(self, digest: str) -> Reading | None:
        """What is known of the file with this SHA-256; None for one that was not decoded yet."""
        return self._readings.get(digest)

    def add(self, readings: Readings) -> None:
        """Remember more files. If the cache folder cannot be written, the next run only takes longer."""
        if self._readings.covers(readings):
            with contextlib.suppress(OSError):
                os.utime(self._path)  # it was of use
            return
        # Another process may have added files in the meantime.
        self._readings = self._readings | (_read(self._path) | readings)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Those of other data sets are dropped where they are too many; those of this one are of use.
            kept = self._readings if self._readings.characters <= MOST else readings
            with new_text(self._path) as file:
                file.writelines(kept.text())
            self._remove_old()
        except (OSError, RunError):
            return

    def _remove_old(self) -> None:
        """Remove the records of other preprocessings and versions that were used longest ago, where all are too many.

        Several processes may do so at the same time, so that a file is gone that was there a moment ago.
        """
        left = MOST
        for path in sorted(self._path.parent.glob(f"{DECODABLE}*"), key=lambda path: _used(path)[0], reverse=True):
            left -= _used(path)[1]
            if left < 0 and path != self._path:
                path.unlink(missing_ok=True)


def _used(path: Path) -> tuple[float, int]:
    """When a file was last used, and its bytes; zeros where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return 0.0, 0
    return found.st_mtime, found.st_size


def _read(path: Path) -> Readings:
    try:
        return Readings.read(path)
    except (OSError, ValueError):
        return Readings(b"", {})


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
