from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from tests import ranks
from tests.training.test_processes import carry_out
from zoo.distributed.group import ProcessGroup
from zoo.errors import Refused
from zoo.events import Note, silent
from zoo.registry.registry import default_registry
from zoo.training.divisible import refuse_parts
from zoo.training.prepare import prepare
from zoo.training.stored_plan import read_plan


@pytest.fixture(scope="module")
def divided(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all runs, each with a part of the backbone."""
    out = tmp_path_factory.mktemp("divided")
    # torch warns where a layer's output may be changed in place before its backward pass, which would be wrong then.
    assert "Warning" not in carry_out("parts,parts_stopped,parts_faults", shapes, out)
    return out


@pytest.fixture(scope="module")
def alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the same, with the whole backbone."""
    out = tmp_path_factory.mktemp("alone")
    # A process of its own: it counts all tensors that it has, and those of other tests are none of its business.
    words = [sys.executable, "-m", "tests.ranks", "parts", str(shapes), str(out)]
    subprocess.run(words, check=True, cwd=Path(__file__).parents[2])
    return out


def checks_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [check for check in json.loads((run / "proof.json").read_text())["checks"] if check["name"] == name]


@pytest.mark.long
@pytest.mark.parametrize("name", ranks.PARTS)
def test_parts_have_the_gradients_of_a_whole_backbone(name: str, divided: Path, alone: Path) -> None:
    one = load_file(alone / f"{name}-0.safetensors")
    first, second = (load_file(divided / f"{name}-{rank}.safetensors") for rank in range(2))
    assert one.keys() == first.keys() == second.keys()
    for key, gradient in one.items():
        assert torch.equal(first[key], second[key])
        assert float((first[key] - gradient).norm()) <= 1e-5 * float(gradient.norm())
    saved, of_one = (load_file(each / name / "model" / "model.safetensors") for each in (divided, alone))
    assert saved.keys() == of_one.keys()
    assert all(torch.allclose(saved[key], of_one[key], atol=1e-4) for key in saved)
    (alike, *_) = checks_of(divided / name, "processes_alike")
    assert alike["verdict"] == "passed"
    groups = checks_of(divided / name, "optimizer_groups")
    assert groups == checks_of(alone / name, "optimizer_groups")


@pytest.mark.long
def test_each_of_two_processes_holds_about_half(divided: Path, alone: Path) -> None:
    for name in ranks.PARTS:
        for check in checks_of(divided / name, "backbone_parts"):
            assert check["verdict"] == "passed"
            held = check["evidence"]["bytes_held"]
            assert len(held) == 2 and max(held) < 0.55 * check["evidence"]["bytes"]
    assert checks_of(alone / "parts", "backbone_parts") == []
    # What the proof counts is all that there is: between steps, of all tensors that a process has, half of those are
    # missing and half of the gradients.
    counted = checks_of(divided / "parts", "backbone_parts")[0]["evidence"]["bytes"]
    whole, *parts = (
        json.loads((folder / f"parts-{rank}.json").read_text())["held"]["parts"]
        for folder, rank in ((alone, 0), (divided, 0), (divided, 1))
    )
    assert whole - max(parts) > 0.6 * counted, (whole, parts, counted)


@pytest.mark.long
def test_the_plan_says_it_and_one_process_verifies_the_run(divided: Path, alone: Path) -> None:
    plans = [json.loads((each / "staged" / "plan.json").read_text()) for each in (divided, alone)]
    assert plans[0]["shard_backbone"] is True and "shard_backbone" not in plans[1]
    for name in ("parts", "convolutions"):
        verification = zoo.verify(divided / name)
        assert verification.passed, verification


@pytest.mark.long
def test_what_cannot_be_divided_is_refused_and_what_is_tampered_with_is_found(divided: Path) -> None:
    said, other = (json.loads((divided / f"parts_faults-{rank}.json").read_text()) for rank in range(2))
    assert said == other
    for name, next_step in (
        ("ema", "--set all.ema=0"),
        ("l2_sp", "--set all.l2_sp=0"),
        ("head_only", "--recipe full"),
        ("folds", "leave --folds out"),
        ("adapters", "leave --shard-backbone out"),
    ):
        assert said[name][0] == "Refused" and next_step in said[name][1]
        assert not (divided / name).exists()
    assert said["ema_mended"] == ["passed", ""]
    assert said["not_finite"][0] == "CheckFailed" and "is not finite" in said["not_finite"][1]
    (parts,) = checks_of(divided / "shifted", "backbone_parts")
    assert parts["verdict"] == "failed" and "in process 1: backbone." in parts["summary"]
    (frozen,) = checks_of(divided / "frozen_in_parts", "frozen_unchanged")
    assert frozen["verdict"] == "failed" and frozen["summary"].startswith("in process 1: backbone.")


@pytest.mark.long
def test_a_run_in_parts_goes_on_with_as_many_processes_or_with_one(divided: Path) -> None:
    assert ranks.digest(divided / "again") == ranks.digest(divided / "parts")
    told: list[Note] = []
    zoo.resume(divided / "stopped", report=False, on_event=lambda event: told.extend([event] * isinstance(event, Note)))
    assert any("One process holds the whole backbone" in note.text for note in told)
    (check,) = checks_of(divided / "stopped", "processes")
    assert check["verdict"] == "warning" and check["evidence"]["processes"] == [2, 1]
    before, now = (load_file(divided / run / "model" / "model.safetensors") for run in ("parts", "stopped"))
    assert all(torch.allclose(before[key], now[key], atol=1e-4) for key in before)


@pytest.mark.long
def test_it_does_not_go_on_with_more_processes_than_it_has_parts(divided: Path) -> None:
    class Three(ProcessGroup):
        count = 3

    plan = read_plan(divided / "parts")
    with prepare(plan, default_registry(), silent) as prepared:
        assert prepared.model is not None
        with pytest.raises(Refused, match="resume it with 2 processes, or with one"):
            refuse_parts(plan, prepared.model, Three())


def test_one_process_alone_is_refused_before_anything_runs(shapes: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {**ranks.SHARED, "data": shapes, "shard_backbone": True}
    with pytest.raises(Refused, match=r"this is one alone(?s:.*)torchrun --nproc-per-node 2"):
        zoo.finetune(**asked, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(Refused, match="this is one alone"):
        zoo.plan(zoo.Request(backbone="timm/test_vit", weights="random", data=shapes, shard_backbone=True))
