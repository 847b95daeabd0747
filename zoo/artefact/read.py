"""Read an artefact, checking everything before it is used.

In order of cost: the config and its seal, the tensors' header and digest, names and shapes against the model that the
config describes, and at last the tensors themselves. Where a plugin has another version than the one that made the
artefact, or the package that its backbone comes from, the golden logits tell whether the classifier is unchanged.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from zoo.artefact.config import (
    CONFIG,
    FOLDER,
    FORMAT,
    SEAL,
    TENSORS,
    ArtefactConfig,
    BackboneConfig,
    HeadConfig,
    seal_broken,
)
from zoo.artefact.golden import COPY_AGAIN, compare_logits, read_golden
from zoo.artefact.plugin_origin import install_again
from zoo.data.image_preprocessing import ImagePreprocessing
from zoo.errors import ArtefactError, Refused, UnknownName, ZooError, first_line, meant_beside
from zoo.events import Note, Report
from zoo.model.model import ZooModel
from zoo.planning.objects import stand_in
from zoo.planning.resolved_model import resolve_model
from zoo.planning.versions import installed_version
from zoo.registry.entry_points import Plugin
from zoo.registry.registry import Registry
from zoo.registry.session import missing_objects, of_session
from zoo.specs.backbone import BackboneSpec
from zoo.specs.head import HeadCallable, HeadSpec
from zoo.specs.plan import Compute
from zoo.specs.preprocessing import Preprocessing
from zoo.storage.atomic import parse_json
from zoo.storage.tensors import file_digest
from zoo.weights.state import load_weights

_COPY = f"\n{COPY_AGAIN}"
_GIVE = "\nNext: give the object that it was trained with."


def find_artefact(path: Path) -> Path:
    """The artefact's folder: `path` itself, or the `model` folder of a run. Raises ArtefactError if neither is one."""
    for folder in (path, path / FOLDER):
        if os.path.isfile(folder / CONFIG):
            return folder
    if not os.path.exists(path):
        hint = meant_beside(path, _artefacts_beside(path))
        raise ArtefactError(f"There is no {str(path)!r}.{hint}\nNext: give an artefact folder or a run folder.")
    raise ArtefactError(
        f"{path} is not an artefact: it has no {CONFIG}.\nNext: give the 'model' folder of a run, or the run folder."
    )


def _artefacts_beside(path: Path) -> list[str]:
    try:
        return [
            each.name
            for each in path.parent.iterdir()
            if any((each / part / CONFIG).is_file() for part in ("", FOLDER))
        ]
    except OSError:
        return []


def read_config(folder: Path) -> ArtefactConfig:
    """Read and check `config.json`. Raises ArtefactError."""
    path = folder / CONFIG
    try:
        content = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}{_COPY}") from None
    # Before anything else: a later format may mean other things by the same keys.
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise ArtefactError(f"{folder} has format {stated}, this zoo reads up to {FORMAT}.\nNext: update zoo-registry.")
    if isinstance(content, dict) and seal_broken(content):
        raise ArtefactError(
            f"{path} was changed after it was written: its SHA-256 is not the one in {SEAL!r}.\n"
            f"Next: copy the artefact again from where it was made; if the change is intended, remove {SEAL!r} from it."
        )
    try:
        config = ArtefactConfig.model_validate(content)
        Preprocessing.from_dict(config.preprocessing)
    except (ValidationError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} is not the config of an artefact: {first_line(error)}{_COPY}") from None
    return config


def check_files(folder: Path) -> tuple[ArtefactConfig, dict[str, list[int]]]:
    """Check the config and the tensor file -> the config, and the shape of every tensor. Raises ArtefactError."""
    config = read_config(folder)
    path = folder / TENSORS
    shapes = _read_shapes(path)
    digest = file_digest(path)
    if digest != config.digest:
        raise ArtefactError(
            f"{path} is damaged or was replaced: "
            f"its SHA-256 is {digest[:16]}..., {CONFIG} says {config.digest[:16]}...\n"
            f"{_COPY.lstrip()}"
        )
    return config, shapes


