"""What outputs of frozen layers depend on beside the images: the key under which the cache has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.model.devices import machine_facts
from zoo.model.model import ZooModel
from zoo.storage.feature_cache import CacheKey
from zoo.storage.tensors import tensor_digest

_FORMAT = 1
# Of those that a plan lists, what decodes, resizes and computes. With another version of the rest, rows stay valid.
_VERSIONS = ("zoo-registry", "torch", "torchvision", "timm", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What outputs depend on beside the images and the model's own tensors."""

    backbone: str
    """Qualified name, with the tag."""
    weights: str
    """The tag, `random`, or `file:NAME`."""
    preprocessing: Mapping[str, Any]
    precision: str
    memory_format: str
    device: str
    versions: Mapping[str, str]
    """Distribution -> version."""
    provider: tuple[str, str]
    """Distribution and version of the plugin that provides the backbone."""


def key_of(model: ZooModel, origin: Origin, *, before: str = "", outputs: str = "") -> CacheKey:
    """The key of a model's outputs in the cache: its features, what enters the group `before`, or other `outputs`."""
    return CacheKey(
        {
            "format": _FORMAT,
            "backbone": origin.backbone,
            "weights": origin.weights,
            "outputs": f"before {before} ({model.needs})" if before else outputs or _outputs_of(model),
            # The tensors themselves say more than the name of the weights: a later stage may begin from trained groups.
            "state": state_digest(model, before),
            "preprocessing": origin.preprocessing,
            "precision": origin.precision,
            "memory_format": origin.memory_format,
            "machine": hashlib.sha256("\n".join(machine_facts(origin.device)).encode()).hexdigest()[:16],
            "versions": [origin.versions.get(name) for name in _VERSIONS],
            "provider": list(origin.provider),
        }
    )


def _outputs_of(model: ZooModel) -> str:
    """What the features are, for the key of the cache: what the head needs, and which modules it is read from."""
    read = [f"{each.module}:{','.join(map(str, each.channels))}" for each in model.layers]
    return " ".join([model.needs, *read])


def state_digest(model: ZooModel, before: str = "") -> str:
    """SHA-256 over the backbone's parameters and buffers; `before` limits it to the groups before that one."""
    names = model.groups.names
    held = names[: names.index(before)] if before else names
    tensors = {**dict(model.backbone.named_parameters()), **dict(model.backbone.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        # Groups behind a cut may hold adapters, whose names the partition does not know.
        if model.group_of(f"backbone.{name}") in held:
            digest.update(f"{name} {tensor_digest(tensor)}\n".encode())
    return digest.hexdigest()
