"""Packages that are updated between two halves of a job: another model is refused, and all else is told."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.distributions import head, install, register
from zoo.errors import Refused
from zoo.registry.registry import default_registry

CALLS: dict[str, Callable[..., Any]] = {"predict": zoo.predict_files, "embed": zoo.embed_files}
Update = Callable[[str, str], None]


@pytest.fixture
def update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Update]:
    """Install another version of a distribution, as far as anyone asks: its metadata come first on the path."""
    folder = tmp_path / "site"
    folder.mkdir()

    def to(distribution: str, version: str) -> None:
        points = {
            each.name: each.value
            for each in importlib.metadata.distribution(distribution).entry_points.select(group="zoo")
        }
        register(folder, distribution, points, version=version)
        monkeypatch.syspath_prepend(str(folder))
        default_registry.cache_clear()

    yield to
    monkeypatch.undo()
    default_registry.cache_clear()


@pytest.fixture(params=CALLS)
def half(request: pytest.FixtureRequest, artefact: Path, few: Path, tmp_path: Path) -> Callable[..., Any]:
    """Go on with a job of which one part of three is missing."""
    out = tmp_path / "out"
    call = CALLS[request.param]
    asked: dict[str, Any] = {"out": out, "part_size": 4, "verbose": False}
    call(artefact, few, **asked)
    next(out.glob("part-000001-*")).unlink()
    next(path for path in out.glob("_*") if path.name != "_job.json").unlink()
    return lambda **more: call(artefact, few, **asked, **more)


def test_another_version_of_the_package_with_the_backbone_is_another_job(
    half: Callable[..., Any], update: Update, tmp_path: Path
) -> None:
    before = importlib.metadata.version("timm")
    update("timm", "0.0.9")
    with pytest.raises(Refused) as refused:
        half()
    assert f"provider timm {before} there, timm 0.0.9 asked" in str(refused.value)
    assert f"Next: --out with a new folder, or install timm {before} again" in str(refused.value)
    assert len(list((tmp_path / "out").glob("part-*"))) == 2


def test_a_backbone_of_another_package_is_no_update(few: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "out", "weights": "random", "verbose": False}
    zoo.embed_files("timm/test_resnet", few, **asked)
    with pytest.raises(Refused, match=r"provider timm .* there, torchvision .* asked") as refused:
        zoo.embed_files("torchvision/squeezenet1_1", few, **asked)
    assert "install" not in str(refused.value)


@pytest.mark.parametrize("distribution", ["zoo-registry", "torch"])
def test_an_update_of_another_package_goes_on_and_is_told_before_and_after(
    distribution: str, half: Callable[..., Any], update: Update, tmp_path: Path
) -> None:
    before = importlib.metadata.version(distribution)
    update(distribution, "9.9")
    told: list[zoo.Event] = []
    done = half(on_event=told.append)
    assert done.computed == 1
    updated = f"{distribution} {before} / 9.9"
    loud = [str(each) for each in told if isinstance(each, zoo.Note) and each.loud and updated in str(each)]
    assert len(loud) == 2 and "--out with a new folder" in loud[0] and done.manifest in loud[1]
    versions = json.loads((tmp_path / "out" / done.manifest).read_text())["versions"]
    assert sorted(f"{distribution} 9.9" in each for each in versions) == [False, True]


def test_a_classifier_of_before_an_update_is_checked_with_its_golden_logits_as_elsewhere(
    artefact: Path, few: Path, update: Update, tmp_path: Path
) -> None:
    before = importlib.metadata.version("zoo-registry")
    update("zoo-registry", "9.9")
    told: dict[str, list[str]] = {"files": [], "load": []}
    zoo.predict_files(
        artefact, few, out=tmp_path / "out", verbose=False, on_event=lambda event: told["files"].append(str(event))
    )
    zoo.load(artefact, verbose=False, on_event=lambda event: told["load"].append(str(event)))
    (sentence,) = [each for each in told["load"] if f"was made with zoo-registry {before} (here" in each]
    assert "golden logits" in sentence
    assert sentence.partition("was made")[2] in {each.partition("was made")[2] for each in told["files"]}


@pytest.mark.long
def test_another_version_of_the_plugin_with_the_head_is_another_job(
    few: Path, tmp_path: Path, zoo_command: Zoo
) -> None:
    (tmp_path / "site").mkdir()
    install(tmp_path / "site", "zoo-mine", head("mine"), version="1.0")
    words = ("--backbone", "timm/test_resnet", "--weights", "random", "--head", "mine", "--recipe", "head_only")
    path = {"PYTHONPATH": str(tmp_path / "site")}
    made = zoo_command("finetune", *words, "--data", few, "--epochs", "1", "--out", "run", **path)
    assert made.returncode == 0, made.stderr
    predict = ("predict", "run", few, "--on", "local", "--out", "out")
    assert zoo_command(*predict, **path).returncode == 0
    old = next((tmp_path / "site").glob("*.dist-info"))
    register(tmp_path / "site", "zoo-mine", {"zoo_mine": "zoo_mine"}, version="2.0")
    for each in old.iterdir():
        each.unlink()
    old.rmdir()
    refused = zoo_command(*predict, **path)
    assert refused.returncode == 2 and "zoo-mine 1.0 there" in refused.stderr and "zoo-mine 2.0 asked" in refused.stderr
