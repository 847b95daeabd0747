"""The command as a person meets it: a real process, its messages, its exit codes, what it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from PIL import Image
from tests.conftest import Zoo

ROOT = Path(__file__).parents[2]
TINY = ("--backbone", "timm/test_resnet", "--weights", "random", "--epochs", "1")


@pytest.fixture(scope="module")
def run_folder(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return zoo.finetune(backbone="timm/test_resnet", weights="random", data=shapes, out=out, epochs=1).path


def refused(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    """One clear message on stderr, no traceback, nothing on stdout that looks like a result."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Result" not in done.stdout
    for each in said:
        assert each in done.stderr


def test_the_first_command_works_without_data_or_network(zoo_command: Zoo, tmp_path: Path) -> None:
    done = zoo_command(
        "finetune", "--backbone", "timm/test_resnet", "--head", "dropout_linear", "--classes", "3", "--epochs", "2"
    )
    assert done.returncode == 0, done.stderr
    assert "RANDOM weights" in done.stderr and "RANDOM" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("timm-test_resnet.r160_in1k-dropout_linear-staged")
    assert f"zoo predict runs/{folder.name}/model" in done.stdout
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["weights"]["kind"] == "random" and plan["weights"]["fallback"]
    assert json.loads((folder / "result.json").read_text())["weights"] == "random"


def test_plan_finetune_evaluate_predict_speak_json(zoo_inside: Zoo, shapes: Path, tmp_path: Path) -> None:
    plan = json.loads(zoo_inside("plan", *TINY, "--data", shapes, "--json").stdout)
    assert plan["classes"] == ["blue", "green", "red"] and len(plan["stages"]) == 3
    result = json.loads(
        zoo_inside("finetune", *TINY, "--data", shapes, "--recipe", "head_only", "--out", "run", "--json").stdout
    )
    assert result["path"] == "run" and result["proof"] == "passed"
    found = json.loads(zoo_inside("evaluate", "run", "--data", shapes / "val", "--json").stdout)
    assert found["metrics"] == result["metrics"]["val"] and found["images"] == 18
    predicted = json.loads(zoo_inside("predict", "run/model", shapes / "test", "--json", "--csv", "p.csv").stdout)
    assert len(predicted) == 12
    with (tmp_path / "p.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == [each["label"] for each in predicted]


def test_evaluate_tells_files_that_it_does_not_use(
    zoo_inside: Zoo, run_folder: Path, shapes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(shapes / "val", tmp_path / "data"))
    Image.open(data / "red" / "0.jpg").save(data / "red" / "0.gif")
    told = "1 file not used: red/0.gif: not an image (.gif extension). Next: "
    assert told in zoo_inside("evaluate", run_folder, "--data", "data").stderr
    done = zoo_inside("evaluate", run_folder, "--data", "data", "--json")
    scored = json.loads(done.stdout)
    assert told in done.stderr and scored["skipped"] == [["red/0.gif", "not an image", ".gif extension"]]
    assert scored["images"] == 18


def test_a_file_that_is_no_image_costs_predict_only_itself(
    zoo_inside: Zoo, run_folder: Path, shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    done = zoo_inside("predict", run_folder, "broken.jpg", shapes / "val" / "red" / "0.jpg")
    assert done.returncode == 1 and "broken.jpg" in done.stderr and "0.jpg" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--backbone", "resnet81"], 2, ["no backbone 'resnet81'", "'resnet18'"]),
        (["--backbone", "timn/resnet18"], 2, ["'timn'", "'timm'"]),
        (["--backbone", "resnet18.nonsense"], 2, ["resnet18.nonsense", "IMAGENET1K_V1", "a1_in1k"]),
        (["--backbone", "resnet18", "--head", "dropout_linaer"], 2, ["'dropout_linaer'", "'dropout_linear'"]),
        (["--backbone", "resnet18", "--recipe", "stagd"], 2, ["'stagd'", "'staged'"]),
        (["--backbone", "resnet18", "--recipe", "nowhere.toml"], 2, ["nowhere.toml", "cannot be read"]),
        (["--backbone", "resnet18", "--head-option", "q=1"], 2, ["q: unknown option", "p"]),
        (["--backbone", "resnet18", "--seed", "-1"], 2, ["--seed must be a whole number from 0 to 2^64 - 1, got -1."]),
        (["--backbone", "resnet18", "--epochs", "0"], 2, ["Error: --epochs must be at least 1, got 0."]),
        (["--backbone", "resnet18", "--head-option", "p=1.5"], 2, ["p must be at least 0 and below 1, got 1.5"]),
        (["--backbone", "resnet18", "--head-option", "p=half"], 2, ["p:", "'half'"]),
        (["--backbone", "resnet18", "--set", "heda.lr=1"], 2, ["no stage 'heda'", "head, last, all"]),
        (["--backbone", "resnet18", "--set", "head.lr=-1"], 2, ["stages[0].lr", "-1"]),
        (["--backbone", "resnet18", "--set", "last.train=last:9"], 2, ["last:9", "this backbone has 5"]),
        (
            ["--backbone", "resnet18", "--set", "last.train=group:layer9"],
            2,
            ["layer9", "stem, layer1", "'group:lay"],
        ),
        (["--backbone", "resnet18", "--classes", "1"], 2, ["--classes", "at least 2"]),
        (["--backbone", "resnet18", "--classes", "21"], 2, ["2 to 20 classes", "21"]),
        (["--backbone", "resnet18", "--device", "gpu"], 2, ["'gpu' is not a valid device"]),
        (["--backbone", "resnet18", "--weights", "V7"], 2, ["'V7'", "IMAGENET1K_V1"]),
        (["--backbone", "resnet18", "--weights", "nowhere.pth"], 1, ["no weights file 'nowhere.pth'"]),
        (["--backbone", "timm/botnet50ts_256"], 2, ["Nobody published weights", "--weights random"]),
        (["--backbone", "resnet18", "--hed", "mlp"], 2, ["No such option", "--head"]),
        (["--backbone", "resnet18", "--data", "nowhere"], 1, ["no folder 'nowhere'"]),
        (["--backbone", "resnet18", "--set", "head.augment=crop"], 2, ["stages[0].augment", "would do nothing"]),
        (
            ["--backbone", "resnet18", "--batch-size", "1", "--set", "last.batch_norm=train"],
            2,
            ["stages[1].batch_size", "batch norm cannot train on 1 image"],
        ),
        (["--backbone", "resnet18", "--set", "head.lr=1e38"], 2, ["stages[0].lr"]),
        (["--backbone", "timm/test_resnet", "--weights", "random", "--out", "x" * 300], 1, ["cannot be written"]),
        (
            [
                "--backbone",
                "timm/test_vit",
                "--weights",
                "random",
                "--head",
                "mlp",
                "--head-option",
                "hidden=1000000000000",
            ],
            1,
            ["Not enough memory"],
        ),
    ],
)
def test_bad_input_gets_one_clear_message_and_leaves_nothing(
    zoo_inside: Zoo, tmp_path: Path, arguments: list[str], code: int, said: list[str]
) -> None:
    refused(zoo_inside("finetune", *arguments), code, *said)
    assert list(tmp_path.iterdir()) == []


