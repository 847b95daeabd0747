"""A saved classifier in use: loaded, made faster if asked, and applied to images."""

from __future__ import annotations

import contextlib
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
from zoo.artefact.given_images import VERIFY, WITH_MAP, images_to_predict
from zoo.artefact.golden import TOLERANCE, read_golden
from zoo.artefact.read import check_versions, find_artefact, read_config, read_model
from zoo.data.decode import image_needed
from zoo.data.memory.pictures import ImageLike, picture_of
from zoo.data.prefetch import map_for_model, resolve_workers
from zoo.data.transform import as_seen, finish_views, resize
from zoo.errors import DataError, OptionError, Refused
from zoo.evaluation.confusion_table import class_index
from zoo.evaluation.out_of_memory import out_of_memory_as_error, without_training
from zoo.evaluation.probabilities import NO_CLASS, best_classes, have_probabilities, mean_of_views
from zoo.events import Note, Report, silent
from zoo.model.fold_and_compile import compile_backbone, fold_batch_norms
from zoo.model.gradcam import grad_cam, with_heat
from zoo.model.model import ZooModel
from zoo.planning.precision import choose_compute
from zoo.registry.registry import Registry, default_registry
from zoo.registry.session import of_session
from zoo.specs.plan import Compute
from zoo.specs.preprocessing import Preprocessing
from zoo.specs.views import Views, check_views, doubt, passes, refuse_views

BATCH_SIZE = 32
"""Images computed at a time, unless the caller says otherwise."""

