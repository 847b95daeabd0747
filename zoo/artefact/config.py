"""`config.json`: what an artefact records about itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from zoo.specs.backbone import GroupOutput
from zoo.specs.plan import MemoryFormat, Precision

FORMAT = 1
CONFIG, TENSORS, CARD, GOLDEN = "config.json", "model.safetensors", "README.md", "golden.safetensors"
FOLDER = "model"
"""Name of the artefact inside a run folder."""
SEAL = "seal"
"""Key of the SHA-256 of all other keys: a config with reordered classes or another mean would load, and be wrong."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config.json` with its seal."""
    return {**content, SEAL: _seal(content)}


def seal_broken(content: Mapping[str, Any]) -> bool:
    """Whether the content was changed after it was sealed; False if it has no seal, as in earlier versions."""
    return SEAL in content and content[SEAL] != _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in content.items() if key != SEAL}
    # In one form, whatever the order of keys and the spaces in the file: the seal is of what it says, not of its bytes.
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _ConfigPart(BaseModel):
    # Later versions of zoo may add keys: an earlier one reads those that it knows.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _ProvidedPart(_ConfigPart):
    """What a plugin provides: it has the field `installed_from`."""

    @model_serializer(mode="wrap")
    def _without_what_goes_without_saying(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        # So the config of a backbone or head that lacks them has the bytes that it had before there were such keys.
        left_out = [key for key in ("layers", "installed_from") if not content.get(key)]
        return {key: value for key, value in content.items() if key not in left_out}


class BackboneConfig(_ProvidedPart):
    """The backbone, and where its weights come from."""

    name: str
    """Qualified name, with the tag that its configuration and preprocessing come from."""
    weights: str
    """The weights that training started from: the tag, `random`, `file:NAME`, or `own`: the values of a module that was
    passed as the backbone."""
    weights_digest: str | None = None
    """SHA-256 of their file; None for random weights."""
    licence: str | None = None
    """Licence of the pretrained weights, as their publisher states it."""
    distribution: str
    """Distribution of the plugin that provides the backbone."""
    version: str
    """Version of that distribution."""
    installed_from: str | None = None
    """An address, or `a folder` or `a file` of the machine that trained, whose path is nobody's business elsewhere; not
    there for a distribution from a package index."""


class HeadConfig(_ProvidedPart):
    """The head and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    layers: tuple[GroupOutput, ...] = ()
    """Where the backbone's outputs are read whose means follow the pooled features, for a head that needs them; others
    have no such key."""
    distribution: str
    """Distribution of the plugin that provides the head."""
    version: str
    """Version of that distribution."""
    installed_from: str | None = None
    """As for the backbone."""


class GoldenConfig(_ConfigPart):
    """How the golden logits were computed."""

    digest: str
    """SHA-256 of golden.safetensors."""
    device: str
    threads: int = Field(ge=1)


class SourceConfig(_ConfigPart):
    """A run whose weights are in the average that the artefact holds."""

    name: str
    """The name of its folder."""
    digest: str
    """SHA-256 of its model.safetensors."""


class ArtefactConfig(_ConfigPart):
    """The content of `config.json`."""

    format: int
    digest: str
    """SHA-256 of model.safetensors."""
    backbone: BackboneConfig
    head: HeadConfig
    classes: tuple[str, ...] = Field(min_length=2)
    """Class names in the order of the logits."""
    preprocessing: dict[str, Any]
    recipe: str
    metrics: dict[str, dict[str, float]]
    """Split -> metric -> value."""
    proof: str | None = None
    """`passed` or `failed`."""
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    versions: dict[str, str]
    """Distribution -> version, of the environment that trained it."""
    golden: GoldenConfig | None = None
    """None for an artefact of a version that wrote no golden logits."""
    sources: tuple[SourceConfig, ...] = ()
    """Of a soup, the runs whose weights were averaged; empty for the classifier of a single run."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _numbers(cls, stored: Any) -> Any:
        # JSON has no nan, so a loss that is no number is written as null (`zoo.storage.atomic.json_text`).
        if not isinstance(stored, Mapping):
            return stored
        return {
            split: {name: math.nan if value is None else value for name, value in scores.items()}
            if isinstance(scores, Mapping)
            else scores
            for split, scores in stored.items()
        }

    def fault(self, path: object) -> str | None:
        """A warning for users of the artefact at `path`, that the proof of its run failed; None if it passed."""
        return f"the proof of this classifier's run failed ({path})" if self.proof == "failed" else None
