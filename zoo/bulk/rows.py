"""The rows of a part: files read ahead, decoded and computed in the chunks of `zoo predict`, bad ones in a column."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zoo.artefact.classifier import BATCH_SIZE, Classifier
from zoo.artefact.config import CONFIG
from zoo.artefact.read import changed_versions, find_artefact, read_config
from zoo.bulk.found_files import FoundFile
from zoo.bulk.parts import BulkJob
from zoo.bulk.patience import read_listed
from zoo.data.memory.pictures import picture_of
from zoo.data.prefetch import prefetch
from zoo.data.transform import finish_views, resize
from zoo.embedding.embedder import Embedder, open_embedder
from zoo.errors import DataError, FeaturesError, Refused, first_line
from zoo.evaluation.inference import outputs
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import Report, silent
from zoo.planning.request import make_request
from zoo.planning.versions import installed_version
from zoo.registry.registry import default_registry
from zoo.storage.tensors import file_digest
from zoo.text import printable

_READERS = 8
"""Files that are read at a time: one of a bucket takes as long as decoding several."""
_NO_IMAGE = b"\0"
"""Stands for a file that could not be read, so that all others stay in the chunks in which they would be."""

Told = Callable[[int], None]
"""Called with the number of files of a part that are done."""


@dataclass(frozen=True, slots=True)
class _Content:
    content: bytes
    fault: str


class RowMaker(Protocol):
    """A model that makes the rows of parts."""

    identity: str
    """Digest of the model."""

    def rows(self, files: Sequence[FoundFile], told: Told) -> Any:
        """The table of pyarrow with a row for each file."""


def open_rows(job: BulkJob, *, device: str, workers: int) -> RowMaker:
    """Open the model of a job on a device. Raises what loading it raises."""
    if job.task == "predict":
        return Predictions(job, device=device, workers=workers)
    return Vectors(job, device=device, workers=workers)


class Predictions:
    """Rows of `zoo predict`: file, label, probability, top, error."""

    def __init__(self, job: BulkJob, *, device: str, workers: int) -> None:
        settings = job.settings
        self._classifier = Classifier.load(
            job.subject, device=device, precision=settings["precision"], views=settings["views"]
        )
        self.identity = artefact_identity(Path(job.subject))
        self._top, self._workers = int(settings["top"]), workers

    def rows(self, files: Sequence[FoundFile], told: Told) -> Any:
        """The table of pyarrow with a row for each file."""
        import pyarrow as pa

        faults: dict[int, str] = {}
        found: list[Any] = [None] * len(files)

        # The stream names its images by number, "image 12", for it is given bytes. That is how rows find their file.
        def contents() -> Iterator[bytes]:
            for number, each in enumerate(_read_ahead(files)):
                if each.fault:
                    faults[number] = each.fault
                yield each.content

        def on_error(source: str, error: DataError) -> None:
            number = int(source.removeprefix("image "))
            # Of a file that could not be read, the first fault stays: what decoding says of its stand-in means nothing.
            faults.setdefault(number, _without(str(error), source))

        stream = self._classifier.stream(contents(), top=self._top, workers=self._workers, on_error=on_error)
        for prediction in stream:
            number = int(prediction.source.removeprefix("image "))
            found[number] = prediction
            if (number + 1) % BATCH_SIZE == 0:
                told(number + 1)
        told(len(files))
        top = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
        schema = pa.schema(
            [
                pa.field("file", pa.string(), nullable=False),
                ("label", pa.string()),
                ("probability", pa.float32()),
                ("top", top),
                ("error", pa.string()),
            ]
        )
        rows = [
            {
                "file": printable(file.name),
                "label": each and each.label,
                "probability": each and each.probability,
                "top": each and [{"label": label, "probability": share} for label, share in each.top],
                "error": faults.get(number),
            }
            for number, (file, each) in enumerate(zip(files, found, strict=True))
        ]
        return pa.Table.from_pylist(rows, schema=schema)


class Vectors:
    """Rows of `zoo embed`: file, sha256, vector, error. Chunks are padded, so no vector depends on its neighbours."""

    def __init__(self, job: BulkJob, *, device: str, workers: int) -> None:
        self._settings, self._workers = job.settings, workers
        self._embedder = embedder_of(job.subject, job.opening, device=device)
        self.identity = embedder_identity(self._embedder)
        self._micro_batches = MicroBatches(BATCH_SIZE, work="embedding", report=silent, retries=[])
        # The column's type needs the width, also where no file of a part can be read.
        blank = torch.zeros(1, *self._embedder.model.preprocessing.input_size)
        self._width = int(self._compute(blank).shape[1])

    def _compute(self, images: torch.Tensor) -> torch.Tensor:
        """Vectors float64[N, F] of images[N, 3, H, W]."""
        model = self._embedder.model
        [output] = outputs(model.features, model, [images], self._micro_batches)
        return output.double()

    def rows(self, files: Sequence[FoundFile], told: Told) -> Any:
        """The table of pyarrow with a row for each file."""
        import pyarrow as pa

        half = self._settings["dtype"] == "float16"
        digests: list[str | None] = []
        faults: list[str | None] = []
        vectors: list[Any] = []
        with ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="zoo-decode") as pool:
            reading = _read_ahead(files)
            for begin in range(0, len(files), BATCH_SIZE):
                chunk = files[begin : begin + BATCH_SIZE]
                contents = [next(reading) for _ in chunk]
                decoded = list(pool.map(self._decode, contents))
                images = [pixels for pixels, _ in decoded if pixels is not None]
                found: list[Any] = []
                if images:
                    found = list(self._finished(self._compute(torch.stack(images)).numpy()))
                waiting = iter(found)
                for file, each, (pixels, fault) in zip(chunk, contents, decoded, strict=True):
                    digests.append(None if each.fault else hashlib.sha256(each.content).hexdigest())
                    faults.append(each.fault or fault or None)
                    vectors.append(None if pixels is None else self._checked(next(waiting), file))
                told(begin + len(chunk))
        number = pa.float16() if half else pa.float32()
        schema = pa.schema(
            [
                pa.field("file", pa.string(), nullable=False),
                ("sha256", pa.string()),
                ("vector", pa.list_(number, self._width)),
                ("error", pa.string()),
            ]
        )
        columns = [
            pa.array([printable(file.name) for file in files], pa.string()),
            pa.array(digests, pa.string()),
            pa.array(vectors, schema.field("vector").type),
            pa.array(faults, pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _decode(self, each: _Content) -> tuple[torch.Tensor | None, str]:
        """A file's bytes -> (the preprocessed image[3, H, W], ""), or (None, why there is none)."""
        if each.fault:
            return None, each.fault
        preprocessing = self._embedder.model.preprocessing
        pixels = torch.empty(preprocessing.input_size)
        try:
            picture = picture_of(each.content, "image", preprocessing=preprocessing)
            finish_views(resize(picture, preprocessing), preprocessing, None, into=[pixels])
        except DataError as error:
            return None, _without(str(error), "image")
        return pixels, ""

    def _finished(self, values: Any) -> Any:
        """Features, an array float64[N, F] -> vectors float32[N, F], of length 1 where that is asked for."""
        if self._settings["normalise"]:
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            values = values / np.where(lengths == 0, 1.0, lengths)
        return values.astype(np.float32)

    def _checked(self, row: Any, file: FoundFile) -> Any:
        """A vector float32[F] in the type of the column. Raises FeaturesError where that cannot hold it."""
        if not np.isfinite(row).all():
            raise FeaturesError(
                f"{self._embedder.backbone} gives {printable(file.name)} a vector that is not finite.\n"
                "Next: --precision float32, or other weights."
            )
        if self._settings["dtype"] == "float32":
            return row
        with np.errstate(over="ignore"):
            halved = row.astype(np.float16)
        if not np.isfinite(halved).all() or (row.any() and not halved.any()):
            raise FeaturesError(
                f"float16 holds numbers from 6e-8 to 65,504, and the vector of {printable(file.name)} has others.\n"
                "Next: --normalise, or --dtype float32."
            )
        return halved