OnError = Callable[[str, DataError], None]
"""Called with (source, error) of an image that cannot be read, or that the classifier has no class for."""


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

    def __init__(
        self,
        model: ZooModel,
        config: ArtefactConfig,
        path: Path,
        *,
        compiled: bool = False,
        views: Views | None = None,
    ) -> None:
        self.model = model
        self._compiled = compiled
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
        # What can be refused without opening a file comes first.
        wanted = check_views(views)
        chosen = choose_device(device)
        folder = find_artefact(Path(path).expanduser())
        if wanted is not None:
            _consider_views(wanted, read_config(folder), report)
        registry = registry or default_registry()
        model, config = read_model(folder, registry)
        with out_of_memory_as_error(f"loading {folder} on {chosen}", step=without_training(chosen)):
            model = model.to(chosen)
            # In the training precision, as the golden logits were computed, and so before that is changed.
            check_versions(model, folder, config, registry, report)
        if precision is not None:
            _set_precision(model, config, folder, device=chosen, precision=precision, report=report)
        # Last: folding, or another layout, would have it compiled anew.
        if compile:
            report(Note(text="Compiling the backbone for this machine; the first time it may take a minute."))
            compile_backbone(model, batch=BATCH_SIZE)
        return cls(model, config, folder, compiled=compile, views=wanted)

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
        images: ImageLike | Iterable[ImageLike],
        *,
        top: int = 5,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
        on_error: OnError | None = None,
    ) -> list[Prediction]:
        """Classify images, in their order.

        Args:
            images: One image or many, mixed: paths, the bytes of image files, PIL images, arrays `uint8[H, W, 3]` (also
                `[H, W]` and `[H, W, 1]` in grey, `[H, W, 4]` with alpha) and tensors `uint8[3, H, W]`. The path of a
                folder stands for the images in it, in natural order. A batch `uint8[N, H, W, 3]`, or of tensors
                `uint8[N, 3, H, W]`, is N images.
            top: Number of classes that each prediction lists.
            batch_size: Images computed at a time.
            workers: Decoding threads; default: one per core, at most eight.
            on_error: Called with (source, error) for a file that cannot be read, or whose logits are not finite, which
                is then left out; without it the error is raised.

        Raises:
            DataError: A file cannot be read; or something is no image, such as floats, which were preprocessed already;
                or the logits of an image are not finite, so that it has no class.
            OptionError: `top` or `batch_size` is less than 1, or there is no image at all.
        """
        return list(self.stream(images, top=top, batch_size=batch_size, workers=workers, on_error=on_error))

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
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
            raise OptionError(
                f"top and batch_size must be at least 1, got {top} and {batch_size}.\n"
                f"Next: leave them out, for 5 classes of each image and {BATCH_SIZE} images at a time."
            )
        # Not a generator itself: bad arguments are refused by the call, not when the first prediction is asked for.
        return self._stream(images_to_predict(images), top, batch_size, resolve_workers(workers), on_error)

    def logits(self, images: Tensor) -> Tensor:
        """Logits[N, classes] on the CPU of preprocessed images[N, 3, H, W]."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            output: Tensor = self.model(images.to(device)).cpu()
        return output

    def features(
        self, images: ImageLike | Iterable[ImageLike], *, batch_size: int = BATCH_SIZE, workers: int | None = None
    ) -> Tensor:
        """The backbone's pooled features[N, F] of N images, float32 on the CPU, in the order of the images.

        They are what a linear head sees, whatever head the classifier has. Arguments and errors are those of `predict`.
        """
        if batch_size < 1:
            raise OptionError(
                f"batch_size must be at least 1, got {batch_size}.\n"
                f"Next: leave it out, for {BATCH_SIZE} images at a time."
            )
        device = next(self.model.parameters()).device
        batches = self._batches(images_to_predict(images), batch_size, resolve_workers(workers), None)
        of_features = out_of_memory_as_error(f"features of {batch_size} images", step=without_training(device.type))
        with torch.inference_mode(), of_features:
            rows = [self.model.pooled(batch.images.to(device)).cpu() for batch in batches]
        if not rows:
            raise OptionError("There is no image to compute features of.\nNext: give one image or more.")
        # A tensor made in inference mode could not take part in training.
        return torch.cat(rows).clone()

    def explain(self, image: ImageLike, *, label: str | None = None) -> Image:
        """Where the classifier looked: the image as the model received it, under a heat map (Grad-CAM).

        The brighter a place, the more it speaks for the class; dark places are irrelevant to it. It is the picture of
        the report, in the model's input size.

        Args:
            image: A path, the bytes of an image file, or a picture in memory, as for `predict`.
            label: The class to explain. Default: the predicted one.

        Raises:
            DataError: The file cannot be read, `image` is no single image, or its logits are not finite.
            OptionError: There is no such class.
            Refused: The model has no map of places, or none that reaches its logits, or it was compiled.
        """
        if self._compiled:
            raise Refused(
                "A compiled classifier hides its layers, so Grad-CAM cannot be drawn.\n"
                f"Next: zoo.load({str(self.path)!r}).explain(image), without compile=True."
            )
        index = None if label is None else class_index(label, self.classes)
        pixels = self.model.preprocessing(image)
        device = next(self.model.parameters()).device
        with _left_as_it_is(self.model):
            relevance = grad_cam(self.model, pixels[None].to(device), label=index)
        if not bool(have_probabilities(relevance.logits).all()):
            raise DataError(f"image: {NO_CLASS}{VERIFY}")
        if relevance.heat is None:
            raise Refused(f"Grad-CAM cannot be drawn for {self.model.name}: {relevance.reason}.{WITH_MAP}")
        return with_heat(as_seen(pixels, self.model.preprocessing), relevance.heat[0].cpu())

    def _stream(
        self,
        images: Iterator[tuple[str, ImageLike]],
        top: int,
        batch_size: int,
        workers: int,
        on_error: OnError | None,
    ) -> Iterator[Prediction]:
        device = next(self.model.parameters()).device.type
        for batch in self._batches(images, batch_size, workers, on_error):
            with out_of_memory_as_error(f"predicting {len(batch.sources)} images", step=without_training(device)):
                predictions = self._predict(batch, top)
            for source, prediction in zip(batch.sources, predictions, strict=True):
                if isinstance(prediction, Prediction):
                    yield prediction
                elif on_error is None:
                    raise DataError(f"{prediction}{VERIFY}")
                else:
                    on_error(source, prediction)

    def _batches(
        self, images: Iterator[tuple[str, ImageLike]], batch_size: int, workers: int, on_error: OnError | None
    ) -> Iterator[_Batch]:
        """Read images with their names a few batches ahead, and yield the batches that have any."""
        pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="zoo-decode")
        try:
            chunks = _chunks(images, batch_size)
            on_cpu = next(self.model.parameters()).device.type == "cpu"
            for batch in map_for_model(pool, self._read, chunks, workers=workers, on_cpu=on_cpu):
                for source, error in batch.faults:
                    if on_error is None:
                        raise image_needed(error)
                    on_error(source, error)
                if batch.sources:
                    yield batch
        finally:
            # Reached as well when the caller leaves the loop: what was asked for ahead is not read any more.
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, chunk: Sequence[tuple[str, ImageLike]]) -> _Batch:
        preprocessing = self.model.preprocessing
        # Each image is written to the next free place, so that those that cannot be read leave no gap.
        images = [torch.empty(len(chunk), *preprocessing.input_size) for _ in range(passes(self.views))]
        sources: list[str] = []
        faults: list[tuple[str, DataError]] = []
        for source, image in chunk:
            try:
                pixels = resize(picture_of(image, source, preprocessing=preprocessing), preprocessing)
                places = [view[len(sources)] for view in images]
                finish_views(pixels, preprocessing, self.views, into=places)
            except DataError as error:
                faults.append((source, error if source in str(error) else DataError(f"{source}: {error}")))
                continue
            sources.append(source)
        plain, *others = (view[: len(sources)] for view in images)
        return _Batch(sources, plain, faults, tuple(others))

    def _predict(self, batch: _Batch, top: int) -> list[Prediction | DataError]:
        logits = self.logits(batch.images)
        if batch.others:
            logits = mean_of_views([logits, *map(self.logits, batch.others)])
        probabilities, labels = best_classes(logits, top)
        rows = [
            tuple((self.classes[label], probability) for label, probability in zip(*row, strict=True))
            for row in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
        # Of logits that are no numbers some class would be named, as nan is sorted before all numbers.
        return [
            Prediction(source, *best[0], best, self.views) if known else DataError(f"{source}: {NO_CLASS}")
            for source, best, known in zip(batch.sources, rows, have_probabilities(logits).tolist(), strict=True)
        ]


def _chunks(named: Iterator[tuple[str, ImageLike]], size: int) -> Iterator[list[tuple[str, ImageLike]]]:
    while chunk := list(islice(named, size)):
        yield chunk


@contextlib.contextmanager
def _left_as_it_is(model: ZooModel) -> Iterator[None]:
    """Give a model its modes and its parameters their switches back: somebody may be training it."""
    modes = [(module, module.training) for module in model.modules()]
    switches = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        # Grad-CAM needs gradients, also where the caller has switched them off.
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires in switches:
            parameter.requires_grad_(requires)


def _consider_views(views: Views, config: ArtefactConfig, report: Report) -> None:
    """Raise Refused for views that make no sense for a classifier, and report those that may make none."""
    refuse_views(views, config.classes, Preprocessing.from_dict(config.preprocessing))
    if warning := doubt(views, config.classes):
        report(Note(text=warning, loud=True))


def _set_precision(
    model: ZooModel, config: ArtefactConfig, folder: Path, *, device: str, precision: str, report: Report
) -> None:
    # Who names a precision wants that alone changed: the memory layout stays the one of the training.
    if precision != "auto":
        model.compute_as(Compute("bfloat16" if precision == "bfloat16" else "float32", config.memory_format))
        return
    # Folding changes last bits, so it is undone unless the golden logits stay within the tolerance of float32.
    golden = read_golden(folder, config)
    images = None if golden is None else golden.images.to(device)
    folded = 0 if images is None else fold_batch_norms(model, images, tolerance=TOLERANCE["float32"])
    # A folded network computes something else, so its speed is stored under another name.
    shape = "x".join(map(str, model.preprocessing.input_size[1:]))
    # So does another object that a caller gave the same name.
    version = f" {config.backbone.version}" if of_session(config.backbone.name) else ""
    chosen = choose_compute(
        lambda: copy.deepcopy(model),  # Every candidate lays its tensors out differently.
        lambda: copy.deepcopy(model).to("meta").compute_as(Compute()),
        name=f"{config.backbone.name}{version} {shape} {model.needs}{' folded' if folded else ''}",
        device=device,
        trains=False,
        precision="auto",
        tune=True,
        report=report,
    )
    model.compute_as(chosen.compute)
