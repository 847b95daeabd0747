"""Which runs trained a backbone, so that it judges no image whose label its features know without a word.

A file of weights belongs to a run by its place: the run folder, or the saved classifier, that it lies in. A copy of a
run's tensors elsewhere is known by its digest, among the runs in the folder `runs`. From run to run the files are
followed with which each began.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from zoo.artefact.config import CONFIG, TENSORS
from zoo.artefact.config import FOLDER as MODEL
from zoo.errors import RunError
from zoo.specs.plan import Plan
from zoo.storage.atomic import parse_json
from zoo.storage.tensors import file_digest
from zoo.training.run_folder import PLAN, RESULT, RUNS, SOUP
from zoo.training.stored_plan import read_plan

_MOST = 64
"""Runs that are followed from one to the next. Nobody trains so many in a row, and a list without end is a fault."""
_AMONG = 1000
"""Runs in the folder `runs` that are asked whether a copied file is theirs."""
_OF_CLASSIFIER = ("backbone.", "head.")
"""How the names of all tensors of a saved classifier begin."""


@dataclass(frozen=True, slots=True)
class Training:
    """What trained a backbone."""

    place: Path
    """The run folder; where that is not known, what is: a saved classifier, or its file."""
    stage: str
    """The first stage that trained more than the head; empty where nobody knows."""
    plan: Plan | None
    """Its plan; None where there is none any more, so that its images are unknown."""


def trained_stage(plan: Plan, kept: str) -> str:
    """The first stage of a run, up to the one that it `kept`, that trained more than the head; empty where none did."""
    for stage in plan.stages:
        if not stage.head_alone:
            return stage.settings.name
        # What later stages trained is not in the saved weights.
        if stage.settings.name == kept:
            break
    return ""


def trainings_of_weights(weights: Path) -> tuple[Training, ...]:
    """What trained the backbone in a file of weights, the last first; empty for a file with no run behind it."""
    return tuple(_follow(_owners(weights.expanduser(), None)))


def trainings_of_run(run: Path) -> tuple[Training, ...]:
    """What trained the backbone that a run saved, beginning with itself; empty where it stayed pretrained."""
    return tuple(_follow([run]))


def trainings_before(plan: Plan) -> tuple[Training, ...]:
    """What trained the backbone that the run of this plan began with; empty where it was a pretrained one."""
    return tuple(_follow(_origin(plan)))


def _follow(owners: Sequence[Path | Training]) -> Iterator[Training]:
    """What trained a backbone, from the runs that have it to those that they began with, each once."""
    waiting, seen = list(owners), set[Path]()
    while waiting:
        owner = waiting.pop(0)
        if isinstance(owner, Training):
            yield owner
            continue
        place = owner.resolve()
        if place in seen:
            continue
        if len(seen) == _MOST:
            yield Training(owner, "", None)
            return
        seen.add(place)
        if os.path.isfile(owner / SOUP) and not os.path.isfile(owner / PLAN):
            waiting += _ingredients(owner)
            continue
        try:
            plan = read_plan(owner)
        except RunError:
            yield Training(owner, "", None)
            continue
        if stage := trained_stage(plan, _kept(owner)):
            yield Training(owner, stage, plan)
        waiting += _origin(plan)


def _origin(plan: Plan) -> list[Path | Training]:
    """The runs that wrote the file of weights that a run began with."""
    weights = plan.weights
    if weights.kind != "file" or weights.path is None:
        return []
    path = Path(weights.path)
    if owners := _owners(path, weights.digest):
        return owners
    # A classifier that was moved or removed: nothing else is stored in such a place and with such names.
    if path.name == TENSORS and path.parent.name == MODEL and f"'{_OF_CLASSIFIER[0]}'" in (weights.taken or ""):
        return _among_runs(weights.digest or "") or [Training(path, "", None)]
    return []


def _owners(path: Path, digest: str | None) -> list[Path | Training]:
    """The run that wrote a file of weights, or the saved classifier that it belongs to; empty for any other file.

    `digest`: that of the file when it was used; None: as it is now.
    """
    # A link may lead to the file, or to its folder.
    for place in dict.fromkeys((path.absolute(), path.resolve())):
        config = _config(place.parent)
        if config is not None and not _is_of(place, config, digest):
            # Another classifier took the place of the one that was used.
            if digest is not None and place.name == TENSORS:
                return [Training(place, "", None)]
            continue
        for folder in (place.parent, place.parent.parent):
            if _is_run(folder):
                return [folder]
        if config is not None:
            return [Training(place.parent, "", None)]
    return _among_runs(digest or file_digest(path)) if _looks_saved(path) else []


def _is_of(file: Path, config: dict[str, Any], digest: str | None) -> bool:
    """Whether a file beside the config of a saved classifier holds its tensors, under whatever name."""
    if digest is None and file.name != TENSORS:
        digest = file_digest(file) if file.is_file() else ""
    return digest in (None, config["digest"])


def _among_runs(digest: str) -> list[Path | Training]:
    """The run in the folder `runs` whose saved tensors have this digest."""
    try:
        runs = sorted(RUNS.iterdir())[:_AMONG]
    except OSError:
        return []  # there is none, or it is closed to us
    for run in runs:
        config = _config(run / MODEL)
        if config is not None and config["digest"] == digest:
            return [run] if _is_run(run) else [Training(run / MODEL, "", None)]
    return []


def _looks_saved(path: Path) -> bool:
    """Whether a file has the tensors of a backbone and a head, and no others, by the names in its header."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError, ValueError):
        return False  # who reads the file says what is wrong with it
    backbone = sum(name.startswith(_OF_CLASSIFIER[0]) for name in names)
    return 0 < backbone < len(names) and all(name.startswith(_OF_CLASSIFIER) for name in names)


def _config(folder: Path) -> dict[str, Any] | None:
    """The config of a saved classifier; None where there is none. Other tools call files by this name, too."""
    content = _json(folder / CONFIG)
    if isinstance(content, dict) and content.keys() >= {"format", "digest", "backbone", "head", "preprocessing"}:
        return content
    return None


def _is_run(folder: Path) -> bool:
    if os.path.isfile(folder / SOUP) and isinstance(_json(folder / SOUP), dict):
        return True
    content = _json(folder / PLAN)
    return isinstance(content, dict) and content.keys() >= {"format", "backbone", "weights", "stages", "data"}


def _ingredients(soup: Path) -> list[Path | Training]:
    """The runs whose weights were averaged."""
    try:
        return [Path(each["run"]) for each in _json(soup / SOUP)["ingredients"] if each["added"]]
    except (KeyError, TypeError):
        return [Training(soup, "", None)]


def _kept(run: Path) -> str:
    """The stage that a run kept; empty where it has no result, so that all of its stages count."""
    try:
        return str(_json(run / RESULT)["selection"]["kept"])
    except (KeyError, TypeError):
        return ""


def _json(path: Path) -> Any:
    """The content of a file; None where it is not there, or is no JSON."""
    try:
        return parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
