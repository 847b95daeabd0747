"""`golden.safetensors`: a few fixed pictures, the images after preprocessing, and the model's logits for them.

They show whether a classifier is unchanged to anyone who has the artefact alone, without training data or a network:
pictures -> images tests the preprocessing, images -> logits tests weights, head and arithmetic.
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
from zoo.data.sample import sample_image
from zoo.data.transform import transform
from zoo.errors import ArtefactError
from zoo.model.model import ZooModel
from zoo.specs.plan import Precision
from zoo.specs.preprocessing import Preprocessing
from zoo.storage.atomic import parse_json
from zoo.storage.tensors import file_digest, save_tensors

COPY_AGAIN = "Next: copy the artefact again from where it was made."
_MAX_PICTURES = 4
"""Number of pictures; fewer if the file would be larger than `_MAX_BYTES`."""
_MAX_BYTES = 4_500_000
_CLASSES = 10
"""Kinds of sample pictures to draw from; these are not the classifier's classes."""

TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""Allowed difference of a logit on another machine, version, layout or number of threads, as a share of the largest.

Measured on a CPU, on SqueezeNet 1.1 with its pretrained weights and on ResNet-18, ConvNeXt-T and timm's test_vit and
test_convnext with random ones: another layout, one thread for two, or one image at a time changed float32 logits by up
to 6.3e-7 of the largest, bfloat16 logits by up to 3.4e-3, and bfloat16 was up to 1.1e-2 from float32. The tolerances
allow for deeper models and other kernels; other weights or another class order differ by far more.
"""

GREY_LEVELS = 2.0
"""Allowed difference of a pixel, of 255, by another release of the decoder or the resize; more is another
preprocessing."""

Match = Literal["same", "close", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """The content of the file."""

    pictures: Tensor
    """uint8[N, 3, h, w], RGB before preprocessing; not of the input size, so that the resize is tested."""
    images: Tensor
    """float32[N, 3, H, W], the pictures after preprocessing."""
    logits: Tensor
    """float32[N, classes] for the images, in one batch, in the artefact's own precision and layout."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between two tensors that should be equal."""

    largest: float
    """Largest absolute difference; infinite if a value is finite in one tensor alone."""
    scale: float
    """Largest absolute value that was expected."""
    tolerance: float
    """Allowed difference as a share of `scale`."""

    @property
    def match(self) -> Match:
        """`same`: equal bit for bit; `close`: within the tolerance; `other`: beyond it."""
        if self.largest == 0:
            return "same"
        return "close" if self.largest <= self.tolerance * self.scale and math.isfinite(self.scale) else "other"

    def __str__(self) -> str:
        return f"by up to {self.largest:.3g}, logits go up to {self.scale:.3g} ({self.tolerance:g} of that is allowed)"


def draw_golden(model: ZooModel) -> Golden:
    """Draw the pictures, and compute their logits on the model's device; deterministic for a model and a machine."""
    pictures = draw_pictures(model.preprocessing)
    images = preprocess(pictures, model.preprocessing)
    return Golden(pictures=pictures, images=images, logits=compute_logits(model, images), classes=model.classes)


