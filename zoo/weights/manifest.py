"""What a bundle, and zoo's store, say about the weights that they hold: `weights.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.errors import WeightsError
from zoo.files import json_text, parse_json
from zoo.specs import HubFile, UrlFile

FORMAT = 1
MANIFEST = "weights.json"
_SHA256 = "^[0-9a-f]{64}$"
_PLAIN = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$"


class _Record(BaseModel):
    # Newer zoos may add keys: an older one reads what it knows.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Original(_Record):
    """Upstream's file, where its tensors had to be written anew as safetensors."""

    file: str
    digest: str = Field(pattern=_SHA256)


class Entry(_Record):
    """One set of weights."""

    name: str
    """`provider/architecture.tag`."""
    tag: str
    source: dict[str, Any]
    """Where upstream publishes it, as the backbone's spec says: by this it is found again."""
    address: str
    """The same, for people."""
    file: str = Field(pattern=_PLAIN)
    """Beside the manifest."""
    digest: str = Field(pattern=_SHA256)
    """SHA-256 of the file."""
    size: int = Field(ge=0)
    """Bytes."""
    licence: str | None
    """As upstream states it."""
    original: Original | None = None
    """None where the file is upstream's own."""


class Manifest(_Record):
    format: int
    weights: tuple[Entry, ...]


def source_key(source: HubFile | UrlFile) -> dict[str, Any]:
    """What stands for a source in an entry, in plain JSON types."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(source)))
    return plain


def address_of(source: HubFile | UrlFile, filename: str | None = None) -> str:
    """Where people find it."""
    if isinstance(source, UrlFile):
        return source.url
    from huggingface_hub import constants

    file = filename or source.filenames[0]
    return f"{constants.ENDPOINT}/{source.repo_id}/resolve/{source.revision or 'main'}/{file}"


def manifest_text(entries: Iterable[Entry]) -> str:
    """The file's content."""
    return json_text(Manifest(format=FORMAT, weights=tuple(entries)).model_dump(mode="json"))


def read_manifest(path: Path) -> tuple[Entry, ...]:
    """The entries. Raises WeightsError for a file that is none, FileNotFoundError where there is none."""
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise WeightsError(f"{path} has format {stated}, this zoo reads up to {FORMAT}. Next: update zoo-registry.")
    try:
        return Manifest.model_validate(content).weights
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path} does not describe weights: {where}: {first['msg']}") from None
