"""What the bundled observer for MLflow writes, read back with MLflow's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zoo
from PIL import Image
from tests.conftest import Zoo

# SQLAlchemy 2.1 calls deprecated what MLflow 3.17 uses.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

TINY = ("--backbone", "timm/test_resnet", "--weights", "random", "--recipe", "lp_ft", "--epochs", "2")


@pytest.fixture(autouse=True)
def undirected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def _client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def _runs(folder: Path) -> list[Any]:
    client = _client(folder)
    experiment = client.get_experiment_by_name("zoo")
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.long
def test_choices_curves_scores_and_the_confusion_matrix_are_tracked(
    zoo_command: Zoo, shapes: Path, tmp_path: Path
) -> None:
    done = zoo_command("finetune", *TINY, "--data", shapes, "--out", "run", "--observer", "mlflow", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["proof"] == "passed" and "is dropped" not in done.stderr
    (run,) = _runs(tmp_path)
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["backbone.name"].startswith("timm/test_resnet")
    assert run.data.params["recipe"] == "recipes/lp_ft" and run.data.params["seed"] == "0"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))
    result = json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))
    for stage in plan["stages"]:
        assert run.data.params[f"stages.{stage['settings']['name']}.epochs"] == str(stage["settings"]["epochs"])
    assert run.data.metrics["result/accuracy"] == pytest.approx(result["metrics"]["val"]["accuracy"])
    assert Path(run.data.tags["zoo.artefact"]) == tmp_path / "run" / "model"

    client = _client(tmp_path)
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text("utf-8").splitlines()]
    curve = client.get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in curve] == [*range(1, len(history) + 1)]
    assert [point.value for point in curve] == pytest.approx([line["val"]["loss"] for line in history])
    steps = sum(stage["steps"] for stage in plan["stages"])
    batches = client.get_metric_history(run.info.run_id, "batch/loss")
    assert [point.step for point in batches] == [*range(1, steps + 1)]

    files = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((files / "plan.json").read_text("utf-8"))["seed"] == 0
    with Image.open(files / "confusion.png") as picture:
        assert picture.width == picture.height > 36 * len(result["classes"])
    assert files.is_relative_to(tmp_path / "mlflow-files")


@pytest.mark.long
def test_a_run_that_goes_on_is_one_run_and_the_next_is_another(few: Path, tmp_path: Path) -> None:
    tiny: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": few, "recipe": "lp_ft"}
    stopped = False

    def stop(event: zoo.Event) -> None:
        nonlocal stopped
        if isinstance(event, zoo.StageFinished) and not stopped:
            stopped = True
            raise KeyboardInterrupt

    said: dict[str, Any] = {"observers": ["mlflow"], "report": False, "tune": False}
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**tiny, epochs=1, out=tmp_path / "run", on_event=stop, **said)
    (begun,) = _runs(tmp_path)
    assert begun.info.status == "KILLED"
    del said["tune"]
    zoo.resume(tmp_path / "run", **said)
    (whole,) = _runs(tmp_path)
    assert whole.info.run_id == begun.info.run_id and whole.info.status == "FINISHED"
    epochs = _client(tmp_path).get_metric_history(whole.info.run_id, "train/loss")
    assert [point.step for point in epochs] == [1, 2]
    zoo.finetune(**tiny, epochs=1, out=tmp_path / "again", tune=False, **said)
    assert len(_runs(tmp_path)) == 2


@pytest.mark.long
def test_without_the_package_the_run_is_refused_with_the_way_to_get_it(few: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "import zoo\n"
        "try:\n"
        f"    zoo.finetune(backbone='timm/test_resnet', data={str(few)!r}, out='run', observers=['mlflow'])\n"
        "except zoo.ZooError as error:\n"
        "    print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("2 Observer 'mlflow' of zoo-registry")
    assert "it needs mlflow, not installed" in done.stdout and "'zoo-registry[mlflow]'" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_plugin_is_light() -> None:
    code = "import sys, zoo_mlflow; print([name for name in ('torch', 'mlflow', 'PIL') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