def read_model(folder: Path, registry: Registry) -> tuple[ZooModel, ArtefactConfig]:
    """The model in evaluation mode on the CPU, and its config. Raises ArtefactError."""
    config, shapes = check_files(folder)
    path = folder / TENSORS
    model = _build(config, registry, folder)
    # By shapes first: reading all tensors of a large file for nothing would take long.
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if own != shapes:
        differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
        first = differing[0]
        again = f"\n{install_again((config.head, config.backbone), folder)}"
        own_object = of_session(config.backbone.name) or of_session(config.head.name)
        raise ArtefactError(
            f"{path} does not fit {config.backbone.name} with head {config.head.name}: "
            f"{len(differing)} tensors differ, first {first}: "
            f"{shapes.get(first, 'absent')} in the file, {own.get(first, 'absent')} in the model."
            f"{_GIVE if own_object else again}"
        )
    load_weights(model, load_file(path), architecture=config.backbone.name)
    return model.compute_as(Compute(config.precision, config.memory_format)).eval(), config


def check_versions(model: ZooModel, folder: Path, config: ArtefactConfig, registry: Registry, report: Report) -> None:
    """Report what has another version than the artefact was made with, and check the golden logits with it.

    Asked are its plugins, and the package whose code its backbone is: timm or torchvision. Nothing is computed if all
    versions are the same, unless a part is an object, which has none. `model` is the artefact's own, on any device.

    Raises:
        ArtefactError: The logits differ by more than the tolerance: the classifier is not the one that was evaluated.
    """
    changed = changed_versions(config, registry)
    if of_session(config.backbone.name) or of_session(config.head.name):
        _check_objects(model, folder, config, changed, report)
        return
    if not changed:
        return
    origin = f"{folder} was made with {' and '.join(changed)}"
    golden = read_golden(folder, config)
    if golden is None:
        report(Note(text=f"{origin}. It has no golden logits, so whether that matters is unknown.", loud=True))
        return
    difference = compare_logits(model, golden, config)
    if difference.match == "other":
        raise ArtefactError(
            f"{origin}, and gives other logits here than when it was made: {difference}.\n"
            f"{install_versions(config, registry, folder)}"
        )
    exact = difference.match == "same"
    outcome = "are the same, bit for bit" if exact else f"differ {difference}"
    report(Note(text=f"{origin}. Its golden logits {outcome}.", loud=not exact))


def install_versions(config: ArtefactConfig, registry: Registry, folder: Path) -> str:
    """The `Next:` line that brings the versions that an artefact was made with."""
    parts = [part for part, _ in _changed_parts(config, registry)]
    package = _changed_package(config, registry)
    return install_again(parts, folder, packages=dict([package[:2]]) if package else {})


def _check_objects(model: ZooModel, folder: Path, config: ArtefactConfig, changed: list[str], report: Report) -> None:
    """Check the golden logits with the objects that were given in place of those that the artefact was made with.

    `changed`: plugins of another version than the artefact was made with, which may be the reason as well.
    """
    parts = {"backbone": config.backbone.name, "head": config.head.name}
    given = " and ".join(f"{kind} {name}" for kind, name in parts.items() if of_session(name))
    golden = read_golden(folder, config)
    if golden is None:
        report(
            Note(text=f"{folder} has no golden logits, so whether its {given} is the one given is unknown.", loud=True)
        )
        return
    difference = compare_logits(model, golden, config)
    if difference.match == "other":
        made = f" It was made with {' and '.join(changed)}." if changed else ""
        raise ArtefactError(
            f"{folder} gives other logits with this {given} than when it was made: {difference}.{made}{_GIVE}"
        )


def with_objects(
    path: Path,
    registry: Registry,
    backbone: str | BackboneSpec | nn.Module | None,
    head: str | HeadSpec | HeadCallable | None,
) -> Registry:
    """The registry in which the names of an artefact are found, with the objects that it was made with.

    Raises ArtefactError where there is no artefact, OptionError for an object that it does not need.
    """
    config = read_config(find_artefact(path))
    given = (config.backbone.name, backbone), (config.head.name, head)
    return stand_in(
        registry, backbone=given[0], head=given[1], what="this classifier", preprocessing=config.preprocessing
    )


