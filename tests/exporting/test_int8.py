"""An export in 8 bits is kept only if it is about as good as float32 on images that the run did not train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import Tensor
from zoo.data.decode import decode
from zoo.data.transform import transform
from zoo.errors import CheckFailed, DataError, Refused
from zoo.evaluation.significance import mcnemar
from zoo.events import Note, Progress, silent
from zoo.registry.registry import default_registry
from zoo.training.stored_plan import read_plan

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def trained(data: Path, out: Path, **arguments: Any) -> Path:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}
    return zoo.finetune(**{**usual, **arguments}, data=data, out=out).path


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(shapes, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def float32(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's classifier as ONNX, which takes longer than all that 8 bits need."""
    return zoo.export(run, to="onnx", out=tmp_path_factory.mktemp("float32") / "model.onnx").path


def in_int8(run: Path, float32: Path, path: Path, *, max_loss: float, on_event: Any = silent) -> Any:
    from zoo.exporting.int8 import write_int8
    from zoo.exporting.run_images import RunOrigin

    dataset = RunOrigin(path=run, plan=read_plan(run), registry=default_registry()).images(on_event)
    work = path.parent / f"work on {path.name}"
    work.mkdir()
    preprocessing = zoo.load(run).model.preprocessing
    return write_int8(float32, path, preprocessing, dataset, work, on_event, seed=0, max_loss=max_loss)


def test_8_bits_are_judged_beside_float32(shapes: Path, run: Path, float32: Path, tmp_path: Path) -> None:
    said: list[Any] = []
    path = tmp_path / "a.onnx"
    found = in_int8(run, float32, path, max_loss=20, on_event=said.append)
    assert (found.calibrated, found.images, found.split) == (36, 18, "val")
    assert found.lost == pytest.approx(100 * (found.accuracy_float32 - found.accuracy)) and found.lost <= 20
    assert found.only_float32 - found.only_int8 == round(found.lost * 18 / 100)
    assert found.p_value == mcnemar(found.only_float32, found.only_int8)
    assert found.bytes == path.stat().st_size < found.bytes_float32 == float32.stat().st_size
    assert [speed.batch for speed in found.speeds] == [1, 16]
    assert all(speed.float32 > 0 and speed.int8 > 0 and speed.rounds >= 3 for speed in found.speeds)
    weights = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.INT8]
    assert weights
    # 7 bits, so that no sum of two products saturates on x86 without VNNI.
    assert all(int(np.abs(onnx.numpy_helper.to_array(each).astype(int)).max()) <= 64 for each in weights)
    # Logits in 256 steps would give many pictures two best classes.
    assert [node.op_type for node in onnx.load(path).graph.node if "logits" in node.output] == ["Gemm"]
    pictures = sorted(f for split in [shapes / "val"] for f in split.glob("*/*"))
    preprocessing = zoo.load(run).model.preprocessing
    images = np.stack([transform(decode(f.read_bytes(), name=f.name), preprocessing).numpy() for f in pictures])
    of_both = [
        torch.from_numpy(onnxruntime.InferenceSession(file).run(["logits"], {"images": images})[0]).softmax(1)
        for file in (float32, path)
    ]
    moved = float((of_both[0] - of_both[1]).abs().max())
    assert moved > 0 and found.largest_difference == pytest.approx(moved, abs=1e-5)
    tasks = {event.task for event in said if isinstance(event, Progress)}
    assert {"read images", "calibrate", "judge float32", "judge int8", "measure speed"} <= tasks
    again = in_int8(run, float32, tmp_path / "b.onnx", max_loss=20)
    assert (tmp_path / "b.onnx").read_bytes() == path.read_bytes() and again.facts() == found.facts()


