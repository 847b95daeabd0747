"""Checks of an archive's members before any is read: names must stay inside the archive, sizes must be plausible.

Nothing is extracted, so no member can be written anywhere. But a name that points outside is a sign of a hostile
archive, and names appear in reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import zoo

MAX_BYTES = 256 << 20
"""Largest encoded image in bytes: far more than a photograph has, far less than memory."""
_DRIVE = re.compile(r"[A-Za-z]:")


def folder_name(name: str) -> str:
    """The normalised name of a folder in an archive. It is looked at for classes without images only."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


class Members:
    """Checks the members of one archive, one after the other."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._seen: set[str] = set()

    def name(self, name: str) -> str:
        """Return the normalised name. Raises DataError if it is absolute, contains `..`, is empty or is repeated."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if name.startswith(("/", "\\")) or _DRIVE.match(name):
            raise self._refused(name, "has an absolute path")
        if ".." in parts:
            raise self._refused(name, "points outside the archive")
        if not parts or "\0" in name:
            raise self._refused(name, "has no usable name")
        clean = "/".join(parts)
        if clean in self._seen:
            raise self._refused(name, "is in the archive more than once")
        self._seen.add(clean)
        return clean

    def size(self, name: str, sizes: Iterable[int]) -> None:
        """Raise DataError if a member's stated size, packed or unpacked, is larger than any image."""
        largest = max(sizes)
        if largest > MAX_BYTES:
            raise self._refused(name, f"has {largest:,} bytes by its header; an image may have {MAX_BYTES:,}")

    def special(self, name: str, kind: str) -> zoo.DataError:
        """Return the error for a member that is no regular file, such as a link or a device."""
        return self._refused(name, f"is {kind}, not a file with content")

    def _refused(self, name: str, reason: str) -> zoo.DataError:
        return zoo.DataError(
            f"{self._archive}: the member {name!r} {reason}.\n"
            "Next: check where the archive comes from; to use it, pack it again without this member."
        )
