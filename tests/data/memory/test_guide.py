"""The lines of the guide on data in memory run as they are printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zoo

GUIDE = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
SECTION = GUIDE.split("### Data in memory")[1].split("\n### ")[0]
DATA, PREDICT = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def test_the_guides_objects_are_read(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(few / "train", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    planned: list[dict[str, list[int]]] = []

    def plan(backbone: str, **given: Any) -> None:
        assert backbone == "resnet18"
        planned.append(zoo.plan("timm/test_resnet", weights="random", **given).data.images)

    # `zoo.finetune` begins with the plan, which opens every image.
    names = {"zoo": SimpleNamespace(**{**{each: getattr(zoo, each) for each in zoo.__all__}, "finetune": plan})}
    exec(DATA.replace("import pandas, zoo", "import pandas"), names)

    assert planned == [{"train": [3, 3], "val": [1, 1]}] * 2 + [{"train": [2, 2], "val": [2, 2]}] * 2


def test_the_guides_pictures_are_predicted(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(few / "val" / "a" / "0.jpg", tmp_path / "photos" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    zoo.finetune("timm/test_resnet", weights="random", recipe="head_only", data=few, out="runs/photos", report=False)
    found: dict[str, Any] = {}

    exec(PREDICT.replace("classifier.predict(", "found = classifier.predict("), found)

    assert len(found["found"]) == 5 and len({each.top for each in found["found"]}) == 1