def embedder_of(subject: str, opening: Mapping[str, Any], *, device: str, report: Report = silent) -> Embedder:
    """The network of a job that embeds. Nothing is measured, so that every process computes alike."""
    request = make_request(
        backbone=subject,
        weights=opening["weights"],
        input_size=None if opening["input_size"] is None else tuple(opening["input_size"]),
        seed=opening["seed"],
        device=device,
        precision=opening["precision"],
        offline=opening["offline"],
        tune=False,
    )
    return open_embedder(request, default_registry(), report, group=opening["group"])


def embedder_identity(embedder: Embedder) -> str:
    """Digest of what an embedder's vectors depend on: weights, group, preprocessing, precision, provider."""
    # Versions are told in the manifest instead: parts of before an update stay parts of the same job. But for that of
    # the provider, of which another one may be another model.
    facts = {name: value for name, value in embedder.about.items() if name != "versions"}
    facts["provider"] = provider_of(embedder.backbone)
    return hashlib.sha256(repr(sorted(facts.items(), key=lambda item: item[0])).encode()).hexdigest()


def artefact_identity(path: Path) -> str:
    """Digest of a saved classifier: of its providers, and of its config, which holds that of its tensors."""
    facts = [file_digest(find_artefact(path) / CONFIG), *artefact_providers(path)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def provider_of(backbone: str) -> str:
    """`timm 1.0.22`: the distribution whose code a backbone is, and its version. Raises UnknownName or NameConflict."""
    found = default_registry().backbone(backbone)
    version = installed_version(found.package)
    return f"{found.package} {version}" if version else f"{found.plugin.distribution} {found.plugin.version}"


def artefact_providers(path: Path) -> list[str]:
    """The distributions whose code a saved classifier runs, with their versions; zoo itself is left out."""
    config = read_config(find_artefact(path))
    try:
        providers = [provider_of(config.backbone.name)]
        plugin = default_registry().head(config.head.name).plugin
    except Refused:  # a plugin that only the workers have, or none: whoever loads the classifier says what is missing
        return list(dict.fromkeys(f"{part.distribution} {part.version}" for part in (config.backbone, config.head)))
    return list(dict.fromkeys([*providers, *([] if plugin.own else [f"{plugin.distribution} {plugin.version}"])]))


def tell_other_versions(path: Path, report: Report) -> None:
    """Report plugins and packages of another version than a saved classifier was made with, as `Classifier.load` does.

    Workers load it without a report. Nothing is loaded here where the versions are the same. Raises ArtefactError where
    it gives other logits.
    """
    try:
        changed = changed_versions(read_config(find_artefact(path)), default_registry())
    except Refused:
        return
    if changed:
        Classifier.load(path, device="cpu", report=report)


def _read_ahead(files: Sequence[FoundFile]) -> Iterator[_Content]:
    stopped = threading.Event()
    with ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="zoo-read") as pool:
        try:
            yield from prefetch(pool, lambda file: _read(file, stopped), files, pending=2 * _READERS)
        finally:
            stopped.set()  # where it ends early, nobody waits for those that wait for an answer


def _read(file: FoundFile, stopped: threading.Event) -> _Content:
    try:
        content = read_listed(file, pause=stopped.wait)
    except OSError as error:
        return _Content(_NO_IMAGE, f"cannot be read: {error.strerror or first_line(error)}")
    if not content:
        return _Content(_NO_IMAGE, "it is empty")
    # Sizes are in the part's name: with other bytes it would hold rows that its name does not say.
    if file.size >= 0 and len(content) != file.size:
        return _Content(_NO_IMAGE, f"it had {file.size:,} bytes when it was listed, and has {len(content):,} now")
    return _Content(content, "")


def _without(message: str, name: str) -> str:
    """A fault without the name of the image, which has a column of its own."""
    return message.removeprefix(f"{name}: ").removeprefix(f"{name} ")
