"""`zoo verify` repeats a run's first steps and sees what has changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.numeric import draw_few
from zoo.errors import RunError

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "epochs": 2, "tune": False}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    data = draw_few(folder / "data")
    return zoo.finetune(**USUAL, data=data, recipe="staged", batch_size=2, out=folder / "run").path


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def verdicts(run: Path) -> dict[str, str]:
    return {check.name: check.verdict for check in zoo.verify(run).checks}


def test_a_run_verifies_and_nothing_is_written(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))}
    found = zoo.verify(run)
    assert found.passed and {check.verdict for check in found.checks} == {"passed"}
    assert "the first 3 steps give the same losses and weights, bit for bit" in [each.summary for each in found.checks]
    assert {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))} == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"head": "prototype", "epochs": None},
        {"recipe": "head_only", "set": ["head.lr=auto"]},
        {"recipe": "full", "epochs": 1, "set": ["all.augment=rand", "all.mixup=0.2"]},
    ],
)
def test_other_kinds_of_first_stages_verify(arguments: dict[str, Any], few: Path, tmp_path: Path) -> None:
    run = zoo.finetune(**{**USUAL, **arguments}, data=few, out=tmp_path / "run").path
    assert verdicts(run) == {"plan": "passed", "first_steps": "passed", "saved_file": "passed"}


def test_a_tampered_plan_gives_other_steps(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    (run / "plan.json").write_text(json.dumps({**plan, "seed": plan["seed"] + 1}), "utf-8")
    assert verdicts(run)["first_steps"] == "failed"


def test_other_versions_are_a_warning_and_then_close_losses_too(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    plan["versions"]["torch"] = "2.0.0"
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")
    proof = json.loads((run / "proof.json").read_text("utf-8"))
    for check in proof["checks"]:
        if check["name"] == "seeds":
            evidence = check["evidence"]
            evidence["first_losses"] = [(float.fromhex(each) * (1 + 1e-5)).hex() for each in evidence["first_losses"]]
    (run / "proof.json").write_text(json.dumps(proof), "utf-8")
    assert verdicts(run) == {"plan": "warning", "first_steps": "warning", "saved_file": "passed"}


def test_the_command_says_what_failed_and_exits_with_3(run: Path, zoo_inside: Zoo) -> None:
    (run / "model" / "model.safetensors").write_bytes(b"something else")
    done = zoo_inside("verify", run)
    assert done.returncode == 3 and "model.safetensors is damaged or was replaced" in done.stdout
    told = zoo_inside("verify", run, "--json")
    assert told.returncode == 3 and json.loads(told.stdout)["verdict"] == "failed"


def test_a_run_without_a_result_is_to_be_resumed_first(run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(RunError, match=r"is not finished: it has no result.json\.\s+Next: zoo finetune --resume"):
        zoo.verify(run)


def test_changed_images_fail_the_plan(tmp_path: Path) -> None:
    data = draw_few(tmp_path / "data")
    run = zoo.finetune(**USUAL, data=data, recipe="head_only", out=tmp_path / "run").path
    shutil.copy(data / "train" / "a" / "0.jpg", data / "train" / "a" / "1.jpg")
    found = zoo.verify(run)
    assert not found.passed
    assert next(each for each in found.checks if each.name == "plan").summary.startswith("data.digest: ")
