"""Reading an artefact: header, config and digest first, names and shapes next, the model last."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

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
from zoo.compute import Compute
from zoo.errors import ArtefactError, Refused, UnknownName, ZooError, first_line
from zoo.files import parse_json
from zoo.model.build import build_model, file_digest
from zoo.model.model import ZooModel
from zoo.model.weights import load_weights
from zoo.options import build_options
from zoo.preprocessing import Preprocessing
from zoo.registry import Registry


def find_artefact(path: Path) -> Path:
    """The artefact's folder: `path` itself or the `model` folder of a run. Raises ArtefactError."""
    for folder in (path, path / FOLDER):
        if os.path.isfile(folder / CONFIG):  # noqa: PTH113
            return folder
    if not os.path.exists(path):  # noqa: PTH110 - False, not an error, for a name too long
        raise ArtefactError(f"There is no {str(path)!r}. Give an artefact folder or a run folder.")
    raise ArtefactError(
        f"{path} is no artefact: it has no {CONFIG}. Give the 'model' folder of a run, or the run folder."
    )


def read_config(folder: Path) -> ArtefactConfig:
    """Read and check `config.json`. Raises ArtefactError."""
    path = folder / CONFIG
    try:
        content = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if isinstance(stated, int) and stated > FORMAT:
        raise ArtefactError(f"{folder} has format {stated}, this zoo reads up to {FORMAT}. Next: update zoo-registry.")
    if isinstance(content, dict) and seal_broken(content):
        raise ArtefactError(
            f"{path} was changed after it was written: its own SHA-256, {SEAL!r}, is another.\n"
            f"Next: copy the artefact again from where it was made; if the change is meant, remove {SEAL!r} from it."
        )
    try:
        config = ArtefactConfig.model_validate(content)
        Preprocessing.from_dict(config.preprocessing)
    except (ValidationError, TypeError, ValueError) as error:
        raise ArtefactError(f"{path} is no artefact's config: {first_line(error)}") from None
    return config


def check_files(folder: Path) -> tuple[ArtefactConfig, dict[str, list[int]]]:
    """The config and the shape of every tensor, of files that are whole. Raises ArtefactError."""
    config = read_config(folder)
    path = folder / TENSORS
    shapes = _header(path)
    found = file_digest(path)
    if found != config.digest:
        raise ArtefactError(
            f"{path} is damaged or was replaced: "
            f"its SHA-256 is {found[:16]}..., {CONFIG} says {config.digest[:16]}...\n"
            "Next: copy the artefact again from where it was made."
        )
    return config, shapes


def read_model(folder: Path, registry: Registry) -> tuple[ZooModel, ArtefactConfig]:
    """The model in evaluation mode on the CPU, and its config. Raises ArtefactError."""
    config, shapes = check_files(folder)
    path = folder / TENSORS
    model = _build(config, registry)
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if own != shapes:
        differing = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
        first = differing[0]
        raise ArtefactError(
            f"{path} does not fit {config.backbone.name} with head {config.head.name}: "
            f"{len(differing)} tensors differ, first {first}: "
            f"{shapes.get(first, 'absent')} in the file, {own.get(first, 'absent')} in the model."
        )
    load_weights(model, load_file(path), architecture=config.backbone.name)
    return model.compute_as(Compute(config.precision, config.memory_format)).eval(), config


def _header(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; the artefact is incomplete.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtefactError(f"{path} is no readable safetensors file: {first_line(error)}") from None


def _build(config: ArtefactConfig, registry: Registry) -> ZooModel:
    backbone_config, head_config = config.backbone, config.head
    try:
        backbone = registry.backbone(backbone_config.name)
    except Refused as error:
        raise _needs("backbone", backbone_config, error) from None
    try:
        head = registry.head(head_config.name)
    except Refused as error:
        raise _needs("head", head_config, error) from None
    try:
        options = build_options(head.spec.name, head.spec.options, head_config.options)
        preprocessing = Preprocessing.from_dict(config.preprocessing)
        _, height, width = preprocessing.input_size
        model = build_model(
            backbone,
            head,
            options,
            classes=config.classes,
            tag=backbone.tag,
            state=None,
            input_size=(height, width),
        )
    except ZooError as error:
        raise ArtefactError(f"The model of this artefact cannot be built: {error}") from error
    model.preprocessing = preprocessing
    return model


def _needs(kind: str, part: BackboneConfig | HeadConfig, error: Refused) -> ArtefactError:
    wanted = f"{part.distribution} {part.version}"
    if not isinstance(error, UnknownName):
        return ArtefactError(f"This artefact needs the {kind} {part.name!r} of {wanted}: {error}")
    return ArtefactError(
        f"This artefact needs the {kind} {part.name!r} of {wanted}, which is not installed, "
        f"or is broken or switched off (zoo list plugins).\nNext: pip install '{part.distribution}=={part.version}'"
    )
