"""`golden.safetensors`: a few fixed pictures, the images that they become, and the logits that those gave.

Whoever has the artefact alone, without training data or network, can see with it whether the classifier still is what
it was: pictures[uint8] -> images tests the preprocessing, images -> logits tests weights, head and arithmetic.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.artefact.config import GOLDEN, ArtefactConfig, GoldenConfig
from zoo.compute import Precision
from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import ArtefactError
from zoo.files import parse_json
from zoo.model.build import file_digest
from zoo.model.model import ZooModel
from zoo.model.tensor_files import save_tensors
from zoo.preprocessing import Preprocessing

MOST = 4
"""Pictures; fewer where the images are so large that the file would pass `_MOST_BYTES`."""
_MOST_BYTES = 4_500_000
_CLASSES = 10
"""Kinds of sample pictures that are drawn from; nothing to do with the classifier's classes."""

TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""Share of the largest logit by which another machine, version, layout or number of threads may change one.

Measured on a CPU, on SqueezeNet 1.1 with its pretrained weights and on ResNet-18, ConvNeXt-T and timm's test_vit and
test_convnext with random ones: another layout, one thread for two, or one image at a time changed float32 logits by up
to 6.3e-7 of the largest, bfloat16 logits by up to 3.4e-3, and bfloat16 was up to 1.1e-2 from float32. The tolerances
leave room for deeper models and other kernels; other weights or another class order are off by far more.
"""

GREY_LEVELS = 2.0
"""Of 255: what another release of the decoder or the resize may change in a pixel before it counts as another
preprocessing."""

Match = Literal["same", "close", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """What the file holds."""

    pictures: Tensor
    """uint8[N, 3, h, w]: RGB, before any preprocessing; of another size than the input, so that the resize counts."""
    images: Tensor
    """float32[N, 3, H, W]: the same, preprocessed."""
    logits: Tensor
    """float32[N, classes] of the images, all in one batch, in the artefact's own precision and layout."""
    classes: tuple[str, ...]
    """Names in the order of the logits."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two tensors that should be equal."""

    largest: float
    """Of all absolute differences; infinite where a value is not finite on one side alone."""
    scale: float
    """What is compared with: the largest absolute value that was to come out."""
    tolerance: float
    """Share of `scale` that is allowed."""

    @property
    def match(self) -> Match:
        """`same`: every bit. `close`: within the tolerance. `other`: beyond it."""
        if self.largest == 0:
            return "same"
        return "close" if self.largest <= self.tolerance * self.scale and math.isfinite(self.scale) else "other"

    def __str__(self) -> str:
        return f"by up to {self.largest:.3g}, logits go up to {self.scale:.3g} ({self.tolerance:g} of that is allowed)"


def draw_golden(model: ZooModel) -> Golden:
    """Draw the pictures and compute their logits where the model is. The same bytes for the same model and machine."""
    pictures = draw_pictures(model.preprocessing)
    images = preprocessed(pictures, model.preprocessing)
    return Golden(pictures=pictures, images=images, logits=logits_of(model, images), classes=model.classes)


def draw_pictures(preprocessing: Preprocessing) -> Tensor:
    """uint8[N, 3, h, w] of the sample set, the same everywhere: shapes, textures and noise."""
    channels, height, width = preprocessing.input_size
    count = min(MOST, max(1, _MOST_BYTES // (channels * height * width * 4)))
    drawn = [np.asarray(sample_image(index, _CLASSES, "golden", 0)) for index in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def preprocessed(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8[N, 3, h, w] -> images[N, 3, H, W], each by the way that files take."""
    arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.stack([transform(Image.fromarray(each), preprocessing) for each in arrays])


def logits_of(model: ZooModel, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> float32 logits[N, classes] on the CPU, in evaluation mode.

    All in one batch and without padding: their number never changes, so neither does the batch's size. cuDNN does
    without TensorFloat-32, whose 10 bits of mantissa no CPU could repeat within the tolerance.
    """
    model.eval()
    with torch.inference_mode(), _full_float32():
        logits: Tensor = model(images.to(next(model.parameters()).device)).float().cpu()
    return logits.clone()


def save_golden(folder: Path, golden: Golden, *, device: str) -> GoldenConfig:
    """Write the file into an artefact's folder; `device` is where the logits were computed. Raises OSError."""
    names = json.dumps(golden.classes, ensure_ascii=False).encode()
    tensors = {
        "pictures": golden.pictures,
        "images": golden.images,
        "logits": golden.logits,
        # In here as well, under the file's digest: a list that was reordered in config.json does not go unnoticed.
        "classes": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }
    save_tensors(folder / GOLDEN, tensors)
    return GoldenConfig(digest=file_digest(folder / GOLDEN), device=device, threads=torch.get_num_threads())


def read_golden(folder: Path, config: ArtefactConfig) -> Golden | None:
    """The file of an artefact; None for one that was made before there were any. Raises ArtefactError."""
    if config.golden is None:
        return None
    path = folder / GOLDEN
    try:
        found = file_digest(path)
        if found != config.golden.digest:
            raise ArtefactError(
                f"{path} is damaged or was replaced: SHA-256 {found[:16]}..., noted {config.golden.digest[:16]}..."
            )
        tensors = load_file(path)
        classes = tuple(parse_json(bytes(tensors["classes"].numpy())))
        return Golden(pictures=tensors["pictures"], images=tensors["images"], logits=tensors["logits"], classes=classes)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; the artefact is incomplete.") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None


def compare(expected: Tensor, found: Tensor, tolerance: float) -> Difference:
    """Two tensors of one shape; raises ArtefactError for two shapes."""
    if expected.shape != found.shape:
        raise ArtefactError(f"The logits have the shape {list(found.shape)}, expected is {list(expected.shape)}.")
    scale = float(expected.abs().max())
    if torch.equal(expected, found):
        return Difference(0.0, scale, tolerance)
    largest = float((expected - found).abs().max())
    return Difference(largest if math.isfinite(largest) else math.inf, scale, tolerance)


def compare_logits(model: ZooModel, golden: Golden, config: ArtefactConfig) -> Difference:
    """The golden logits against what the model makes of the golden images here, with as many threads as then."""
    assert config.golden is not None
    with _threads(config.golden.threads):
        found = logits_of(model, golden.images)
    return compare(golden.logits, found, TOLERANCE[config.precision])


def compare_images(golden: Golden, preprocessing: Preprocessing) -> float:
    """How far today's preprocessing of the golden pictures is from the stored images, in grey levels of 255; 0: every
    bit is equal."""
    found = preprocessed(golden.pictures, preprocessing)
    if found.shape != golden.images.shape:
        return 255.0
    if torch.equal(found, golden.images):
        return 0.0
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return max(float(((found - golden.images) * std).abs().max()) * 255, 1e-6)


def _full_float32() -> contextlib.AbstractContextManager[None]:
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    flags: contextlib.AbstractContextManager[None] = cudnn.flags(**kept, allow_tf32=False)
    return flags


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """How many threads share a sum changes its last bits: as many as then, where this machine has so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count if count <= (os.cpu_count() or 1) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
