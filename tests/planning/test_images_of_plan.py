"""The images of a run are found again as the run divided them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo.data.sample import sample_image
from zoo.events import silent
from zoo.planning.images_of_plan import images_of_plan
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan


@pytest.mark.long
@pytest.mark.parametrize("how", [{}, {"folds": 2}])
def test_a_run_finds_its_images_with_and_without_folds(how: dict[str, Any], tmp_path: Path) -> None:
    """`train/` and `test/`: without folds a part of `train/` is set aside, with folds none is."""
    for split, count in (("train", 6), ("test", 2)):
        for index, name in enumerate(("a", "b")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).save(tmp_path / "data" / split / name / f"{number}.jpg")
    result = zoo.finetune(
        "timm/test_resnet",
        data=tmp_path / "data",
        weights="random",
        recipe="head_only",
        out=tmp_path / "run",
        verbose=False,
        **how,
    )
    plan = Plan.model_validate_json((result.path / "plan.json").read_text())
    found = images_of_plan(plan, result.path, default_registry(), silent, data=None, call="")
    assert len(found.splits["train"]) == (12 if how else 10) and len(found.splits["test"]) == 4
