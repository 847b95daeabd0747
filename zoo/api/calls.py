"""What a call gives, names, paths and objects, as a request of names and a registry in which they are found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, OptionError
from zoo.events import Report, silent
from zoo.planning.request import Request, given_arguments, make_request
from zoo.registry.registry import Registry, default_registry
from zoo.registry.session import of_session
from zoo.specs.data import DataLike

if TYPE_CHECKING:
    from torch import nn

    from zoo.exporting.run_images import RunOrigin
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.head import HeadCallable, HeadSpec


def asked_request(
    backbone: str | BackboneSpec | nn.Module | Request,
    arguments: Mapping[str, Any],
    registry: Registry,
    on_event: Report,
    **columns: str | None,
) -> tuple[Request, Registry]:
    """Return the request that a call makes, or is, and the registry in which its names mean something.

    `columns` are `image`, `label` and `split` of a table in memory. Raises OptionError for both a request and
    arguments, and for objects that cannot stand in place of names; DataError for an object that is no data.
    """
    if isinstance(backbone, Request):
        if given := given_arguments(arguments):
            raise OptionError(
                f"A request goes alone; also given: {', '.join(given)}.\nNext: put them into the request."
            )
        place, registry = with_data(backbone.data, registry, on_event, **columns)
        # Checked as arguments are: `Request` itself takes any value.
        values = {each.name: getattr(backbone, each.name) for each in fields(backbone)}
        return make_request(**{**values, "data": place}), registry
    from zoo.planning.objects import name_objects

    # Objects first, as data are registered on top of the registry that holds them.
    named = name_objects(registry, backbone=backbone, head=arguments["head"], recipe=arguments["recipe"])
    place, known = with_data(arguments["data"], named.registry, on_event, **columns)
    names = {"backbone": named.backbone, "head": named.head, "recipe": named.recipe, "data": place}
    return make_request(**{**arguments, **names}), known


def with_data(
    data: DataLike | None,
    registry: Registry,
    on_event: Report,
    *,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
) -> tuple[Path | None, Registry]:
    """Return the path of data, or the name of an object, and a registry in which that is found.

    `image`, `label` and `split` name columns of a table in memory. Raises DataError for an object that is no data,
    OptionError for a column that does not exist.
    """
    # A path with names of columns goes on, and is refused: only a table in memory has columns to name.
    if image is label is split is None:
        if data is None:
            return None, registry
        if isinstance(data, (str, os.PathLike)):
            return Path(data).expanduser(), registry
    from zoo.data.memory.objects import register, with_columns

    return register(with_columns(data, image=image, label=label, split=split), registry, on_event)


def with_data_of_run(
    run: Path, data: DataLike | None, registry: Registry, on_event: Report, *, compared: bool = False
) -> Registry:
    """Return a registry in which the data of a run are found: an object, if it was trained on one.

    Args:
        run: The run folder.
        data: The same object as then. None: the data have a path.
        registry: Where all other names are looked up.
        on_event: Called with every event.
        compared: Whether nothing later compares the images with those of the plan, so that it is done here.

    Raises:
        OptionError: Data are given for a run that finds its own, or a path in place of an object.
        DataError: They are no data, or others than the run's.
    """
    if data is None:
        return registry
    from zoo.comparing.pairing import Contents
    from zoo.data.memory.objects import register
    from zoo.training.stored_plan import read_plan

    plan = read_plan(run)
    if not of_session(plan.data.reader):
        raise OptionError(
            f"{run} was trained on {plan.data.source}, which is found by its path.\n"
            "Next: leave data out; it is for runs on an object in Python."
        )
    # An object has no path: a path would be other images, or the same ones read in another way.
    if isinstance(data, (str, os.PathLike)):
        raise OptionError(
            f"{run} was trained on an object in Python ({plan.data.path}), and data is the path {str(data)!r}.\n"
            "Next: give the same object again."
        )
    _, found = register(data, registry, on_event, described_as=plan.data.path)
    if compared and Contents(found).of(plan) is None:
        raise DataError(
            f"These are not the images of {run} ({plan.data.path}): their digest is another than "
            f"{plan.data.digest[:12]}.\nNext: give the same images, with the same labels, in the same order."
        )
    return found


def with_data_of_runs(runs: Sequence[Path], data: DataLike | None, registry: Registry) -> Registry:
    """Return a registry in which the data of several runs are found: one object, if they were trained on one.

    Whether these are the images of a run is seen later, by its digest. Raises RunError for what is no finished run,
    DataError for what is no data, OptionError where no run was trained on an object, or data is a path.
    """
    if data is None:
        return registry
    from zoo.data.memory.objects import register
    from zoo.training.stored_plan import read_plan

    if isinstance(data, (str, os.PathLike)) or not any(of_session(read_plan(run).data.reader) for run in runs):
        raise OptionError(
            "data is an object in Python on which a run was trained; what has a path is found by it.\n"
            "Next: leave data out."
        )
    # `compare` has no `on_event` that could be told.
    return register(data, registry, silent)[1]


def with_objects_of_run(
    run: Path,
    registry: Registry,
    backbone: str | BackboneSpec | nn.Module | None,
    head: str | HeadSpec | HeadCallable | None,
    *,
    finished: bool = True,
) -> Registry:
    """The registry in which the names of a run's plan are found, those of objects too, where these were given.

    Raises RunError where there is no run, OptionError for an object that it does not need.
    """
    # Without objects all names are those of plugins, and no file has to be read to know them.
    if backbone is None and head is None:
        return registry
    from zoo.planning.objects import stand_in
    from zoo.training.stored_plan import read_plan

    # The plan says which of its names were objects: one that it does not need is refused, not passed over.
    plan = read_plan(run, finished=finished)
    given = (plan.backbone.name, backbone), (plan.head.name, head)
    return stand_in(registry, backbone=given[0], head=given[1], what="this run", preprocessing=plan.preprocessing)


def with_objects_of_classifier(
    path: Path,
    registry: Registry | None,
    backbone: str | BackboneSpec | nn.Module | None,
    head: str | HeadSpec | HeadCallable | None,
) -> Registry:
    """The registry in which an artefact's names are found, those of objects too, where these were given.

    Raises ArtefactError where there is no artefact, OptionError for an object that it does not need.
    """
    known = registry or default_registry()
    if backbone is None and head is None:
        return known
    from zoo.artefact.read import with_objects

    return with_objects(path, known, backbone, head)


def origin_of(
    path: Path, data: DataLike | None, registry: Registry, on_event: Report, *, needed: bool
) -> RunOrigin | None:
    """The run whose folder `path` is, or in whose folder it is; None for a saved classifier alone, and if not `needed`.

    Raises OptionError for data that have no effect, DataError for an object that is no data.
    """
    if not needed:
        if data is not None:
            raise OptionError(
                "data are the images that --input image and --int8 are compared on, and neither was asked for.\n"
                "Next: leave data out."
            )
        return None
    from zoo.artefact.config import FOLDER
    from zoo.exporting.run_images import RunOrigin
    from zoo.training.run_folder import PLAN
    from zoo.training.stored_plan import read_plan

    whole = path.absolute()
    # By its absolute path: `model` alone, or `.` in it, has no parent that could be looked at.
    for run in (path, whole.parent if whole.name == FOLDER else path):
        if (run / PLAN).is_file():
            place, known = with_data(data, registry, on_event)
            return RunOrigin(path=run, plan=read_plan(run), registry=known, data=place)
    if data is not None:
        raise OptionError(
            f"data are the images of a run, and {path} is a saved classifier without its run.\n"
            "Next: give the run folder, or leave data out."
        )
    return None
