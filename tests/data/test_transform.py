"""zoo's preprocessing is bit-identical to upstream's own transforms, for all that published weights use."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from torch import Tensor
from zoo.data.decode import decode, read_image
from zoo.data.transform import normalise, transform
from zoo.errors import DataError

Reference = Callable[[Image.Image], Tensor]

LARGE = 600


@dataclass(frozen=True)
class Published:
    """Weights with their preprocessing, and upstream's own transform."""

    name: str
    preprocessing: zoo.Preprocessing
    reference: Reference


@functools.cache
def published(provider: str) -> tuple[Published, ...]:
    """One of a provider's weights for every distinct preprocessing, ours or upstream's."""
    (plugin,) = importlib.import_module(f"zoo_{provider}").zoo_backbones()
    distinct: dict[tuple[zoo.Preprocessing, str], Published] = {}
    for architecture, tags in plugin.architectures().items():
        spec = plugin.resolve(architecture)
        for tag in tags or (None,):
            ours, theirs = spec.preprocessing_for(tag), spec.reference(tag)
            distinct.setdefault((ours, repr(theirs)), Published(f"{spec.name}.{tag}", ours, theirs))
    return tuple(distinct.values())


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors are faster in one thread, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(width: int, height: int) -> Image.Image:
    """Every value from 0 to 255 with sharp and soft edges, so that different rounding shows."""
    draw = np.random.default_rng(width)
    fine = draw.integers(0, 256, (height, width, 3), np.uint8)
    coarse = np.asarray(Image.fromarray(fine[: height // 5 + 1, : width // 5 + 1]).resize((width, height)))
    return Image.fromarray(np.where(fine[..., :1] < 128, fine, coarse))


def decoded(image: Image.Image, kind: str = "PNG") -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return decode(buffer.getvalue(), name="picture")


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (150, 200), np.uint16))


ORDINARY = {"landscape": noise(500, 375), "portrait": noise(333, 500), "square": noise(256, 256), "tiny": noise(61, 40)}
EXTREME = {"very wide": noise(2000, 30), "high": noise(20, 90), "one line": noise(9, 1), "one pixel": noise(1, 1)}
ODD = {
    "grey": decoded(noise(200, 150).convert("L")),
    "with alpha": decoded(Image.merge("RGBA", [*noise(200, 150).split(), noise(200, 150).convert("L")])),
    "palette": decoded(noise(200, 150).convert("P")),
    "1 bit": decoded(noise(200, 150).convert("1")),
    "CMYK": decoded(noise(200, 150).convert("CMYK"), "JPEG"),
    "16 bit": decoded(sixteen_bit()),
}


def assert_equal(ours: zoo.Preprocessing, theirs: Reference, picture: Image.Image, what: str) -> None:
    tensor, reference = transform(picture, ours), theirs(picture)
    assert tensor.shape == ours.input_size, what
    assert tensor.dtype == torch.float32, what
    assert torch.equal(tensor, reference), f"{what}: {(tensor - reference).abs().max():.3g} apart"


def kind(weights: Published) -> tuple[object, ...]:
    """The cases that the code distinguishes: how it resizes, and whether the crop is smaller or larger."""
    ours = weights.preprocessing
    rest = [have - want for have, want in zip(ours.resize_size, ours.input_size[1:], strict=True)]
    return ours.resize, ours.interpolation, [(margin > 0) - (margin < 0) for margin in rest], rest[0] % 2


@pytest.mark.long
@pytest.mark.parametrize("provider", ["torchvision", "timm"])
def test_every_published_preprocessing_has_the_bits_of_upstreams(provider: str) -> None:
    pictures = itertools.cycle(ORDINARY.items())
    for weights in published(provider):
        _, height, width = weights.preprocessing.input_size
        # The larger square ones differ from those that are tested by their number alone.
        if height <= LARGE or height != width:
            shape, picture = next(pictures)
            assert_equal(weights.preprocessing, weights.reference, picture, f"{weights.name} on {shape}")


@pytest.mark.long
@pytest.mark.parametrize("provider", ["torchvision", "timm"])
def test_pictures_of_any_shape_and_mode_have_the_bits_of_upstreams(provider: str) -> None:
    by_size = sorted(published(provider), key=lambda weights: weights.preprocessing.resize_size)
    smallest = list({repr(kind(weights)): weights for weights in reversed(by_size)}.values())
    for weights in smallest:
        for shape, picture in (ORDINARY | EXTREME).items():
            assert_equal(weights.preprocessing, weights.reference, picture, f"{weights.name} on {shape}")
    for mode, picture in ODD.items():
        assert_equal(smallest[0].preprocessing, smallest[0].reference, picture, f"{smallest[0].name} on {mode}")


def test_any_torchvision_preset_has_the_same_bits() -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    draw = random.Random(0)
    for _ in range(400):
        crop, size = draw.randint(1, 40), draw.randint(1, 40)
        filter_name: Any = draw.choice(["nearest", "bilinear", "bicubic", "lanczos"])
        ours = zoo.Preprocessing(
            input_size=(3, crop, crop),
            resize_size=(size, size),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            interpolation=filter_name,
        )
        theirs = ImageClassification(crop_size=crop, resize_size=size, interpolation=InterpolationMode(filter_name))
        picture = noise(draw.randint(1, 60), draw.randint(1, 60))
        assert_equal(ours, theirs, picture, f"{ours} on {picture.size}")


def test_any_timm_config_has_the_same_bits() -> None:
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    from zoo_timm.upstream import preprocessing

    draw = random.Random(0)
    for _ in range(400):
        height = draw.randint(4, 40)
        config = {
            "input_size": (3, height, draw.choice([height, draw.randint(4, 40)])),
            "crop_pct": draw.choice([0.5, 0.7, 0.875, 0.9, 0.95, 1.0, 1.15]),
            "crop_mode": draw.choice(["center", "squash", "border"]),
            "interpolation": draw.choice(["bilinear", "bicubic", "nearest", "lanczos"]),
            "mean": (0.48145466, 0.4578275, 0.40821073),
            "std": (0.26862954, 0.26130258, 0.27577711),
        }
        theirs = create_transform(**resolve_data_config(None, config), is_training=False)  # type: ignore[no-untyped-call]
        picture = noise(draw.randint(8, 60), draw.randint(8, 60))
        assert_equal(preprocessing(config), theirs, picture, f"{config} on {picture.size}")


@pytest.mark.data
def test_photographs_have_the_bits_of_upstreams(real_data: Path) -> None:
    photographs = [read_image(path) for path in sorted((real_data / "data/hymenoptera/val").glob("*/*.jpg"))[::40]]
    for provider in ("torchvision", "timm"):
        default = next(weights for weights in published(provider) if weights.preprocessing.input_size == (3, 224, 224))
        for number, photograph in enumerate(photographs):
            assert_equal(default.preprocessing, default.reference, photograph, f"{default.name} on {number}")


def test_the_fill_shows_where_the_picture_does_not_reach() -> None:
    preprocessing = zoo.Preprocessing(
        input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, resize="longest", fill=(255, 0, 51)
    )
    tensor = transform(Image.new("RGB", (40, 20), (0, 255, 0)), preprocessing)
    assert torch.equal(tensor[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    assert torch.equal(tensor[:, 4, 4], torch.tensor([0.0, 1.0, 0.0]))
    assert [row.any() for row in tensor[1]] == [False, False, True, True, True, True, False, False]


def test_a_picture_too_narrow_to_be_resized_is_refused_before_memory_runs_out() -> None:
    preprocessing = zoo.Preprocessing(input_size=(3, 224, 224), resize_size=(256, 256), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataError, match=r"^1 x 9000 pixels are too narrow: resized, 256 x 2304000$"):
        transform(Image.new("RGB", (1, 9000)), preprocessing)


def test_a_preprocessing_survives_storing() -> None:
    for weights in published("timm"):
        stored = json.loads(json.dumps(weights.preprocessing.to_dict()))
        assert zoo.Preprocessing.from_dict(stored) == weights.preprocessing


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": (1, 8, 8)},
        {"input_size": (3, 0, 8)},
        {"resize_size": (8,)},
        {"resize_size": (8, 9)},
        {"resize": "stretch"},
        {"interpolation": "cubic"},
        {"mean": (0.5,)},
        {"std": (0.5, 0.0, 0.5)},
        {"fill": (0, 0, 256)},
        {"fill": (0,)},
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"input_size": (3, 8, 8), "resize_size": (8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    zoo.Preprocessing(**right)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        zoo.Preprocessing(**(right | wrong))


def test_normalising_keeps_the_bits_of_torchs_arithmetic_for_every_value_and_all_published_numbers() -> None:
    every = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    for weights in itertools.chain(published("torchvision"), published("timm")):
        numbers = weights.preprocessing.mean, weights.preprocessing.std
        mean, std = (torch.tensor(three).view(3, 1, 1) for three in numbers)
        expected = every.to(torch.float32).div_(255).sub_(mean).div_(std)
        into = torch.empty(3, 1, 256)
        assert torch.equal(normalise(every, weights.preprocessing), expected), weights.name
        assert normalise(every, weights.preprocessing, into=into) is into and torch.equal(into, expected), weights.name
