"""Every export gives zoo's answers in the hands of those who open it in real life: their newest versions, without zoo.

`constraints.txt` has the versions. What is compared: class names, images after preprocessing, logits or probabilities.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from zoo.data.decode import read_image
from zoo.data.transform import transform
from zoo.errors import Refused
from zoo.exporting.timm_folder import describe_to_timm
from zoo.specs.preprocessing import Preprocessing

SIZES = ((150, 61), (47, 180), (33, 40), (64, 64))
"""Width and height in pixels of pictures to predict: wide, high, smaller than the input, square."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files that every client decodes as zoo does: PNG in RGB and grey, and a JPEG that lies on its side."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for index, (width, height) in enumerate(SIZES):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        paths.append(folder / f"{index}.png")
        image.save(paths[-1])
    image.convert("L").save(folder / "grey.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.open(paths[0]).save(folder / "sideways.jpg", exif=sideways)
    return [*paths, folder / "grey.png", folder / "sideways.jpg"]


def written(folder: Path, kind: str) -> Path:
    """A file of random pixels: of a mode that Pillow has, or `orientation`."""
    generator = np.random.default_rng(0)
    path = folder / (f"{kind}.jpg" if kind in ("CMYK", "orientation") else f"{kind}.tif")
    picture = Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    if kind == "orientation":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(path, exif=exif)
    elif kind == "RGBA":
        Image.fromarray(generator.integers(0, 256, (20, 30, 4), dtype=np.uint8)).save(path)
    elif kind == "I;16":
        Image.fromarray(generator.integers(0, 65536, (20, 30), dtype=np.uint16)).save(path)
    elif kind == "F":
        Image.fromarray(generator.random((20, 30), dtype=np.float32)).save(path)
    else:
        picture.convert(kind).save(path)
    return path


@pytest.mark.parametrize("kind", ["L", "RGB", "P", "CMYK", "YCbCr", "LAB", "RGBA", "I;16", "F", "orientation"])
def test_a_client_that_converts_files_itself_gets_zoos_pixels_from_those_that_the_document_names(
    kind: str, tmp_path: Path
) -> None:
    path = written(tmp_path, kind)
    same = np.array_equal(np.asarray(Image.open(path).convert("RGB")), np.asarray(read_image(path)))
    assert same == (kind not in ("RGBA", "I;16", "F", "orientation"))


DOCUMENT = (Path(__file__).parents[2] / "docs" / "artefact.md").read_text("utf-8")


def trained(few: Path, out: Path, **arguments: Any) -> Path:
    usual: dict[str, Any] = {"weights": "random", "recipe": "head_only", "head": "linear", "epochs": 1, "tune": False}
    return zoo.finetune(**{**usual, **arguments}, data=few, out=out).path


def with_client(code: str, folder: Path) -> dict[str, Tensor]:
    """Run `code` in a process without zoo or a network, and return its dictionary of tensors, `found`."""
    ending = f"""
import sys
from safetensors.torch import save_file
assert not any(name.split(".")[0].startswith("zoo") for name in sys.modules)
save_file({{name: tensor.contiguous() for name, tensor in found.items()}}, {str(folder / "found.safetensors")!r})
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


def as_tensor(predictions: list[Any]) -> Tensor:
    """Probabilities[N, classes] in the order of the class names `a`, `b`."""
    return torch.tensor([[dict(prediction.top)[name] for name in ("a", "b")] for prediction in predictions])


def zoos_answers(run: Path, pictures: list[Path]) -> tuple[Tensor, Tensor]:
    """Images[N, 3, H, W] and probabilities[N, classes] by zoo."""
    stored = json.loads((run / "model" / "config.json").read_text("utf-8"))["preprocessing"]
    upright = [Image.open(path).convert("RGB") for path in pictures[:-1]]
    upright.append(Image.open(pictures[-1]).transpose(Image.Transpose.ROTATE_270))
    images = torch.stack([transform(picture, Preprocessing.from_dict(stored)) for picture in upright])
    return images, as_tensor(zoo.load(run).predict(pictures))


TRANSFORMERS = """
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.image_utils import load_image
found = {}
for name, folder in folders.items():
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "a", 1: "b"} and model.config.label2id == {"a": 0, "b": 1}
    images = processor([load_image(path) for path in pictures])["pixel_values"]
    with torch.inference_mode():
        logits = model(images).logits
    answers = pipeline("image-classification", model=folder)(pictures)
    by_name = [{each["label"]: each["score"] for each in answer} for answer in answers]
    scores = torch.tensor([[each["a"], each["b"]] for each in by_name])
    found |= {name + "/images": images, name + "/logits": logits, name + "/scores": scores}