def draw_pictures(preprocessing: Preprocessing) -> Tensor:
    """Pictures uint8[N, 3, h, w] of the sample set (shapes, textures and noise), the same on every machine."""
    channels, height, width = preprocessing.input_size
    count = min(_MAX_PICTURES, max(1, _MAX_BYTES // (channels * height * width * 4)))
    drawn = [np.asarray(sample_image(index, _CLASSES, "golden", 0)) for index in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def preprocess(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pictures uint8[N, 3, h, w] -> images[N, 3, H, W], preprocessed as files are."""
    arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.stack([transform(Image.fromarray(array), preprocessing) for array in arrays])


def compute_logits(model: ZooModel, images: Tensor) -> Tensor:
    """images[N, 3, H, W] -> float32 logits[N, classes] on the CPU, in evaluation mode.

    One batch without padding, because the number of golden images never changes. cuDNN runs without TensorFloat-32,
    whose 10 bits of mantissa no CPU could repeat within the tolerance.
    """
    model.eval()
    with torch.inference_mode(), _full_float32():
        logits: Tensor = model(images.to(next(model.parameters()).device)).float().cpu()
    # A tensor made in inference mode could not take part in training.
    return logits.clone()


def save_golden(folder: Path, golden: Golden, *, device: str) -> GoldenConfig:
    """Write the file into an artefact's folder. Raises OSError.

    `device`: the device that computed the logits, for the config that is returned.
    """
    names = json.dumps(golden.classes, ensure_ascii=False).encode()
    tensors = {
        "pictures": golden.pictures,
        "images": golden.images,
        "logits": golden.logits,
        # Here too, where the file's digest covers them, so that a list reordered in config.json is noticed.
        "classes": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }
    save_tensors(folder / GOLDEN, tensors)
    return GoldenConfig(digest=file_digest(folder / GOLDEN), device=device, threads=torch.get_num_threads())


def read_golden(folder: Path, config: ArtefactConfig) -> Golden | None:
    """The golden file of an artefact; None if an earlier version made it without one. Raises ArtefactError."""
    if config.golden is None:
        return None
    path = folder / GOLDEN
    try:
        digest = file_digest(path)
        if digest != config.golden.digest:
            raise ArtefactError(
                f"{path} is damaged or was replaced: "
                f"SHA-256 {digest[:16]}..., recorded {config.golden.digest[:16]}...\n{COPY_AGAIN}"
            )
        tensors = load_file(path)
        classes = tuple(parse_json(bytes(tensors["classes"].numpy())))
        return Golden(pictures=tensors["pictures"], images=tensors["images"], logits=tensors["logits"], classes=classes)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; the artefact is incomplete.\n{COPY_AGAIN}") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}\n{COPY_AGAIN}") from None


def compare_tensors(expected: Tensor, found: Tensor, tolerance: float) -> Difference:
    """The difference between two tensors logits[N, classes]. Raises ArtefactError if their shapes differ."""
    if expected.shape != found.shape:
        raise ArtefactError(
            f"The logits have the shape {list(found.shape)}, expected is {list(expected.shape)}.\n{COPY_AGAIN}"
        )
    scale = float(expected.abs().max())
    if torch.equal(expected, found):
        return Difference(0.0, scale, tolerance)
    # A NaN on one side makes this NaN as well, and so does infinity less infinity: neither may pass for a small number.
    largest = float((expected - found).abs().max())
    return Difference(largest if math.isfinite(largest) else math.inf, scale, tolerance)


def compare_logits(model: ZooModel, golden: Golden, config: ArtefactConfig) -> Difference:
    """The difference between the golden logits and the model's logits here, with as many threads as then."""
    assert config.golden is not None
    with _threads(config.golden.threads):
        logits = compute_logits(model, golden.images)
    return compare_tensors(golden.logits, logits, TOLERANCE[config.precision])


def compare_images(golden: Golden, preprocessing: Preprocessing) -> float:
    """Largest difference, in grey levels of 255, between the golden images and the pictures preprocessed here.

    0 if they are equal bit for bit, 255 if their shapes differ.
    """
    images = preprocess(golden.pictures, preprocessing)
    if images.shape != golden.images.shape:
        return 255.0
    if torch.equal(images, golden.images):
        return 0.0
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    # Above 0 even if the product underflows, because 0 stands for equal bits.
    return max(float(((images - golden.images) * std).abs().max()) * 255, 1e-6)


def _full_float32() -> contextlib.AbstractContextManager[None]:
    cudnn = torch.backends.cudnn
    # flags() sets what it is not given to its own defaults, so the present settings are given.
    present = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    flags: contextlib.AbstractContextManager[None] = cudnn.flags(**present, allow_tf32=False)
    return flags


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with `count` threads if this machine has as many cores: their number changes the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count if count <= (os.cpu_count() or 1) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
