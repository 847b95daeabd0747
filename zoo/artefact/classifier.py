"""A saved classifier in use: loaded, made faster if asked, and applied to images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.golden import TOLERANCE, read_golden
from zoo.artefact.read import check_versions, find_artefact, read_config, read_model
from zoo.data.decode import load_pixels, read_image, to_upright_rgb
from zoo.data.prefetch import map_for_model, resolve_workers
from zoo.data.transform import finish_views, resize
from zoo.errors import DataError, OptionError
from zoo.evaluation.probabilities import mean_of_views
from zoo.events import Note, Report, silent
from zoo.model.fold_and_compile import compile_backbone, fold_batch_norms
from zoo.model.model import ZooModel
from zoo.planning.precision import choose_compute
from zoo.registry.registry import Registry, default_registry
from zoo.specs.plan import Compute
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.views import Views, check_views, doubt, passes, refuse_views

BATCH_SIZE = 32
"""Images computed at a time, unless the caller says otherwise."""

Source = str | Path | Image
OnError = Callable[[str, DataError], None]
"""Called with (source, error) of an image that cannot be read."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one image."""

    source: str
    """The file as given, or `image N` for an image in memory, counted from 0."""
    label: str
    """The most probable class."""
    probability: float
    """Probability of `label`, 0 to 1."""
    top: tuple[tuple[str, float], ...]
    """(label, probability) of the most probable classes, best first."""
    views: Views | None = None
    """The views over which probabilities were averaged; None: the image alone."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images that were read together."""

    sources: list[str]
    images: Tensor
    """float32[N, 3, H, W], the images of `sources` after preprocessing."""
    faults: list[tuple[str, DataError]]
    """(source, error) of what could not be read."""
    others: tuple[Tensor, ...] = ()
    """Further views of `images`, each float32[N, 3, H, W]."""


