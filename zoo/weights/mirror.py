"""`ZOO_WEIGHTS_MIRROR`: a server or folder that weights are fetched from instead of the publishers' hosts.

Where it is set, no other place is tried: behind a company's firewall the publishers' hosts do not answer, and weights
should come from where somebody has checked them. Files have their upstream names: torchvision's are
`CHECKPOINT_FILE`, those of the hub `REPO_ID/resolve/REVISION/FILE`.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zoo.errors import OptionError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.weights.download import SILENCE_SECONDS, basename
from zoo.weights.manifest import MANIFEST, ManifestEntry, read_manifest, source_key

VARIABLE = "ZOO_WEIGHTS_MIRROR"


def mirror() -> str | Path | None:
    """The mirror's http address, without a final slash, or its folder; None if the variable is not set.

    Raises OptionError if the value is neither.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    scheme = urlsplit(value).scheme
    if scheme in ("http", "https"):
        return value.rstrip("/")
    folder = Path(unquote(urlsplit(value).path)) if scheme == "file" else Path(value).expanduser()
    # Not by the scheme alone: that of `C:\weights` would be `c`.
    if "://" in value and scheme != "file":
        raise OptionError(
            f"{VARIABLE}={value!r}: a mirror is a folder, or an address that begins with http.\n"
            f"Next: set {VARIABLE} to one of these, or unset it."
        )
    if not folder.is_dir():
        raise OptionError(
            f"{VARIABLE} names the folder {str(folder)!r}, which does not exist.\n"
            "Next: mount or create it, or unset the variable to fetch from the publishers."
        )
    return folder


def names(source: HubFile | UrlFile) -> list[str]:
    """Paths of the source's files on a mirror; the first that exists is used."""
    if isinstance(source, UrlFile):
        return [basename(source.url)]
    revision = source.revision or "main"
    return [f"{source.repo_id}/resolve/{revision}/{file}" for file in source.filenames]


def in_folder(folder: Path, source: HubFile | UrlFile) -> tuple[Path, str | None] | None:
    """(file, SHA-256 or its first digits that it must have) in a mirror that is a folder or a bundle.

    None if it has no such file. Raises WeightsError for a bundle whose `weights.json` cannot be read.
    """
    try:
        bundled: tuple[ManifestEntry, ...] = read_manifest(folder / MANIFEST)
    except FileNotFoundError:
        bundled = ()
    key = source_key(source)
    # What a bundle names comes first, for it states the digest of the whole file.
    for entry in bundled:
        if entry.source == key and (folder / entry.file).is_file():
            return folder / entry.file, entry.digest
    sha256 = source.sha256_prefix if isinstance(source, UrlFile) else None
    return next(((folder / name, sha256) for name in names(source) if (folder / name).is_file()), None)


def stated_digest(url: str) -> str | None:
    """The SHA-256 that a mirror states for a file, in `X-Linked-ETag` or `ETag` as the hub does; None if it does not.

    Raises HTTPError, OSError.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "zoo"}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response:
            tags: list[str] = [response.headers.get(name, "").strip('"') for name in ("X-Linked-ETag", "ETag")]
            return next((tag for tag in tags if re.fullmatch("[0-9a-f]{64}", tag)), None)
    except urllib.error.HTTPError as error:
        if error.code in (405, 501):  # The server does not support HEAD.
            error.close()
            return None
        raise
