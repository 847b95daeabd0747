"""`report.html` of real small runs: complete, escaped, harmless to the run, and without faults in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.errors import RunError
from zoo.evaluation.predictions import from_csv
from zoo.events import Event, Note, StageStarted
from zoo.model.gradcam import grad_cam
from zoo.registry.registry import default_registry
from zoo.reporting.charts import class_bars, shares_of_time
from zoo.reporting.command import command_of
from zoo.reporting.examples import least_certain_hits, most_confident_mistakes
from zoo.reporting.svg import ticks
from zoo.specs.plan import Plan
from zoo.training.stored_plan import differences

EVIL, EVIL_FILE = "<script>document.title='broken'<", "a\"b'<img src=x onerror=alert(1)>&.jpg"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


def train(data: Path, out: Path, **arguments: Any) -> zoo.Result:
    defaults: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "epochs": 3, "tune": False}
    return zoo.finetune(data=data, out=out, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With a head that makes mistakes, so that there are some to show.
    mistakes = ["head.solver=gradient", "head.epochs=3"]
    return train(shapes, tmp_path_factory.mktemp("runs") / "run", batch_size=8, set=mistakes).path


@pytest.fixture(scope="module")
def report(run: Path) -> str:
    return (run / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose class and file names are markup."""
    root = tmp_path_factory.mktemp("evil")
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate((EVIL, "plain")):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).save(folder / f"{number}{EVIL_FILE}", "JPEG")
    return train(root / "data", root / "run", recipe="head_only", epochs=1).path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_report_is_there_and_needs_nothing_outside_it(report: str) -> None:
    assert len(report) < 3e6
    assert not re.findall(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:)|<script", report)
    assert all(address.startswith("data:image/jpeg;base64,") for address in re.findall(r'src="([^"]*)"', report))


def test_it_shows_every_part(report: str) -> None:
    for part in (
        "curves",
        "confusion",
        "classes",
        "reliability",
        "mistakes",
        "hits",
        "seen",
        "proof",
        "time",
        "repeat",
    ):
        assert f'id="{part}"' in report, part
    assert "they were evaluated once" in report
    assert report.count("<svg") == 2 * 5, "five charts for two widths each"
    assert "prefers-color-scheme: dark" in report and "@media print" in report


def test_the_files_beside_it_agree_with_the_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    evaluation = json.loads((run / "evaluation.json").read_text())
    predictions = list(from_csv((run / "predictions.csv").read_text()))
    for split, metrics in result["metrics"].items():
        of_split = [each for each in predictions if each.split == split]
        right = sum(each.right for each in of_split)
        assert evaluation[split]["images"] == len(of_split) == {"val": 18, "test": 12}[split]
        assert evaluation[split]["accuracy"]["value"] == pytest.approx(metrics["accuracy"])
        assert right / len(of_split) == pytest.approx(metrics["accuracy"])
        assert evaluation[split]["macro_f1"] == metrics["macro_f1"]
        assert all(each.file.startswith(f"{split}/{each.label}/") for each in of_split)


def test_the_predictions_are_those_of_the_saved_classifier(run: Path, shapes: Path) -> None:
    stored = [row for row in from_csv((run / "predictions.csv").read_text()) if row.split == "test"]
    again = zoo.load(run).predict([shapes / row.file for row in stored])
    assert [prediction.label for prediction in again] == [row.predicted for row in stored]
    probabilities = [prediction.probability for prediction in again]
    assert probabilities == pytest.approx([row.probability for row in stored], abs=1e-4)


def test_rebuilding_gives_the_same_report_and_changes_nothing_else(run: Path, zoo_inside: Zoo) -> None:
    before = contents(run)
    (run / "report.html").unlink()
    done = zoo_inside("report", run)
    assert done.returncode == 0 and done.stdout == f"report: {run / 'report.html'}\n", done.stderr
    assert contents(run) == before


def test_names_that_are_markup_stay_text(evil: Path) -> None:
    report = (evil / "report.html").read_text("utf-8")
    assert "<script" not in report and "<img src=x" not in report
    assert "&lt;script&gt;" in report and "&lt;img src=x onerror" in report


