"""An artefact read back is the classifier that was written, and nothing else is taken for one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from zoo.artefact.config import sealed
from zoo.artefact.write import mark_failed
from zoo.errors import ArtefactError, CheckFailed, DataError, DeviceError
from zoo.storage.tensors import file_digest


@pytest.fixture(scope="module")
def artefact(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return zoo.finetune(
        tune=False, backbone="timm/test_resnet", weights="random", data=shapes, out=out, recipe="head_only", epochs=3
    ).artefact


@pytest.fixture
def copy(artefact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def test_loading_gives_the_same_logits_bit_for_bit_and_leaves_the_file_alone(artefact: Path) -> None:
    images = torch.randn(3, 3, 160, 160)
    first, second = zoo.load(artefact), zoo.load(artefact.parent)
    assert torch.equal(first.logits(images), second.logits(images))
    assert first.classes == ("blue", "green", "red")


def test_the_header_has_one_entry_and_upstreams_own_keys(artefact: Path) -> None:
    import timm

    with safe_open(artefact / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        names = set(file.keys())
    own = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert {name.removeprefix("backbone.") for name in names if name.startswith("backbone.")} == set(own)
    assert {name for name in names if name.startswith("head.")} == {"head.fc.weight", "head.fc.bias"}


def test_plain_timm_gives_the_same_logits_from_the_file(artefact: Path) -> None:
    import timm

    state = load_file(artefact / "model.safetensors")
    backbone = timm.create_model("test_resnet", num_classes=0).eval()
    backbone.load_state_dict(
        {name.removeprefix("backbone."): each for name, each in state.items() if "backbone." in name}
    )
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        logits = torch.nn.functional.linear(backbone(images), state["head.fc.weight"], state["head.fc.bias"])
    assert torch.equal(logits, zoo.load(artefact).logits(images))


def test_config_says_everything_that_is_needed_to_use_it(artefact: Path) -> None:
    config = json.loads((artefact / "config.json").read_text())
    assert config["digest"] == file_digest(artefact / "model.safetensors")
    assert config["backbone"]["name"].startswith("timm/test_resnet") and config["backbone"]["weights"] == "random"
    assert config["head"] == {
        "name": "heads/dropout_linear",
        "options": {"p": 0.2},
        "distribution": "zoo-registry",
        "version": config["head"]["version"],
    }
    assert config["classes"] == ["blue", "green", "red"]
    assert zoo.Preprocessing.from_dict(config["preprocessing"]).input_size == (3, 160, 160)
    assert {"torch", "timm", "zoo-registry"} <= config["versions"].keys()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lying_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def _other_tensors(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(
        {**state, "head.fc.bias": state["head.fc.bias"] + 1}, folder / "model.safetensors", metadata={"format": "pt"}
    )


def _other_shapes(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({**state, "head.fc.bias": torch.zeros(9)}, folder / "model.safetensors", metadata={"format": "pt"})
    _edit(folder, digest=file_digest(folder / "model.safetensors"))


def _edit(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **values})))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["b", "a"]},
        {"recipe": "another"},
        {"preprocessing": {"mean": [0.0, 0.0, 0.0]}},
        {"seal": "0" * 64},
    ],
)
def test_a_config_that_was_changed_is_noticed_unless_the_seal_is_taken_off(
    copy: Path, change: dict[str, object]
) -> None:
    path = copy / "config.json"
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(content))
    with pytest.raises(zoo.ZooError, match=r"config\.json was changed after it was written") as error:
        zoo.load(copy)
    assert "remove 'seal' from it" in str(error.value)
    if "recipe" in change:
        del content["seal"]
        path.write_text(json.dumps(content))
        assert zoo.load(copy).config.recipe == "another"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "is not a readable safetensors file"),
        (_lying_header, "is not a readable safetensors file"),
        (_other_tensors, "damaged or was replaced"),
        (_other_shapes, r"1 tensors differ, first head.fc.bias: \[9\] in the file, \[3\] in the model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing; the artefact is incomplete"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not the config of an artefact"),
        (lambda folder: _edit(folder, format=99), "format 99, this zoo reads up to 1"),
        (lambda folder: _edit(folder, classes=["one"]), "is not the config of an artefact"),
        (lambda folder: _edit(folder, preprocessing={"mean": 3}), "is not the config of an artefact"),
        (lambda folder: (folder / "config.json").unlink(), "is not an artefact"),
    ],
)
def test_what_is_not_the_artefact_that_was_written_is_refused(
    copy: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(copy)
    with pytest.raises(ArtefactError, match=said):
        zoo.load(copy)


def test_predictions_name_file_label_and_probability_in_order(artefact: Path, shapes: Path) -> None:
    files = sorted((shapes / "val").rglob("*.jpg"))
    predictions = zoo.load(artefact).predict(files, top=2, batch_size=4)
    assert [each.source for each in predictions] == [str(file) for file in files]
    for each in predictions:
        assert each.label == each.top[0][0] and each.probability == each.top[0][1] >= each.top[1][1]


def test_one_picture_in_memory_gives_what_its_file_gives(artefact: Path, shapes: Path) -> None:
    file = shapes / "val" / "red" / "0.jpg"
    classifier = zoo.load(artefact)
    (from_file,), (from_memory,) = classifier.predict(file), classifier.predict(Image.open(file))
    assert from_file.top == from_memory.top and from_memory.source == "image 0"


def test_a_bad_file_costs_only_itself(artefact: Path, shapes: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    good = shapes / "val" / "red" / "0.jpg"
    classifier = zoo.load(artefact)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        classifier.predict([bad, good])
    failed: list[str] = []
    predictions = classifier.predict([bad, good], on_error=lambda source, error: failed.append(source))
    assert failed == [str(bad)] and [each.source for each in predictions] == [str(good)]


def _not_finite_for_one_colour(module: Any, images: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """As of a backbone that divides each image by its own spread."""
    plain = images[0].std(dim=(2, 3)).amax(1) == 0
    return logits.masked_fill(plain[:, None], torch.nan)


def test_an_image_whose_logits_are_not_finite_gets_no_class(artefact: Path, shapes: Path, tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (200, 200)).save(black)
    good = shapes / "val" / "red" / "0.jpg"
    classifier = zoo.load(artefact)
    (usual,) = classifier.predict(good)
    classifier.model.register_forward_hook(_not_finite_for_one_colour)
    with pytest.raises(DataError, match=r"black\.png: .*not finite"):
        classifier.predict([black, good])
    failed: list[str] = []
    predictions = classifier.predict([black, good], on_error=lambda source, error: failed.append(f"{error}"))
    assert len(failed) == 1 and failed[0].startswith(f"{black}: ")
    assert [each.source for each in predictions] == [str(good)] and predictions[0].label == usual.label


def test_logits_that_are_not_finite_get_no_score(copy: Path, shapes: Path) -> None:
    path = copy / "model.safetensors"
    state = load_file(path)
    state["head.fc.bias"][0] = torch.nan
    save_file(state, path, metadata={"format": "pt"})
    _edit(copy, digest=file_digest(path))
    with pytest.raises(CheckFailed, match=r"not finite for 18 of 18 images, such as blue/0\.jpg(.|\n)*\nNext: "):
        zoo.evaluate(copy, data=shapes / "val")


def test_an_artefact_can_be_the_start_of_another_run(artefact: Path, shapes: Path, tmp_path: Path) -> None:
    result = zoo.finetune(
        backbone="timm/test_resnet",
        weights=str(artefact / "model.safetensors"),
        data=shapes,
        recipe="head_only",
        epochs=1,
        out=tmp_path / "again",
    )
    assert result.content["weights"] == "file:model.safetensors"
    old, new = load_file(artefact / "model.safetensors"), load_file(result.artefact / "model.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("backbone."))


def test_the_card_tells_the_hub_metrics_licence_classes_recipe_and_proof(artefact: Path) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard.load(artefact / "README.md").data
    config = json.loads((artefact / "config.json").read_text())
    shown = [(each.dataset_split, each.metric_type, each.metric_value) for each in data.eval_results or []]
    for split, name in (("val", "validation"), ("test", "test")):
        assert (name, "accuracy", config["metrics"][split]["accuracy"]) in shown
        assert (name, "f1", config["metrics"][split]["macro_f1"]) in shown
    assert data.pipeline_tag == "image-classification" and data.library_name == "zoo"
    assert data.license is None and "licence of the pretrained weights | none" in (artefact / "README.md").read_text()
    assert data["zoo"] == {"recipe": "recipes/head_only", "proof": "passed", "classes": ["blue", "green", "red"]}


def test_a_proof_that_fails_afterwards_is_in_config_and_card(copy: Path) -> None:
    mark_failed(copy)
    assert json.loads((copy / "config.json").read_text())["proof"] == "failed"
    card = (copy / "README.md").read_text()
    assert "  proof: failed\n" in card and "passed" not in card


def _take_all_memory(*given: object) -> None:
    torch.empty(1 << 50)


def test_too_little_memory_to_predict_is_told_plainly(artefact: Path, shapes: Path) -> None:
    classifier = zoo.load(artefact)
    classifier.model.register_forward_pre_hook(_take_all_memory)
    classifier.model.backbone.register_forward_pre_hook(_take_all_memory)
    for use in (classifier.predict, classifier.features):
        with pytest.raises(DeviceError, match=r"Not enough memory .*\nNext: free memory\."):
            use(shapes / "test" / "red")


def test_a_device_that_is_full_is_told_by_load_and_verify_goes_on_without_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = json.loads((copy / "config.json").read_text())["golden"]
    _edit(copy, golden={**golden, "device": "cuda"})
    moved = torch.nn.Module.to

    def full(module: torch.nn.Module, *given: Any, **named: Any) -> torch.nn.Module:
        if given == ("cuda",):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return moved(module, *given, **named)

    # A device that has no room: what torch raises there, where there is no such device to fill.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DeviceError, match=r"memory \(loading .*\nNext: free memory on cuda, or --device cpu"):
        zoo.load(copy, device="cuda")
    verification = zoo.verify(copy)
    (check,) = (each for each in verification.checks if each.name == "golden_logits")
    assert check.verdict == "passed" and check.summary.endswith("; cuda has no memory free for them")
    assert check.evidence["device"] == "cpu"
