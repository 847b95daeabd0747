"""Which pretrained weights are on this machine, and whether they are undamaged. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import WeightsError
from zoo.events import Report, silent
from zoo.registry.catalogue import Filter, find_backbones
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneSpec, HubFile, UrlFile, WeightsSpec
from zoo.weights.download import on_bytes
from zoo.weights.locations import checkpoint, checkpoint_folder, hub_folder, in_hub_cache, stored
from zoo.weights.manifest import address_of, source_key

Place = Literal["torch", "hub", "zoo"]
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """Pretrained weights that are on this machine."""

    name: str
    """`provider/architecture.tag`."""
    tag: str
    place: Place
    """`torch`: torchvision's checkpoint folder; `hub`: the Hugging Face hub's cache; `zoo`: zoo's own store."""
    path: Path
    size: int
    """Size of the file in bytes."""
    digest: str | None
    """SHA-256 that the file must have, its first digits for torchvision's files; None if nobody has recorded one."""
    licence: str | None
    address: str
    """Where the weights were published."""

    def to_dict(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        return {**asdict(self), "file": self.path.name, "path": str(self.path)}


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """Result of reading every byte of a file."""

    weights: HeldWeights
    verdict: Literal["whole", "damaged", "unchecked"]
    """`unchecked`: there is no recorded digest to compare with."""
    found: str
    """SHA-256 of the file, or why it cannot be read."""

    @property
    def next_step(self) -> str:
        """What to do about a damaged file; empty for any other."""
        if self.verdict != "damaged":
            return ""
        again = f"zoo weights fetch {self.weights.name}"
        carried = f"zoo weights import FOLDER again, or remove {self.weights.path}, then {again}"
        return carried if self.weights.place == "zoo" else f"remove {self.weights.path}, then {again}"

    def to_dict(self) -> dict[str, Any]:
        """The same in plain JSON types."""
        return {**self.weights.to_dict(), "verdict": self.verdict, "found": self.found, "next": self.next_step}


def held_weights(registry: Registry, pattern: str = "") -> list[HeldWeights]:
    """All pretrained weights on this machine, in the order of their names. No file is read, and no host asked.

    `pattern` is applied to `[provider/]architecture.tag`, as by `zoo list weights`; empty for all.
    """
    wanted = Filter(pattern="*", tag_pattern=pattern or None, pretrained=True)
    in_store = [(entry.source, path, entry.digest) for entry, path in stored()]
    # Listed once: asking for each of thousands of files is slow.
    checkpoints, repositories = _names_in(checkpoint_folder()), _names_in(hub_folder())
    held = []
    for backbone in find_backbones(registry, wanted):
        for weights in backbone.weights:
            source = weights.source
            if isinstance(source, UrlFile) and checkpoint(source).name in checkpoints:
                held.append(_held(backbone.spec, weights, "torch", checkpoint(source), source.sha256_prefix))
            if isinstance(source, HubFile) and f"models--{source.repo_id.replace('/', '--')}" in repositories:
                held += _held_in_hub_cache(backbone.spec, weights, source)
            key = source_key(source) if in_store else None
            held += [_held(backbone.spec, weights, "zoo", path, sha) for stated, path, sha in in_store if stated == key]
    return held


def verify_weights(registry: Registry, name: str | None = None, *, report: Report = silent) -> list[CheckedWeights]:
    """Hash every file of pretrained weights on this machine, or those of `[provider/]architecture[.tag]`.

    Raises:
        UnknownName: There is no such backbone or tag.
        WeightsError: The named weights are not on this machine.
    """
    if name is None:
        return [check(weights, report=report) for weights in held_weights(registry)]
    backbone = registry.backbone(name)
    has_tag = backbone.asked.rpartition("/")[2].partition(".")[1]
    held = [
        weights
        for weights in held_weights(registry, f"{backbone.spec.name}.*")
        if weights.name.startswith(f"{backbone.spec.name}.") and (not has_tag or weights.tag == backbone.tag)
    ]
    if not held:
        raise WeightsError(
            f"The weights of {backbone.qualified} are not on this machine.\n"
            f"Next: zoo weights fetch {backbone.qualified}; zoo weights list shows what is here."
        )
    return [check(weights, report=report) for weights in held]


def check(held: HeldWeights, *, report: Report = silent) -> CheckedWeights:
    """Hash a file, and compare with the recorded digest; reports Progress."""
    # git, and so the hub, names small files by a SHA-1 of length and content.
    of_git = held.digest is not None and re.fullmatch("[0-9a-f]{40}", held.digest) is not None
    hasher = hashlib.sha1(f"blob {held.size}\0".encode()) if of_git else hashlib.sha256()
    progress, done = on_bytes(report, f"verify {held.name}"), 0
    try:
        with held.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
                done += len(chunk)
                progress(done, held.size)
    except OSError as error:
        return CheckedWeights(held, "damaged", f"it cannot be read: {error.strerror or error}")
    digest = hasher.hexdigest()
    if held.digest is None:
        return CheckedWeights(held, "unchecked", digest)
    return CheckedWeights(held, "whole" if digest.startswith(held.digest.lower()) else "damaged", digest)


def _held_in_hub_cache(spec: BackboneSpec, weights: WeightsSpec, source: HubFile) -> Iterator[HeldWeights]:
    path = in_hub_cache(source)
    if path is not None:
        # A link in the hub's cache leads to a file that is named by its hash; a copy says no hash.
        name = path.resolve().name if path.is_symlink() else ""
        yield _held(spec, weights, "hub", path, name if re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", name) else None)


def _held(spec: BackboneSpec, weights: WeightsSpec, place: Place, path: Path, digest: str | None) -> HeldWeights:
    try:
        size = path.stat().st_size
    except OSError:  # A broken link; verifying it says so.
        size = 0
    return HeldWeights(
        name=f"{spec.name}.{weights.tag}",
        tag=weights.tag,
        place=place,
        path=path,
        size=size,
        digest=digest,
        licence=weights.licence,
        address=address_of(weights.source),
    )


def _names_in(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()
