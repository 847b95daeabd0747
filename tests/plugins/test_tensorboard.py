"""What the bundled observer writes, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.conftest import Zoo

TINY = ("--backbone", "timm/test_resnet", "--weights", "random", "--recipe", "lp_ft", "--epochs", "2")


@pytest.mark.long
def test_curves_plan_and_confusion_matrix_are_in_the_event_file(zoo_command: Zoo, shapes: Path, tmp_path: Path) -> None:
    done = zoo_command("finetune", *TINY, "--data", shapes, "--out", "run", "--observer", "tensorboard", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["proof"] == "passed" and "is dropped" not in done.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    for tag, values in {
        "train/loss": [line["train_loss"] for line in history],
        "val/accuracy": [line["val"]["accuracy"] for line in history],
        "val/loss": [line["val"]["loss"] for line in history],
    }.items():
        curve = events.Scalars(tag)
        assert [point.step for point in curve] == [*range(1, len(history) + 1)]
        assert [point.value for point in curve] == pytest.approx(values)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert [point.step for point in events.Scalars("batch/loss")] == [
        *range(1, sum(stage["steps"] for stage in plan["stages"]) + 1)
    ]
    assert {f"rate/{group}" for stage in plan["stages"] for group in stage["rates"]} <= set(events.Tags()["scalars"])
    (text,) = events.Tensors("plan/text_summary")
    assert json.loads(text.tensor_proto.string_val[0]) == plan
    (picture,) = events.Images("val/confusion")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert Image.open(io.BytesIO(picture.encoded_image_string)).size == (picture.width, picture.height)
    assert picture.width == picture.height > 36 * len(result["classes"])


@pytest.mark.long
def test_without_the_package_the_run_is_refused_with_the_way_to_get_it(few: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "import zoo\n"
        "try:\n"
        f"    zoo.finetune(backbone='timm/test_resnet', data={str(few)!r}, out='run', observers=['tensorboard'])\n"
        "except zoo.ZooError as error:\n"
        "    print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("2 Observer 'tensorboard' of zoo-registry")
    assert "pip install 'zoo-registry[tensorboard]'" in done.stdout and not (tmp_path / "run").exists()


def test_the_plugin_is_light() -> None:
    code = (
        "import sys, zoo_tensorboard; print([name for name in ('torch', 'tensorboard', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
