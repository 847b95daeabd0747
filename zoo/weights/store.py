"""zoo's own store of pretrained weights: safetensors files named by their digest, in the cache folder.

What was carried here by hand lies in it, and what came from a mirror that is no hub. Unlike the rest of the cache
folder it cannot be made again without a network, so `zoo cache clear all` leaves it alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zoo.caches import cache_folder
from zoo.errors import WeightsError
from zoo.files import clear_write_errors, sync_folder, write_text
from zoo.specs import HubFile, UrlFile
from zoo.weights.manifest import Entry, manifest_text, read_manifest, source_key
from zoo.weights.places import has_digest

FOLDER = "weights"
ENDING = ".safetensors"


def store_folder() -> Path:
    """Where it is."""
    return cache_folder() / FOLDER


def stored() -> Iterator[tuple[Entry, Path]]:
    """(what is said of it, file) of all that it holds; files that cannot be read are left out."""
    folder = store_folder()
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with contextlib.suppress(WeightsError, FileNotFoundError):
            for entry in read_manifest(path):
                if (folder / entry.file).is_file():
                    yield entry, folder / entry.file


def in_store(source: HubFile | UrlFile) -> Path | None:
    """The undamaged file of `source`; None where there is none."""
    wanted = source_key(source)
    found = (path for entry, path in stored() if entry.source == wanted and has_digest(path, entry.digest))
    return next(found, None)


def put(entry: Entry, file: Path) -> Path:
    """Copy a file whose digest is the entry's into the store -> where it is. Raises RunError, WeightsError.

    A damaged one of this digest is replaced; what else is said of the same file stays.
    """
    folder = store_folder()
    kept = entry.model_copy(update={"file": f"{entry.digest}{ENDING}"})
    target, notes = folder / kept.file, folder / f"{entry.digest}.json"
    with clear_write_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and has_digest(target, entry.digest)):
            _copy(file, target, entry)
    others: tuple[Entry, ...] = ()
    with contextlib.suppress(WeightsError, FileNotFoundError):
        others = tuple(each for each in read_manifest(notes) if (each.name, each.source) != (kept.name, kept.source))
    write_text(notes, manifest_text([*others, kept]))
    return target


def _copy(file: Path, target: Path, entry: Entry) -> None:
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as to, file.open("rb") as source:
            shutil.copyfileobj(source, to, 1 << 20)
            to.flush()
            os.fsync(to.fileno())
        # Of the copy: what was looked at before may have changed, or the disk may be bad.
        if not has_digest(Path(draft), entry.digest):
            raise WeightsError(f"{file} changed while it was copied: its SHA-256 is no longer {entry.digest}.")
        Path(draft).chmod(0o644)
        Path(draft).replace(target)
        sync_folder(target.parent)
    finally:
        Path(draft).unlink(missing_ok=True)
