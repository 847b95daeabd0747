"""A training loop of one's own, as the documentation shows it: it runs, and it learns."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from zoo.model.model import ZooModel
from zoo.specs.preprocessing import Preprocessing

PAGE = Path(__file__).parents[2] / "docs" / "preprocessing.md"


def test_the_documented_training_loop_runs_and_learns(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (loop,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert sum(bool(line.strip()) for line in loop.split("\n\n", 1)[1].splitlines()) == 10
    # A tiny model, and as many classes as there are.
    loop = loop.replace('"resnet18", classes=5', '"timm/test_resnet", weights="random", classes=2')
    loop = loop.replace("lr=1e-3", "lr=0.1").replace("range(3)", "range(12)")
    loop = loop.replace("        optimizer.step()", "        optimizer.step()\n        losses.append(loss.item())")
    shutil.copytree(few / "train", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    known: dict[str, object] = {"losses": []}
    exec(loop, known)
    losses, model = known["losses"], known["model"]
    assert isinstance(losses, list) and losses[-1] < 0.7 * losses[0]
    assert isinstance(model, ZooModel) and isinstance(model.preprocessing, Preprocessing)
    assert model.head.training and not model.backbone.training
    assert model.preprocessing(next(Path("photos").rglob("*.*"))).shape == (3, 160, 160)
