"""Weights for a machine without a network: a folder of safetensors files and `weights.json`, which says whose they are.

Made where there is a network (`zoo weights fetch NAME --out FOLDER`), carried over, and put into zoo's store there
(`zoo weights import FOLDER`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import Refused, WeightsError
from zoo.events import Note, Report
from zoo.files import new_path
from zoo.model.build import build_backbone, choose_weights, file_digest
from zoo.model.weights import check_weights_file, read_state
from zoo.registry import Registry, ResolvedBackbone
from zoo.registry.catalogue import Filter, find_backbones
from zoo.specs import BackboneSpec, HubFile, UrlFile, WeightsSpec
from zoo.weights.convert import write_safetensors
from zoo.weights.download import basename
from zoo.weights.fetch import fetch
from zoo.weights.manifest import MANIFEST, Entry, Original, address_of, manifest_text, read_manifest, source_key
from zoo.weights.places import has_digest
from zoo.weights.store import ENDING, put, store_folder
from zoo.weights.telling import announcing, following


def fetch_weights(
    names: Sequence[str], registry: Registry, report: Report, *, out: Path | None = None
) -> list[tuple[Entry, Path]]:
    """Download what is not here; with `out` also as a bundle, a new folder -> (what is said of each, its file).

    Raises Refused for a backbone without weights and an `out` that exists, WeightsError.
    """
    chosen = [_published(registry.backbone(name)) for name in dict.fromkeys(names)]
    if out is None:
        found = [(spec, weights, _fetch(spec, weights, report)) for spec, weights in chosen]
        return [(_entry(spec, weights, path, path), path) for spec, weights, path in found]
    with new_path(out) as draft:
        draft.mkdir()
        entries = [_bundled(spec, weights, draft, report) for spec, weights in chosen]
        (draft / MANIFEST).write_text(manifest_text(entries), "utf-8")
    return [(entry, out / entry.file) for entry in entries]


def import_weights(
    path: Path, registry: Registry, report: Report, *, name: str | None = None
) -> list[tuple[Entry, Path]]:
    """Check what was carried here and put it into zoo's store -> (what is said of each, where it is).

    Everything is checked before anything is put there.

    Args:
        path: A bundle, or one file as upstream publishes it.
        registry: Whose backbones find it afterwards.
        report: Told what could not be checked.
        name: Of a file, whose weights it holds; needed for the hub's, whose files all have the same name.

    Raises:
        WeightsError: A file is missing, damaged, another one than upstream's, or not what this zoo looks for.
        Refused: `name` beside a bundle, or no `name` for a file that does not tell by its own.
    """
    if path.is_dir():
        if name is not None:
            raise Refused(f"{path} is a folder, whose {MANIFEST} names the weights: leave --as {name} out.")
        entries = _checked_bundle(path, registry)
        return [(entry, put(entry, path / entry.file)) for entry in entries]
    check_weights_file(path)
    spec, weights = _whose(path, registry, name)
    return [_import_file(path, spec, weights, report)]


def _published(backbone: ResolvedBackbone) -> tuple[BackboneSpec, WeightsSpec]:
    tag = choose_weights(backbone, "default").tag
    weights = backbone.spec.weights_for(tag)
    assert weights is not None, "a tag that was chosen is the spec's"
    return backbone.spec, weights


def _fetch(spec: BackboneSpec, weights: WeightsSpec, report: Report) -> Path:
    return fetch(
        weights.source,
        name=f"{spec.name}.{weights.tag}",
        licence=weights.licence,
        announce=announcing(report),
        progress=following(report),
    )


def _bundled(spec: BackboneSpec, weights: WeightsSpec, draft: Path, report: Report) -> Entry:
    path = _fetch(spec, weights, report)
    file = draft / f"{spec.provider}_{spec.architecture}.{weights.tag}{ENDING}"
    write_safetensors(path, file)
    return _entry(spec, weights, path, file)


def _entry(spec: BackboneSpec, weights: WeightsSpec, upstream: Path, file: Path) -> Entry:
    """`file` holds what `upstream`, which may be the same, was published with."""
    digest = file_digest(file)
    of_upstream = digest if upstream == file else file_digest(upstream)
    return Entry(
        name=f"{spec.name}.{weights.tag}",
        tag=weights.tag,
        source=source_key(weights.source),
        address=address_of(weights.source, upstream.name if upstream.name in _hub_files(weights) else None),
        file=file.name,
        digest=digest,
        size=file.stat().st_size,
        licence=weights.licence,
        original=None if of_upstream == digest else Original(file=upstream.name, digest=of_upstream),
    )


def _hub_files(weights: WeightsSpec) -> tuple[str, ...]:
    return weights.source.filenames if isinstance(weights.source, HubFile) else ()


def _checked_bundle(folder: Path, registry: Registry) -> tuple[Entry, ...]:
    try:
        entries = read_manifest(folder / MANIFEST)
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} is no bundle: it has no {MANIFEST}.\n"
            "Next: make one on a connected machine with zoo weights fetch NAME --out FOLDER, or give one weights file."
        ) from None
    for entry in entries:
        _refuse_others(entry, registry)
        file = folder / entry.file
        if not file.is_file():
            raise WeightsError(f"{folder} is incomplete: {entry.file} is missing. Next: carry the bundle over again.")
        if not has_digest(file, entry.digest):
            raise WeightsError(
                f"{file} is damaged: its SHA-256 is {file_digest(file)}, {MANIFEST} says {entry.digest}.\n"
                "Nothing was imported. Next: carry the bundle over again."
            )
    return entries


def _refuse_others(entry: Entry, registry: Registry) -> None:
    """What this zoo would not find again, because it means other weights by that name."""
    backbone = registry.backbone(entry.name)
    weights = backbone.spec.weights_for(entry.tag)
    if weights is None or source_key(weights.source) != entry.source:
        means = address_of(weights.source) if weights else "nothing"
        raise WeightsError(
            f"The bundle's {entry.name} is from {entry.address}; by that name the {backbone.plugin.label} installed "
            f"here means {means}.\nNext: make the bundle with the versions of zoo and its plugins that this machine "
            "has; zoo doctor shows them."
        )


def _whose(path: Path, registry: Registry, name: str | None) -> tuple[BackboneSpec, WeightsSpec]:
    if name is not None:
        return _published(registry.backbone(name))
    for listed in find_backbones(registry, Filter(pretrained=True)):
        for weights in listed.weights:
            if isinstance(weights.source, UrlFile) and basename(weights.source.url) == path.name:
                return listed.spec, weights
    raise Refused(
        f"Nobody publishes weights in a file named {path.name!r}, so it does not say whose they are.\n"
        f"Next: zoo weights import {path} --as NAME where it is upstream's own file, "
        f"or zoo finetune --weights {path} where it is yours."
    )


def _import_file(path: Path, spec: BackboneSpec, weights: WeightsSpec, report: Report) -> tuple[Entry, Path]:
    name = f"{spec.name}.{weights.tag}"
    published = weights.source.sha256_prefix if isinstance(weights.source, UrlFile) else None
    if not has_digest(path, published):
        raise WeightsError(
            f"{path} is not the published file of {name}: its SHA-256 is {file_digest(path)}, "
            f"published is {published}...\nNext: carry it over again, or, where it is your own, "
            f"zoo finetune --backbone {spec.name} --weights {path}"
        )
    # Tensors of another architecture are heard of now, not when a run needs them.
    build_backbone(spec.build, tag=weights.tag, state=read_state(path), input_size=None)
    if published is None:
        text = f"Nobody published a SHA-256 of the weights of {name} that zoo knows without a network: "
        report(Note(text=f"{text}{path.name} fits the architecture, and is taken at your word.", loud=True))
    store_folder().mkdir(parents=True, exist_ok=True)
    draft = store_folder() / f"import-{os.getpid()}{ENDING}"
    try:
        write_safetensors(path, draft)
        entry = _entry(spec, weights, path, draft)
        entry = entry.model_copy(update={"file": f"{entry.digest}{ENDING}"})
        return entry, put(entry, draft)
    finally:
        draft.unlink(missing_ok=True)
