"""`ZOO_WEIGHTS_MIRROR`: where weights are fetched from instead of the hosts of their publishers.

Where it is set, it is the only place that is asked: behind a firm's wall the hosts of the publishers do not answer,
and what is fetched should come from where somebody looked at it. Files have the names that they have upstream:
torchvision's the checkpoint's file name, those of the hub `REPO_ID/resolve/REVISION/FILE`.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zoo.errors import OptionError
from zoo.specs import HubFile, UrlFile
from zoo.weights.download import SILENCE_SECONDS, basename
from zoo.weights.manifest import MANIFEST, Entry, read_manifest, source_key

VARIABLE = "ZOO_WEIGHTS_MIRROR"


def mirror() -> str | Path | None:
    """The http address, without a slash at its end, or the folder; None where none is set.

    Raises OptionError for what can be neither.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    scheme = urlsplit(value).scheme
    if scheme in ("http", "https"):
        return value.rstrip("/")
    folder = Path(unquote(urlsplit(value).path)) if scheme == "file" else Path(value).expanduser()
    if "://" in value and scheme != "file":
        raise OptionError(f"{VARIABLE}={value!r}: a mirror is a folder, or an address that begins with http.")
    if not folder.is_dir():
        raise OptionError(
            f"{VARIABLE} names the folder {str(folder)!r}, which is not there.\n"
            "Next: mount or make it, or unset the variable to fetch from the publishers."
        )
    return folder


def names(source: HubFile | UrlFile) -> list[str]:
    """Where its files lie on a mirror; the first that exists is taken."""
    if isinstance(source, UrlFile):
        return [basename(source.url)]
    revision = source.revision or "main"
    return [f"{source.repo_id}/resolve/{revision}/{file}" for file in source.filenames]


def in_folder(folder: Path, source: HubFile | UrlFile) -> tuple[Path, str | None] | None:
    """(file, the SHA-256 or its beginning that it must have) on a mirror that is a folder or a bundle; None where it
    has none. Raises WeightsError for a bundle whose `weights.json` cannot be read."""
    try:
        bundled: tuple[Entry, ...] = read_manifest(folder / MANIFEST)
    except FileNotFoundError:
        bundled = ()
    wanted = source_key(source)
    for entry in bundled:
        if entry.source == wanted and (folder / entry.file).is_file():
            return folder / entry.file, entry.digest
    sha256 = source.sha256_prefix if isinstance(source, UrlFile) else None
    return next(((folder / name, sha256) for name in names(source) if (folder / name).is_file()), None)


def stated_digest(url: str) -> str | None:
    """The SHA-256 that a mirror states of a file as the hub does, in `X-Linked-ETag` or `ETag`; None where it states
    none. Raises HTTPError, OSError."""
    request = urllib.request.Request(url, headers={"User-Agent": "zoo"}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response:
            tags: Iterator[str] = (response.headers.get(name, "").strip('"') for name in ("X-Linked-ETag", "ETag"))
            return next((tag for tag in tags if re.fullmatch("[0-9a-f]{64}", tag)), None)
    except urllib.error.HTTPError as error:
        if error.code in (405, 501):  # it does not know the method
            error.close()
            return None
        raise
