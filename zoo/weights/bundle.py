"""Bundles: weights for a machine without a network, as a folder of safetensors files and `weights.json`.

A bundle is made on a machine with a network (`zoo weights fetch NAME --out FOLDER`), copied over, and put into zoo's
store there (`zoo weights import FOLDER`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.errors import Refused, WeightsError
from zoo.events import Note, Report
from zoo.model.build import build_backbone
from zoo.registry.catalogue import Filter, find_backbones
from zoo.registry.names import ResolvedBackbone
from zoo.registry.registry import Registry
from zoo.specs.backbone import BackboneSpec, HubFile, UrlFile, WeightsSpec
from zoo.storage.atomic import new_path
from zoo.storage.tensors import file_digest
from zoo.text import shell_word
from zoo.weights.download import basename, on_bytes, on_start
from zoo.weights.fetch import fetch
from zoo.weights.locations import SUFFIX, has_digest, own_folder, put
from zoo.weights.manifest import MANIFEST, ManifestEntry, Original, address_of, manifest_text, read_manifest, source_key
from zoo.weights.obtain import choose_weights
from zoo.weights.state import check_weights_file, read_state, write_safetensors


def fetch_weights(
    names: Sequence[str], registry: Registry, report: Report, *, out: Path | None = None
) -> list[tuple[ManifestEntry, Path]]:
    """Download weights that are not on this machine -> (entry, file) of each.

    Args:
        names: `[provider/]architecture[.tag]`, one or several.
        registry: The backbones that publish them.
        report: Called with Note and Progress.
        out: If given, also write a bundle, a new folder; the files returned are then those in it.

    Raises:
        UnknownName: There is no such backbone or tag.
        Refused: A backbone has no published weights, or `out` exists.
        WeightsError: The weights cannot be downloaded; Unreachable, Offline.
    """
    published = [_published(registry.backbone(name)) for name in dict.fromkeys(names)]
    if out is None:
        files = [(spec, weights, _fetch(spec, weights, report)) for spec, weights in published]
        return [(_entry(spec, weights, path, path), path) for spec, weights, path in files]
    # A bundle that was stopped half-way is not there: on the other machine nobody could make it whole.
    with new_path(out) as draft:
        draft.mkdir()
        entries = [_add_to_bundle(spec, weights, draft, report) for spec, weights in published]
        (draft / MANIFEST).write_text(manifest_text(entries), "utf-8")
    return [(entry, out / entry.file) for entry in entries]


def import_weights(
    path: Path, registry: Registry, report: Report, *, name: str | None = None
) -> list[tuple[ManifestEntry, Path]]:
    """Check a bundle or a file, and copy its weights into zoo's store -> (entry, file in the store) of each.

    Everything is checked before anything is copied.

    Args:
        path: A bundle, or one file as upstream publishes it.
        registry: The backbones that will use the weights.
        report: Called with a Note about what could not be checked.
        name: Whose weights a file holds; needed for the hub's files, which all have the same name.

    Raises:
        WeightsError: A file is missing, damaged, not upstream's, or of other weights than this zoo looks for.
        Refused: `name` was given for a bundle, or not given for a file whose name does not identify its weights.
    """
    if path.is_dir():
        if name is not None:
            raise Refused(
                f"{path} is a folder, whose {MANIFEST} names the weights, and --as {name} names them too.\n"
                "Next: leave --as out."
            )
        entries = _checked_bundle(path, registry)
        return [(entry, put(entry, path / entry.file)) for entry in entries]
    check_weights_file(path)
    spec, weights = _identify(path, registry, name)
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
        announce=on_start(report),
        progress=on_bytes(report),
    )


def _add_to_bundle(spec: BackboneSpec, weights: WeightsSpec, draft: Path, report: Report) -> ManifestEntry:
    path = _fetch(spec, weights, report)
    file = draft / f"{spec.provider}_{spec.architecture}.{weights.tag}{SUFFIX}"
    write_safetensors(path, file)
    return _entry(spec, weights, path, file)


def _entry(spec: BackboneSpec, weights: WeightsSpec, upstream: Path, file: Path) -> ManifestEntry:
    """The entry of `file`, which holds the tensors of upstream's file `upstream` and may be the same."""
    digest = file_digest(file)
    upstream_digest = digest if upstream == file else file_digest(upstream)
    hub_files = weights.source.filenames if isinstance(weights.source, HubFile) else ()
    return ManifestEntry(
        name=f"{spec.name}.{weights.tag}",
        tag=weights.tag,
        source=source_key(weights.source),
        address=address_of(weights.source, upstream.name if upstream.name in hub_files else None),
        file=file.name,
        digest=digest,
        size=file.stat().st_size,
        licence=weights.licence,
        original=None if upstream_digest == digest else Original(file=upstream.name, digest=upstream_digest),
    )


