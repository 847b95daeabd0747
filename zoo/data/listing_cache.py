"""The listing of a large folder, kept in the cache: a folder that has not changed since is not listed again.

Adding, removing or renaming an entry of a folder sets the folder's times, of which nobody can set the one of the last
change (`ctime`). So a folder whose times, number and device are as before holds the same names. This is relied upon
only where it is certain; anything else is listed anew:

- The disk is in this machine, with times of its clock: a server on the network has a clock and a cache of its own.
- The time has a fraction of a second. Images of disks that are built to be reproduced have one whole second everywhere.
- The folder was last changed some seconds before it was listed: a clock that is coarse gives the same time twice.
- Nothing in the folder is a link: what it leads to changes elsewhere.
- The folder may be read now, as by listing it.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.data.folder_tree import FolderEntries, FolderEntry, FolderTree, scan
from zoo.data.text_column import TextBuilder, TextColumn, plain_column
from zoo.data.walk import Kind
from zoo.errors import ZooError
from zoo.specs.data import IMAGE_SUFFIXES
from zoo.storage.atomic import new_path
from zoo.storage.cache import cache_folder
from zoo.storage.eviction import LISTINGS

LEAST = 10_000
"""Entries of all folders from which on a listing is kept: fewer are listed in a moment."""
MOST = 16
"""Listings that are kept; those used longest ago are removed."""
SETTLED = 3.0
"""Seconds that a folder must have stayed as it is before it is listed: the coarsest clock of a disk counts two."""
_FORMAT = "1"
_LOCAL = frozenset(("btrfs", "ext4", "f2fs", "jfs", "tmpfs", "xfs", "zfs"))
"""File systems of this machine that keep the exact time of the last change of a folder. Of others nothing is kept."""
_KINDS: tuple[Kind, ...] = get_args(Kind)


class ListingCache:
    """Lists the folders below one folder, from what is kept where that is certain, and keeps what it found."""

    def __init__(self, root: Path, progress: Callable[[int], None], *, least: int = LEAST, settled: float = SETTLED):
        """Read what is kept of a folder; nothing is listed yet.

        Args:
            root: The folder.
            progress: Called now and then with the number of images so far in the folder that is being listed.
            least: Entries from which on a listing is kept.
            settled: Seconds that a folder must have stayed as it is.
        """
        self._root = str(root)
        self._progress = progress
        self._least = least
        self._settled = settled
        real = os.path.realpath(root)
        # The name is for people who look at what is cached.
        name = re.sub(r"[^\w.-]", "_", Path(real).name)[:40]
        digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
        self._path = cache_folder() / LISTINGS / f"{name}-{digest}.safetensors"
        self._facts = {"format": _FORMAT, "folder": ascii(real), "images": " ".join(IMAGE_SUFFIXES)}
        self._kept = _read(self._path, self._facts)
        self._local = local_devices()
        self._stamps: dict[str, str] = {}
        self.listed_anew = 0
        """How many folders were listed on the disk."""

    def entries(self, below: str) -> FolderEntries:
        """What lies directly in a folder, given as a path below the first. Raises OSError if it cannot be listed."""
        folder = os.path.join(self._root, below) if below else self._root  # noqa: PTH118
        stamp = self._stamp(folder)
        if self._kept is not None and stamp and self._kept.stamp(below) == stamp and _may_read(folder):
            self._stamps[below] = stamp
            return self._kept.entries(below)
        now = time.time_ns()
        self.listed_anew += 1
        entries = scan(folder, self._progress)
        if not entries.links and stamp and self._stamp(folder) == stamp and self._has_settled(stamp, now):
            self._stamps[below] = stamp
        return entries

    def keep(self, tree: FolderTree) -> None:
        """Keep the listing, where that helps. A cache folder that cannot be written to keeps nothing."""
        if len(tree.images) + len(tree.rest) < self._least or not self._stamps:
            return
        try:
            if self._kept is not None and self._kept.stamps == self._stamps:
                os.utime(self._path)  # it was of use
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _write(self._path, _arrays(tree, self._stamps), self._facts)
            for old in sorted(self._path.parent.glob("*.safetensors"), key=_modified)[:-MOST]:
                old.unlink(missing_ok=True)
        except (OSError, ZooError):  # another process may keep the same at the same time
            return

    def _stamp(self, folder: str) -> str:
        """What changes with the entries of a folder; empty where that cannot be relied upon."""
        try:
            found = os.stat(folder)  # noqa: PTH116 - for every folder of many
        except OSError:
            return ""
        if found.st_dev not in self._local or found.st_ctime_ns % 10**9 == 0:
            return ""
        return f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_dev} {found.st_ino}"

    def _has_settled(self, stamp: str, now: int) -> bool:
        return all(now - int(changed) > self._settled * 1e9 for changed in stamp.split()[:2])


class _Kept:
    """A listing that was read from the cache."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        folders, stamps = _text(arrays, "folders"), _text(arrays, "stamps")
        self.stamps = {name: stamp for name, stamp in zip(folders, stamps, strict=True) if stamp}
        self._number = {name: number for number, name in enumerate(folders)}
        self._images = _text(arrays, "images")
        self._runs = _ByFolder(arrays["run_folders"])
        self._ends = np.cumsum(arrays["runs"])
        self._lengths = arrays["runs"]
        self._rest = _ByFolder(arrays["rest_folders"])
        self._before, self._kinds, self._names = arrays["rest_before"], arrays["rest_kinds"], _text(arrays, "rest")

    def stamp(self, below: str) -> str:
        """The stamp of a folder when it was listed; empty if it is not to be relied upon."""
        return self.stamps.get(below, "")

    def entries(self, below: str) -> FolderEntries:
        """What the folder holds."""
        number = self._number[below]
        bounds = [(int(self._ends[run] - self._lengths[run]), int(self._ends[run])) for run in self._runs.of(number)]
        rest = tuple(
            FolderEntry(int(self._before[at]), _KINDS[self._kinds[at]], self._names[int(at)])
            for at in self._rest.of(number)
        )
        if len(bounds) == 1:
            ((begin, end),) = bounds
            return FolderEntries(TextColumn(self._images.blob, self._images.starts[begin : end + 1]), rest)
        images = TextBuilder()
        for begin, end in bounds:
            images.extend_from(self._images, begin, end)
        return FolderEntries(images.build(), rest)


