"""What an artefact says about itself: `config.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from zoo.compute import MemoryFormat, Precision

FORMAT = 1
CONFIG, TENSORS, CARD, GOLDEN = "config.json", "model.safetensors", "README.md", "golden.safetensors"
FOLDER = "model"
"""Name of the artefact inside a run folder."""
SEAL = "seal"
"""Key of the SHA-256 of all the other keys: class names in another order, or another mean, would load and be wrong."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config.json` with its seal."""
    return {**content, SEAL: _seal(content)}


def seal_broken(content: Mapping[str, Any]) -> bool:
    """Whether it was changed after it was sealed; not where it has no seal, as those of older versions."""
    return SEAL in content and content[SEAL] != _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Record(BaseModel):
    # Newer zoos may add keys: an older one reads what it knows.
    model_config = ConfigDict(frozen=True, extra="ignore")


class BackboneConfig(_Record):
    name: str
    """Qualified, with the tag that its configuration and preprocessing come from."""
    weights: str
    """Where training started: the tag, `random`, or `file:NAME`."""
    weights_digest: str | None = None
    licence: str | None = None
    distribution: str
    """Of the plugin that provides it."""
    version: str


class HeadConfig(_Record):
    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    distribution: str
    version: str


class GoldenConfig(_Record):
    digest: str
    """SHA-256 of golden.safetensors."""
    device: str
    """Where its logits were computed."""
    threads: int = Field(ge=1)


class ArtefactConfig(_Record):
    format: int
    digest: str
    """SHA-256 of model.safetensors."""
    backbone: BackboneConfig
    head: HeadConfig
    classes: tuple[str, ...] = Field(min_length=2)
    preprocessing: dict[str, Any]
    recipe: str
    metrics: dict[str, dict[str, float]]
    proof: str | None = None
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    versions: dict[str, str]
    golden: GoldenConfig | None = None
    """None for an artefact that was made before there were golden logits."""

    def fault(self, path: object) -> str | None:
        """What a person should know before using the artefact at `path`: that the proof of its run failed."""
        return f"the proof of this classifier's run failed ({path})" if self.proof == "failed" else None
