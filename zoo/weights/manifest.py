"""`weights.json`: what a bundle and zoo's store record about the weights that they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.errors import WeightsError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.storage.atomic import json_text, parse_json

FORMAT = 1
MANIFEST = "weights.json"
_SHA256 = "^[0-9a-f]{64}$"
_COPY = "\nNext: copy the bundle again, or make it anew: zoo weights fetch NAME --out FOLDER"
# A bundle may come from anywhere: a name with a slash could lead out of its folder.
_PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$"


class _ManifestPart(BaseModel):
    # Later versions of zoo may add keys: an earlier one reads those that it knows.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Original(_ManifestPart):
    """Upstream's file, where its tensors were rewritten as safetensors."""

    file: str
    digest: str = Field(pattern=_SHA256)


class ManifestEntry(_ManifestPart):
    """One set of weights."""

    name: str
    """`provider/architecture.tag`."""
    tag: str
    source: dict[str, Any]
    """Where upstream publishes it, as the backbone's spec says; weights are looked up by this."""
    address: str
    """The same as an address for people."""
    file: str = Field(pattern=_PLAIN_NAME)
    """Name of the file, in the manifest's own folder."""
    digest: str = Field(pattern=_SHA256)
    """SHA-256 of the file."""
    size: int = Field(ge=0)
    """Size of the file in bytes."""
    licence: str | None
    """Licence as upstream states it."""
    original: Original | None = None
    """None if the file is upstream's own."""


class Manifest(_ManifestPart):
    """The content of `weights.json`."""

    format: int
    weights: tuple[ManifestEntry, ...]


def source_key(source: HubFile | UrlFile) -> dict[str, Any]:
    """The value of an entry's `source`, in plain JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(source)))
    return plain


def address_of(source: HubFile | UrlFile, filename: str | None = None) -> str:
    """Address of a source for people; `filename`: which of a hub repository's files (default: the first)."""
    if isinstance(source, UrlFile):
        return source.url
    from huggingface_hub import constants

    file = filename or source.filenames[0]
    return f"{constants.ENDPOINT}/{source.repo_id}/resolve/{source.revision or 'main'}/{file}"


def manifest_text(entries: Iterable[ManifestEntry]) -> str:
    """The text of a manifest with these entries."""
    return json_text(Manifest(format=FORMAT, weights=tuple(entries)).model_dump(mode="json"))


def read_manifest(path: Path) -> tuple[ManifestEntry, ...]:
    """The entries of a manifest. Raises WeightsError if it is not valid, FileNotFoundError if there is none."""
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}{_COPY}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise WeightsError(f"{path} has format {stated}, this zoo reads up to {FORMAT}.\nNext: update zoo-registry.")
    try:
        return Manifest.model_validate(content).weights
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path} does not describe weights: {where}: {first['msg']}{_COPY}") from None
