"""What to say about files that a table lists and that are not there: where they probably are, and what to change.

A change is offered only if it finds every one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path

from zoo_sources.disk import Disk, exists, is_file, is_folder, is_of_windows, names_in

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_SHOWN = 3
_TRIED = 1000
"""Missing files that are looked for elsewhere, at most."""
_FOLDERS = 200
"""Folders beside the table in which they are looked for, at most."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".webp", ".bmp", ".tif", ".tiff")


def missing_message(table: Path, missing: Sequence[str], total: int) -> str:
    """The message for files of a table that do not exist: how many of how many, which, and the next step."""
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    first, disk = missing[0], Disk(table.parent)
    problem = (
        f"{len(missing):,} of the {total:,} files listed in {table} {'does' if len(missing) == 1 else 'do'} not exist: "
        f"{', '.join(missing[:_SHOWN])}{more}."
    )
    if _ADDRESS.match(first):
        return (
            f"{problem} These are addresses; zoo reads files of this machine.\n"
            "Next: download the images, and write where each one lies, relative to the table's folder."
        )
    kind = " These are absolute paths of a Windows machine." if is_of_windows(first) else _nearest(disk, first)
    change = _change(disk, missing)
    if change:
        return f"{problem}{kind}\nNext: {change}; paths are relative to the table's folder {table.parent}."
    return (
        f"{problem}{kind}\n"
        f"Next: correct the paths, which are relative to the table's folder {table.parent}, or remove these rows."
    )


def _change(disk: Disk, missing: Sequence[str]) -> str | None:
    """What finds all of these files: a beginning to cut, a folder to put before, or an extension to put after."""
    first = missing[0]
    for cut in (first[: match.end()] for match in re.finditer(r"[\\/]+", first)):
        if _all_there(disk, missing, partial(_without, start=cut)):
            return f"remove {cut} from the beginning of these paths"
    if not _is_absolute(first):
        folders = (f"{name}/" for name in names_in(disk.folder) if is_folder(disk.folder / name))
        for start in ("../", *islice(folders, _FOLDERS)):
            if _all_there(disk, missing, start.__add__):
                return f"write {start} before these paths"
    for end in _SUFFIXES:
        if _all_there(disk, missing, partial(_with_end, end=end)):
            return f"write {end} at the end of these paths"
    return None


def _all_there(disk: Disk, missing: Sequence[str], changed: Callable[[str], str]) -> bool:
    """Whether every path is that of a file once it is changed; an empty one or one of a folder is none."""
    found = (disk.find(other) if (other := changed(path)) else None for path in missing[:_TRIED])
    return all(each is not None and is_file(each.path) for each in found)


def _without(path: str, start: str) -> str:
    return path[len(start) :] if path.startswith(start) else ""


def _with_end(path: str, end: str) -> str:
    return path + end


def _is_absolute(path: str) -> bool:
    return is_of_windows(path) or Path(path).is_absolute()


def _nearest(disk: Disk, missing: str) -> str:
    folder = (disk.folder / missing).parent
    if not exists(folder):
        return f" There is no folder {folder}."
    name, names = Path(missing).name, names_in(folder)
    close = _alike(name, names) or get_close_matches(name, names, n=1, cutoff=0.6)
    return f" Did you mean {str(Path(missing).parent / close[0])!r}?" if close else ""


def _alike(name: str, names: Sequence[str]) -> list[str]:
    return [other for other in names if other.casefold() == name.casefold()][:1]
