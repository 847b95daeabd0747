"""Which pretrained weights are on this machine, and whether they are still whole. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import WeightsError
from zoo.events import Report, silent
from zoo.registry import Registry
from zoo.registry.catalogue import Filter, find_backbones
from zoo.specs import BackboneSpec, HubFile, UrlFile, WeightsSpec
from zoo.weights.manifest import address_of, source_key
from zoo.weights.places import checkpoint, checkpoint_folder, hub_folder, in_hub_cache
from zoo.weights.store import stored
from zoo.weights.telling import following

Place = Literal["torch", "hub", "zoo"]
_PIECE = 1 << 22


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
    """Bytes."""
    digest: str | None
    """The SHA-256 that the file must have, of torchvision's files its first digits; None where nobody has noted one."""
    licence: str | None
    address: str
    """Where they were published."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "file": self.path.name, "path": str(self.path)}


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """What looking at every byte of a file has shown."""

    weights: HeldWeights
    verdict: Literal["whole", "damaged", "unchecked"]
    """`unchecked`: nothing is known that it could be compared with."""
    found: str
    """The file's SHA-256; why there is none where it cannot be read."""

    @property
    def next_step(self) -> str:
        """What to do where it is damaged; empty where it is not."""
        if self.verdict != "damaged":
            return ""
        again = f"zoo weights fetch {self.weights.name}"
        carried = f"zoo weights import FOLDER again, or remove {self.weights.path}, then {again}"
        return carried if self.weights.place == "zoo" else f"remove {self.weights.path}, then {again}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.weights.to_dict(), "verdict": self.verdict, "found": self.found, "next": self.next_step}


def held_weights(registry: Registry, pattern: str = "") -> list[HeldWeights]:
    """All that is here, by name; `pattern` as `zoo list weights` takes it. No file is read, and no host asked."""
    wanted = Filter(pattern="*", tag_pattern=pattern or None, pretrained=True)
    found = find_backbones(registry, wanted)
    in_store = [(entry.source, path, entry.digest) for entry, path in stored()]
    checkpoints, repositories = _names_in(checkpoint_folder()), _names_in(hub_folder())
    held = []
    for listed in found:
        for weights in listed.weights:
            source = weights.source
            if isinstance(source, UrlFile) and checkpoint(source).name in checkpoints:
                held.append(_held(listed.spec, weights, "torch", checkpoint(source), source.sha256_prefix))
            if isinstance(source, HubFile) and f"models--{source.repo_id.replace('/', '--')}" in repositories:
                held += _held_in_hub_cache(listed.spec, weights, source)
            key = source_key(source) if in_store else None
            held += [_held(listed.spec, weights, "zoo", path, sha) for stated, path, sha in in_store if stated == key]
    return held


def verify_weights(registry: Registry, name: str | None = None, *, report: Report = silent) -> list[CheckedWeights]:
    """Hash every file that is here, or those of `[provider/]architecture[.tag]`.

    Raises UnknownName, and WeightsError where the named weights are not on this machine.
    """
    if name is None:
        return [check(each, report=report) for each in held_weights(registry)]
    resolved = registry.backbone(name)
    named = resolved.asked.rpartition("/")[2].partition(".")[1]
    held = [
        each
        for each in held_weights(registry, f"{resolved.spec.name}.*")
        if each.name.startswith(f"{resolved.spec.name}.") and (not named or each.tag == resolved.tag)
    ]
    if not held:
        raise WeightsError(
            f"The weights of {resolved.qualified} are not on this machine.\n"
            f"Next: zoo weights fetch {resolved.qualified}; zoo weights list shows what is here."
        )
    return [check(each, report=report) for each in held]


def check(held: HeldWeights, *, report: Report = silent) -> CheckedWeights:
    """Read a file to its end, and compare."""
    # git, and so the hub, names small files by a SHA-1 of length and content.
    of_git = held.digest is not None and re.fullmatch("[0-9a-f]{40}", held.digest) is not None
    hasher = hashlib.sha1(f"blob {held.size}\0".encode()) if of_git else hashlib.sha256()
    try:
        found = _hashed(held, hasher.update, hasher.hexdigest, report)
    except OSError as error:
        return CheckedWeights(held, "damaged", f"it cannot be read: {error.strerror or error}")
    if held.digest is None:
        return CheckedWeights(held, "unchecked", found)
    whole = found.startswith(held.digest.lower())
    return CheckedWeights(held, "whole" if whole else "damaged", found)


def _hashed(held: HeldWeights, update: Callable[[bytes], None], digest: Callable[[], str], report: Report) -> str:
    progress, done = following(report, f"verify {held.name}"), 0
    with held.path.open("rb") as file:
        while piece := file.read(_PIECE):
            update(piece)
            done += len(piece)
            progress(done, held.size)
    return digest()


def _held_in_hub_cache(spec: BackboneSpec, weights: WeightsSpec, source: HubFile) -> Iterator[HeldWeights]:
    path = in_hub_cache(source)
    if path is not None:
        # The cache names the file itself, to which this is a link, by its hash; a copy has none.
        name = path.resolve().name if path.is_symlink() else ""
        yield _held(spec, weights, "hub", path, name if re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", name) else None)


def _held(spec: BackboneSpec, weights: WeightsSpec, place: Place, path: Path, digest: str | None) -> HeldWeights:
    try:
        size = path.stat().st_size
    except OSError:  # a link to nothing: verifying it will say so
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
        return {each.name for each in folder.iterdir()}
    except OSError:
        return set()