def test_without_the_images_the_report_says_so_and_leaves_them_out(
    run: Path, shapes: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    plan = json.loads((moved / "plan.json").read_text())
    plan["data"]["path"] = "/nowhere/at/all"
    (moved / "plan.json").write_text(json.dumps(plan))
    assert zoo_inside("report", moved).returncode == 0
    report = (moved / "report.html").read_text("utf-8")
    assert "the images are no longer in /nowhere/at/all" in report and "data:image/jpeg" not in report


def test_a_file_that_changed_since_the_run_is_marked_and_told(
    run: Path, shapes: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    moved = shutil.copytree(run, tmp_path / "run")
    plan = json.loads((moved / "plan.json").read_text())
    plan["data"]["path"] = str(data)
    (moved / "plan.json").write_text(json.dumps(plan))
    zoo.report(moved)
    assert "the file has changed" not in (moved / "report.html").read_text("utf-8")
    told = json.loads(zoo_inside("report", moved, "--json").stdout)
    assert told == {"report": str(moved / "report.html"), "images": {"shown": 12, "changed": 0, "missing": 0}}
    for index, name in enumerate(("green", "blue", "red")):
        for number in range(4):
            sample_image(index, 3, "val", number).save(data / "test" / name / f"{number}.jpg")
    zoo.report(moved)
    page = (moved / "report.html").read_text("utf-8")
    assert "the file has changed" in page.partition('id="seen"')[0]
    marked = set(re.findall(r'<span class="file">(\S+) \(the file has changed', page))
    said = f"{len(marked)} of the 12 images in the report have changed since the run"
    assert said in zoo_inside("report", moved).stdout
    notes: list[str] = []
    zoo.report(moved, on_event=lambda event: notes.append(getattr(event, "text", "")))
    assert len([text for text in notes if text.startswith(said)]) == 1
    (data / "test" / "red" / "0.jpg").unlink()
    told = zoo_inside("report", moved, "--json")
    assert json.loads(told.stdout)["images"]["missing"] == 1
    assert "1 image can no longer be read, and the report does without." in told.stderr
    # Images that are shown there alone are looked at as well.
    assert page.partition('id="seen"')[2].partition("</section>")[0].count("the file has changed") >= 2


def test_a_damaged_classifier_costs_only_the_overlays(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    tensors = moved / "model" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    zoo.report(moved)
    report = (moved / "report.html").read_text("utf-8")
    assert "the classifier cannot be opened" in report and "data:image/jpeg" in report


def test_a_run_without_evaluation_still_has_a_report(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / "evaluation.json").unlink()
    (moved / "predictions.csv").unlink()
    zoo.report(moved)
    report = (moved / "report.html").read_text("utf-8")
    assert "stored no predictions" in report and 'id="proof"' in report


@pytest.mark.parametrize(
    ("missing", "message"),
    [("result.json", "is not finished: it has no result.json"), ("plan.json", "is no run folder")],
)
def test_what_is_no_finished_run_is_an_error_with_the_next_step(
    missing: str, message: str, run: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / missing).unlink()
    done = zoo_inside("report", moved)
    assert done.returncode == 1 and message in done.stderr
    assert zoo_inside("report", tmp_path / "none").returncode == 1


def test_damaged_files_are_named(run: Path, tmp_path: Path) -> None:
    for name in ("result.json", "evaluation.json", "predictions.csv", "history.jsonl", "proof.json"):
        moved = shutil.copytree(run, tmp_path / name)
        (moved / name).write_text("[1")
        with pytest.raises(RunError, match=name):
            zoo.report(moved)


def test_files_of_another_structure_are_told_of_and_not_a_crash(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    (moved / "report.html").unlink()
    result, evaluation = (json.loads((run / name).read_text()) for name in ("result.json", "evaluation.json"))
    evaluation["test"]["reliability"][0]["images"] = {}
    for name, content in {
        "history.jsonl": {"stage": "head", "epoch": 1},
        "evaluation.json": evaluation,
        "result.json": {**result, "seconds": [1]},
    }.items():
        (moved / name).write_text(json.dumps(content))
        with pytest.raises(RunError, match=r"is not as a run writes it.*\nNext: "):
            zoo.report(moved)
        shutil.copyfile(run / name, moved / name)
    assert not (moved / "report.html").exists()
    # Of a run that somebody passes on, no other folder is opened.
    (moved / "result.json").write_text(json.dumps({**result, "artefact": "../elsewhere"}))
    with pytest.raises(RunError, match=r"says that the classifier is in '\.\./elsewhere', and a run's is in 'model'"):
        zoo.report(moved)


def test_a_report_that_cannot_be_written_costs_the_run_nothing(few: Path, tmp_path: Path) -> None:
    events: list[Event] = []

    def in_the_way(event: Event) -> None:
        events.append(event)
        if isinstance(event, StageStarted):
            (tmp_path / "run" / "report.html").mkdir(exist_ok=True)

    result = train(few, tmp_path / "run", recipe="head_only", epochs=1, on_event=in_the_way)
    assert result.proof == "passed" and (result.path / "result.json").exists()
    notes = [event.text for event in events if isinstance(event, Note) and event.loud]
    assert any("The report was not written" in text and "zoo report" in text for text in notes)


def test_it_can_be_left_out(few: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    words = ["finetune", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--no-tune"]
    done = zoo_inside(*words, "--recipe", "head_only", "--epochs", "1", "--out", "run", "--no-report")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "report.html").exists() and "report:" not in done.stdout
    assert zoo_inside("finetune", "--resume", "run", "--no-report").returncode == 2, "finished, not a clash of options"


def test_the_printed_command_makes_the_same_plan_again(run: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    stored = Plan.model_validate_json((run / "plan.json").read_text())
    words = command_of(stored, default_registry())
    assert words[:2] == ["zoo", "finetune"] and "--set" in words
    again = Plan.model_validate_json(zoo_inside("plan", *words[2:], "--json").stdout)
    asked = {"backbone.asked", "data.source"}
    assert [each for each in differences(stored, again) if each.partition(":")[0] not in asked] == []


def test_evaluate_writes_what_it_said_of_each_image(run: Path, shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("evaluate", run, "--data", shapes, "--csv", "said.csv", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    predictions = list(from_csv((tmp_path / "said.csv").read_text()))
    assert len(predictions) == found["images"] == len(found["predictions"]) == 12
    stored = json.loads((run / "evaluation.json").read_text())["test"]
    assert found["assessment"]["confusion"] == stored["confusion"]
    noted = [each for each in from_csv((run / "predictions.csv").read_text()) if each.split == "test"]
    assert [(each.file, each.predicted) for each in predictions] == [(each.file, each.predicted) for each in noted]
    table = zoo_inside("evaluate", run, "--data", shapes).stdout
    assert "precision" in table and "95 % interval of the accuracy" in table and "calibration error" in table


def heat_by_hand(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Grad-CAM of a timm ResNet, computed with its own methods; images[N, 3, H, W] -> heat[N, H, W]."""
    features = model.backbone.forward_features(images).requires_grad_()
    logits = model.head(model.backbone.forward_head(features))
    (gradient,) = torch.autograd.grad(logits.max(1).values.sum(), features)
    heat = (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()
    return (heat / heat.amax((1, 2), keepdim=True)).detach()


def test_grad_cam_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    model = zoo.create_model("timm/test_resnet", classes=4, weights="random").eval()
    images = torch.randn(3, *model.preprocessing.input_size)
    expected = heat_by_hand(model, images)
    found = grad_cam(model, images)
    assert found.heat is not None and "the last map" in found.layer
    assert torch.allclose(found.heat, expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(found.logits, model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "head", "layer"),
    [
        ("timm/test_convnext", "linear", "the last map"),
        ("timm/test_vit", "linear", "the last layer whose positions take part"),
        ("timm/test_vit", "gem", "the map that the head gets"),
        ("torchvision/mobilenet_v3_small", "linear", "the last map"),
    ],
)
def test_every_kind_of_backbone_shows_where_it_looked(backbone: str, head: str, layer: str) -> None:
    torch.manual_seed(0)
    model = zoo.create_model(backbone, head=head, classes=4, weights="random")
    found = grad_cam(model, torch.randn(2, *model.preprocessing.input_size))
    assert layer in found.layer and found.heat is not None
    assert found.heat.ndim == 3 and float(found.heat.max()) == pytest.approx(1) and float(found.heat.min()) >= 0


def test_a_backbone_without_a_map_says_why_there_is_no_overlay() -> None:
    model = zoo.create_model("timm/crossvit_tiny_240", classes=3, weights="random")
    found = grad_cam(model, torch.randn(1, *model.preprocessing.input_size))
    assert found.heat is None and found.reason == "the backbone has no map" and found.logits.shape == (1, 3)


def test_mistakes_come_surest_first_and_hits_least_sure_first(run: Path) -> None:
    predictions = list(from_csv((run / "predictions.csv").read_text()))
    mistakes, hits = most_confident_mistakes(predictions), least_certain_hits(predictions)
    assert not any(each.right for each in mistakes) and all(each.right for each in hits)
    assert [each.probability for each in mistakes] == sorted((each.probability for each in mistakes), reverse=True)
    assert [each.probability for each in hits] == sorted(each.probability for each in hits)
    assert len(mistakes) + len(hits) >= 12


def test_ticks_are_round_and_within() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1, 7, about=6, whole=True) == [1, 2, 3, 4, 5, 6, 7]
    assert ticks(0, 0.0037) == [0, 0.001, 0.002, 0.003]
    assert all(each == round(each) for each in ticks(1, 2, about=6, whole=True))


def test_times_add_up_to_the_whole() -> None:
    shares = shares_of_time({"total": 10.0, "data": 2.0, "features": 1.0, "train": 5.0, "evaluate": 1.0})
    assert [name for name, _, _ in shares] == ["data", "features", "train", "evaluate", "other"]
    assert sum(share for _, _, share in shares) == pytest.approx(1) and shares[-1][1] == pytest.approx(1.0)


def test_of_many_classes_the_worst_are_drawn() -> None:
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    classes = [{"name": f"n{index}", "recall": share, "precision": None, "f1": index / 200} for index in range(120)]
    drawn = str(class_bars(classes))
    assert ">n39<" in drawn and ">n40<" not in drawn


def test_classes_without_images_do_not_take_the_places_of_the_worst() -> None:
    """Of many classes a test split lacks some, and these have an F1 of 0."""
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    classes = [
        {"name": f"n{index}", "recall": share, "precision": None, "f1": 0.1 + index / 200} for index in range(45)
    ]
    absent = [{"name": f"a{index}", "recall": None, "precision": None, "f1": 0.0} for index in range(120)]
    drawn = str(class_bars([*absent, *classes]))
    assert ">n39<" in drawn and ">n40<" not in drawn and ">a0<" not in drawn
    assert ">n44<" in str(class_bars(classes[5:] + absent))


MEASURED = """<!doctype html><title>not measured</title><link rel="icon" href="data:,">
<iframe width="{width}" height="1200" style="border: 0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const parts = page.querySelectorAll("main > section, h1, figure, svg.chart, table.stages, table.proof");
  document.title = JSON.stringify([
    page.documentElement.clientWidth,
    page.documentElement.scrollWidth,
    [...page.images].filter(each => !each.naturalWidth).length,
    [...parts].filter(each => each.getBoundingClientRect().right > {width}).length,
  ]);
}});
</script>"""
"""The page is in a frame, because a window of Chromium is never narrower than 500 pixels."""


def browse(page: str, folder: Path, width: int) -> subprocess.CompletedProcess[str]:
    framed = folder / "framed.html"
    framed.write_text(MEASURED.format(width=width, page=html.escape(page)), "utf-8")
    return subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
            *(
                "--enable-logging=stderr",
                "--v=0",
                "--hide-scrollbars",
                "--window-size=1500,1300",
                "--dump-dom",
                framed.as_uri(),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_real_browser_shows_it_without_errors_and_nothing_sticks_out(
    width: int, run: Path, evil: Path, tmp_path: Path
) -> None:
    for folder in (run, evil):
        done = browse((folder / "report.html").read_text("utf-8"), tmp_path, width)
        assert "CONSOLE" not in done.stderr, done.stderr
        title = re.search(r"<title>(.*?)</title>", done.stdout)
        assert title is not None and title.group(1).startswith("["), done.stdout[:500] + done.stderr
        across, needed, broken, outside = json.loads(title.group(1))
        assert across == width and needed <= width and broken == 0 and outside == 0


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_an_address_longer_than_the_report_is_wide_is_broken(run: Path, tmp_path: Path) -> None:
    report = (run / "report.html").read_text("utf-8")
    longer = report.replace(", recipe <b>", f", https://example.com/models/{'resnet18' * 9}.pth, recipe <b>", 1)
    assert longer != report
    title = re.search(r"<title>(.*?)</title>", browse(longer, tmp_path, 400).stdout)
    assert title is not None
    across, needed, _, _ = json.loads(title.group(1))
    assert (across, needed) == (400, 400)
