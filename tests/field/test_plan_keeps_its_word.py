"""A plan that is printed can be carried out, or says what is still needed: what `finetune` refuses, `plan` refuses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
import zoo
from huggingface_hub import constants
from rich.console import Console
from safetensors.torch import save_file
from tests.file_host import FileHost, Served, file_host
from zoo.display.console import Verbosity
from zoo.display.plan import print_plan
from zoo.errors import Offline, WeightsError, WeightsMismatch, ZooError
from zoo.weights import download as downloading

NAME = "timm/test_resnet"
TORCHVISION = "torchvision/squeezenet1_1"
FILE = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights on this machine, and a network that nobody may use: an address that refuses at once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "zoo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(downloading, "RETRY_SECONDS", ())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileHost]:
    with file_host() as host:
        monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
        yield host


@pytest.fixture
def usual(few: Path) -> dict[str, Any]:
    return {"data": few, "recipe": "head_only", "epochs": 1, "tune": False}


def both_refuse(usual: dict[str, Any], tmp_path: Path, **arguments: Any) -> str:
    """Plan and finetune refuse, with the same words, and nothing is left."""
    messages = []
    for call in (zoo.plan, zoo.finetune):
        with pytest.raises(ZooError) as refused:
            call(**usual, **arguments)
        messages.append(f"{type(refused.value).__name__}: {refused.value}")
    assert messages[0] == messages[1] and not (tmp_path / "runs").exists()
    return messages[0]


def printed(plan: zoo.Plan) -> str:
    text = io.StringIO()
    print_plan(plan, Verbosity(), to=Console(file=text, width=300))
    return text.getvalue()


# --- A file that is not for this architecture -------------------------------------------------------------------------


def of(name: str, **arguments: Any) -> dict[str, torch.Tensor]:
    return dict(timm.create_model(name, **arguments).state_dict())


def deeper(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same architecture with one layer more: every name of the smaller one is in the file."""
    return state | {
        name.replace("layer4.0.", "layer4.1."): state[name].clone() for name in state if "layer4.0." in name
    }


