"""Which network turns images into vectors: a pretrained backbone by name, or the one in a saved classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.advice.frozen_backbone import named_run
from zoo.artefact.classifier import Classifier
from zoo.errors import OptionError, Refused, UnknownName
from zoo.evaluation.out_of_memory import out_of_memory_as_error, without_training
from zoo.events import Note, Report
from zoo.frozen.cache_key import Origin, key_of
from zoo.model.build import group_outputs
from zoo.model.devices import choose_device
from zoo.model.layers import NoLayers, output_mean
from zoo.model.model import ZooModel, check_shapes
from zoo.planning.object_version import measured_name
from zoo.planning.precision import check_precision, choose_compute
from zoo.planning.request import Request
from zoo.planning.resolved_model import ResolvedModel, resolve_model
from zoo.planning.versions import versions
from zoo.registry.registry import Registry
from zoo.specs.backbone import GroupOutput
from zoo.specs.plan import Compute
from zoo.storage.feature_cache import CacheKey
from zoo.text import some
from zoo.training import seeding
from zoo.weights.download import on_bytes, on_start
from zoo.weights.obtain import obtain_weights
from zoo.weights.state import load_weights

_HEAD = "linear"
"""A head that takes pooled features; it is never asked for logits."""
_CLASSES = ("0", "1")
"""A model is built for some classes; how many does not matter to the features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedder:
    """A network whose `features(images)` are the vectors."""

    model: ZooModel
    key: CacheKey
    """Names its vectors in the cache."""
    backbone: str
    """Qualified name, with the tag."""
    about: Mapping[str, Any]
    """What the vectors are, in plain JSON types: backbone, weights, group, preprocessing, precision, versions."""


def check_name(backbone: str, registry: Registry) -> None:
    """Raise what a name that means nothing, or a path without a classifier, raises: before the images are looked for.

    Raises UnknownName, NameConflict or ArtefactError.
    """
    if named_run(backbone, registry) is None:
        registry.backbone(backbone)


def open_embedder(request: Request, registry: Registry, report: Report, *, group: str | None = None) -> Embedder:
    """Build the network that a request names as its backbone.

    Of a saved classifier, the backbone is taken as it was trained, in the precision in which it was trained unless the
    request asks for another one.

    Args:
        request: Its `backbone` is a name, or the path of a run or a saved classifier. Its weights, input size, seed,
            device and precision are used.
        registry: Where names are looked up.
        report: Called with every event.
        group: The group of the backbone whose output is averaged over all positions. None: the pooled features.

    Raises:
        Refused: Names that do not exist, a group without an output of its own, or weights beside a saved classifier.
        ArtefactError, WeightsError: It cannot be read, or is not what it claims.
    """
    check_precision(request.precision)
    device = choose_device(request.device)
    folder = named_run(request.backbone, registry)
    if folder is not None:
        return _of_classifier(folder, request, registry, report, device, group)
    return _of_name(request, registry, report, device, group)


def _of_name(request: Request, registry: Registry, report: Report, device: str, group: str | None) -> Embedder:
    resolved = resolve_model(
        registry,
        request.backbone,
        _HEAD,
        head_options={},
        weights=request.weights,
        input_size=request.input_size,
    )
    resolved.check_input_size()
    output = _output_of(group, resolved)
    weights = obtain_weights(
        resolved.backbone,
        resolved.weights,
        resolved.architecture(),
        offline=request.offline,
        announce=on_start(report),
        progress=on_bytes(report),
    )
    if weights.note:
        report(Note(text=weights.note, loud=weights.ambiguous))
    outline = resolved.outline(_CLASSES)
    _, height, width = outline.preprocessing.input_size
    compute = choose_compute(
        resolved.headless,
        lambda: outline,
        name=f"{measured_name(resolved)} {height}x{width} pooled",
        device=device,
        trains=False,
        precision=request.precision,
        tune=request.tune,
        report=report,
    ).compute
    seeding.seed_torch(f"{request.seed}/initialisation")  # random weights are those of a run with this seed
    with out_of_memory_as_error(f"loading {resolved.backbone.spec.name} on {device}", step=without_training(device)):
        model = resolved.build(_CLASSES, weights.state).to(device)
    model.compute_as(compute)
    known: dict[str, Any] = {"label": resolved.weights.label, "sha256": weights.digest, "trained": False}
    if resolved.weights.kind == "random":
        known["seed"] = request.seed
    return _embedder(model, resolved, output, known, device)


