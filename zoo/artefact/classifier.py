"""The classifier in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.read import find_artefact, read_model
from zoo.artefact.speed import compile_for, compute_as_asked
from zoo.artefact.versions import check_versions
from zoo.data.ahead import map_for_model, workers_of
from zoo.data.decode import from_memory, read_image
from zoo.data.transform import finish, resize
from zoo.errors import DataError, OptionError
from zoo.events import Report, silent
from zoo.model.model import ZooModel
from zoo.registry import Registry, default_registry

BATCH = 32

Source = str | Path | Image
OnError = Callable[[str, DataError], None]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the classifier says about one image."""

    source: str
    """The file as given, or `image N` for a picture in memory, counted from 0."""
    label: str
    probability: float
    """Of `label`, 0 to 1."""
    top: tuple[tuple[str, float], ...]
    """(label, probability) of the most probable classes, best first."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some images, read."""

    sources: list[str]
    images: Tensor
    """float32[N, 3, H, W] of `sources`."""
    faults: list[tuple[str, DataError]]


class Classifier:
    """A model with its class names and preprocessing, loaded from an artefact."""

    def __init__(self, model: ZooModel, config: ArtefactConfig, path: Path) -> None:
        self.model = model
        self.config = config
        self.path = path

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str | None = None,
        compile: bool = False,
        report: Report = silent,
        registry: Registry | None = None,
    ) -> Classifier:
        """Open an artefact or a finished run.

        Args:
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `float32` or `bfloat16`; `auto`: with the memory layout, what was measured to be at least 1.2
                times faster on this machine, and batch norms folded into convolutions; None: what it was trained with,
                for the very logits that were judged.
            compile: By torch.compile: for many images, as it takes up to a minute first.
            report: Called with the events of `zoo.events`.

        Raises:
            ArtefactError: It is none, damaged, needs a plugin that is not there, or gives other logits than it did with
                the version of a plugin that it was made with.
            DeviceError, OptionError: No such device, or precision; torch.compile cannot work here.
        """
        from zoo.planning.devices import choose_device
        from zoo.planning.speed import check_precision

        if precision is not None:
            check_precision(precision)
        chosen = choose_device(device)
        folder = find_artefact(Path(path).expanduser())
        known = registry or default_registry()
        model, config = read_model(folder, known)
        model = model.to(chosen)
        check_versions(model, folder, config, known, report)
        if precision is not None:
            compute_as_asked(model, config, folder, device=chosen, precision=precision, report=report)
        if compile:
            compile_for(model, batch=BATCH, report=report)
        return cls(model, config, folder)

    @property
    def fault(self) -> str | None:
        """What a person should know before using it: that the proof of its run failed. None where it passed."""
        return self.config.fault(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.config.classes

    def predict(
        self,
        images: Source | Iterable[Source],
        *,
        top: int = 5,
        batch_size: int = BATCH,
        workers: int | None = None,
        on_error: OnError | None = None,
    ) -> list[Prediction]:
        """Classify images, in their order.

        Args:
            images: Files or PIL pictures, one or many.
            top: How many classes each prediction lists.
            batch_size: Images at a time.
            workers: Decoding threads; default: one per core, at most eight.
            on_error: Called with (source, error) for a file that cannot be read, which is then left out; without
                it the error is raised.

        Raises:
            DataError: A file cannot be read.
        """
        return list(self.stream(images, top=top, batch_size=batch_size, workers=workers, on_error=on_error))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        top: int = 5,
        batch_size: int = BATCH,
        workers: int | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """As `predict`, one after the other: `images` is drawn a few batches ahead, so that memory stays flat however
        many there are. On a GPU the next batches are decoded while one is computed, on a CPU by turns with it."""
        if top < 1 or batch_size < 1:
            raise OptionError(f"top and batch_size must be at least 1, got {top} and {batch_size}.")
        several = [images] if isinstance(images, (str, Path, Image)) else images
        return self._stream(several, top, batch_size, workers_of(workers), on_error)

    def logits(self, images: Tensor) -> Tensor:
        """Preprocessed images[N, 3, H, W] -> logits[N, classes] on the CPU."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            output: Tensor = self.model(images.to(device)).cpu()
        return output

    def _stream(
        self, images: Iterable[Source], top: int, batch_size: int, workers: int, on_error: OnError | None
    ) -> Iterator[Prediction]:
        pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="zoo-decode")
        try:
            chunks = _chunks(_named(images), batch_size)
            on_cpu = next(self.model.parameters()).device.type == "cpu"
            for batch in map_for_model(pool, self._read, chunks, workers=workers, on_cpu=on_cpu):
                for source, error in batch.faults:
                    if on_error is None:
                        raise error
                    on_error(source, error)
                if batch.sources:
                    yield from self._predict(batch.sources, batch.images, top)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, chunk: Sequence[tuple[str, Source]]) -> _Batch:
        preprocessing = self.model.preprocessing
        images = torch.empty(len(chunk), *preprocessing.input_size)
        sources: list[str] = []
        faults: list[tuple[str, DataError]] = []
        for source, each in chunk:
            try:
                picture = from_memory(each) if isinstance(each, Image) else read_image(Path(each))
                finish(resize(picture, preprocessing), preprocessing, into=images[len(sources)])
            except DataError as error:
                faults.append((source, error if source in str(error) else DataError(f"{source}: {error}")))
                continue
            sources.append(source)
        return _Batch(sources, images[: len(sources)], faults)

    def _predict(self, sources: Sequence[str], images: Tensor, top: int) -> list[Prediction]:
        probabilities, labels = self.logits(images).softmax(1).topk(min(top, len(self.classes)))
        named = [
            tuple((self.classes[label], probability) for label, probability in zip(row, chances, strict=True))
            for row, chances in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
        return [Prediction(source, best[0][0], best[0][1], best) for source, best in zip(sources, named, strict=True)]


def _named(images: Iterable[Source]) -> Iterator[tuple[str, Source]]:
    for number, each in enumerate(images):
        if isinstance(each, Image):
            each.load()  # here: one that comes twice must not be read by two threads
        yield (f"image {number}" if isinstance(each, Image) else str(each)), each


def _chunks(named: Iterator[tuple[str, Source]], size: int) -> Iterator[list[tuple[str, Source]]]:
    while chunk := list(islice(named, size)):
        yield chunk