class _ByFolder:
    """Finds what belongs to a folder, in its order: `folders[n]` is the folder of each."""

    def __init__(self, folders: NDArray[np.int32]) -> None:
        self._order = np.argsort(folders, kind="stable")
        self._sorted = folders[self._order]

    def of(self, number: int) -> NDArray[np.integer]:
        begin, end = np.searchsorted(self._sorted, np.array([number, number + 1], self._sorted.dtype))
        return self._order[begin:end]


def _arrays(tree: FolderTree, stamps: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "run_folders": tree.run_folders,
        "runs": tree.runs,
        "rest_folders": np.array([found.folder for found in tree.rest], np.int32),
        "rest_before": np.array([found.entry.before for found in tree.rest], np.int64),
        "rest_kinds": np.array([_KINDS.index(found.entry.kind) for found in tree.rest], np.uint8),
    }
    texts = {
        "folders": tree.folders,
        "stamps": [stamps.get(name, "") for name in tree.folders],
        "rest": [found.entry.name for found in tree.rest],
    }
    for name, column in {"images": tree.images, **{key: plain_column(each) for key, each in texts.items()}}.items():
        arrays |= {f"{name}_blob": column.blob, f"{name}_starts": column.starts}
    return arrays


def _text(arrays: Mapping[str, NDArray[Any]], name: str) -> TextColumn:
    return TextColumn(arrays[f"{name}_blob"], arrays[f"{name}_starts"])


def _write(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.unlink(missing_ok=True)
    with new_path(path) as draft:
        try:
            save_file(whole, draft, {**facts, "digest": _digest(whole)})
        except SafetensorError as error:  # what the library makes of a disk that is full
            raise OSError(str(error)) from None


def _read(path: Path, facts: Mapping[str, str]) -> _Kept | None:
    """Read a listing; None if there is none, it is of another kind, or not as it was written."""
    if not os.path.isfile(path):
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            stored = file.metadata() or {}
            if any(stored.get(name) != value for name, value in facts.items()):
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return _Kept(arrays) if stored.get("digest") == _digest(arrays) else None
    except (OSError, SafetensorError):
        return None


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _may_read(folder: str) -> bool:
    return os.access(folder, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def local_devices() -> frozenset[int]:
    """The devices of file systems that are relied upon, as Linux names them; nothing on other systems."""
    found: dict[int, bool] = {}
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123
            for line in mounts:
                fields, _, kind = line.partition(" - ")
                major, minor = map(int, fields.split()[2].split(":"))
                device = os.makedev(major, minor)
                found[device] = found.get(device, True) and kind.split()[0] in _LOCAL
    except (OSError, ValueError, IndexError):
        return frozenset()
    return frozenset(device for device, local in found.items() if local)