"""
TO_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "convolutions": {"backbone": "timm/test_resnet"},
    "a_transformer_at_another_size": {"backbone": "timm/test_vit", "input_size": (96, 96)},
    "not_square": {"backbone": "timm/test_resnet", "input_size": (64, 48)},
    "trained_in_bfloat16": {"backbone": "timm/test_resnet", "precision": "bfloat16"},
}


@pytest.fixture(scope="module")
def of_transformers(
    few: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Tensor]]:
    """The folder with a run of each name, and what transformers says of all of them in one process."""
    root = tmp_path_factory.mktemp("transformers")
    runs = {name: trained(few, root / name, **arguments) for name, arguments in TO_TRANSFORMERS.items()}
    folders = {name: str(zoo.export(run, to="timm").path) for name, run in runs.items()}
    paths = [str(path) for path in pictures]
    return root, with_client(f"folders, pictures = {folders!r}, {paths!r}\n{TRANSFORMERS}", root)


@pytest.mark.long
@pytest.mark.parametrize("name", TO_TRANSFORMERS)
def test_transformers_gives_zoos_answers(
    name: str, of_transformers: tuple[Path, dict[str, Tensor]], pictures: list[Path]
) -> None:
    root, of_all = of_transformers
    found = {key: of_all[f"{name}/{key}"] for key in ("images", "logits", "scores")}
    images, probabilities = zoos_answers(root / name, pictures)
    assert torch.equal(found["images"], images)
    # The export is in float32, zoo predicts as it trained.
    tolerance = 1e-6 if "precision" not in TO_TRANSFORMERS[name] else 1e-2
    torch.testing.assert_close(found["scores"], probabilities, atol=tolerance, rtol=0)
    torch.testing.assert_close(found["logits"].softmax(1), found["scores"], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def for_timm(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a run of timm's smallest network of convolutions, its export to timm)"""
    run = trained(few, tmp_path_factory.mktemp("timm") / "run", backbone="timm/test_resnet")
    return run, zoo.export(run, to="timm").path


@pytest.mark.long
def test_timm_gives_zoos_answers(for_timm: tuple[Path, Path], pictures: list[Path], tmp_path: Path) -> None:
    run, folder = for_timm
    code = f"""
import timm, torch
from PIL import Image, ImageOps
model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
assert model.pretrained_cfg["label_names"] == ["a", "b"] and model.num_classes == 2
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
opened = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in {[str(path) for path in pictures]!r}]
images = torch.stack([transform(picture) for picture in opened])
with torch.inference_mode():
    found = {{"images": images, "scores": model(images).softmax(1)}}
"""
    found = with_client(code, tmp_path)
    images, probabilities = zoos_answers(run, pictures)
    assert torch.equal(found["images"], images)
    torch.testing.assert_close(found["scores"], probabilities, atol=1e-6, rtol=0)


