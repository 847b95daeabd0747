"""`zoo weights ...` and `--offline`, from a mirror on one machine to a run without a network on another."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import zoo
from safetensors.torch import load_file, save, save_file
from tests.conftest import Zoo
from tests.file_host import FileHost, Served, file_host
from zoo.errors import Offline, Refused, WeightsError

NAME, TAG = "timm/test_resnet", "r160_in1k"
FILE = f"timm/test_resnet.{TAG}/resolve/main/model.safetensors"


@pytest.fixture(scope="module")
def published() -> bytes:
    """As the hub would serve them; the values are this test's."""
    torch.manual_seed(7)
    return save(timm.create_model("test_resnet", pretrained=False).state_dict())


@pytest.fixture
def host(published: bytes) -> Iterator[FileHost]:
    with file_host() as host:
        etag = f'"{hashlib.sha256(published).hexdigest()}"'
        host.files[f"/{FILE}"] = Served(published, etag=etag)
        yield host


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _machine("first", tmp_path, monkeypatch)


def _machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is on it yet."""
    from huggingface_hub import constants

    folder = tmp_path / name
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "torch" / "hub"))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(folder / "zoo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.delenv("ZOO_WEIGHTS_MIRROR", raising=False)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to reach something, refused."""
    tried: list[object] = []

    def connect(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **named: connect(None, asked))  # type: ignore[arg-type]
    return tried


@pytest.fixture
def bundle(host: FileHost, zoo_inside: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    done = zoo_inside("weights", "fetch", NAME, "--out", "bundle")
    assert done.returncode == 0, done.stderr
    monkeypatch.delenv("ZOO_WEIGHTS_MIRROR")
    return tmp_path / "bundle"


def test_weights_are_carried_to_a_machine_without_a_network_and_a_run_there_has_the_same_bits(
    bundle: Path,
    published: bytes,
    zoo_inside: Zoo,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[object],
) -> None:
    manifest = json.loads((bundle / "weights.json").read_text("utf-8"))
    (entry,) = manifest["weights"]
    assert entry["name"] == f"{NAME}.{TAG}" and entry["licence"] == "apache-2.0"
    assert entry["digest"] == hashlib.sha256((bundle / entry["file"]).read_bytes()).hexdigest()

    _machine("second", tmp_path, monkeypatch)
    run = ("finetune", "--backbone", NAME, "--data", few, "--recipe", "head_only", "--epochs", 1, "--offline")
    before = zoo_inside(*map(str, run), "--out", "early")
    assert before.returncode == Offline.exit_code and not (tmp_path / "early").exists()
    assert f"zoo weights fetch {NAME}.{TAG} --out FOLDER" in before.stderr

    done = zoo_inside("weights", "import", bundle)
    assert done.returncode == 0, done.stderr
    done = zoo_inside(*map(str, run), "--out", "late")
    assert done.returncode == 0, done.stderr
    trained = load_file(tmp_path / "late" / "model" / "model.safetensors")
    upstream = zoo.create_model(NAME, classes=2, weights="random").backbone
    (file,) = [path for _, path in _stored(tmp_path / "second")]
    assert file.read_bytes() == published
    upstream.load_state_dict(load_file(file), strict=False)
    for name, tensor in upstream.state_dict().items():
        assert torch.equal(trained[f"backbone.{name}"], tensor), name
    assert no_network == []


def _stored(machine: Path) -> list[tuple[str, Path]]:
    return [(path.name, path) for path in (machine / "zoo" / "weights").glob("*.safetensors")]


def test_what_is_on_this_machine_is_listed_and_verified_to_the_last_byte(
    bundle: Path, zoo_inside: Zoo, machine: Path
) -> None:
    listed = json.loads(zoo_inside("weights", "list", "--json").stdout)
    assert [(each["name"], each["place"]) for each in listed] == [(f"{NAME}.{TAG}", "zoo")]
    table = zoo_inside("weights", "list").stdout
    assert f"{NAME}.{TAG}" in table and "zoo's store" in table and str(machine / "zoo" / "weights") in table
    assert zoo_inside("weights", "list", "resnet50").stdout.startswith(
        "There are no pretrained weights like 'resnet50'"
    )

    checked = zoo_inside("weights", "verify", NAME)
    assert checked.returncode == 0 and "whole" in checked.stdout
    ((_, file),) = _stored(machine)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    checked = zoo_inside("weights", "verify")
    assert checked.returncode == 3
    assert f"{file} is damaged" in checked.stdout and f"zoo weights fetch {NAME}.{TAG}" in checked.stdout
    (found,) = json.loads(zoo_inside("weights", "verify", "--json").stdout)
    assert found["verdict"] == "damaged" and found["next"]


def test_a_damaged_file_in_the_store_is_not_used_and_fetched_again(
    bundle: Path, host: FileHost, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, file),) = _stored(machine)
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    with pytest.raises(Offline):
        zoo.create_model(NAME, classes=2, offline=True)
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    assert [path.read_bytes() for path in zoo.fetch_weights(NAME)] == [good]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder, file: file.write_bytes(file.read_bytes()[:-1]), "is damaged: its SHA-256 is"),
        (lambda folder, file: file.unlink(), "is incomplete"),
        (lambda folder, file: (folder / "weights.json").unlink(), "is not a bundle: it has no weights.json"),
        (lambda folder, file: (folder / "weights.json").write_text('{"format": 99}'), "weights.json"),
        (lambda folder, file: _change(folder, file="../outside.safetensors"), "weights.json"),
        (lambda folder, file: _change(folder, source={"repo_id": "org/other"}), "by that name"),
    ],
)
def test_a_bundle_that_suffered_on_its_way_is_refused_and_nothing_is_imported(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo, harm: Any, said: str
) -> None:
    machine = _machine("second", tmp_path, monkeypatch)
    (file,) = bundle.glob("*.safetensors")
    harm(bundle, file)
    done = zoo_inside("weights", "import", bundle)
    assert done.returncode == WeightsError.exit_code and said in done.stderr, done.stderr
    assert not _stored(machine)


