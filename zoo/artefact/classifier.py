"""The classifier in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from zoo.artefact.config import ArtefactConfig
from zoo.artefact.read import find_artefact, read_model
from zoo.data.decode import from_memory, read_image
from zoo.data.transform import transform
from zoo.errors import DataError, OptionError
from zoo.model.model import ZooModel
from zoo.registry import Registry, default_registry

BATCH = 32


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


class Classifier:
    """A model with its class names and preprocessing, loaded from an artefact."""

    def __init__(self, model: ZooModel, config: ArtefactConfig, path: Path) -> None:
        self.model = model
        self.config = config
        self.path = path

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", registry: Registry | None = None) -> Classifier:
        """Open an artefact or a finished run. Raises ArtefactError, DeviceError."""
        from zoo.planning.devices import choose_device

        chosen = choose_device(device)
        folder = find_artefact(Path(path))
        model, config = read_model(folder, registry or default_registry())
        return cls(model.to(chosen), config, folder)

    @property
    def fault(self) -> str | None:
        """What a person should know before using it: that the proof of its run failed. None where it passed."""
        return f"the proof of this classifier's run failed ({self.path})" if self.config.proof == "failed" else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.config.classes

    def predict(
        self,
        images: str | Path | Image | Iterable[str | Path | Image],
        *,
        top: int = 5,
        batch_size: int = BATCH,
        on_error: Callable[[str, DataError], None] | None = None,
    ) -> list[Prediction]:
        """Classify images, in their order.

        Args:
            images: Files or PIL pictures, one or many.
            top: How many classes each prediction lists.
            batch_size: Images at a time.
            on_error: Called with (source, error) for a file that cannot be read, which is then left out; without
                it the error is raised.

        Raises:
            DataError: A file cannot be read.
        """
        if top < 1 or batch_size < 1:
            raise OptionError(f"top and batch_size must be at least 1, got {top} and {batch_size}.")
        several = [images] if isinstance(images, (str, Path, Image)) else images
        loaded = self._loaded(several, on_error)
        predictions: list[Prediction] = []
        while batch := list(islice(loaded, batch_size)):
            sources, tensors = zip(*batch, strict=True)
            predictions += self._predict(sources, torch.stack(tensors), top)
        return predictions

    def logits(self, images: Tensor) -> Tensor:
        """Preprocessed images[N, 3, H, W] -> logits[N, classes] on the CPU."""
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            output: Tensor = self.model(images.to(device)).cpu()
        return output

    def _loaded(
        self, images: Iterable[str | Path | Image], on_error: Callable[[str, DataError], None] | None
    ) -> Iterator[tuple[str, Tensor]]:
        for number, each in enumerate(images):
            source = f"image {number}" if isinstance(each, Image) else str(each)
            try:
                picture = from_memory(each) if isinstance(each, Image) else read_image(Path(each))
                prepared = transform(picture, self.model.preprocessing)
            except DataError as error:
                named = error if source in str(error) else DataError(f"{source}: {error}")
                if on_error is None:
                    raise named from None
                on_error(source, named)
                continue
            yield source, prepared

    def _predict(self, sources: Sequence[str], images: Tensor, top: int) -> list[Prediction]:
        probabilities, labels = self.logits(images).softmax(1).topk(min(top, len(self.classes)))
        named = [
            tuple((self.classes[label], probability) for label, probability in zip(row, chances, strict=True))
            for row, chances in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]
        return [Prediction(source, best[0][0], best[0][1], best) for source, best in zip(sources, named, strict=True)]
