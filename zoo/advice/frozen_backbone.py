"""The frozen backbone behind probes: one by name, with weights of a file perhaps, or that of a finished run.

A backbone that was trained on the images to be judged is refused, whichever way it is named: its features were made to
agree with their labels, so nothing fitted to them is out of sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from zoo.advice.seen_labels import Overlap, SeenLabels
from zoo.artefact.config import CONFIG, FOLDER, TENSORS
from zoo.artefact.read import find_artefact, read_config
from zoo.data.dataset import ImageFile
from zoo.errors import OptionError, Refused, WeightsError
from zoo.events import Note, Report
from zoo.planning.request import Request
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.record import read_run
from zoo.specs.plan import Plan
from zoo.storage.tensors import file_digest
from zoo.text import shell_word
from zoo.training.run_folder import PLAN, SOUP
from zoo.training.trained_backbone import Training, trained_stage, trainings_of_run, trainings_of_weights
from zoo.training.trained_before import weights_file


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


def clean_backbone(
    request: Request, files: Callable[[], Sequence[ImageFile]], registry: Registry, report: Report
) -> tuple[Request, tuple[str, ...]]:
    """Return the request with a backbone that has learned no label of some images, and what else is to be said of it.

    The path of a run is replaced by the backbone, weights and input size of that run: the pretrained one where it
    trained the head alone, else the trained one. What is to be said is reported as well, loudly.

    Args:
        request: Its `backbone` is a name or the path of a run: a run folder, or the folder `model` in it.
        files: Gives the images that the backbone is to be used on; asked only where a run trained it.
        registry: Where names are looked up.
        report: Called with every event.

    Raises:
        Refused: It was trained on some of these images, by the run or by one whose weights that began with; or it is a
            run's, and nobody can know; or weights are given beside the run.
        WeightsError: The file of weights that the run began with is gone or has changed.
        RunError: The run is not finished.
    """
    run, seen = named_run(request.backbone, registry), SeenLabels(registry)
    if run is not None:
        request, trainings = _of_run(request, run, registry)
        found = seen.among(trainings, files()) if trainings else Overlap()
    else:
        file = weights_file(request, registry)
        trainings = () if file is None else trainings_of_weights(file)
        found = seen.among(trainings, files()) if trainings else Overlap()
    step = f"Next: --backbone {request.backbone}, the pretrained backbone, which knows no label of yours."
    if run is None:
        step = "Next: leave --weights out, for the pretrained backbone, which knows no label of yours."
    if found.refusal:
        raise Refused(f"{found.refusal}, so no prediction would be out of sample.\n{step}")
    if run is not None and found.unknown:
        raise Refused(
            f"{found.unknown} If these images are among them, its features know their labels, and no prediction would "
            f"be out of sample.\n{step}"
        )
    notes = tuple(filter(None, (found.chosen, found.perhaps)))
    for note in notes:
        report(Note(text=note, loud=True))
    return request, notes


def _of_run(request: Request, run: Path, registry: Registry) -> tuple[Request, tuple[Training, ...]]:
    """The request with what a run has in place of its path, and what trained that backbone."""
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
    if trained_stage(plan, str(record.result["selection"]["kept"])):
        weights = str(record.path / str(record.result["artefact"]) / TENSORS)
    else:
        weights = _pretrained(record.path, plan)
    # Random weights are drawn from the seed.
    seed = plan.seed if plan.weights.kind == "random" else request.seed
    # A plan names the way to decode only where it is not the exact one.
    decode = plan.preprocessing.get("decode", "exact")
    size = height, width
    asked = replace(request, backbone=plan.backbone.name, weights=weights, input_size=size, decode=decode, seed=seed)
    return asked, trainings_of_run(record.path)


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