def _change(folder: Path, **values: Any) -> None:
    content = json.loads((folder / "weights.json").read_text("utf-8"))
    content["weights"][0].update(values)
    (folder / "weights.json").write_text(json.dumps(content))


def test_an_existing_bundle_is_not_overwritten(bundle: Path, zoo_inside: Zoo) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()}
    done = zoo_inside("weights", "fetch", NAME, "--out", bundle)
    assert done.returncode == Refused.exit_code and "exists" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()} == before


def test_one_file_is_imported_under_the_name_that_is_given(
    published: bytes, zoo_inside: Zoo, tmp_path: Path, machine: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(published)
    unnamed = zoo_inside("weights", "import", "model.safetensors")
    assert unnamed.returncode == Refused.exit_code and "--as NAME" in unnamed.stderr
    named = zoo_inside("weights", "import", "model.safetensors", "--as", NAME)
    assert named.returncode == 0 and "trusts that it is the right file" in named.stderr
    assert zoo.create_model(NAME, classes=2, offline=True).name.startswith(NAME)
    other = zoo_inside("weights", "import", "model.safetensors", "--as", "timm/test_vit")
    assert other.returncode != 0 and "Traceback" not in other.stderr and "test_vit" in other.stderr, other.stderr
    save_file({"a": torch.zeros(1)}, tmp_path / "resnet18-f37072fd.pth")
    wrong = zoo_inside("weights", "import", "resnet18-f37072fd.pth")
    assert wrong.returncode == WeightsError.exit_code and "is not the published file" in wrong.stderr


def test_the_environment_switches_the_network_off_too_and_random_weights_need_none(
    zoo_inside: Zoo, few: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]
) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    for words in (("plan", "--backbone", "resnet18", "--data", str(few)), ("finetune", "--backbone", "resnet18")):
        done = zoo_inside(*words)
        assert done.returncode == Offline.exit_code and "switched off by ZOO_OFFLINE" in done.stderr
    assert zoo_inside("plan", "--backbone", "resnet18", "--weights", "random", "--data", few).returncode == 0
    assert no_network == []
    monkeypatch.setenv("ZOO_OFFLINE", "perhaps")
    assert "means neither yes nor no" in zoo_inside("plan", "--backbone", "resnet18", "--data", few).stderr


def test_a_stopped_run_goes_on_offline_or_says_what_it_lacks(
    bundle: Path, zoo_inside: Zoo, few: Path, machine: Path, tmp_path: Path, no_network: list[object]
) -> None:
    words = ("--backbone", NAME, "--data", str(few), "--recipe", "head_only", "--epochs", "1", "--out", "run")
    assert zoo_inside("finetune", *words, "--no-report").returncode == 0
    for name in ("result.json", "model"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else os.remove(path)  # noqa: PTH107
    shutil.move(machine / "zoo" / "weights", machine / "elsewhere")
    lacking = zoo_inside("finetune", "--resume", "run", "--offline")
    assert lacking.returncode == Offline.exit_code, lacking.stderr
    shutil.move(machine / "elsewhere", machine / "zoo" / "weights")
    done = zoo_inside("finetune", "--resume", "run", "--offline")
    assert done.returncode == 0, done.stderr
    assert zoo_inside("verify", "run", "--offline").returncode == 0
    assert no_network == []