def wider(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same names, and one tensor of another shape."""
    return state | {"layer4.0.conv1.weight": torch.zeros(1, 2, 3, 3)}


OTHERS: dict[str, tuple[str, Callable[[], dict[str, torch.Tensor]]]] = {
    "another architecture": (NAME, lambda: of("test_vit")),
    "more layers": (NAME, lambda: deeper(of("test_resnet"))),
    "other widths": (NAME, lambda: wider(of("test_resnet"))),
    "another provider's": (TORCHVISION, lambda: of("test_resnet")),
    "more of torchvision": (
        TORCHVISION,
        lambda: {**torchvision.models.squeezenet1_1().state_dict(), "features.99.weight": torch.ones(3)},
    ),
}


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_architecture_is_refused_by_plan_too(
    case: str, kind: str, usual: dict[str, Any], tmp_path: Path
) -> None:
    backbone, state = OTHERS[case]
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state(), path)
    else:
        torch.save({"state_dict": state()} if kind == "wrapped" else state(), path)
    message = both_refuse(usual, tmp_path, backbone=backbone, weights=str(path))
    assert message.startswith(f"WeightsMismatch: These weights are not for {backbone}")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "older.pth"])
def test_half_a_file_is_refused_by_plan_too(name: str, usual: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(of("test_resnet"), path)
    else:
        torch.save(of("test_resnet"), path, _use_new_zipfile_serialization=name == "w.pth")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "is not a readable" in both_refuse(usual, tmp_path, backbone=NAME, weights=str(path))


def test_a_pickle_that_would_run_code_is_refused_by_plan_too(usual: dict[str, Any], tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet"), tmp_path / "whole.pth")
    assert "would run code" in both_refuse(usual, tmp_path, backbone=NAME, weights=str(tmp_path / "whole.pth"))


@pytest.mark.parametrize(
    ("backbone", "other"),
    [(NAME, (96, 96)), ("timm/test_vit", (192, 192)), ("timm/test_convnext", None), ("timm/test_efficientnet", None)],
)
def test_what_plan_takes_finetune_takes(
    backbone: str, other: tuple[int, int] | None, usual: dict[str, Any], tmp_path: Path
) -> None:
    """Position embeddings are resampled for another size; plan does it without values."""
    save_file(of(backbone.removeprefix("timm/")), tmp_path / "w.safetensors")
    arguments = {**usual, "backbone": backbone, "weights": str(tmp_path / "w.safetensors"), "input_size": other}
    plan = zoo.plan(**arguments)
    assert plan.weights.digest is None and plan.weights.download is None
    result = zoo.finetune(**arguments, out=tmp_path / "run")
    assert result.proof == "passed"


def test_a_conversion_that_needs_values_does_not_make_plan_refuse(usual: dict[str, Any], tmp_path: Path) -> None:
    """Names of another library, which timm converts with numbers from the file; plan reads these where it must."""
    from zoo.planning.resolved_model import resolve_model
    from zoo.registry.registry import default_registry
    from zoo.weights.fitting import Architecture
    from zoo.weights.obtain import examine_weights

    save_file(of("test_resnet"), tmp_path / "w.safetensors")
    resolved = resolve_model(
        default_registry(), NAME, "linear", head_options={}, weights=str(tmp_path / "w.safetensors")
    )
    asked = []

    def refusal(state: Any, values: bool) -> WeightsError | None:
        asked.append(values)
        return None if values and all(tensor.device.type == "cpu" for tensor in state.values()) else WeightsError("no")

    picky = Architecture(label=NAME, own=resolved.architecture().own, refusal=refusal)
    assert examine_weights(resolved.backbone, resolved.weights, picky, offline=True).state is None
    assert asked == [False, True]


# --- Weights that are not on this machine -----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [NAME, TORCHVISION])
@pytest.mark.parametrize("switch", ["--offline", "ZOO_OFFLINE"])
def test_without_a_network_missing_weights_are_refused_by_both(
    backbone: str, switch: str, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if switch == "ZOO_OFFLINE":
        monkeypatch.setenv("ZOO_OFFLINE", "1")
    message = both_refuse(usual, tmp_path, backbone=backbone, offline=switch == "--offline")
    assert message.startswith("Offline: ") and f"switched off by {switch}" in message


@pytest.mark.parametrize("backbone", [NAME, TORCHVISION])
@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.long
def test_with_a_network_the_plan_says_what_is_still_to_be_downloaded(
    backbone: str, estimate: bool, usual: dict[str, Any], host: FileHost
) -> None:
    plan = zoo.plan(**usual, backbone=backbone, estimate=estimate)
    assert plan.weights.download is not None and plan.weights.download.startswith(host.url)
    assert plan.weights.download_bytes is not None and plan.weights.download_bytes > 100_000
    assert "not on this machine: needs a download of about" in printed(plan)
    assert host.url.removeprefix("http://") in printed(plan)
    assert host.seen == []  # nobody was asked


def test_with_the_hub_switched_off_torchvision_is_downloaded_from_its_own_host_and_the_plan_says_so(
    usual: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "download of about" in printed(zoo.plan(**usual, backbone=TORCHVISION))
    with pytest.raises(Offline, match="HF_HUB_OFFLINE"):
        zoo.plan(**usual, backbone=NAME)


def test_once_downloaded_nothing_is_needed(usual: dict[str, Any], host: FileHost, tmp_path: Path) -> None:
    save_file(of("test_resnet"), tmp_path / "model.safetensors")
    path = "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    host.files[path] = Served((tmp_path / "model.safetensors").read_bytes())
    needed = zoo.plan(**usual, backbone=NAME)
    assert needed.weights.download == f"{host.url}{path}"
    zoo.finetune(**usual, backbone=NAME, out=tmp_path / "run")
    host.seen.clear()
    plan = zoo.plan(**usual, backbone=NAME)
    assert plan.weights.download is None and "not on this machine" not in printed(plan) and host.seen == []


def test_a_damaged_file_is_to_be_downloaded_again_and_without_a_network_it_is_named(
    usual: dict[str, Any], nothing_here: Path, tmp_path: Path
) -> None:
    nothing_here.mkdir(parents=True)
    (nothing_here / FILE).write_bytes(b"half")
    plan = zoo.plan(**usual, backbone=TORCHVISION)
    assert plan.weights.download == f"https://download.pytorch.org/models/{FILE}"
    assert f"{FILE} is damaged" in both_refuse(usual, tmp_path, backbone=TORCHVISION, offline=True)


def test_half_a_file_in_the_cache_of_the_hub_is_refused_by_both(usual: dict[str, Any], tmp_path: Path) -> None:
    """The hub's library lays a file out by its commit; nobody compares its digest again."""
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    file = folder / "snapshots" / "0123" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    save_file(of("test_resnet"), file)
    assert zoo.plan(**usual, backbone=NAME, offline=True).weights.download is None
    file.write_bytes(file.read_bytes()[:100_000])
    assert "is not a readable safetensors file" in both_refuse(usual, tmp_path, backbone=NAME, offline=True)


def test_a_folder_that_cannot_take_the_download_is_refused_by_both(
    usual: dict[str, Any], host: FileHost, tmp_path: Path
) -> None:
    host.files[f"/{FILE}"] = Served(b"content")
    (tmp_path / "torch").write_text("a file where the folder should be")
    for call in (zoo.plan, zoo.finetune):
        with pytest.raises(WeightsError, match="could not be saved in") as refused:
            call(**usual, backbone=TORCHVISION)
        assert "set TORCH_HOME to another folder" in str(refused.value)


def test_a_mirror_that_is_a_folder_without_the_file_is_refused_by_both(
    usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share").mkdir()
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", str(tmp_path / "share"))
    assert "It contains neither" in both_refuse(usual, tmp_path, backbone=TORCHVISION)


def test_random_weights_need_nothing(usual: dict[str, Any]) -> None:
    plan = zoo.plan(**usual, backbone=TORCHVISION, weights="random", offline=True)
    assert plan.weights.download is plan.weights.taken is None


# --- Where the run is to be written -----------------------------------------------------------------------------------


def test_a_run_folder_that_cannot_be_written_is_refused_by_both(usual: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    usual = {**usual, "backbone": NAME, "weights": "random"}
    assert "exists already" in both_refuse(usual, tmp_path, out=tmp_path / "taken")
    assert "file" in both_refuse(usual, tmp_path, out=tmp_path / "file" / "run")


def test_the_mismatch_says_the_way_out_and_it_works(usual: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": of("test_vit"), "arch": "test_vit"}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatch, match="name the backbone that the file is for") as refused:
        zoo.plan(**usual, backbone=NAME, weights=str(tmp_path / "w.pth"))
    assert "It says that it is of 'test_vit'" in str(refused.value)
    assert zoo.plan(**usual, backbone="test_vit", weights=str(tmp_path / "w.pth")).weights.taken == "state_dict"
