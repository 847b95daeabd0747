"""An export is the same classifier in another format, and is kept only if it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.conftest import Zoo
from torch import Tensor
from zoo.artefact.config import sealed
from zoo.artefact.write import mark_failed
from zoo.errors import ArtefactError, CheckFailed, OptionError, Refused
from zoo.exporting import pt2
from zoo.exporting.formats import FORMATS
from zoo.exporting.source import ExportSource, Written, read_source
from zoo.registry.registry import default_registry
from zoo.storage.tensors import file_digest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "artefact.md").read_text("utf-8")


def trained(few: Path, out: Path, **arguments: Any) -> Path:
    usual: dict[str, Any] = {"weights": "random", "recipe": "head_only", "epochs": 1, "tune": False}
    return zoo.finetune(**{**usual, **arguments}, data=few, out=out).path


LATER = [pytest.param(run, marks=pytest.mark.long) for run in ("attentive", "layered")]


@pytest.fixture(scope="module")
def of_timm(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(few, tmp_path_factory.mktemp("timm") / "run", backbone="timm/test_resnet")


@pytest.fixture(scope="module")
def of_torchvision(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torchvision") / "run"
    return trained(few, out, backbone="torchvision/resnet18", head="linear", input_size=(64, 64))


@pytest.fixture(scope="module")
def attentive(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that neither library's layout can hold, on tokens."""
    return trained(few, tmp_path_factory.mktemp("vit") / "run", backbone="timm/test_vit", head="attention_pool")


@pytest.fixture(scope="module")
def layered(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on the outputs of all groups, which hooks read."""
    return trained(few, tmp_path_factory.mktemp("layers") / "run", backbone="timm/test_vit", head="layers")


def without_zoo(code: str, folder: Path) -> dict[str, Tensor]:
    """Run `code` in a process that never imports zoo, and return its variables `from_document` and `logits`."""
    ending = f"""
import sys
assert not any(name.split('.')[0].startswith('zoo') for name in sys.modules)
from safetensors.torch import save_file
found = dict(from_document=from_document.detach(), logits=logits.detach())
save_file(found, {str(folder / "found.safetensors")!r})
"""
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


def golden(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "golden.safetensors")


def documented(library: str, run: Path) -> str:
    """The document's code for a library, with this run's artefact."""
    (code,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
        if re.search(rf"^import .*{library}", code, re.MULTILINE)
    ]
    return f"{code.replace('runs/flowers/model', str(run / 'model'))}\nfrom_document = logits\n"


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.long
def test_plain_timm_loads_the_artefact_by_the_document_and_the_export_with_labels(
    of_timm: Path, tmp_path: Path
) -> None:
    made = zoo.export(of_timm, to="timm", out=tmp_path / "for timm")
    assert made.how == f'timm.create_model("local-dir:{tmp_path / "for timm"}", pretrained=True).eval()'
    code = f"""
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
golden = load_file(folder / "golden.safetensors")
model = {made.how}
assert model.pretrained_cfg["label_names"] == ["a", "b"], model.pretrained_cfg
transform = create_transform(**resolve_model_data_config(model), is_training=False)
pictures = [Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()) for pixels in golden["pictures"]]
logits = model(torch.stack([transform(picture) for picture in pictures]))
"""
    found = without_zoo(documented("timm", of_timm) + code, tmp_path)
    assert close(found["from_document"], golden(of_timm)["logits"])
    assert close(found["logits"], golden(of_timm)["logits"])


@pytest.mark.long
def test_plain_torchvision_loads_the_artefact_by_the_document_and_the_export(
    of_torchvision: Path, tmp_path: Path
) -> None:
    out = tmp_path / "resnet18.safetensors"
    made = zoo.export(of_torchvision, to="torchvision", out=out)
    assert "torchvision.models.resnet18(num_classes=2)" in made.how
    code = f"""
