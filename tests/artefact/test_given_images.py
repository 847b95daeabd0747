"""What a classifier takes to predict: the same picture gives the same prediction, however it comes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from torchvision.datasets import ImageFolder
from zoo.artefact.given_images import images_to_predict
from zoo.data.decode import read_image
from zoo.errors import DataError, OptionError


@pytest.fixture(scope="module")
def classifier(few: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Classifier:
    out = tmp_path_factory.mktemp("runs") / "run"
    zoo.finetune("timm/test_resnet", weights="random", recipe="head_only", data=few, out=out, report=False)
    return zoo.load(out)


@pytest.fixture
def file(few: Path) -> Path:
    return few / "val" / "b" / "0.jpg"


def test_one_picture_gives_one_prediction_however_it_comes(classifier: zoo.Classifier, file: Path) -> None:
    pixels = np.array(read_image(file))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    mixed: list[Any] = [file, str(file), file.read_bytes(), Image.open(file), pixels, tensor]

    found = classifier.predict(mixed)

    assert len({prediction.top for prediction in found}) == 1
    assert [each.source for each in found] == [str(file), str(file), *(f"image {number}" for number in range(2, 6))]
    assert len({classifier.predict(each)[0].top for each in mixed}) == 1
    # In other batches the last bits may differ.
    for batch in (np.stack([pixels] * 2), torch.stack([tensor] * 2)):
        assert [each.top for each in classifier.predict(batch)] == [
            each.top for each in classifier.predict([file, file])
        ]


def test_grey_and_alpha_are_what_pillow_makes_of_them(classifier: zoo.Classifier, file: Path) -> None:
    grey, alpha = (np.array(read_image(file).convert(mode)) for mode in ("L", "RGBA"))
    alpha[:9, :9, 3] = 0

    of_arrays = classifier.predict([grey, grey[..., None], alpha])

    pictures = [Image.fromarray(grey), Image.fromarray(grey), Image.fromarray(alpha)]
    assert [each.top for each in of_arrays] == [each.top for each in classifier.predict(pictures)]


def test_a_folder_stands_for_its_images_in_natural_order(tmp_path: Path, few: Path, file: Path) -> None:
    for name in ("10.jpg", "9.jpg", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(file.read_bytes())

    with pytest.warns(UserWarning):
        found = list(images_to_predict(tmp_path))
    assert [name for name, _ in found] == [str(tmp_path / name) for name in ("9.jpg", "10.jpg")]
    assert len(list(images_to_predict([few, file, read_image(file)]))) == 14


def test_files_of_a_folder_that_are_not_used_are_told(classifier: zoo.Classifier, tmp_path: Path, file: Path) -> None:
    for name in ("a.jpg", "b.gif", "c.txt", ".d.jpg"):
        (tmp_path / name).write_bytes(file.read_bytes())
    hidden = "1 hidden image not used: a name begins with a dot."
    both = "2 files not used: "
    for given, said in (
        (tmp_path, [hidden, both]),
        ([file, tmp_path], [hidden, both]),
        ((each for each in [tmp_path]), [hidden, both]),
        ([tmp_path, tmp_path / "b.gif"], [hidden, "1 file not used: "]),
        ([file, tmp_path / "b.gif"], []),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            classifier.predict(given)
        texts = [str(each.message) for each in seen]
        assert len(texts) == len(said) and all(
            text.startswith(f"{tmp_path}: {a}") for text, a in zip(texts, said, strict=True)
        ), texts
        assert {each.filename for each in seen} <= {__file__}, "the line of the caller"


class WithoutLength(torch.utils.data.Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return index


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "normalised": (
        lambda file: torch.rand(3, 9, 9),
        "zoo applies the preprocessing of the weights itself.\nNext: pass the",
    ),
    "batch of floats": (lambda file: torch.rand(2, 3, 9, 9), "Image 0 is a tensor of float32, of shape [3, 9, 9]"),
    "channels": (lambda file: np.zeros((9, 9, 2), np.uint8), "of shape [9, 9, 2]. An image is [H, W, 3]"),
    "channels first": (lambda file: np.zeros((3, 9, 9), np.uint8), "transpose(1, 2, 0) puts the channels last"),
    "nothing": (lambda file: [], "There is no image to predict: the list is empty"),
    "number": (lambda file: 3, "The images are 3.\nNext: An image is a path"),
    "numbers, after a file": (lambda file: [file, 3], "Image 1 is 3.\nNext: an image is a path"),
    "table": (lambda file: {"image": file}, "which holds more than images.\nNext: give its images alone"),
    "pairs": (lambda file: [(file, "a")], "Image 0 is a pair, as data to train on have them.\nNext: give the images"),
    "labelled": (lambda file: ImageFolder(file.parents[1]), "Image 0 is a pair"),
    "no length": (lambda file: WithoutLength(), "without a length.\nNext: give a list of its images"),
    "empty folder": (lambda file: file.parents[3] / "empty", "There are no images in"),
    "an open file": (lambda file: io.BytesIO(file.read_bytes()), "an open file.\nNext: give its bytes, file.read()"),
    "no bytes": (lambda file: b"", "The image has no bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    file = tmp_path / "data" / "val" / "b" / "0.jpg"
    file.parent.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(file)
    (tmp_path / "empty").mkdir()
    make, sentence = REFUSED[name]
    with pytest.raises((DataError, OptionError)) as refused:
        for _ in images_to_predict(make(file)):
            pytest.fail("an image was read") if name != "labelled" else None

    assert sentence in str(refused.value)


def test_what_cannot_be_read_in_a_stream_is_left_out_and_named(classifier: zoo.Classifier, file: Path) -> None:
    faults: list[str] = []
    given: list[Any] = [b"no image", file, file.with_name("nothing.jpg")]

    found = classifier.predict(given, on_error=lambda source, error: faults.append(source))

    assert [each.source for each in found] == [str(file)] and faults == ["image 0", str(given[2])]
    with pytest.raises(DataError, match="image 0: not an image that can be read"):
        classifier.predict(given)