def test_copies_of_a_picture_count_once_in_the_test_of_8_bits(
    shapes: Path, float32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every validation image stands five times: a difference is then no surer than it was."""
    from zoo.exporting.quantisation import Quantiser

    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for file in sorted((data / "val").glob("*/*")):
        for number in range(4):
            shutil.copyfile(file, file.with_name(f"{file.stem}-{number}{file.suffix}"))
    once, five = (trained(each, tmp_path / each.name / "run") for each in (shapes, data))
    monkeypatch.setattr(Quantiser, "calibrate", blind(Quantiser))
    found = [in_int8(run, float32, tmp_path / f"{run.parent.name}.onnx", max_loss=100) for run in (once, five)]
    assert found[1].images == 5 * found[0].images and found[0].only_float32 > 3
    assert found[1].only_float32 == 5 * found[0].only_float32
    assert found[1].p_value == found[0].p_value == mcnemar(found[0].only_float32, found[0].only_int8)


def blind(quantiser: type) -> Callable[..., None]:
    """A calibration that sees nothing but grey, so that all activations are clipped."""
    calibrate = quantiser.calibrate  # type: ignore[attr-defined]

    def wrong(self: Any, images: Tensor, progress: Callable[[int], None]) -> None:
        calibrate(self, images * 0, progress)

    return wrong


@pytest.mark.long
def test_what_loses_too_much_is_refused_with_the_numbers(
    run: Path, float32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.exporting.quantisation import Quantiser

    monkeypatch.setattr(Quantiser, "calibrate", blind(Quantiser))
    said: list[Any] = []
    with pytest.raises(CheckFailed) as refused:
        in_int8(run, float32, tmp_path / "a.onnx", max_loss=1, on_event=said.append)
    message = str(refused.value)
    assert "loses more than 1 point of accuracy on 18 val images" in message
    lines = [line for line in message.splitlines() if " in float32: accuracy" in line]
    assert len(lines) >= 3 and lines[0].strip().startswith("0 layers")
    assert not (tmp_path / "a.onnx").exists()
    assert "Judged on 18 images, of which one is 5.56 points" in next(e.text for e in said if isinstance(e, Note))
    assert "find sensitive layers" in {event.task for event in said if isinstance(event, Progress)}
    (step,) = [line for line in message.splitlines() if line.startswith("Next: ")]
    allowed = float(step.rpartition(" ")[2])
    assert in_int8(run, float32, tmp_path / "b.onnx", max_loss=allowed).lost <= allowed


@pytest.mark.long
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_a_file_in_8_bits_says_what_was_judged(backbone: str, shapes: Path, tmp_path: Path) -> None:
    run = trained(shapes, tmp_path / "run", backbone=backbone)
    made = zoo.export(run, to="onnx", int8=True, max_loss=20)
    assert made.path == run / "model-int8.onnx" and made.int8 is not None and made.int8.bytes < made.int8.bytes_float32
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    facts = json.loads(stored["int8"])
    assert facts == {**json.loads(json.dumps(made.int8.facts())), "bytes": facts["bytes"]} and "speeds" not in facts
    assert json.loads(stored["preprocessing"])["input_size"][0] == 3


def test_layers_that_lose_most_stay_in_float32_first() -> None:
    from zoo.exporting.quantisation import worst_first

    blocks = [("a",), ("b", "c"), ("d",), ("e",)]
    assert worst_first(blocks, [0.1, 0.3, float("nan"), 0.2]) == [("d",), ("b", "c"), ("e",), ("a",)]


def test_the_most_sensitive_layer_is_the_one_whose_weights_8_bits_cannot_hold(tmp_path: Path) -> None:
    """One layer of three, with one weight that is 1,000 times the others of its channel, loses the others."""
    from zoo.exporting.quantisation import Quantiser

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1) for index in range(3)]
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    images = torch.randn(16, 3, 12, 12)
    images[:, 0] *= 1e-3
    with torch.no_grad():
        layers[0].weight[:, 0] *= 1000
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"input": {0: torch.export.Dim("batch", min=1)}},
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    quantiser = Quantiser(tmp_path / "model.onnx", tmp_path)
    quantiser.calibrate(images, lambda done: None)
    found = quantiser.sensitivities(images, lambda done: None)
    assert len(found) == len(quantiser.layers) == 3 and found[0] == max(found) > 3 * min(found)
    quantiser.write(tmp_path / "kept.onnx", in_float=[quantiser.layers[0]])
    constants = {each.name: each.data_type for each in onnx.load(tmp_path / "kept.onnx").graph.initializer}
    assert sum(kind == onnx.TensorProto.FLOAT and name.endswith("weight") for name, kind in constants.items()) == 1


def test_too_few_images_to_calibrate_on_are_refused_before_anything_runs(
    few: Path, run: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    small = trained(few, tmp_path / "small", epochs=1)
    with pytest.raises(Refused, match=r"at least 16 training images, and .*small has 8"):
        zoo.export(small, to="onnx", int8=True, out=tmp_path / "a.onnx")
    alone = Path(shutil.copytree(run / "model", tmp_path / "alone"))
    done = zoo_inside("export", alone, "--to", "onnx", "--int8")
    assert done.returncode == 2 and "without its run" in done.stderr and "give the run folder" in done.stderr
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.long
def test_images_that_are_gone_are_an_error(shapes: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(shapes, tmp_path / "shapes"))
    run = trained(copied, tmp_path / "run", epochs=1)
    copied.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"not where they were(?s:.*)--data PATH"):
        zoo.export(run, to="onnx", int8=True)
    made = zoo.export(run, to="onnx", int8=True, max_loss=100, data=tmp_path / "moved")
    assert made.path == run / "model-int8.onnx"


@pytest.mark.long
def test_the_command_prints_what_was_lost_and_gained(run: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    ask = ("export", run, "--to", "onnx", "--int8", "--input", "image", "--max-loss", "20", "--out", tmp_path / "out")
    done = zoo_inside(*ask)
    assert done.returncode == 0, done.stderr
    assert "int8: In 8 bits the accuracy on 18 val images is" in done.stdout and "McNemar p =" in done.stdout
    assert "images/s instead of" in done.stdout and "MB instead of" in done.stdout
    assert "one is 5.56 points" not in done.stdout
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(compared) == ["pictures", "pictures_int8", "int8"]
    # Each line says what it compares; that of 8 bits with themselves must not be taken for their distance to float32.
    lines = {name: next(line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")) for name in compared}
    assert "float32 beside float32" in lines["pictures"]
    assert "8 bits beside 8 bits" in lines["pictures_int8"]
    moved = compared["int8"]["largest_difference"]
    assert f"a probability differs from float32 by up to {moved:.2g}" in lines["int8"]
    readme = (tmp_path / "out" / "README.md").read_text()
    assert f"differs from float32 by up to {moved:.2g}" in readme and "8 bits beside 8 bits" in readme


@pytest.mark.long
@pytest.mark.parametrize("backbone", ["squeezenet1_1", "timm/tf_efficientnet_lite0"])
def test_flowers_lose_at_most_a_point(backbone: str, real_data: Path, tmp_path: Path) -> None:
    weights = real_data / "weights" / f"{backbone.rpartition('/')[2]}.safetensors"
    run = trained(real_data / "data/flowers5", tmp_path / "run", backbone=backbone, weights=str(weights))
    made = zoo.export(run, to="onnx", int8=True)
    assert made.int8 is not None and made.int8.images == 200 and made.int8.lost <= 1
    assert made.int8.bytes < 0.35 * made.int8.bytes_float32


@pytest.mark.long
def test_a_vit_that_has_learned_flowers_loses_at_most_a_point(real_data: Path, tmp_path: Path) -> None:
    learning: dict[str, Any] = {"recipe": "full", "epochs": 5, "set": ["all.lr=2e-3"], "report": False}
    run = trained(real_data / "data/flowers5", tmp_path / "run", backbone="timm/test_vit", **learning)
    made = zoo.export(run, to="onnx", int8=True)
    assert made.int8 is not None and made.int8.images == 200 and made.int8.lost <= 1
    assert made.int8.accuracy_float32 > 0.3, "a fifth would be chance, which nothing could lose"
    assert made.int8.bytes < 0.5 * made.int8.bytes_float32