def _checked_bundle(folder: Path, registry: Registry) -> tuple[ManifestEntry, ...]:
    try:
        entries = read_manifest(folder / MANIFEST)
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} is not a bundle: it has no {MANIFEST}.\n"
            "Next: make one on a connected machine with zoo weights fetch NAME --out FOLDER, or give one weights file."
        ) from None
    for entry in entries:
        _check_source(entry, registry)
        file = folder / entry.file
        if not file.is_file():
            raise WeightsError(f"{folder} is incomplete: {entry.file} is missing.\nNext: copy the bundle again.")
        if not has_digest(file, entry.digest):
            raise WeightsError(
                f"{file} is damaged: its SHA-256 is {file_digest(file)}, {MANIFEST} says {entry.digest}.\n"
                "Nothing was imported.\nNext: copy the bundle again."
            )
    return entries


def _check_source(entry: ManifestEntry, registry: Registry) -> None:
    """Refuse weights that this zoo would not find again, because it uses the name for others."""
    backbone = registry.backbone(entry.name)
    weights = backbone.spec.weights_for(entry.tag)
    # The store is searched by the source that a spec states. By another one, the file would lie there unused.
    if weights is None or source_key(weights.source) != entry.source:
        own = f"weights from {address_of(weights.source)}" if weights else "no weights"
        raise WeightsError(
            f"The bundle's {entry.name} is from {entry.address}; by that name the {backbone.plugin.label} installed "
            f"here has {own}.\nNext: make the bundle with the versions of zoo and its plugins that are installed on "
            "this machine; zoo doctor shows them."
        )


def _identify(path: Path, registry: Registry, name: str | None) -> tuple[BackboneSpec, WeightsSpec]:
    """The weights that a file holds, by `name` or by the file's own name."""
    if name is not None:
        return _published(registry.backbone(name))
    for backbone in find_backbones(registry, Filter(pretrained=True)):
        for weights in backbone.weights:
            if isinstance(weights.source, UrlFile) and basename(weights.source.url) == path.name:
                return backbone.spec, weights
    raise Refused(
        f"No published weights have a file named {path.name!r}, so its name does not say which weights it holds.\n"
        f"Next: zoo weights import {shell_word(path)} --as NAME if it is upstream's own file, "
        f"or zoo finetune --weights {shell_word(path)} if it is yours."
    )


def _import_file(path: Path, spec: BackboneSpec, weights: WeightsSpec, report: Report) -> tuple[ManifestEntry, Path]:
    name = f"{spec.name}.{weights.tag}"
    published = weights.source.sha256_prefix if isinstance(weights.source, UrlFile) else None
    if not has_digest(path, published):
        raise WeightsError(
            f"{path} is not the published file of {name}: its SHA-256 is {file_digest(path)}, the published one is "
            f"{published}...\nNext: copy the file again, or, if it is your own, "
            f"zoo finetune --backbone {spec.name} --weights {shell_word(path)}"
        )
    # Built, so that tensors of another architecture are refused now and not when a run needs them.
    build_backbone(spec.build, tag=weights.tag, state=read_state(path), input_size=None)
    if published is None:
        unknown = f"No SHA-256 of {name} is known without a network, so {path.name} could not be compared with one"
        report(Note(text=f"{unknown}. It fits the architecture, and zoo trusts that it is the right file.", loud=True))
    # Two imports may run at once.
    with own_folder() as folder:
        draft = folder / f"import{SUFFIX}"
        write_safetensors(path, draft)
        entry = _entry(spec, weights, path, draft)
        entry = entry.model_copy(update={"file": f"{entry.digest}{SUFFIX}"})
        return entry, put(entry, draft)
