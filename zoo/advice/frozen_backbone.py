"""The frozen backbone behind probes: one by name, or that of a finished run.

A backbone that was trained on the images to be judged is refused: its features were made to agree with their labels,
so nothing fitted to them is out of sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zoo.artefact.config import CONFIG, FOLDER, TENSORS
from zoo.artefact.read import find_artefact, read_config
from zoo.comparing.pairing import Contents
from zoo.data.dataset import ImageFile
from zoo.errors import OptionError, Refused, WeightsError
from zoo.planning.request import Request
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.record import RunRecord, read_run
from zoo.specs.plan import Plan
from zoo.storage.tensors import file_digest
from zoo.text import shell_word
from zoo.training.run_folder import PLAN, SOUP


def named_run(backbone: str, registry: Registry) -> Path | None:
    """The run folder, or folder of an artefact or soup, that a `--backbone` names; None where it is a name.

    Raises ArtefactError for what can only be a path, and leads to no artefact.
    """
    path = Path(backbone).expanduser()
    marks = (PLAN, CONFIG, SOUP, f"{FOLDER}/{CONFIG}")
    if any((path / mark).is_file() for mark in marks):
        return path
    if path.is_absolute() or backbone.startswith(("~", ".")) or _lies_beside_others(path, registry):
        find_artefact(path)  # it raises, for there is no artefact either
    return None


def _lies_beside_others(path: Path, registry: Registry) -> bool:
    """Whether `runs/one` names a place in a folder that is there, and `runs` is no provider of backbones."""
    providers = {held.spec.name for held, _ in registry.backbones().catalogue()}
    return len(path.parts) > 1 and path.parts[0] not in providers and path.parent.is_dir()


def with_backbone_of(request: Request, run: Path, files: Sequence[ImageFile], registry: Registry) -> Request:
    """Return the request with the backbone, weights and input size of a run in place of its path.

    The backbone as the run kept it: the pretrained one where it trained the head alone; else the trained one, which
    must have seen none of these images, for its features know their labels.

    Args:
        request: Its `backbone` is the run's path.
        run: That path: a run folder, or the folder `model` in it.
        files: The images that the backbone is to be used on.
        registry: The data sources.

    Raises:
        Refused: It was trained on some of these images, or nobody can know, or weights are given beside the run.
        WeightsError: The file of weights that the run began with is gone or has changed.
        RunError: The run is not finished.
    """
    if request.weights != "default":
        raise OptionError(
            f"--weights {request.weights} beside the run {run}: a run brings its own weights.\n"
            "Next: leave --weights out, or name the backbone instead of the run."
        )
    record = read_run(_run_of(run))
    plan = record.plan
    if of_session(plan.backbone.name):
        raise Refused(
            f"The backbone of {run} was passed as an object, which no package provides.\n"
            "Next: name an installed backbone in its place; zoo list backbones"
        )
    _, height, width = plan.preprocessing["input_size"]
    trained = _backbone_trained(record)
    if trained:
        _refuse_seen(record, files, trained, registry)
        weights = str(record.path / str(record.result["artefact"]) / TENSORS)
    else:
        weights = _pretrained(record.path, plan)
    # Random weights are drawn from the seed.
    seed = plan.seed if plan.weights.kind == "random" else request.seed
    # A plan names the way to decode only where it is not the exact one.
    decode = plan.preprocessing.get("decode", "exact")
    size = height, width
    return replace(request, backbone=plan.backbone.name, weights=weights, input_size=size, decode=decode, seed=seed)


def _run_of(path: Path) -> Path:
    """The run folder that `path` is, or whose artefact it is. Raises Refused for an artefact without its run."""
    # Absolute, because `.` inside of the artefact's folder has no name.
    for folder in (path, path.absolute().parent if path.absolute().name == FOLDER else path):
        if (folder / PLAN).is_file():
            return folder
    raise Refused(
        f"{path} is a saved classifier without its run, and only the run's {PLAN} says whether its backbone was "
        "trained, and on which images. A backbone that was trained on these images knows their labels.\n"
        f"Next: give the run folder, or the pretrained backbone by name: --backbone {_name_in(path)}"
    )


def _name_in(path: Path) -> str:
    return read_config(find_artefact(path)).backbone.name


def _backbone_trained(record: RunRecord) -> str:
    """The first stage, up to the one that the run kept, that trained more than the head; empty where none did."""
    kept = str(record.result["selection"]["kept"])
    for stage in record.plan.stages:
        if not stage.head_alone:
            return stage.settings.name
        # What later stages trained is not in the saved weights.
        if stage.settings.name == kept:
            break
    return ""


def _refuse_seen(record: RunRecord, files: Sequence[ImageFile], stage: str, registry: Registry) -> None:
    plan = record.plan
    seen = Contents(registry).of(plan)
    step = f"Next: --backbone {plan.backbone.name}, the pretrained backbone, which knows no label of yours."
    if seen is None:
        raise Refused(
            f"{record.path} trained its backbone in the stage {stage!r}, and which images it saw is unknown: those in "
            f"{plan.data.path} are gone or have changed, or they are not class folders. If these images are among "
            f"them, its features know their labels, and no prediction would be out of sample.\n{step}"
        )
    # By content, because files may have been renamed or copied to another folder since.
    known = set(seen.values())
    common = sum(hashlib.sha256(file.content()).hexdigest() in known for file in files)
    if common:
        raise Refused(
            f"{record.path} trained its backbone in the stage {stage!r} on {common:,} of these {len(files):,} images: "
            f"its features know their labels, so no prediction would be out of sample.\n{step}"
        )


def _pretrained(run: Path, plan: Plan) -> str:
    """The `--weights` with which the run began. Raises WeightsError where their file is gone or has changed."""
    weights = plan.weights
    if weights.kind == "file" and weights.path is not None:
        path = Path(weights.path)
        if not path.is_file() or file_digest(path) != weights.digest:
            what = "has changed since" if path.is_file() else "is gone"
            raise WeightsError(
                f"{run} began with the weights {path}, and that file {what}.\n"
                f"Next: put it back, or name the backbone and weights: --backbone {shell_word(plan.backbone.name)} "
                "--weights FILE"
            )
        return str(path)
    return "random" if weights.kind == "random" else weights.label