def _of_classifier(
    folder: Path, request: Request, registry: Registry, report: Report, device: str, group: str | None
) -> Embedder:
    for option, given in (("--weights", request.weights != "default"), ("--input-size", request.input_size)):
        if given:
            raise OptionError(
                f"{option} beside {folder}: a saved classifier brings its own weights and input size.\n"
                f"Next: leave {option} out, or name a backbone instead."
            )
    classifier = Classifier.load(folder, device=device, report=report, registry=registry)
    if classifier.fault:
        report(Note(text=classifier.fault, loud=True))
    model, config = classifier.model, classifier.config
    _, height, width = model.preprocessing.input_size
    resolved = resolve_model(registry, config.backbone.name, _HEAD, head_options={}, input_size=(height, width))
    output = _output_of(group, resolved)
    # Vectors are pooled features whatever the head takes, so the backbone is put into a model that gives those.
    if model.needs != "pooled":  # its features are a map, or those of all layers
        pooled = resolved.build(_CLASSES, None)
        load_weights(pooled.backbone, model.backbone.state_dict(), architecture=config.backbone.name)
        pooled.preprocessing = model.preprocessing
        with out_of_memory_as_error(f"loading {folder} on {device}", step=without_training(device)):
            model = pooled.to(device).compute_as(model.compute)
    if request.precision != "auto":
        half = request.precision == "bfloat16"
        model.compute_as(Compute("bfloat16" if half else "float32", model.compute.memory_format))
    known = {"label": config.backbone.weights, "sha256": config.digest, "trained": True}
    return _embedder(model, resolved, output, known, device)


def _output_of(group: str | None, resolved: ResolvedModel) -> GroupOutput | None:
    """Where the output of a group is read; None where no group is asked for."""
    if group is None:
        return None
    check_group(group, resolved.outline(_CLASSES).groups.names, backbone=resolved.backbone.spec.name)
    try:
        outputs = group_outputs(resolved.backbone, tag=resolved.weights.tag, input_size=resolved.input_size)
    except NoLayers as error:
        raise Refused(
            f"The outputs of the groups of {resolved.backbone.spec.name} cannot be read: {error}.\n"
            "Next: leave --group out, for the pooled features."
        ) from error
    found = {each.group: each for each in outputs}
    if group not in found:
        raise Refused(
            f"The group {group!r} of {resolved.backbone.spec.name} has no output of its own that could be averaged.\n"
            f"Next: one of these: {some(list(found))}; or leave --group out, for the pooled features."
        )
    return found[group]


_GROUPS = "give one of these; or leave --group out, for the pooled features."


def check_group(group: str, names: Sequence[str], *, backbone: str) -> None:
    """Raise UnknownName for a group that is not among the `names` of a backbone's groups."""
    if group not in names:
        raise UnknownName("group", group, names, hint=f"{backbone} has: {', '.join(names)}.", step=_GROUPS)


def _embedder(
    model: ZooModel, resolved: ResolvedModel, output: GroupOutput | None, weights: dict[str, Any], device: str
) -> Embedder:
    check_shapes(model)
    model.eval()
    plugin, spec, tag = resolved.backbone.plugin, resolved.backbone.spec, resolved.weights.tag
    # The same origin as a run's own features, so that either finds what the other computed.
    origin = Origin(
        backbone=f"{spec.name}.{tag}" if tag else spec.name,
        weights=weights["label"],
        preprocessing=model.preprocessing.to_dict(),
        precision=model.compute.precision,
        memory_format=model.compute.memory_format,
        device=device,
        versions=versions(),
        provider=(plugin.distribution, plugin.version),
    )
    channels = "" if output is None else ",".join(map(str, output.channels))
    key = key_of(model, origin, outputs="" if output is None else f"mean of {output.module}:{channels}")
    if output is not None:
        model.replace_features(lambda pool: output_mean(pool, output))
    about = {
        "backbone": origin.backbone,
        "weights": {**weights, "backbone_sha256": key.facts["state"]},
        "group": None if output is None else output.group,
        "preprocessing": origin.preprocessing,
        "precision": origin.precision,
        "memory_format": origin.memory_format,
        "versions": origin.versions,
        "provider": {"distribution": plugin.distribution, "version": plugin.version},
    }
    return Embedder(model=model, key=key, backbone=origin.backbone, about=about)
