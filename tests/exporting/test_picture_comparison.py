"""The comparison of pictures sees an export that prepares them in another way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.exporting.graphs import passing_on
from torch import Tensor
from zoo.data.dataset import ImageFile
from zoo.data.sample import sample_image
from zoo.errors import CheckFailed
from zoo.events import Progress
from zoo.specs.preprocessing import Preprocessing

onnxruntime = pytest.importorskip("onnxruntime")

TRAINED = Preprocessing(
    input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic"
)


def flat(images: Tensor) -> Tensor:
    """Images[N, 3, H, W] -> logits[N, 4]: the brightness of each quarter, which any shift or stretch changes."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).mean(1).flatten(1)


def compared(preprocessing: Preprocessing, files: list[ImageFile], said: list[Any], least: float = 0.995) -> Any:
    """A graph with this preprocessing, beside Pillow with the one of `TRAINED`."""
    from zoo.exporting.onnx_preprocessing import with_preprocessing
    from zoo.exporting.picture_comparison import compare_pictures

    model = with_preprocessing(passing_on(*preprocessing.input_size[1:], quarters=True), preprocessing)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return compare_pictures(session, flat, TRAINED, files, "val", said.append, precision="float32", least=least)


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    found = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        sample_image(number, 10, "test", number).save(path)
        found.append(ImageFile(path, path.name, 0))
    found[3].path.write_bytes(b"no picture")
    return found


def test_pictures_of_the_run_and_odd_ones_get_the_same_class(files: list[ImageFile]) -> None:
    said: list[Any] = []
    found = compared(TRAINED, files, said)
    assert (found.real, found.pictures, found.equal, found.split) == (3, 27, 27, "val")
    assert 0 <= found.largest_difference < 0.001
    assert isinstance(said[-1], Progress) and said[-1].done == said[-1].total == 28


@pytest.mark.parametrize(
    "other",
    [replace(TRAINED, resize="exact"), replace(TRAINED, resize="longest"), replace(TRAINED, resize_size=(90, 90))],
    ids=["squashed", "filled", "cropped too much"],
)
def test_another_preprocessing_is_refused_with_the_numbers(other: Preprocessing, files: list[ImageFile]) -> None:
    with pytest.raises(CheckFailed, match=r"in another way than zoo: \d+ of 27 pictures \(3 val images"):
        compared(other, files, [])


def test_probabilities_that_are_no_numbers_are_refused(files: list[ImageFile]) -> None:
    broken = replace(TRAINED, mean=(float("nan"),) * 3)
    with pytest.raises(CheckFailed, match="differ by up to inf"):
        compared(broken, files, [], least=0.0)


def test_generated_pictures_are_wide_high_rotated_and_grey() -> None:
    from zoo.exporting.picture_comparison import odd_picture

    drawn = [odd_picture(number) for number in range(24)]
    assert len({picture.size for picture in drawn}) == 24 and all(picture.mode == "RGB" for picture in drawn)
    shares = [picture.width / picture.height for picture in drawn]
    assert min(shares) < 0.5 and max(shares) > 2
    assert any(Image.merge("RGB", [picture.getchannel("R")] * 3).tobytes() == picture.tobytes() for picture in drawn)
    assert odd_picture(5).tobytes() == drawn[5].tobytes()
