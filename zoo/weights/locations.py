"""Where pretrained weights are on this machine: torchvision's checkpoint folder, the hub's cache, and zoo's own store.

The store, `weights/` in the cache folder, holds safetensors files named by their digest: bundles that were imported,
and the hub's files that came from a mirror. Unlike the rest of the cache folder it cannot be made again without a
network, so `zoo cache clear all` leaves it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.errors import RunError, WeightsError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.storage.atomic import clear_write_errors, sync_folder, write_text
from zoo.storage.cache import cache_folder
from zoo.storage.in_use import Hold, NoLocks, unused
from zoo.weights.download import basename
from zoo.weights.manifest import ManifestEntry, manifest_text, read_manifest, source_key

FOLDER = "weights"
SUFFIX = ".safetensors"
_OWN = ".incoming-"
_LOCK = ".lock"
_PATIENCE = 60
"""Seconds to wait for other processes, of which each writes one small file."""


def checkpoint(source: UrlFile) -> Path:
    """Path of the file in torchvision's checkpoint folder, whether it is there or not."""
    return checkpoint_folder() / basename(source.url)


def checkpoint_folder() -> Path:
    """torch's checkpoint folder, found without importing torch, which takes seconds."""
    if "torch.hub" in sys.modules:
        # A program may have moved the folder by torch.hub.set_dir, which only torch knows.
        import torch.hub

        return Path(torch.hub.get_dir()) / "checkpoints"
    home = os.environ.get("TORCH_HOME", f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def hub_folder() -> Path:
    """The cache folder of the hub's library."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def in_hub_cache(source: HubFile) -> Path | None:
    """The first of the source's files that is in the hub's cache; None if none is."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(source.repo_id, file, revision=source.revision) for file in source.filenames)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def has_digest(path: Path, sha256: str | None) -> bool:
    """Whether a file's SHA-256 begins with `sha256`; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return not sha256 or hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256.lower())
    except OSError:
        return False


def store_folder() -> Path:
    """The folder of zoo's own store."""
    return cache_folder() / FOLDER


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder in the store that only this call uses, removed at the end; those of killed processes are removed too.

    Raises OSError where it cannot be made.
    """
    folder = store_folder() / f"{_OWN}{uuid.uuid4().hex}"
    for left in store_folder().glob(f"{_OWN}*"):
        with contextlib.suppress(OSError), unused(left, left.stat().st_mtime) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        # Without locks, new folders count as in use.
        with contextlib.suppress(NoLocks):
            stack.callback(Hold(folder).release)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def stored() -> Iterator[tuple[ManifestEntry, Path]]:
    """(entry, file) of everything in the store; what cannot be read is left out."""
    folder = store_folder()
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with contextlib.suppress(WeightsError, FileNotFoundError):
            for entry in read_manifest(path):
                if (folder / entry.file).is_file():
                    yield entry, folder / entry.file


def in_store(source: HubFile | UrlFile) -> Path | None:
    """The undamaged file of `source` in the store; None if there is none."""
    key = source_key(source)
    return next((path for entry, path in stored() if entry.source == key and has_digest(path, entry.digest)), None)


def put(entry: ManifestEntry, file: Path) -> Path:
    """Copy a file that has the entry's digest into the store -> its path there.

    A damaged file with this digest is replaced; other entries for the same file are kept.

    Raises:
        RunError: The store cannot be written.
        WeightsError: The file changed while it was copied.
    """
    folder = store_folder()
    entry = entry.model_copy(update={"file": f"{entry.digest}{SUFFIX}"})
    target, manifest = folder / entry.file, folder / f"{entry.digest}.json"
    with clear_write_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and has_digest(target, entry.digest)):
            _copy(file, target, entry)
    # The manifest comes last: what it names is there.
    with _changing_manifests(folder):
        entries = [entry]
        with contextlib.suppress(WeightsError, FileNotFoundError):
            same = (entry.name, entry.source)
            entries = [*(other for other in read_manifest(manifest) if (other.name, other.source) != same), entry]
        write_text(manifest, manifest_text(entries))
    return target


@contextlib.contextmanager
def _changing_manifests(folder: Path) -> Iterator[None]:
    """Inside, no other process changes a manifest of the store: of two that read one at once, one entry would be lost.

    Raises RunError where another process does not end its change.
    """
    # Where the file system has no locks, a lost entry, which is fetched again, is better than waiting for a lock file
    # that a killed process left.
    lock = FileLock(folder / _LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout:
        raise RunError(
            f"Another process has been writing what {folder} holds for {_PATIENCE} seconds, so nothing was added.\n"
            "Next: wait until it has finished, or end it, and repeat the command."
        ) from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()


def _copy(file: Path, target: Path, entry: ManifestEntry) -> None:
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as to, file.open("rb") as source:
            shutil.copyfileobj(source, to, 1 << 20)
            to.flush()
            os.fsync(to.fileno())
        # The copy is hashed, not the original: that may have changed since it was checked, or the disk may be bad.
        if not has_digest(Path(draft), entry.digest):
            raise WeightsError(
                f"{file} changed while it was copied: its SHA-256 is no longer {entry.digest}.\n"
                "Next: import it again, when nothing writes to it."
            )
        # mkstemp makes files that only their owner can read.
        Path(draft).chmod(0o644)
        Path(draft).replace(target)
        sync_folder(target.parent)
    finally:
        Path(draft).unlink(missing_ok=True)
