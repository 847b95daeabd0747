"""Predictions and vectors of very many files, as a folder of Parquet parts."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.api.arguments import checked_arguments
from zoo.api.progress import with_progress
from zoo.errors import OptionError
from zoo.events import Note, Report, silent

if TYPE_CHECKING:
    from zoo.bulk.carry_out import BulkRequest, BulkResult

PART_SIZE = 1024
"""Images in a part, unless the caller says otherwise."""


@checked_arguments()
@with_progress()
def predict_files(
    path: str | PathLike[str],
    files: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    on: str = "local",
    top: int = 3,
    device: str = "auto",
    precision: str | None = None,
    views: str | None = None,
    part_size: int = PART_SIZE,
    processes: int | None = None,
    workers: int | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
) -> BulkResult:
    """Classify very many files with a saved classifier, and write a folder of Parquet parts.

    The same call again goes on where one was stopped. Files that cannot be read have the reason in the column `error`.
    docs/bulk.md has more.

    Args:
        path: As for `load`.
        files: Files, folders, patterns such as `shots/**/*.jpg`, and addresses `s3://BUCKET/FOLDER` or `gs://...`.
        out: The folder, which must be new, or hold parts of the same job; on this machine or in a bucket.
        on: `local`: this process. `ray`: a Ray of this machine, with a process for each core or GPU. `auto`,
            `HOST:PORT` or `ray://HOST:PORT`: a Ray cluster.
        top: Number of classes that each row lists.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: `float32` or `bfloat16`. Default: that of training.
        views: As for `load`.
        part_size: Images in a part.
        processes: Worker processes of a Ray. Default: one a GPU, or one a core.
        workers: Decoding threads in each process.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.

    Raises:
        Refused: `out` holds something else, an option that cannot be, or a package that is missing.
        ArtefactError: Not an artefact, or a damaged one.
        DataError: No file, or none that can be read.
        ClusterError: A cluster that does not answer, or workers that were lost again and again.
    """
    from zoo.artefact.hub import local_folder
    from zoo.artefact.read import check_files, find_artefact
    from zoo.bulk.carry_out import carry_out, refuse_small
    from zoo.bulk.parts import PROVIDER, BulkJob
    from zoo.bulk.rows import artefact_identity, artefact_providers, tell_other_versions
    from zoo.specs.views import check_views

    refuse_small("top", top)
    _refuse_measured(precision)
    request = _request(files, out, on, device, processes, workers, part_size)
    folder = find_artefact(local_folder(fspath(path))).absolute()
    config, _ = check_files(folder)
    if fault := config.fault(folder):
        on_event(Note(text=fault, loud=True))
    tell_other_versions(folder, on_event)
    # What comes to the same has one value. Else the same job would have two names.
    settings = {
        "top": min(top, len(config.classes)),  # more than there are means all of them
        "precision": precision or config.precision,
        "views": check_views(views),
    }
    job = BulkJob(
        task="predict",
        subject=str(folder),
        identity=artefact_identity(folder),
        settings=settings,
        part_size=part_size,
        # For people: the digest of the model was made of it.
        opening={PROVIDER: ", ".join(artefact_providers(folder))},
    )
    return carry_out(job, request, on_event, artefact=folder)


@checked_arguments()
@with_progress()
def embed_files(
    backbone: str | PathLike[str],
    files: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    out: str | PathLike[str],
    on: str = "local",
    group: str | None = None,
    normalise: bool = False,
    dtype: str = "float32",
    weights: str | Path = "default",
    input_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    part_size: int = PART_SIZE,
    processes: int | None = None,
    workers: int | None = None,
    offline: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
) -> BulkResult:
    """Compute a vector for each of very many files, and write a folder of Parquet parts.

    The vectors are those of `embed` for a folder without labels. They are not cached.

    Args:
        backbone: A name, or a run, a saved classifier or `hf://OWNER/NAME`, as for `embed`.
        files: As for `predict_files`, as `out`, `on`, `part_size`, `processes` and `workers`.
        group: As for `embed`, as `normalise`, `dtype`, `weights`, `input_size`, `seed` and `offline`.
        precision: `float32`, `bfloat16`, or `auto`: float32, and for a run that of its training. Nothing is measured.

    Raises:
        Refused: `out` holds something else, an option that cannot be, or a package that is missing.
        DataError: No file, or none that can be read.
        FeaturesError: A vector is not finite, or float16 cannot hold it.
        ClusterError: A cluster that does not answer, or workers that were lost again and again.
    """
    from zoo.advice.frozen_backbone import named_run
    from zoo.artefact.hub import local_folder
    from zoo.artefact.read import find_artefact
    from zoo.bulk.carry_out import carry_out
    from zoo.bulk.parts import PROVIDER, BulkJob
    from zoo.bulk.rows import embedder_identity, embedder_of, provider_of
    from zoo.embedding.embed import check_dtype
    from zoo.planning.request import check_input_size
    from zoo.registry.registry import default_registry

    request = _request(files, out, on, device, processes, workers, part_size)
    subject = fspath(backbone)
    if subject.startswith("hf:/"):
        # Fetched here, once: workers are given a folder, not an address.
        subject = str(local_folder(subject))
    run = named_run(subject, default_registry())
    settings = {"normalise": normalise, "dtype": check_dtype(dtype)}
    opening = {
        "group": group,
        "weights": str(weights),
        # Plain JSON types: the job is sent to workers, and its folder tells them.
        "input_size": None if input_size is None else list(check_input_size(input_size)),
        "seed": seed,
        "precision": precision,
        "offline": offline,
    }
    # Wherever it computes later: here only what the vectors are is asked.
    embedder = embedder_of(subject, opening, device="cpu", report=on_event)
    folder = None if run is None else find_artefact(run).absolute()
    job = BulkJob(
        task="embed",
        subject=subject if folder is None else str(folder),
        identity=embedder_identity(embedder),
        settings=settings,
        part_size=part_size,
        # The last two open nothing: they tell people what the digest of the model was made of.
        opening={**opening, "backbone": embedder.backbone, PROVIDER: provider_of(embedder.backbone)},
    )
    return carry_out(job, request, on_event, artefact=folder)


def _request(
    files: str | PathLike[str] | Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    on: str,
    device: str,
    processes: int | None,
    workers: int | None,
    part_size: int,
) -> BulkRequest:
    from zoo.bulk.addresses import address_of, file_system
    from zoo.bulk.carry_out import BulkRequest, refuse_small
    from zoo.bulk.sink import Sink
    from zoo.cluster.place import parse_place

    refuse_small("part-size", part_size)
    refuse_small("processes", processes)
    refuse_small("workers", workers)
    place = parse_place(on)
    if processes is not None and not place.uses_ray:
        raise OptionError("--processes is for the workers of a Ray.\nNext: --on ray, or leave --processes out.")
    if place.uses_ray and device not in ("auto", "cpu", "cuda"):
        raise OptionError(
            f"--device {device} with --on {on}: a Ray gives each worker its GPU.\nNext: auto, cpu or cuda."
        )
    # To Python a text is a sequence of letters.
    given = [files] if isinstance(files, (str, PathLike)) else list(files)
    if not given:
        raise OptionError("There are no files to compute anything of.\nNext: give a folder, a pattern or an address.")
    file_system("file")  # a missing package is said before anything is listed
    place_of_parts = address_of(out)
    Sink(place_of_parts).refuse_unwritable()  # before anything is downloaded or listed
    return BulkRequest(
        files=tuple(map(address_of, given)),
        out=place_of_parts,
        place=place,
        device=device,
        workers=workers,
        processes=processes,
    )


def _refuse_measured(precision: str | None) -> None:
    from zoo.planning.precision import check_precision

    if precision is not None:
        check_precision(precision)
    if precision == "auto":
        raise OptionError(
            "--precision auto is measured on each machine, so parts could differ in precision.\n"
            "Next: --precision float32 or bfloat16, or leave it out for the precision of training."
        )
