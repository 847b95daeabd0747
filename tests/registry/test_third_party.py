"""A package of somebody else: built and installed by pip, found by its entry point, trained, saved, and missed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch.nn import functional
from zoo.cli.main import main
from zoo.errors import ArtefactError, OptionError
from zoo.testing import check_head, check_recipe

EXAMPLE = Path(__file__).parents[1] / "examples" / "zoo_example"
HEAD_OF = "zoo-example 0.3.1"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example; on the path of those commands alone that ask for it."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "zoo_example")
    target = tmp_path_factory.mktemp("installed")
    alone = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *alone, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_what_a_package_brings_is_listed_with_its_distribution(installed: Path, zoo_command: Zoo) -> None:
    listed = zoo_command("list", "heads", PYTHONPATH=str(installed))
    assert listed.returncode == 0 and listed.stderr == ""
    (line,) = [line for line in listed.stdout.splitlines() if "scaled_linear" in line]
    assert line.startswith("example/scaled_linear  One linear layer") and line.endswith("[zoo-example]")
    assert "heads/linear" in listed.stdout
    recipes = json.loads(zoo_command("list", "recipes", "--json", PYTHONPATH=str(installed)).stdout)
    assert ("example/gentle", "zoo-example") in [(each["name"], each["distribution"]) for each in recipes]
    plugins = json.loads(zoo_command("list", "plugins", "zoo-example", "--json", PYTHONPATH=str(installed)).stdout)
    assert [(each["name"], each["version"], each["state"]) for each in plugins] == [("example", "0.3.1", "loaded")]
    assert plugins[0]["brings"] == {"heads": ["scaled_linear"], "recipes": ["gentle"], "sources": ["flat"]}


def test_its_head_is_shown_with_option_and_loss(installed: Path, zoo_command: Zoo) -> None:
    shown = zoo_command("show", "scaled_linear", PYTHONPATH=str(installed)).stdout
    for said in (f"from        {HEAD_OF}", "trained by  gradients; loss its own", "option      scale: float = 2.0"):
        assert said in shown.splitlines()
    assert "--head scaled_linear --head-option scale=2.0" in shown


@pytest.mark.long
def test_its_head_trains_and_the_artefact_needs_the_package(
    installed: Path,
    zoo_command: Zoo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choice = ["--backbone", "timm/test_resnet", "--weights", "random", "--head", "scaled_linear", "--classes", "2"]
    trained = zoo_command(
        "finetune", *choice, "--head-option", "scale=3", "--recipe", "head_only", "--epochs", "2", "--out", "run",
        PYTHONPATH=str(installed),
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    head = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["head"]
    assert head == {
        "name": "example/scaled_linear", "options": {"scale": 3.0}, "distribution": "zoo-example", "version": "0.3.1",
        "installed_from": "a folder",
    }  # fmt: skip
    image = next(iter(Path(json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["source"]).rglob("*.jpg")))

    predicted = zoo_command("predict", "run", image, "--json", PYTHONPATH=str(installed))
    assert predicted.returncode == 0, predicted.stderr
    (prediction,) = json.loads(predicted.stdout)
    assert sum(each["probability"] for each in prediction["top"]) == pytest.approx(1)

    monkeypatch.setattr(sys, "argv", ["zoo", "predict", str(tmp_path / "run"), str(image)])
    with pytest.raises(SystemExit) as exited:
        main()  # in this process, which knows nothing of the package
    printed = capsys.readouterr()
    assert exited.value.code == 1 and printed.out == ""
    assert "'example/scaled_linear' of zoo-example 0.3.1, which is not installed" in printed.err
    # pip took it from a folder: an index may have a stranger's package of that name, or none.
    source = json.loads((tmp_path / "run" / "plan.json").read_text())["head"]["installed_from"]
    assert f"Next: install it again from where it came from: {source}" in printed.err
    assert "pip install" not in printed.err and (Path(source) / "pyproject.toml").is_file()

    # Elsewhere, nothing is known of the folders of the machine that trained.
    alone = shutil.copytree(tmp_path / "run" / "model", tmp_path / "shared")
    assert not [file for file in alone.iterdir() if source.encode() in file.read_bytes()]
    with pytest.raises(
        ArtefactError, match=r"Next: ask whoever made this classifier for zoo-example 0\.3\.1: .*a folder"
    ):
        zoo.load(alone)


def test_its_head_and_its_recipe_pass_the_kit(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    registry = zoo.Registry(report=pytest.fail)
    assert check_head("example/scaled_linear", registry=registry).passed
    assert check_recipe("gentle", registry=registry).passed


def test_its_own_loss_is_what_is_trained_on(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    registry = zoo.Registry(report=pytest.fail)
    model = zoo.create_model(
        "torchvision/squeezenet1_1",
        head="scaled_linear",
        classes=3,
        weights="random",
        head_options={"scale": 4},
        registry=registry,
    )
    features, targets = torch.randn(6, model.shape.pooled), torch.arange(6) % 3
    logits = 4 * functional.linear(features, model.head.weight, model.head.bias)
    loss = model.loss(features, targets)
    assert torch.allclose(loss, functional.cross_entropy(logits, targets, label_smoothing=0.1))
    assert not torch.allclose(loss, functional.cross_entropy(logits, targets))
    with pytest.raises(OptionError, match=r"scale must be above 0, got 0\.0"):
        zoo.create_model(
            "squeezenet1_1", head="scaled_linear", classes=3, head_options={"scale": "0"}, registry=registry
        )
