"""What every archive is held to, before anything in it is read: names that stay inside it, sizes within reason.

Nothing is extracted, so no name could write anywhere; but one that points outside says that the archive is not what it
seems, and names go into reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import zoo

MOST_BYTES = 256 << 20
"""Of one image, encoded: far more than a photograph takes, far less than memory."""
_DRIVE = re.compile(r"[A-Za-z]:")


class Members:
    """The names of an archive's files, checked as they come."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._seen: set[str] = set()

    def name(self, name: str) -> str:
        """The name as zoo uses it, without `./`. Raises DataError: absolute, with `..`, empty, or there twice."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if name.startswith(("/", "\\")) or _DRIVE.match(name):
            raise self._refused(name, "has an absolute path")
        if ".." in parts:
            raise self._refused(name, "points outside the archive")
        if not parts or "\0" in name:
            raise self._refused(name, "has no name that can be used")
        clean = "/".join(parts)
        if clean in self._seen:
            raise self._refused(name, "is in the archive more than once")
        self._seen.add(clean)
        return clean

    def size(self, name: str, sizes: Iterable[int]) -> None:
        """Raises DataError for a member that says that it is larger than any image, packed or unpacked."""
        largest = max(sizes)
        if largest > MOST_BYTES:
            said = f"says that it has {largest:,} bytes; an image may have {MOST_BYTES:,}"
            raise self._refused(name, said)

    def special(self, name: str, kind: str) -> zoo.DataError:
        """For a link, a device or whatever else is no file with content."""
        return self._refused(name, f"is {kind}, not a file with content")

    def _refused(self, name: str, why: str) -> zoo.DataError:
        return zoo.DataError(
            f"{self._archive}: the member {name!r} {why}.\n"
            "Next: find out where the archive is from; to use it, pack it anew without this member."
        )
