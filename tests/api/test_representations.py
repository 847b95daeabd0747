"""What a prompt shows of what the library returns: the facts in a line, and not all that is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import zoo

TINY = {"weights": "random", "recipe": "head_only", "epochs": 1, "report": False}


@pytest.fixture(scope="module")
def result(few: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return zoo.finetune("timm/test_resnet", data=few, out=tmp_path_factory.mktemp("runs") / "run", **TINY)


def test_a_prompt_shows_the_facts_in_a_line(result: zoo.Result, few: Path) -> None:
    shown = {
        "Result": repr(result),
        "Plan": repr(zoo.plan("timm/test_resnet", data=few, weights="random")),
        "Evaluation": repr(zoo.evaluate(result.path, data=few)),
        "Verification": repr(zoo.verify(result.path)),
        "Embedding": repr(zoo.embed("timm/test_resnet", few, weights="random")),
    }
    for name, text in shown.items():
        assert text.startswith(f"{name}(") and "\n" not in text and len(text) < 250, text
    assert f"accuracy {result.accuracy:.3f}, proof passed" in shown["Result"]
    assert "timm/test_resnet" in shown["Plan"] and "8 images of 2 classes" in shown["Plan"]
    assert re.search(r"4 images of val: accuracy \d\.\d{3}", shown["Evaluation"])
    assert re.search(r"\d+ passed\)$", shown["Verification"]) and "96 float32" in shown["Embedding"]


def test_similar_images_are_a_line_each(few: Path) -> None:
    image = next((few / "train").rglob("*.*"))
    lines = repr(zoo.similar("timm/test_resnet", image, few, weights="random", top=3)).splitlines()
    assert len(lines) == 4 and lines[1].strip().startswith("1.000")
