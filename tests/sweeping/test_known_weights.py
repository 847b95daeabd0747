"""A sweep over files of weights says which of them were trained on the images that choose and judge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.numeric import draw_few


@pytest.mark.long
def test_weights_that_a_run_trained_on_the_images_that_choose_are_named(tmp_path: Path) -> None:
    name, data = "timm/test_resnet", draw_few(tmp_path / "data", train=10, val=3)
    usual: dict[str, Any] = {"weights": "random", "epochs": 1, "tune": False, "report": False}
    run = zoo.finetune(name, data=data, recipe="full", out=tmp_path / "run", **usual)
    file = run.artefact / "model.safetensors"
    # Without a val, a part of train is drawn to choose by; the images of test judge the winner.
    shutil.copytree(data / "train", tmp_path / "again" / "train")
    shutil.copytree(data / "val", tmp_path / "again" / "test")
    events: list[Any] = []
    swept = zoo.sweep(
        data=tmp_path / "again",
        backbone=f"{name}={file}",
        recipe="head_only",
        over={"head": ["linear", "cosine"]},
        out=tmp_path / "sweep",
        on_event=events.append,
    )
    told = [event.text for event in events if getattr(event, "loud", False) and "trained before" in event.text]
    assert len(told) == 1 and f"Weights {file}: The backbone was trained before, in the run {run.folder}" in told[0]
    division = swept.to_dict()["division"]
    assert f"{file} was trained on 4 of these 4 images before" in division["chosen_by"]
    # The run did not see the images of test.
    assert "trained" not in division["judged_by"]