def documented(made: Path, to: str, pictures: list[Path]) -> str:
    """The document's code that opens an ONNX file, or the same for a file of another format."""
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "onnxruntime" in each]
    before, opened, after = re.split(r"(?m)^(?=session = |size = )", code)
    stand_in = {
        "onnx": opened.replace("runs/flowers/model.onnx", str(made)),
        "pt2": f"""
files = {{"zoo.json": ""}}
model = torch.export.load({str(made)!r}, extra_files=files).module()
described = json.loads(files["zoo.json"])
""",
        "torchvision": f"""
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
with safe_open({str(made)!r}, framework="pt") as file:
    described = json.loads(file.metadata()["zoo"])
model = torchvision.models.resnet18(num_classes=len(described["classes"]))
model.load_state_dict(load_file({str(made)!r}))
model.eval()
""",
    }[to]
    if to != "onnx":
        before = before.replace("import onnxruntime\n", "")
        stand_in += 'classes, preparation = described["classes"], described["preprocessing"]\n'
        after = after.partition("(logits,)")[0] + "with torch.inference_mode():\n    logits = model(images)\n"
    ending = """
assert classes == ["a", "b"], classes
found = {"images": images, "scores": torch.as_tensor(logits).softmax(1)}
"""
    upright = f"paths = {[str(path) for path in pictures]!r}\n"
    return upright + before + stand_in + after + ending


@pytest.fixture(scope="module")
def resnet(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network torchvision has."""
    out = tmp_path_factory.mktemp("resnet") / "run"
    return trained(few, out, backbone="torchvision/resnet18", input_size=(64, 64))


@pytest.mark.long
@pytest.mark.parametrize("to", ["onnx", "pt2", "torchvision"])
def test_what_the_document_shows_gives_zoos_answers(
    to: str, resnet: Path, pictures: list[Path], tmp_path: Path
) -> None:
    plain = pictures[:-1]  # the document's code turns no picture upright
    made = zoo.export(resnet, to=to).path
    found = with_client(documented(made, to, plain), tmp_path)
    images, probabilities = zoos_answers(resnet, pictures)
    assert torch.equal(found["images"], images[: len(plain)])
    torch.testing.assert_close(found["scores"], probabilities[: len(plain)], atol=1e-6, rtol=0)


def test_the_number_of_classes_stands_where_transformers_and_timm_read_it_and_nowhere_twice(
    for_timm: tuple[Path, Path],
) -> None:
    config = json.loads((for_timm[1] / "config.json").read_text("utf-8"))
    assert config["num_classes"] == 2 and config["label_names"] == ["a", "b"]
    # Each of them creates `architecture` with these arguments, and with the number of classes beside them.
    assert "num_classes" not in config["model_args"]


KINDS: tuple[dict[str, Any], ...] = (
    {"resize": "shorter", "resize_size": (73, 73)},
    {"resize": "shorter", "resize_size": (64, 64), "interpolation": "bilinear"},
    {"resize": "shorter", "resize_size": (57, 57), "interpolation": "lanczos"},
    {"resize": "exact", "resize_size": (64, 64)},
    {"resize": "exact", "resize_size": (73, 54), "input_size": (3, 64, 48)},
    {"resize": "cover", "resize_size": (85, 64), "input_size": (3, 64, 48)},
    {"resize": "cover", "resize_size": (54, 73), "input_size": (3, 48, 64)},
    {"resize": "longest", "resize_size": (64, 64), "fill": (128, 128, 128), "mean": (0.5, 0.5, 0.5)},
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['resize']}-{kind['resize_size']}")
def test_what_timms_config_says_of_the_preprocessing_gives_zoos_pixels(kind: dict[str, Any]) -> None:
    from timm.data import create_transform, resolve_data_config

    usual = {"mean": (0.485, 0.456, 0.406), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic"}
    preprocessing = Preprocessing(**{"input_size": (3, 64, 64), **usual, **kind})
    stored = json.loads(json.dumps(describe_to_timm(preprocessing)))
    theirs = create_transform(**resolve_data_config(stored), is_training=False)
    generator = np.random.default_rng(0)
    for width, height in SIZES:
        picture = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert torch.equal(theirs(picture), transform(picture, preprocessing)), (width, height)


def test_a_height_and_a_width_that_no_share_gives_are_refused() -> None:
    size = Preprocessing(
        input_size=(3, 224, 160), resize_size=(248, 178), resize="cover", mean=(0, 0, 0), std=(1, 1, 1)
    )
    with pytest.raises(Refused, match=r"cannot describe this preprocessing \(resize cover to 248x178(?s:.*)--to onnx"):
        describe_to_timm(size)
