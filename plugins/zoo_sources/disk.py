"""Find the files that a table names on this disk: as they stand, with slashes for backslashes, in any Unicode form."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

_ON_WINDOWS = os.name == "nt"
_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""The beginning of an absolute path on Windows: a drive, or a share of another computer."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What is at a path of a table: perhaps a file."""

    path: Path
    name: str
    """The path in its simplest form, so that `a.jpg` and `./a.jpg` have the same."""


class Disk:
    """The files below the folder of a table, and how often a path was not found as it stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._backslashes = self._respelled = 0

    def find(self, text: str) -> OnDisk | None:
        """What a path means here, or None if nothing is there. A path is relative to the folder, or absolute."""
        home = str(Path(text).expanduser()) if text.startswith("~/") else None
        if home is not None and not exists(self.folder / text) and exists(Path(home)):
            return OnDisk(Path(home), _simplest(text))
        spellings = [text]
        if "\\" in text and not _ON_WINDOWS and not is_of_windows(text):
            spellings.append(text.replace("\\", "/"))
        for spelling in spellings:
            found = spelling if exists(self.folder / spelling) else self._in_another_form(spelling)
            if found is not None:
                self._backslashes += "\\" in text and "\\" not in spelling
                return OnDisk(self.folder / found, _simplest(found))
        return None

    def notes(self) -> list[str]:
        """How paths were read that are not there as they stand."""
        notes = []
        if self._backslashes:
            notes.append(f"backslashes read as slashes in {self._backslashes:,} paths")
        if self._respelled:
            notes.append(f"{self._respelled:,} file names found in another Unicode form (NFC, NFD)")
        return notes

    def _in_another_form(self, text: str) -> str | None:
        """The same path as the disk spells it, where only composed or decomposed letters differ."""
        if text.isascii():
            return None
        place = Path()
        for part in Path(text).parts:
            if not exists(self.folder / place / part):
                same = self._listing(self.folder / place).get(normalize("NFC", part), [])
                if len(same) != 1:
                    return None
                (part,) = same  # from here on as on disk
            place /= part
        self._respelled += 1
        return str(place)

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """NFC form -> the names on disk, of one folder."""
        if folder not in self._names:
            names: dict[str, list[str]] = defaultdict(list)
            for name in names_in(folder):
                names[normalize("NFC", name)].append(name)
            self._names[folder] = names
        return self._names[folder]


def is_of_windows(text: str) -> bool:
    """Whether this is an absolute path on Windows, which means nothing on another system."""
    return not _ON_WINDOWS and _WINDOWS_ROOT.match(text) is not None


def _simplest(text: str) -> str:
    return Path(os.path.normpath(text)).as_posix()


# The methods of `Path` raise for a closed folder and for a name of 300 letters; these functions answer False.
def exists(path: Path) -> bool:
    """Whether there is anything that can be looked at."""
    return os.path.exists(path)


def is_file(path: Path) -> bool:
    """Whether there is a file that can be looked at."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder that can be looked at."""
    return os.path.isdir(path)


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names
    except (OSError, ValueError):
        return []