def test_every_fault_of_a_recipe_file_is_said_at_once_with_its_key_path(zoo_inside: Zoo, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        'summary = "x"\nlernrate = 3\n[[stages]]\nname = "a"\ntrain = ["head", "heed"]\nepochs = 0\nlr = 1\n'
    )
    done = zoo_inside("finetune", "--backbone", "resnet18", "--recipe", "my.toml")
    refused(done, 2, "my.toml has 3 faults", "lernrate", "stages[0].train[1]", "stages[0].epochs")


def test_classes_that_disagree_with_the_folders(zoo_inside: Zoo, shapes: Path) -> None:
    done = zoo_inside("finetune", *TINY, "--classes", "5", "--data", shapes)
    refused(done, 2, "--classes says 5", "3 class folders", "blue, green, red")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: shutil.rmtree(data / "val" / "red"), "no images of 1 class: red"),
        (lambda data: (data / "train" / "empty").mkdir(), "without images: empty"),
        (lambda data: [shutil.rmtree(data / split / "red") for split in ("train",)], "classes that train/ lacks: red"),
        (lambda data: [shutil.rmtree(data / split) for split in ("train", "val", "test")], "no images below"),
        (
            lambda data: [
                shutil.rmtree(each) for split in data.iterdir() for each in split.iterdir() if each.name != "red"
            ],
            "only the class 'red'",
        ),
    ],
)
def test_folders_that_cannot_be_used(zoo_inside: Zoo, shapes: Path, tmp_path: Path, change: object, said: str) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    change(data)  # type: ignore[operator]
    refused(zoo_inside("finetune", *TINY, "--data", data), 1, said)
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_architecture_say_what_differs(zoo_inside: Zoo, shapes: Path, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    done = zoo_inside("finetune", "--backbone", "resnet18", "--weights", "w.pth", "--data", shapes)
    refused(done, 1, "not for torchvision/resnet18", "missing from the file", "unknown to the model")
    done = zoo_inside("finetune", "--backbone", "squeezenet1_0", "--weights", "w.pth", "--data", shapes)
    refused(done, 1, "of another shape", "features.0.weight: file [64, 3, 3, 3], model [96, 3, 7, 7]")
    assert not (tmp_path / "runs").exists()


def test_a_pickle_that_needs_code_is_not_loaded(zoo_inside: Zoo, shapes: Path, tmp_path: Path) -> None:
    import torchvision

    torch.save(torchvision.models.squeezenet1_1(), tmp_path / "whole.pth")
    done = zoo_inside("finetune", "--backbone", "squeezenet1_1", "--weights", "whole.pth", "--data", shapes)
    refused(done, 1, "a pickle that would run code", "SqueezeNet", "state_dict()")


@pytest.mark.long
def test_no_network_with_real_data_is_an_error_with_the_ways_out(
    zoo_command: Zoo, shapes: Path, tmp_path: Path
) -> None:
    for backbone in ("torchvision/squeezenet1_1", "timm/test_resnet"):
        began = time.monotonic()
        done = zoo_command(
            "finetune",
            "--backbone",
            backbone,
            "--data",
            shapes,
            TORCH_HOME=str(tmp_path / "torch"),
            HF_HOME=str(tmp_path / "hf"),
            HF_ENDPOINT="http://127.0.0.1:9",
            https_proxy="http://127.0.0.1:9",
        )
        refused(done, 1, "--weights FILE", "--weights random")
        assert time.monotonic() - began < 30  # 15 s for the network; the rest is imports on a busy machine
        assert not (tmp_path / "runs").exists()


def test_out_that_exists_is_refused_and_left_alone(zoo_inside: Zoo, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    refused(zoo_inside("finetune", *TINY, "--data", shapes, "--out", "run"), 2, "exists already", "never overwritten")
    assert list((tmp_path / "run").iterdir()) == []


def test_out_where_nothing_can_be_written(zoo_inside: Zoo, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = zoo_inside("finetune", *TINY, "--data", shapes, "--out", "file/run")
    refused(done, 1, "cannot be written")
    done = zoo_inside("finetune", *TINY, "--data", shapes, "--out", "/proc/run")
    refused(done, 1, "/proc/run cannot be written")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(zoo_inside: Zoo, shapes: Path) -> None:
    done = zoo_inside("finetune", *TINY, "--data", shapes, "--device", "cuda")
    refused(done, 1, "no cuda device", "Available: cpu")


def test_a_reader_that_has_enough_is_no_error(zoo_command: Zoo, cache: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m zoo list backbones | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        env={**os.environ, "ZOO_CACHE_DIR": str(cache)},
        check=False,
    )
    assert done.returncode == 0 and "Broken" not in done.stderr and len(done.stdout.splitlines()) == 1


def test_doctor_tells_what_a_bug_report_needs(zoo_inside: Zoo) -> None:
    told = json.loads(zoo_inside("doctor", "--json").stdout)
    assert {"zoo-registry", "torch", "torchvision", "timm", "python", "system"} <= told["versions"].keys()
    assert told["devices"]["torch threads"] >= 1 and "cpu" in told["devices"]["available"]
    assert any("ZOO_CACHE_DIR" in name for name in told["caches"])
    assert all(state == "loaded" for label, state in told["plugins"].items() if "zoo-registry" in label)


def test_version(zoo_command: Zoo) -> None:
    assert zoo_command("--version").stdout == f"zoo {zoo.__version__}\n"  # type: ignore[attr-defined]


@pytest.mark.long
def test_a_full_disk_says_so_and_leaves_no_half_artefact(zoo_command: Zoo, shapes: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        done = zoo_command("finetune", *TINY, "--data", shapes, "--recipe", "head_only", "--out", disk / "run")
        refused(done, 1, "No space left", "another place")
        assert not (disk / "run" / "model").exists() and not (disk / "run" / "result.json").exists()
        assert not [each for each in (disk / "run").iterdir() if each.name.startswith(".")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "notes.txt", "folder/"])
def test_a_plan_refuses_a_weights_file_that_cannot_be_one(zoo_inside: Zoo, tmp_path: Path, weights: str) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "folder").mkdir()
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", weights, "--classes", "2")
    assert done.returncode == 1 and weights.rstrip("/") in done.stderr


def test_a_csv_that_cannot_be_written_is_found_before_the_work(zoo_inside: Zoo, run_folder: Path, shapes: Path) -> None:
    done = zoo_inside("predict", run_folder, shapes / "val" / "red" / "0.jpg", "--csv", "nowhere/p.csv")
    assert done.returncode == 1 and done.stdout == "" and "nowhere/p.csv cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("command", "option", "place"),
    [
        ("evaluate RUN --data DATA", "--csv", "missing/x.csv"),
        ("evaluate RUN --data DATA", "--csv", "folder"),
        ("predict RUN DATA", "--csv", "folder"),
        ("predict RUN DATA --on local", "--out", "file/parts"),
        ("embed NAME DATA --on local", "--out", "file/parts"),
        ("embed NAME DATA", "--out", "missing/x.npy"),
        ("similar NAME IMAGE DATA", "--html", "missing/x.html"),
        ("shortlist --data DATA", "--html", "missing/x.html"),
        ("data curve DATA --backbone NAME", "--html", "missing/x.html"),
        ("data labels DATA --backbone NAME", "--out", "file/labels"),
        ("data labels DATA --apply TABLE", "--out", "file/x.csv"),
        ("compare RUN OTHER", "--html", "missing/x.html"),
        ("export RUN --to onnx", "--out", "missing/x.onnx"),
        ("soup RUN OTHER", "--out", "file/soup"),
        ("pull OWNER/NAME", "--out", "missing/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    zoo_inside: Zoo, tmp_path: Path, command: str, option: str, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    # Nothing that the command needs is there, and it is the place that it tells: so that is looked at first.
    done = zoo_inside(*command.split(), option, place)
    told = "a file cannot take its place" if place == "folder" else f"{place} cannot be written"
    refused(done, 2 if place == "folder" else 1, told, "\nNext: ")
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "cache") == ["file", "folder"]


def test_a_classifier_whose_proof_failed_says_so_in_use(
    zoo_inside: Zoo, run_folder: Path, shapes: Path, tmp_path: Path
) -> None:
    from zoo.artefact.write import mark_failed

    picture = shapes / "val" / "red" / "0.jpg"
    assert "proof" not in zoo_inside("predict", run_folder, picture).stderr
    copy = Path(shutil.copytree(run_folder, tmp_path / "copy"))
    mark_failed(copy / "model")
    for command in (("predict", copy, picture), ("evaluate", copy, "--data", shapes)):
        done = zoo_inside(*command)
        assert done.returncode == 0 and "proof of this classifier's run failed" in done.stderr


def test_names_in_help_texts_are_those_of_the_code() -> None:
    """Help lists names that it cannot import: it would take torch or the registry."""
    from typer.main import get_command
    from zoo.cli.app import app
    from zoo.cli.options import LIST_KINDS
    from zoo.errors import OptionError
    from zoo.exporting.formats import FORMATS
    from zoo.scaffold.new_plugin import KINDS

    def help_of(*words: str) -> str:
        command: Any = get_command(app)
        for word in words[:-1]:
            command = command.commands[word]
        (text,) = (parameter.help for parameter in command.params if parameter.name == words[-1])
        return str(text)

    assert [name for name in FORMATS if name not in help_of("export", "to")] == []
    assert [name for name in FORMATS if f"| `{name}` |" not in (ROOT / "docs" / "artefact.md").read_text("utf-8")] == []
    assert [name for name in LIST_KINDS if name not in help_of("list", "kind")] == []
    assert [name for name in KINDS if name not in help_of("plugins", "new", "kind")] == []
    with pytest.raises(OptionError) as refused_order:
        zoo.list_backbones(sort="nothing")
    for name in help_of("list", "sort").rstrip(".").replace(" or ", ", ").split(", "):
        assert name in str(refused_order.value)