import safetensors.torch
{made.how}
logits = model(load_file(folder / "golden.safetensors")["images"])
"""
    found = without_zoo(documented("torchvision", of_torchvision) + code, tmp_path)
    assert close(found["from_document"], golden(of_torchvision)["logits"])
    assert close(found["logits"], golden(of_torchvision)["logits"])
    with safe_open(out, framework="pt") as file:
        assert list(file.metadata()) == ["zoo"]
        described = json.loads(file.metadata()["zoo"])
    assert described["classes"] == ["a", "b"] and described["preprocessing"]["input_size"] == [3, 64, 64]


@pytest.mark.long
def test_plain_timm_loads_a_head_on_all_layers_by_the_document(layered: Path, tmp_path: Path) -> None:
    code = documented("timm", layered).partition("features = ")[0]
    (ending,) = [each for each in re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL) if "layers, means" in each]
    found = without_zoo(f"{code}{ending}\nfrom_document = logits.clone()\n", tmp_path)
    assert close(found["from_document"], golden(layered)["logits"])
    with pytest.raises(Refused, match="holds one linear layer on pooled features, and the head heads/layers is not"):
        zoo.export(layered, to="timm", out=tmp_path / "for timm")


def test_a_head_on_all_layers_is_read_from_the_modules_that_its_artefact_names(layered: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(layered / "model", copied)
    images = golden(layered)["images"]
    assert torch.equal(read_source(copied, default_registry(), print).logits(images), golden(layered)["logits"])
    config = json.loads((copied / "config.json").read_text("utf-8"))
    config["head"]["layers"][1]["module"] = "blocks.4"
    config.pop("seal")
    (copied / "config.json").write_text(json.dumps(config), "utf-8")
    assert not close(read_source(copied, default_registry(), print).logits(images), golden(layered)["logits"])
    config["head"]["layers"][1]["module"] = "blocks.9"
    (copied / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ArtefactError, match=r"to be read from 'blocks\.9', which the backbone does not have"):
        zoo.load(copied)


@pytest.mark.long
@pytest.mark.parametrize("run", ["of_torchvision", *LATER])
def test_onnx_takes_any_batch_and_gives_logits(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = request.getfixturevalue(run)
    made = zoo.export(folder, to="onnx", out=tmp_path / "model.onnx")
    assert made.batches == (4, 1, 7) and made.largest_difference <= 1e-4 * made.largest_logit
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == ["images"]
    assert [tensor.name for tensor in session.get_outputs()] == ["logits"]
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["classes"]) == ["a", "b"]
    assert json.loads(stored["preprocessing"])["input_size"][0] == 3
    images = golden(folder)["images"][:3]
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), golden(folder)["logits"][:3], atol=1e-5, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("run", ["of_timm", *LATER])
def test_a_program_takes_any_batch_and_gives_logits(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(run)
    made = zoo.export(folder, to="pt2", out=tmp_path / "model.pt2")
    files = {"zoo.json": ""}
    program = torch.export.load(made.path, extra_files=files).module()
    assert json.loads(files["zoo.json"])["classes"] == ["a", "b"]
    with torch.inference_mode():
        logits = program(golden(folder)["images"][:3])
    torch.testing.assert_close(logits, golden(folder)["logits"][:3], atol=1e-6, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("run", "to", "said"),
    [
        ("attentive", "timm", "one linear layer on pooled features, and the head heads/attention_pool is not one"),
        ("of_timm", "torchvision", "timm/test_resnet.* is not one of torchvision's"),
        ("of_torchvision", "timm", "torchvision/resnet18.* is not one of timm's"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_with_what_works(
    run: str, to: str, said: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=rf"{said}(?s:.*)Next: --to onnx or --to pt2"):
        zoo.export(request.getfixturevalue(run), to=to, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_document_the_help_and_the_library_name_every_format(zoo_inside: Zoo) -> None:
    table = DOCUMENT.partition("## Other formats")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(FORMATS)
    documented = zoo.export.__doc__ or ""
    assert all(f"`{name}`: " in documented for name in FORMATS)
    shown = zoo_inside("export", "--help").stdout
    assert f"One of {', '.join(FORMATS)}." in " ".join(shown.split())


def test_squeezenets_own_classifier_is_another_one(few: Path, tmp_path: Path) -> None:
    run = trained(few, tmp_path / "run", backbone="torchvision/squeezenet1_1", head="linear", input_size=(64, 64))
    with pytest.raises(Refused, match="applies a ReLU to the logits"):
        zoo.export(run, to="torchvision")


@pytest.mark.long
def test_a_backbone_whose_blocks_share_layers_is_trained_and_saved_and_timm_does_not_write_it(
    few: Path, tmp_path: Path
) -> None:
    run = trained(few, tmp_path / "run", backbone="timm/coat_lite_tiny", head="linear")
    assert zoo.verify(run).passed
    state = load_file(run / "model" / "model.safetensors")
    assert {"backbone.cpe1.proj.weight", "backbone.serial_blocks1.0.cpe.proj.weight"} <= state.keys()
    with pytest.raises(Refused, match="share layers"):
        zoo.export(run, to="timm")


def test_the_last_layer_of_a_classifier_with_hidden_layers_is_mapped(few: Path, tmp_path: Path) -> None:
    run = trained(few, tmp_path / "run", backbone="torchvision/mobilenet_v3_small", head="linear", input_size=(64, 64))
    made = zoo.export(run, to="torchvision")
    assert {"classifier.0.weight", "classifier.3.weight", "classifier.3.bias"} <= load_file(made.path).keys()


@pytest.mark.long
def test_a_transformer_at_another_size_keeps_it_in_timms_config(few: Path, tmp_path: Path) -> None:
    run = trained(few, tmp_path / "run", backbone="timm/test_vit", head="linear", input_size=(96, 96))
    config = json.loads((zoo.export(run, to="timm").path / "config.json").read_text("utf-8"))
    assert config["model_args"]["img_size"] == [96, 96] and config["pretrained_cfg"]["input_size"] == [3, 96, 96]


def test_nothing_is_overwritten_and_formats_are_known(of_timm: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    out.write_text("mine")
    with pytest.raises(Refused, match=r"model.pt2 exists, and zoo overwrites nothing"):
        zoo.export(of_timm, to="pt2", out=out)
    assert out.read_text() == "mine"
    with pytest.raises(OptionError, match=r"no export format 'onxx'. Did you mean 'onnx'"):
        zoo.export(of_timm, to="onxx")
    with pytest.raises(OptionError, match=r"files that end in .pt2, and .*other does not"):
        zoo.export(of_timm, to="pt2", out=tmp_path / "other")
    with pytest.raises(ArtefactError, match="There is no"):
        zoo.export(tmp_path / "nothing", to="pt2")


def test_an_export_with_other_logits_is_not_kept(
    of_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: ExportSource, path: Path) -> Written:
        path.write_bytes(b"something")
        return Written(run=lambda images: source.logits(images) * 1.001, how="")

    monkeypatch.setattr(pt2, "write", wrong)
    with pytest.raises(CheckFailed, match=r"gives other logits than the original(?s:.*)not kept"):
        zoo.export(of_timm, to="pt2", out=tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_extra(
    of_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(Refused, match=r"needs .*onnxscript(?s:.*)pip install 'zoo-registry\[export\]'"):
        zoo.export(of_timm, to="onnx", out=tmp_path / "model.onnx")
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        Refused, match=r"needs onnx, onnxscript, onnxruntime(?s:.*)pip install 'zoo-registry\[export\]'"
    ):
        zoo.export(of_timm, to="onnx", input="image", out=tmp_path / "model")


@pytest.mark.long
def test_what_was_trained_in_bfloat16_is_exported_in_float32_which_is_said(few: Path, tmp_path: Path) -> None:
    run = trained(few, tmp_path / "run", backbone="timm/test_resnet", precision="bfloat16")
    said: list[Any] = []
    made = zoo.export(run, to="timm", on_event=said.append)
    assert "trained in bfloat16; exported and compared in float32" in said[0].text
    assert made.path == run / "model-timm" and made.largest_difference <= 1e-4 * made.largest_logit


def test_an_artefact_without_golden_pictures_is_exported_too(of_timm: Path, tmp_path: Path) -> None:
    artefact = Path(shutil.copytree(of_timm / "model", tmp_path / "old"))
    (artefact / "golden.safetensors").unlink()
    config = json.loads((artefact / "config.json").read_text("utf-8"))
    (artefact / "config.json").write_text(json.dumps(sealed({**config, "golden": None})), "utf-8")
    assert zoo.export(artefact, to="timm").path == tmp_path / "old-timm"


def test_a_damaged_artefact_is_not_exported(of_timm: Path, tmp_path: Path) -> None:
    artefact = Path(shutil.copytree(of_timm / "model", tmp_path / "damaged"))
    state = load_file(artefact / "model.safetensors")
    save_file({**state, "head.fc.bias": state["head.fc.bias"] + 1}, artefact / "model.safetensors")
    with pytest.raises(ArtefactError, match="damaged or was replaced"):
        zoo.export(artefact, to="timm")


def test_the_command_says_where_it_is_and_how_it_is_loaded(of_timm: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("export", of_timm, "--to", "timm", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path / 'out'}" in done.stdout and "load: timm.create_model(" in done.stdout
    again = zoo_inside("export", of_timm, "--to", "timm", "--out", tmp_path / "out")
    assert again.returncode == 2 and "overwrites nothing" in again.stderr


def test_a_classifier_whose_proof_failed_says_so_when_it_is_exported(of_timm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(of_timm / "model", tmp_path / "model"))
    mark_failed(copy)
    notes: list[str] = []
    zoo.export(copy, to="timm", on_event=lambda event: notes.append(getattr(event, "text", "")))
    assert any("proof of this classifier's run failed" in text for text in notes)


def test_other_logits_under_another_version_of_a_plugin_are_not_exported(of_timm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(of_timm / "model", tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["head"]["version"] = "0.0.1"
    golden = load_file(copy / "golden.safetensors")
    with safe_open(copy / "golden.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file({**golden, "logits": golden["logits"] + 1}, copy / "golden.safetensors", metadata=metadata)
    config["golden"]["digest"] = file_digest(copy / "golden.safetensors")
    (copy / "config.json").write_text(json.dumps(sealed(config)), "utf-8")
    with pytest.raises(zoo.ZooError, match=r"0\.0\.1"):
        zoo.export(copy, to="timm")
    assert not (tmp_path / "model-timm").exists()