class Classifier:
    """A model with its class names and preprocessing, loaded from an artefact."""

    def __init__(self, model: ZooModel, config: ArtefactConfig, path: Path, *, views: Views | None = None) -> None:
        self.model = model
        self.config = config
        self.path = path
        self.views = views
        """The views over which `predict` averages probabilities; None: the image alone."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str | None = None,
        compile: bool = False,
        views: str | None = None,
        report: Report = silent,
        registry: Registry | None = None,
    ) -> Classifier:
        """Load an artefact or a finished run.

        Args:
            path: An artefact or a run folder.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            precision: `float32` or `bfloat16`. `auto` takes the precision and memory layout that measure at least 1.2
                times faster on this machine, and folds batch norms into convolutions. None: the training precision,
                for exactly the logits that were evaluated.
            compile: Compile the backbone with torch.compile, which takes up to a minute and pays for many images.
            views: `flip` or `five`: `predict` averages the probabilities over so many views of each image
                (`zoo.specs.views`). None: the image alone.
            report: Called with the events of `zoo.events`.
            registry: The plugins; default: those that are installed.

        Raises:
            ArtefactError: There is no artefact, it is damaged, a plugin that it needs is not installed, or an installed
                plugin of another version changes its logits.
            DeviceError: There is no such device, or torch.compile does not work here.
            OptionError: There is no such precision, or no such views.
            Refused: Views that make no sense for these classes, or this preprocessing.
        """
        from zoo.model.devices import choose_device
        from zoo.planning.precision import check_precision

        if precision is not None:
            check_precision(precision)
        wanted = check_views(views)
        chosen = choose_device(device)
        folder = find_artefact(Path(path).expanduser())
        if wanted is not None:
            _consider_views(wanted, read_config(folder), report)
        registry = registry or default_registry()
        model, config = read_model(folder, registry)
        model = model.to(chosen)
        # In the training precision, as the golden logits were computed, and so before that is changed.
        check_versions(model, folder, config, registry, report)
        if precision is not None:
            _set_precision(model, config, folder, device=chosen, precision=precision, report=report)
        if compile:
            report(Note(text="Compiling the backbone for this machine; the first time it may take a minute."))
            compile_backbone(model, batch=BATCH_SIZE)
        return cls(model, config, folder, views=wanted)

    @property
    def fault(self) -> str | None:
        """A warning for users that the proof of its run failed; None if it passed."""
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
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
        on_error: OnError | None = None,
    ) -> list[Prediction]:
        """Classify images, in their order.

        Args:
            images: Files or PIL images, one or many.
            top: Number of classes that each prediction lists.
            batch_size: Images computed at a time.
            workers: Decoding threads; default: one per core, at most eight.
            on_error: Called with (source, error) for a file that cannot be read, which is then left out; without
                it the error is raised.

        Raises:
            DataError: A file cannot be read.
            OptionError: `top` or `batch_size` is less than 1.
        """
        return list(self.stream(images, top=top, batch_size=batch_size, workers=workers, on_error=on_error))

    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        top: int = 5,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Classify images as `predict` does, and yield the predictions one by one.

        `images` is read a few batches ahead, so memory does not grow with their number. For a GPU, the next batches are
        decoded while one is computed; on a CPU, decoding and computing take turns.
        """
        if top < 1 or batch_size < 1:
            raise OptionError(f"top and batch_size must be at least 1, got {top} and {batch_size}.")
        several = [images] if isinstance(images, (str, Path, Image)) else images
        return self._stream(several, top, batch_size, resolve_workers(workers), on_error)

    def logits(self, images: Tensor) -> Tensor:
        """Logits[N, classes] on the CPU of preprocessed images[N, 3, H, W]."""
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
                    yield from self._predict(batch, top)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, chunk: Sequence[tuple[str, Source]]) -> _Batch:
        preprocessing = self.model.preprocessing
        # Each image is written to the next free place, so that those that cannot be read leave no gap.
        images = [torch.empty(len(chunk), *preprocessing.input_size) for _ in range(passes(self.views))]
        sources: list[str] = []
        faults: list[tuple[str, DataError]] = []
        for source, image in chunk:
            try:
                picture = to_upright_rgb(image) if isinstance(image, Image) else read_image(Path(image))
                pixels = resize(picture, preprocessing)
                places = [view[len(sources)] for view in images]
                finish_views(pixels, preprocessing, self.views, into=places)
            except DataError as error:
                faults.append((source, error if source in str(error) else DataError(f"{source}: {error}")))
                continue
            sources.append(source)
        plain, *others = (view[: len(sources)] for view in images)
        return _Batch(sources, plain, faults, tuple(others))

    def _predict(self, batch: _Batch, top: int) -> list[Prediction]:
        logits = self.logits(batch.images)
        if batch.others:
            logits = mean_of_views([logits, *map(self.logits, batch.others)])
        probabilities, labels = logits.softmax(1).topk(min(top, len(self.classes)))
        rows = [
            tuple((self.classes[label], probability) for label, probability in zip(*row, strict=True))
            for row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
        return [
            Prediction(source, *best[0], best, self.views) for source, best in zip(batch.sources, rows, strict=True)
        ]


def _named(images: Iterable[Source]) -> Iterator[tuple[str, Source]]:
    for number, image in enumerate(images):
        if isinstance(image, Image):
            load_pixels(image)  # Here, because the same image may come twice, and two threads must not read it.
        yield (f"image {number}" if isinstance(image, Image) else str(image)), image


def _chunks(named: Iterator[tuple[str, Source]], size: int) -> Iterator[list[tuple[str, Source]]]:
    while chunk := list(islice(named, size)):
        yield chunk


def _consider_views(views: Views, config: ArtefactConfig, report: Report) -> None:
    """Raise Refused for views that make no sense for a classifier, and report those that may make none."""
    refuse_views(views, config.classes, Preprocessing.from_dict(config.preprocessing))
    if warning := doubt(views, config.classes):
        report(Note(text=warning, loud=True))


def _set_precision(
    model: ZooModel, config: ArtefactConfig, folder: Path, *, device: str, precision: str, report: Report
) -> None:
    if precision != "auto":
        model.compute_as(Compute("bfloat16" if precision == "bfloat16" else "float32", config.memory_format))
        return
    # Folding changes last bits, so it is undone unless the golden logits stay within the tolerance of float32.
    golden = read_golden(folder, config)
    images = None if golden is None else golden.images.to(device)
    folded = 0 if images is None else fold_batch_norms(model, images, tolerance=TOLERANCE["float32"])
    shape = "x".join(map(str, model.preprocessing.input_size[1:]))
    chosen = choose_compute(
        lambda: copy.deepcopy(model),  # Every candidate lays its tensors out differently.
        name=f"{config.backbone.name} {shape} {model.needs}{' folded' if folded else ''}",
        device=device,
        trains=False,
        precision="auto",
        tune=True,
        report=report,
    )
    model.compute_as(chosen.compute)
