"""A weights file is read as timm reads it, wherever its tensors lie, and what was taken is said.

timm 1566: training checkpoints hold the moving average beside the raw weights, and timm takes the average.
timm 2003: prefixes of wrappers (`module.`, `_orig_mod.`), and options of the program beside the tensors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import zoo
from safetensors.torch import save_file
from timm.models import load_state_dict
from torch import Tensor
from zoo.errors import WeightsError, WeightsMismatch
from zoo.events import Event, Note, StageStarted

NAME = "timm/test_resnet"
State = dict[str, Tensor]


def trained(name: str = "test_resnet", *, seed: int = 1) -> State:
    """The tensors of a model with its classifier, as somebody's training left them."""
    torch.manual_seed(seed)
    return dict(timm.create_model(name, num_classes=7).state_dict())


def averaged(state: Mapping[str, Tensor]) -> State:
    return {name: tensor * 0.9 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def backbone_of(weights: Path, name: str = NAME) -> State:
    return dict(zoo.create_model(name, head="linear", classes=2, weights=str(weights)).backbone.state_dict())


def same(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of the backbone is the expected one; the classifier is nobody's."""
    return all(torch.equal(tensor, torch.as_tensor(expected[name])) for name, tensor in got.items())


RAW = trained()
EMA = averaged(RAW)
OPTIONS = argparse.Namespace(lr=0.1, model="test_resnet", resume=None)

LIKE_TIMM = {
    "state_dict and state_dict_ema": {"epoch": 3, "state_dict": RAW, "state_dict_ema": EMA},
    "model and model_ema": {"model": RAW, "model_ema": EMA, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "an average that is absent": {"state_dict": RAW, "state_dict_ema": None},
    "DataParallel": {"state_dict": under("module.", RAW)},
    "torch.compile around DataParallel": under("_orig_mod.module.", RAW),
    "DataParallel around torch.compile": under("module._orig_mod.", RAW),
    "options beside the tensors": {"state_dict": RAW, "args": OPTIONS, "arch": "test_resnet"},
}


@pytest.mark.parametrize("case", LIKE_TIMM)
def test_what_timm_loads_is_loaded_as_timm_does(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save(LIKE_TIMM[case], path)
    assert same(backbone_of(path), load_state_dict(str(path)))


WHEREVER: dict[str, tuple[Callable[[], Any], State, str]] = {
    "model_state_dict": (lambda: {"model_state_dict": RAW, "epoch": 1}, RAW, "model_state_dict"),
    "net": (lambda: {"net": RAW, "acc": 0.5}, RAW, "net"),
    "three deep": (lambda: {"run": {"best": [{"weights": RAW}]}}, RAW, "run.best.[0].weights"),
    "Lightning": (
        lambda: {"state_dict": under("model.timm_model.", RAW) | {"criterion.weight": torch.ones(7)}},
        RAW,
        "state_dict, without the prefix 'model.timm_model.'",
    ),
    "a wrapper nobody has heard of": (lambda: under("tower.trunk.", RAW), RAW, "without the prefix 'tower.trunk.'"),
    "net and backbone": (lambda: under("net.backbone.", RAW), RAW, "without the prefix 'net.backbone.'"),
    "DINO": (
        lambda: {"student": under("module.backbone.", RAW), "teacher": under("backbone.", EMA), "args": OPTIONS},
        EMA,
        "teacher, without the prefix 'backbone.'",
    ),
    "an average of another name": (lambda: {"model": RAW, "ema": {"decay": 0.9, "shadow": EMA}}, EMA, "ema.shadow"),
    "an average in the same entry": (
        lambda: {"state_dict": under("model.", RAW) | under("ema_model.", EMA)},
        EMA,
        "state_dict, without the prefix 'ema_model.'",
    ),
    "torch's AveragedModel": (
        lambda: under("module.", EMA) | {"n_averaged": torch.tensor(3)},
        EMA,
        "without the prefix 'module.'",
    ),
}


@pytest.mark.parametrize("case", WHEREVER)
def test_tensors_are_found_wherever_they_lie_and_the_plan_says_where(case: str, few: Path, tmp_path: Path) -> None:
    content, expected, taken = WHEREVER[case]
    path = tmp_path / "last.ckpt"
    torch.save(content(), path)
    assert same(backbone_of(path), expected)
    plan = zoo.plan(backbone=NAME, weights=str(path), data=few, recipe="head_only", tune=False)
    assert plan.weights.taken == taken


BESIDE = {
    "a numpy number": np.float64(0.75),
    "a numpy array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a numpy array of objects": np.array([1, None, "x"], dtype=object),
    "a path": Path("runs/1"),
    "nested options": {"args": argparse.Namespace(inner=argparse.Namespace(best=np.int64(3)))},
}


@pytest.mark.parametrize("case", BESIDE)
@pytest.mark.parametrize("older", [False, True])
def test_what_training_programs_put_beside_the_tensors_hinders_nothing(case: str, older: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": RAW, "other": BESIDE[case]}, path, _use_new_zipfile_serialization=not older)
    assert same(backbone_of(path), RAW)
    assert not any("argparse" in str(each) or "numpy" in str(each) for each in torch.serialization.get_safe_globals())


def test_tensors_kept_as_numpy_arrays_are_read(tmp_path: Path) -> None:
    arrays = {name: np.array(tensor.numpy(), order="F") for name, tensor in RAW.items()}
    torch.save({"params": arrays}, tmp_path / "arrays.pth")
    assert same(backbone_of(tmp_path / "arrays.pth"), RAW)


def test_names_of_torchvision_under_a_prefix(tmp_path: Path) -> None:
    """`encoder.` is a prefix here, and in torchvision's ViT part of the architecture's own names."""
    import torchvision

    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save({"state_dict": under("encoder.", state)}, tmp_path / "w.pth")
    assert same(backbone_of(tmp_path / "w.pth", "torchvision/squeezenet1_1"), state)
    with torch.device("meta"):
        own = zoo.create_model("torchvision/vit_b_32", head="linear", classes=2, weights="random").backbone
    assert any(name.startswith("encoder.") for name in own.state_dict())


def test_names_of_another_library_are_converted_under_a_prefix_too(tmp_path: Path) -> None:
    """torchvision renames those of older DenseNets itself; the file has them behind `module.`."""
    from zoo.planning.resolved_model import resolve_model
    from zoo.registry.registry import default_registry
    from zoo.weights.fitting import fit

    resolved = resolve_model(default_registry(), "torchvision/densenet121", "linear", head_options={})
    architecture = resolved.architecture()
    older = {
        f"module.{name.replace('norm1.', 'norm.1.').replace('conv1.', 'conv.1.')}": torch.empty(shape, device="meta")
        for name, shape in architecture.own().items()
    }
    found = fit({"state_dict": older}, Path("w.pth"), architecture, values=False)
    assert (
        found.taken == "state_dict, without the prefix 'module.'" and architecture.refusal(found.state, False) is None
    )


def notes_of(**arguments: Any) -> tuple[zoo.Plan, list[Note]]:
    notes: list[Note] = []

    def report(event: Event) -> None:
        if isinstance(event, Note) and "Weights taken" in event.text:
            notes.append(event)

    return zoo.plan(**arguments, on_event=report), notes


def test_where_two_fit_the_note_says_which_was_not_taken_and_how_to_take_it(few: Path, tmp_path: Path) -> None:
    usual = {"backbone": NAME, "data": few, "recipe": "head_only", "tune": False}
    torch.save(LIKE_TIMM["state_dict and state_dict_ema"], tmp_path / "both.pth")
    plan, (note,) = notes_of(**usual, weights=str(tmp_path / "both.pth"))
    assert plan.weights.taken == "state_dict_ema" and note.loud
    assert "as in timm): state_dict." in note.text and "save it alone" in note.text
    torch.save(torch.load(tmp_path / "both.pth")["state_dict"], tmp_path / "raw.pth")
    plan, nothing = notes_of(**usual, weights=str(tmp_path / "raw.pth"))
    assert plan.weights.taken is None and nothing == [] and same(backbone_of(tmp_path / "raw.pth"), RAW)


def test_the_same_tensors_twice_are_no_choice(few: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": RAW, "best": RAW}, tmp_path / "twice.pth")
    _, (note,) = notes_of(backbone=NAME, data=few, weights=str(tmp_path / "twice.pth"), recipe="head_only", tune=False)
    assert not note.loud and "fit too" not in note.text


def test_an_average_for_another_architecture_is_passed_over(tmp_path: Path) -> None:
    torch.save({"state_dict": RAW, "state_dict_ema": trained("test_vit")}, tmp_path / "w.pth")
    assert same(backbone_of(tmp_path / "w.pth"), RAW)


def test_a_classifier_of_zoo_gives_its_backbone(few: Path, tmp_path: Path) -> None:
    run = zoo.finetune(
        backbone=NAME, weights="random", data=few, recipe="head_only", epochs=1, tune=False, out=tmp_path / "run"
    )
    file = run.path / "model" / "model.safetensors"
    assert same(backbone_of(file), zoo.load(run.path).model.backbone.state_dict())


def test_plain_files_are_taken_as_they_are(few: Path, tmp_path: Path) -> None:
    save_file(RAW, tmp_path / "plain.safetensors")
    torch.save(RAW, tmp_path / "plain.pth")
    for name in ("plain.safetensors", "plain.pth"):
        plan, notes = notes_of(backbone=NAME, data=few, weights=str(tmp_path / name), recipe="head_only", tune=False)
        assert plan.weights.taken is None and notes == [] and same(backbone_of(tmp_path / name), RAW)


# --- What cannot be read ----------------------------------------------------------------------------------------------


def test_where_nothing_fits_the_message_has_the_keys_and_the_architecture_that_the_file_names(tmp_path: Path) -> None:
    torch.save({"state_dict": trained("test_vit"), "arch": "test_vit", "epoch": 3}, tmp_path / "vit.pth")
    with pytest.raises(WeightsMismatch) as refused:
        backbone_of(tmp_path / "vit.pth")
    message = str(refused.value)
    assert "state_dict: cls_token, pos_embed" in message and "of 'test_vit'" in message
    assert "name the backbone that the file is for" in message
    assert backbone_of(tmp_path / "vit.pth", "timm/test_vit")


def test_a_file_without_tensors_says_what_it_holds_and_the_way_out_works(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "args": OPTIONS, "history": [1.0]}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"epoch \(int\), args \(object\), history \(list\)") as refused:
        backbone_of(tmp_path / "w.pth")
    assert "torch.save(model.state_dict(), FILE)" in str(refused.value)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    assert backbone_of(tmp_path / "w.pth")


def test_what_only_looks_like_a_weights_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(WeightsError, match="a Git LFS pointer"):
            backbone_of(tmp_path / name)
    (tmp_path / "w.ckpt").write_bytes(b"W\xfb\x80\x8b TensorFlow's")
    with pytest.raises(WeightsError, match=r"is no file of torch\.save"):
        backbone_of(tmp_path / "w.ckpt")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="is not a readable weights file"):
        backbone_of(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_says_the_way_out_and_it_works(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.jit.save(torch.jit.script(timm.create_model("test_resnet", num_classes=7)), tmp_path / "script.pt")
    with pytest.raises(WeightsError, match=r"torch\.jit\.load\(FILE\)\.state_dict\(\)"):
        backbone_of(tmp_path / "script.pt")
    torch.save(torch.jit.load(tmp_path / "script.pt").state_dict(), tmp_path / "w.pt")
    assert same(backbone_of(tmp_path / "w.pt"), RAW)


def test_a_provider_that_fails_on_strange_names_refuses_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.planning import resolved_model

    def fails(*arguments: Any, **named: Any) -> None:
        raise KeyError("stem.weight")

    torch.save({"strange": torch.ones(3)}, tmp_path / "w.pth")
    monkeypatch.setattr(resolved_model, "build_with_state", fails)
    with pytest.raises(WeightsError, match="could not be built with these weights: KeyError"):
        backbone_of(tmp_path / "w.pth")


class Runs:
    """What a pickle can hold: a call that is made when it is loaded."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


class Strange:
    """An object of the training program that is nobody's plain values."""


def test_no_code_of_a_pickle_runs_and_all_that_is_missing_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": RAW, "call": Runs(tmp_path / "ran"), "best": Strange()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="would run code") as refused:
        backbone_of(tmp_path / "w.pth")
    assert "Strange" in str(refused.value) and "state_dict()" in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_call_under_a_name_that_is_allowed_does_nothing(tmp_path: Path) -> None:
    class Disguised:
        def __reduce__(self) -> tuple[Any, ...]:
            return argparse.Namespace, (), {"__class__": "other", "touch": Path("x")}

    torch.save({"state_dict": RAW, "args": Disguised()}, tmp_path / "w.pth")
    assert same(backbone_of(tmp_path / "w.pth"), RAW)


# --- Runs from before -------------------------------------------------------------------------------------------------


def test_a_program_may_have_allowed_numpy_itself(tmp_path: Path) -> None:
    torch.save({"state_dict": {name: tensor.numpy() for name, tensor in RAW.items()}}, tmp_path / "w.pth")
    needed = [np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("i8")), np._core.multiarray._reconstruct]
    with torch.serialization.safe_globals(needed):
        assert same(backbone_of(tmp_path / "w.pth"), RAW)


@pytest.mark.long
class Stop:
    """Ends a run when its first stage begins, as Ctrl-C does."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            raise KeyboardInterrupt


@pytest.mark.long
def test_a_plan_from_before_is_resumed_with_the_raw_weights_that_it_began_with(few: Path, tmp_path: Path) -> None:
    torch.save(LIKE_TIMM["state_dict and state_dict_ema"], tmp_path / "both.pth")
    torch.save(RAW, tmp_path / "raw.pth")
    usual = {"backbone": NAME, "data": few, "recipe": "head_only", "epochs": 1, "tune": False}
    expected = {
        name: zoo.finetune(**usual, weights=str(tmp_path / f"{name}.pth"), out=tmp_path / name)
        for name in ("both", "raw")
    }
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**usual, weights=str(tmp_path / "both.pth"), out=tmp_path / "old", on_event=Stop())
    stored = json.loads((tmp_path / "old" / "plan.json").read_text("utf-8"))
    assert stored["weights"].pop("taken") == "state_dict_ema"
    for key in ("download", "download_bytes"):
        stored["weights"].pop(key)
    (tmp_path / "old" / "plan.json").write_text(json.dumps(stored), "utf-8")
    resumed = zoo.resume(tmp_path / "old")
    backbones = {
        name: zoo.load(run.path).model.backbone.state_dict() for name, run in {**expected, "old": resumed}.items()
    }
    assert same(backbones["old"], backbones["raw"]) and same(backbones["raw"], RAW)
    assert same(backbones["both"], EMA)


def test_a_run_with_the_average_is_resumed_with_it(few: Path, tmp_path: Path) -> None:
    torch.save(LIKE_TIMM["model and model_ema"], tmp_path / "both.pth")
    usual = {"backbone": NAME, "data": few, "recipe": "head_only", "epochs": 1, "tune": False}
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**usual, weights=str(tmp_path / "both.pth"), out=tmp_path / "run", on_event=Stop())
    resumed = zoo.resume(tmp_path / "run")
    assert same(zoo.load(resumed.path).model.backbone.state_dict(), EMA)


@pytest.mark.long
def test_features_of_the_raw_weights_are_not_used_for_the_average(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files have one name, so only the tensors tell; the same tensors from another file use the same rows."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    usual = {"backbone": NAME, "data": few, "recipe": "head_only", "epochs": 1, "tune": False}
    file = tmp_path / "w.pth"

    def rows(content: object, run: str) -> set[str]:
        torch.save(content, file)
        zoo.finetune(**usual, weights=str(file), out=tmp_path / run)
        return {path.parent.name for path in (tmp_path / "cache" / "features").rglob("*") if path.is_file()}

    raw = rows({"state_dict": RAW}, "raw")
    assert raw and rows({"net": RAW}, "again") == raw
    assert rows({"state_dict": RAW, "state_dict_ema": EMA}, "average") > raw
