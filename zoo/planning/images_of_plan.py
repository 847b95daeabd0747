"""The images that a run was trained and validated on, read again and known by the digest in its plan."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.prefetch import prefetch, resolve_workers
from zoo.data.sources import DataLocation, data_exists, read_dataset
from zoo.errors import DataError, Refused
from zoo.events import Progress, Report, silent
from zoo.planning.request import Request
from zoo.planning.resolve import dataset_of
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER
from zoo.specs.plan import Plan
from zoo.text import shell_word

_PENDING = 4
"""Files for each thread that are read before they are needed."""


def listed_as_then(plan: Plan, registry: Registry, report: Report = silent) -> Dataset:
    """The images of a plan as they lie there now, split as the run split them, without those that it could not read.

    No image is opened, so that nothing says whether their bytes are the same. Raises ZooError.
    """
    path, reader = Path(plan.data.path), plan.data.reader
    source = None if reader == FOLDER else registry.data_source(reader)
    location = DataLocation(str(path), path, source)
    dataset = read_dataset(location, seed=plan.seed, folds=plan.folds is not None, report=report)
    return dataset.without({file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"})


def images_of_plan(
    plan: Plan,
    run: Path,
    registry: Registry,
    report: Report,
    *,
    data: Path | None,
    call: str,
    workers: int | None = None,
) -> Dataset:
    """Read the data set of a plan again. Every file is read, and none is decoded.

    Args:
        plan: The plan.
        run: Its run folder, for messages.
        registry: The data sources.
        report: Called with Progress and Note.
        data: Where the data are now; None: where the plan says.
        call: How the public function is called with the data of an object in Python, for messages.
        workers: Number of threads; default: one per core, at most eight.

    Raises:
        DataError: The data are not there, cannot be read, or are not those of the plan.
    """
    if data is None and of_session(plan.data.reader):
        raise DataError(
            f"{run} was trained on an object in Python ({plan.data.path}), which no name finds again.\n"
            f"Next: give the same object in Python: {call}."
        )
    if data is None and not plan.data.sample and not data_exists(Path(plan.data.path)):
        raise DataError(
            f"The images of {run} are not where they were: there is no {plan.data.path}.\n"
            "Next: say where they are now, with --data PATH"
        )
    # With the reader's name, so that a data source that was installed since cannot claim the path.
    stored = None if plan.data.sample else Path(f"{plan.data.reader}:{plan.data.path}")
    place = data or stored
    classes = len(plan.classes) if place is None else None  # what the sample set is made from
    # With its folds: a run in folds joins what others keep apart for `val`.
    folds = plan.folds.count if plan.folds else None
    request = Request(backbone=plan.backbone.asked, classes=classes, data=place, seed=plan.seed, folds=folds)
    try:
        dataset = dataset_of(request, registry, report)
    except (DataError, Refused) as error:
        if data is not None:
            raise
        raise DataError(
            f"The images of {run} cannot be read again: {error}\nIf they are in another place by now: --data PATH"
        ) from error
    # The plan's digest covers the files that could be read.
    unreadable = {file: detail for file, reason, detail in plan.data.skipped if reason == "unreadable"}
    dataset = dataset.without(unreadable)
    digest = dataset.digest(_contents(dataset, resolve_workers(workers), report))
    if digest != plan.data.digest:
        raise DataError(_other_images(dataset, plan, run, digest, where=str(data or plan.data.path)))
    return dataset


def _contents(dataset: Dataset, workers: int, report: Report) -> dict[str, str]:
    """SHA-256 of the bytes of every file, by relative path."""
    files = [file for split in dataset.splits.values() for file in split]
    contents = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="zoo-read") as pool:
        for done, (file, digest) in enumerate(
            zip(files, prefetch(pool, _digest, files, pending=_PENDING * workers), strict=True), start=1
        ):
            contents[file.relative] = digest
            report(Progress(task="read images", done=done, total=len(files)))
    return contents


def _digest(file: ImageFile) -> str:
    return hashlib.sha256(file.content()).hexdigest()


def _other_images(dataset: Dataset, plan: Plan, run: Path, digest: str, *, where: str) -> str:
    counts, planned = dataset.counts(), plan.data.images
    differing = [
        f"{sum(counts.get(split, ()))} images in {split} instead of {sum(planned.get(split, ()))}"  # type: ignore[call-overload]
        for split in dict.fromkeys([*planned, *counts])
        if list(counts.get(split, ())) != list(planned.get(split, ()))  # type: ignore[call-overload]
    ]
    found = ", ".join(differing) or f"as many images, but other names or contents (digest {digest[:12]})"
    return (
        f"{where} does not hold the images that {run} was trained and validated on (digest {plan.data.digest[:12]}): "
        f"{found}.\nNext: restore them, or say where they are: --data PATH. Where they have changed for good, train "
        f"the runs again; zoo report {shell_word(run)} writes a page with the command."
    )