def _read_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor, from the file's header."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; the artefact is incomplete.{_COPY}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{path} is not a readable safetensors file: {first_line(error)}{_COPY}") from None


def _build(config: ArtefactConfig, registry: Registry, folder: Path) -> ZooModel:
    """The model that the config of an artefact describes, with random weights."""
    missing = missing_objects(
        registry,
        backbone=config.backbone.name,
        head=config.head.name,
        whose="This classifier",
        call="zoo.load(PATH",
    )
    if missing:
        raise ArtefactError(missing)
    # Looked up by themselves first, for a message that names the distribution to install.
    try:
        registry.backbone(config.backbone.name)
    except Refused as error:
        raise _missing_plugin("backbone", config.backbone, error, folder) from None
    try:
        registry.head(config.head.name)
    except Refused as error:
        raise _missing_plugin("head", config.head, error, folder) from None
    try:
        preprocessing = Preprocessing.from_dict(config.preprocessing)
        _, height, width = preprocessing.input_size
        resolved = resolve_model(
            registry,
            config.backbone.name,
            config.head.name,
            head_options=config.head.options,
            input_size=(height, width),
        )
        # What the head was trained on, whatever would be found today.
        if config.head.layers:
            resolved.known_layers.append(config.head.layers)
        # With random weights, which the artefact's tensors replace: neither pretrained ones nor a network are needed.
        model = resolved.build(config.classes, None)
    except ZooError as error:
        raise ArtefactError(f"The model of this artefact cannot be built: {error}") from error
    model.preprocessing = ImagePreprocessing.of(preprocessing)
    return model


def _missing_plugin(kind: str, part: BackboneConfig | HeadConfig, error: Refused, folder: Path) -> ArtefactError:
    wanted = f"{part.distribution} {part.version}"
    if not isinstance(error, UnknownName):
        return ArtefactError(f"This artefact needs the {kind} {part.name!r} of {wanted}: {error}")
    return ArtefactError(
        f"This artefact needs the {kind} {part.name!r} of {wanted}, which is not installed, "
        f"or is broken or switched off (zoo list plugins).\n{install_again([part], folder)}"
    )


def changed_versions(config: ArtefactConfig, registry: Registry) -> list[str]:
    """What has another version here than when the artefact was made: its plugins, and the package of its backbone.

    In words. Raises UnknownName or NameConflict for a backbone or head that is not there.
    """
    changed = [
        f"{part.distribution} {part.version} (here is {plugin.distribution} {plugin.version})"
        for part, plugin in _changed_parts(config, registry)
    ]
    if package := _changed_package(config, registry):
        name, then, here = package
        changed.append(f"{name} {then} (here is {here})")
    return list(dict.fromkeys(changed))


def _changed_parts(config: ArtefactConfig, registry: Registry) -> list[tuple[HeadConfig | BackboneConfig, Plugin]]:
    """The parts whose plugin is another one here than when the artefact was made, with the plugin that is here."""
    parts = (
        (config.head, registry.head(config.head.name).plugin),
        (config.backbone, registry.backbone(config.backbone.name).plugin),
    )
    return [
        (part, plugin)
        for part, plugin in parts
        if not of_session(part.name) and (part.distribution, part.version) != (plugin.distribution, plugin.version)
    ]


def _changed_package(config: ArtefactConfig, registry: Registry) -> tuple[str, str, str] | None:
    """(package whose code the backbone is, its version when the artefact was made, its version here), if they differ.

    The plugin of timm's backbones is zoo's, and stays the same when timm is updated, which may change the backbones.
    """
    name = registry.backbone(config.backbone.name).package
    then, here = config.versions.get(name), installed_version(name)
    return None if then is None or here is None or then == here else (name, then, here)
