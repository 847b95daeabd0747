"""ONNX that takes pictures answers as zoo does, from files alone, in Python and in JavaScript."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from PIL import Image
from tests.conftest import Zoo
from tests.data.test_decode import KINDS
from tests.field.test_decoding import COLOURS, READ, tiff
from zoo.data.decode import read_image
from zoo.errors import DataError, OptionError, Refused
from zoo.events import Note
from zoo.training.run_files import read_predictions

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FILES = ["README.md", "classes.json", "comparison.json", "example.mjs", "example.py", "model.onnx"]


def trained(data: Path, out: Path, **arguments: Any) -> Path:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}
    return zoo.finetune(**{**usual, **arguments}, data=data, out=out).path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Images that a test may move."""
    return Path(shutil.copytree(shapes, tmp_path_factory.mktemp("images") / "shapes"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Exported:
    return zoo.export(run, to="onnx", input="image", out=tmp_path_factory.mktemp("export") / "classifier")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph that lies on its side, of an odd size."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    sideways = Image.Exif()
    sideways[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((331, 203), Image.Resampling.BICUBIC).save(path, exif=sideways)
    return path


def test_a_folder_holds_the_classifier_its_classes_and_what_was_compared(made: zoo.Exported) -> None:
    assert sorted(path.name for path in made.path.iterdir()) == FILES
    session = onnxruntime.InferenceSession(made.path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("pictures", "tensor(uint8)", ["batch", "height", "width", 3])
    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits"]
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["classes"]) == ["blue", "green", "red"]
    assert json.loads((made.path / "classes.json").read_text()) == ["blue", "green", "red"]
    assert "preprocessing" not in stored, "a client that reads it would prepare pictures twice"
    assert made.pictures is not None and made.pictures.real == 18 and made.pictures.pictures == 42
    assert made.pictures.equal == 42 and made.pictures.largest_difference < 0.02
    compared = made.pictures.to_dict()
    assert json.loads(stored["pictures"]) == compared
    assert json.loads((made.path / "comparison.json").read_text()) == {"pictures": compared}
    assert "42 of 42 pictures (18 val images of the run, 24 generated" in (made.path / "README.md").read_text()


def test_the_example_for_python_gives_zoos_answer(made: zoo.Exported, run: Path, photo: Path) -> None:
    done = subprocess.run(
        [sys.executable, made.path / "example.py", photo], cwd=photo.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split() for line in done.stdout.splitlines()]
    (expected,) = zoo.load(run).predict(photo)
    assert [name for _, name in printed] == [name for name, _ in expected.top]
    for (probability, _), (_, ours) in zip(printed, expected.top, strict=True):
        assert float(probability) == pytest.approx(ours, abs=0.01)


@pytest.mark.parametrize("kind", ["alpha", "palette", "16 bits"])
def test_the_example_for_python_reads_pictures_as_zoo_does(
    kind: str, made: zoo.Exported, run: Path, tmp_path: Path
) -> None:
    """Below what is transparent lies red, which must not be seen; 16 bits are not cut off at 255."""
    path = tmp_path / "picture.png"
    if kind == "16 bits":
        Image.fromarray(np.linspace(0, 65535, 90 * 90).reshape(90, 90).astype(np.uint16)).save(path)
    else:
        pixels = np.full((90, 90, 4), (255, 0, 0, 0), np.uint8)
        pixels[30:40] = (0, 0, 255, 128)
        picture = Image.fromarray(pixels)
        (picture if kind == "alpha" else picture.quantize()).save(path)
    done = subprocess.run(
        [sys.executable, "example.py", path], cwd=made.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (expected,) = zoo.load(run).predict(path)
    printed = {name: float(probability) for probability, name in (line.split() for line in done.stdout.splitlines())}
    assert printed == {name: pytest.approx(ours, abs=0.01) for name, ours in expected.top}


REFUSED = re.compile(r"12 bits|32.bit|floa?t|signed|White|planes|16-bit grey PNG with a transparent value")


def on_its_side() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(file, "TIFF", tiffinfo={274: 6})
    return file.getvalue()


FILES_OF_KINDS = (
    {kind: content for kind, (content, _) in [*KINDS.items(), *READ.items()]}
    | {
        f"16-bit colours{' in planes' if planes else ''}{' compressed' if deflate else ''}, {order}": tiff(
            COLOURS, order=order, planes=planes, deflate=deflate
        )
        for planes in (False, True)
        for deflate in (False, True)
        for order in "<>"
    }
    | {"grey TIFF on its side": on_its_side()}
)


@pytest.mark.parametrize("kind", FILES_OF_KINDS)
def test_the_example_for_python_makes_zoos_pixels_or_says_what_to_do(
    kind: str, made: zoo.Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(FILES_OF_KINDS[kind])
    monkeypatch.setattr(sys, "argv", ["example.py", str(path)])
    try:
        pixels = np.asarray(runpy.run_path(str(made.path / "example.py"))["picture"])
    except SystemExit as refused:
        assert "save it with 8 bits" in str(refused.code) and REFUSED.search(kind)
    else:
        assert np.array_equal(pixels, np.asarray(read_image(path)))


def node_modules() -> Path:
    """The folder with onnxruntime-web, as node finds it: in NODE_PATH."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    for folder in os.environ.get("NODE_PATH", "").split(os.pathsep):
        if folder and (Path(folder) / "onnxruntime-web").is_dir():
            return Path(folder).resolve()
    pytest.skip("NODE_PATH does not name a folder with onnxruntime-web")


@pytest.mark.long
def test_the_example_for_javascript_gives_the_same(made: zoo.Exported, run: Path, photo: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.path, tmp_path / "classifier"))
    (folder / "node_modules").symlink_to(node_modules())
    upright = Image.open(photo).transpose(Image.Transpose.ROTATE_270).convert("RGBA")
    clear = Image.new("RGBA", (60, 80), (255, 0, 0, 0))
    upright.paste(clear, (10, 20))
    upright.save(tmp_path / "clear.png")
    size = f"width: {upright.width}, height: {upright.height}"
    (folder / "pixels").write_bytes(np.asarray(upright).tobytes())
    (folder / "page.mjs").write_text(
        f"""
import {{ readFileSync }} from "node:fs";
import * as ort from "onnxruntime-web";
import {{ classify }} from "./example.mjs";
const session = await ort.InferenceSession.create(readFileSync("model.onnx"));
const classes = JSON.parse(readFileSync("classes.json", "utf8"));
const picture = {{ data: new Uint8ClampedArray(readFileSync("pixels")), {size} }};
console.log(JSON.stringify(await classify(session, classes, picture)));
"""
    )
    done = subprocess.run(["node", "page.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (expected,) = zoo.load(run).predict(tmp_path / "clear.png")
    printed = json.loads(done.stdout)
    assert [name for name, _ in printed] == [name for name, _ in expected.top]
    assert [value for _, value in printed] == pytest.approx([value for _, value in expected.top], abs=0.01)


@pytest.mark.long
def test_without_images_of_a_run_generated_pictures_are_compared(
    run: Path, data: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    artefact = Path(shutil.copytree(run / "model", tmp_path / "alone"))
    done = zoo_inside("export", artefact, "--to", "onnx", "--input", "image", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["path"] == str(tmp_path / "alone-onnx") and found["pictures"]["real"] == 0
    assert found["pictures"]["pictures"] == 200
    moved = data.rename(data.with_name("moved"))
    try:
        said: list[Any] = []
        other = zoo.export(run, to="onnx", input="image", out=tmp_path / "gone", on_event=said.append)
        assert other.pictures is not None and other.pictures.real == 0
        (note,) = [event.text for event in said if isinstance(event, Note)]
        assert "generated pictures alone" in note and "--data PATH" in note
        found_again = zoo.export(run, to="onnx", input="image", out=tmp_path / "moved", data=moved)
        assert found_again.pictures is not None and found_again.pictures.real == 18
        (moved / "val" / "red" / "0.jpg").unlink()
        with pytest.raises(DataError, match="does not hold the images"):
            zoo.export(run, to="onnx", input="image", out=tmp_path / "changed", data=moved)
    finally:
        moved.rename(data)
    assert not (tmp_path / "changed").exists()


def test_what_does_not_go_together_is_refused_before_anything_runs(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"to": "timm", "input": "image"}, r"input image is for ONNX, and to says timm"),
        ({"to": "pt2", "int8": True}, r"int8 is for ONNX, and to says pt2"),
        ({"to": "onnx", "input": "images"}, r"no input 'images'. Did you mean 'image'"),
        ({"to": "onnx", "max_loss": 2.0}, r"int8 was not given"),
        ({"to": "onnx", "int8": True, "max_loss": float("nan")}, r"0 to 100, got nan"),
        ({"to": "onnx", "int8": True, "max_loss": -1.0}, r"0 to 100, got -1"),
        ({"to": "onnx", "input": "image", "out": tmp_path / "a.onnx"}, r"writes a folder(?s:.*)Next: out='.*/a'$"),
        ({"to": "onnx", "input": "image", "out": there}, r"overwrites nothing"),
        ({"to": "onnx", "data": tmp_path}, r"leave data out"),
    ]
    for arguments, said in refused:
        with pytest.raises((OptionError, Refused), match=said):
            zoo.export(run, **arguments)
    with pytest.raises(OptionError, match="without its run"):
        zoo.export(shutil.copytree(run / "model", tmp_path / "alone"), to="onnx", input="image", data=tmp_path)


@pytest.mark.long
def test_a_head_that_no_file_of_a_library_holds_goes_into_onnx_with_pictures(few: Path, tmp_path: Path) -> None:
    run = trained(few, tmp_path / "run", backbone="timm/test_vit", head="attention_pool", epochs=1)
    with pytest.raises(Refused, match="Next: --to onnx"):
        zoo.export(run, to="timm")
    made = zoo.export(run, to="onnx", input="image")
    assert made.path == run / "model-onnx" and made.pictures is not None and made.pictures.share == 1


@pytest.fixture(scope="module", params=["squeezenet1_1", "timm/tf_efficientnet_lite0"])
def flowers(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 270 flowers; its data have 430 others as test."""
    folder = tmp_path_factory.mktemp("flowers")
    for kind in sorted((real_data / "data/flowers5/train").iterdir()):
        files = [*sorted(kind.iterdir()), *sorted((real_data / "data/flowers5/val" / kind.name).iterdir())]
        for number, file in enumerate(files):
            link = folder / "data" / ("train" if number < 54 else "test") / kind.name / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    weights = real_data / "weights" / f"{request.param.rpartition('/')[2]}.safetensors"
    return trained(folder / "data", folder / "run", backbone=request.param, weights=str(weights))


@pytest.mark.long
def test_430_flowers_get_zoos_class(flowers: Path, tmp_path: Path) -> None:
    made = zoo.export(flowers, to="onnx", input="image", out=tmp_path / "classifier")
    assert made.pictures is not None and made.pictures.real > 0
    session = onnxruntime.InferenceSession(made.path / "model.onnx", providers=["CPUExecutionProvider"])
    files = sorted((flowers.parent / "data/test").rglob("*.jpg"))
    assert len(files) == 430
    # What zoo says of them the run has recorded.
    data = flowers.parent / "data"
    of_zoo = {data / row.file: row.predicted for row in read_predictions(flowers) if row.split == "test"}
    classes = json.loads((made.path / "classes.json").read_text())
    equal = 0
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))[None]
        (probabilities,) = session.run(["probabilities"], {"pictures": pixels})
        equal += classes[int(probabilities[0].argmax())] == of_zoo[file]
    assert equal >= 428
