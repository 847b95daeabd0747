"""Runs in folds: every image is judged by a fit that did not see it, and the classifier is fitted to all of them."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from torch import Tensor, nn
from zoo.errors import DataError, OptionError, Refused, RunError
from zoo.events import Event, Note, Progress, StageFinished, silent
from zoo.frozen.outputs import FrozenOutputs
from zoo.planning.request import make_request
from zoo.probes.folds import make_folds
from zoo.training import checkpoint
from zoo.training.fold_runs import judge_out_of_fold
from zoo.training.prepare import prepare
from zoo.training.run_folder import RunFolder

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}
SIZE = 32


class ByHeart(nn.Module):
    """Knows every image that it was fitted to: the class of the nearest one, and hardly anything else."""

    def __init__(self, shape: zoo.FeatureShape, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("known", torch.full((200, shape.pooled), 1e3))
        self.register_buffer("labels", torch.zeros(200, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        nearest = torch.cdist(features, self.get_buffer("known"), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        return 5 * nn.functional.one_hot(self.get_buffer("labels")[nearest], self.classes).float()

    def fit(self, features: Tensor, targets: Tensor) -> None:
        self.get_buffer("known")[: len(features)] = features
        self.get_buffer("known")[len(features) :] = 1e3
        self.get_buffer("labels")[: len(targets)] = targets


def by_heart(module: nn.Module, features: Tensor, targets: Tensor) -> None:
    assert isinstance(module, ByHeart)
    module.fit(features, targets)


@zoo.hookimpl
def zoo_heads() -> list[zoo.HeadSpec]:
    return [
        zoo.HeadSpec(
            name="by_heart",
            summary="For a test.",
            build=lambda shape, classes, options: ByHeart(shape, classes),
            fit=by_heart,
        )
    ]


@pytest.fixture(scope="module")
def registry() -> zoo.Registry:
    """The installed plugins, and a head that knows by heart what it was fitted to."""
    return zoo.Registry([*entry_points(group="zoo"), EntryPoint("test_folds", __name__, "zoo")])


def noise(seed: int) -> Image.Image:
    """A picture that is like no other and shows nothing."""
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def draw(root: Path, classes: dict[str, int], *, seed: int = 0, copies: int = 1) -> Path:
    """Pictures of noise: the label of one says nothing of another, but for its copies, of `copies` in all."""
    number = 1000 * seed
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            for copy in range(copies):
                noise(number).save(root / name / f"{index}-{copy}.jpg", quality=95)
            number += 1
    return root


def run(data: Path, out: Path, folds: int | None = 4, **arguments: Any) -> zoo.Result:
    return zoo.finetune(**{**USUAL, "report": False, **arguments}, data=data, out=out, folds=folds)


def predictions(result: zoo.Result) -> list[dict[str, str]]:
    with (result.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plan_of(result: zoo.Result) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((result.path / "plan.json").read_text("utf-8"))
    return plan


def bytes_of(run: Path) -> dict[str, bytes]:
    names = ("plan.json", "evaluation.json", "predictions.csv", "proof.json", "model/model.safetensors")
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def meaningless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("noise") / "data", {"a": 40, "b": 40}, seed=1)


@pytest.fixture(scope="module")
def of_noise(meaningless: Path, registry: zoo.Registry, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(meaningless, out, report=True, head="by_heart", registry=registry)


def test_labels_that_mean_nothing_are_known_by_heart_and_guessed_out_of_fold(
    of_noise: zoo.Result, meaningless: Path, registry: zoo.Registry
) -> None:
    notes: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, Note) and event.loud:
            notes.append(event.text)

    known = zoo.evaluate(of_noise.path, data=meaningless, registry=registry, on_event=report)
    assert known.scores.accuracy == 1
    assert notes[0].startswith("These 80 images trained this classifier, so its scores on them are too good.")
    assert set(of_noise.metrics) == {"out_of_fold"} and 0.3 < of_noise.accuracy < 0.7
    judged = predictions(of_noise)
    assert {row["split"] for row in judged} == {"out_of_fold"}
    assert sorted(row["file"] for row in judged) == sorted(
        file.relative_to(meaningless).as_posix() for file in meaningless.rglob("*.jpg")
    )


@pytest.mark.long
def test_folds_that_divide_copies_leak_and_the_proof_sees_it(tmp_path: Path, registry: zoo.Registry) -> None:
    """Labels that mean nothing look easy to a fit that knows a copy of each image, and folds keep copies together."""
    data = draw(tmp_path / "data", {"a": 20, "b": 20}, seed=2, copies=2)
    kept_together = run(data, tmp_path / "run", head="by_heart", registry=registry)
    assert kept_together.accuracy < 0.75
    assert plan_of(kept_together)["folds"]["kept_together"] == 80

    request = make_request(**USUAL, data=data, head="by_heart", folds=4)
    with prepare(request, registry, silent) as prepared:
        context = prepared.context()
        leaking = make_folds(context.train_targets.tolist(), None, most=4, seed=0)
        folder = RunFolder.create(prepared.plan, tmp_path / "leaking")
        judged, check = judge_out_of_fold(context, leaking, FrozenOutputs(context), folder)
    scores = judged.scores("head")
    assert scores is not None and scores.accuracy > 0.85
    assert check.verdict == "failed" and "was trained on a/" in check.summary


def test_the_proof_says_that_no_image_was_judged_by_a_fit_that_saw_it(of_noise: zoo.Result) -> None:
    checks = json.loads((of_noise.path / "proof.json").read_text("utf-8"))["checks"]
    (check,) = [check for check in checks if check["name"] == "out_of_fold"]
    assert check["verdict"] == "passed" and check["evidence"]["images"] == 80 and check["evidence"]["seen"] == 0
    (saved,) = [check for check in checks if check["name"] == "saved_file"]
    assert saved["verdict"] == "passed" and saved["evidence"]["images"] == 32


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("dropout_linear", {"set": ("head.class_weights=balanced", "head.label_smoothing=0.1")}),
        pytest.param("linear", {}, marks=pytest.mark.long),
        pytest.param("linear", {"set": ("head.solver=gradient", "head.epochs=3")}, marks=pytest.mark.long),
        pytest.param("prototype", {}, marks=pytest.mark.long),
        pytest.param(
            "linear",
            {"recipe": "full", "every_stage": True, "set": ("all.epochs=2", "all.augment=none")},
            marks=pytest.mark.long,
        ),
    ],
)
def test_each_fold_is_the_run_itself_without_its_images(tmp_path: Path, head: str, options: dict[str, Any]) -> None:
    """A run on the images of the other folds, validated on those of one, predicts the same, of any kind of head."""
    data = draw(tmp_path / "data", {"a": 14, "b": 9, "c": 11}, seed=3)
    in_folds = run(data, tmp_path / "run", folds=3, head=head, **options)
    judged = {row["file"]: row for row in predictions(in_folds)}
    files = sorted(judged)
    labels = [in_folds.classes.index(judged[file]["label"]) for file in files]
    # In the order of the run's images: by class, then by name.
    in_order = sorted(judged, key=lambda file: (file.partition("/")[0], [*judged].index(file)))
    folds = make_folds([in_folds.classes.index(judged[file]["label"]) for file in in_order], None, most=3, seed=0)
    assert len(labels) == 34
    for fold in range(3):
        apart = tmp_path / f"apart{fold}"
        for row, file in enumerate(in_order):
            place = apart / ("val" if folds.of_rows[row] == fold else "train") / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / file, place)
        alone = run(apart, tmp_path / f"run{fold}", folds=None, head=head, **{**options, "every_stage": False})
        for row in predictions(alone):
            (file,) = [file for file in judged if row["file"].endswith(file)]
            assert float(row["probability"]) == pytest.approx(float(judged[file]["probability"]), abs=2e-4)
            assert row["predicted"] == judged[file]["predicted"]


@pytest.mark.long
def test_the_same_bytes_with_other_workers_and_with_cached_features(
    meaningless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bytes_of(run(meaningless, tmp_path / "first", workers=1).path)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cold"))
    second = bytes_of(run(meaningless, tmp_path / "second", workers=3).path)
    assert {name for name in first if first[name] != second[name]} == {"plan.json"}  # which says how many workers
    assert predictions_differ(meaningless, tmp_path)


def predictions_differ(data: Path, folder: Path) -> bool:
    """Whether another seed draws other folds."""
    digests = {zoo.plan(**USUAL, data=data, folds=4, seed=seed).folds for seed in (0, 0, 1)}
    return len(digests) == 2


@pytest.mark.parametrize("task", ["folds", pytest.param("read of train", marks=pytest.mark.long)])
def test_a_stopped_run_is_resumed_to_the_same_bytes(meaningless: Path, tmp_path: Path, task: str) -> None:
    unbroken = bytes_of(run(meaningless, tmp_path / "unbroken").path)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == task and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(meaningless, tmp_path / "run", on_event=stop)
    resumed = zoo.resume(tmp_path / "run", report=False)
    assert bytes_of(resumed.path) == unbroken
    assert not (resumed.path / "checkpoint").exists()


@pytest.mark.long
def test_a_run_in_folds_is_verified_reported_and_compared(meaningless: Path, tmp_path: Path) -> None:
    others = [run(meaningless, tmp_path / name, report=True, seed=seed) for name, seed in (("one", 0), ("two", 1))]
    events: list[Event] = []
    assert zoo.verify(others[0].path, on_event=events.append).passed
    # Its last fit has no validation images, and the scores of those that it was trained on are none.
    assert [event.val for event in events if isinstance(event, StageFinished)] == [{}]
    page = (others[0].path / "report.html").read_text("utf-8")
    assert "out of fold</h1>" in page or "images correctly, out of fold" in page
    assert "has changed since the run" not in page and "No overlays: these are predictions of the fits" in page
    assert "--folds 4" in page and "Accuracy, out-of-fold" in page and "validation images" not in page
    compared = zoo.compare(*[other.path for other in others])
    assert compared.against[0].tested[0].split == "out_of_fold" and compared.against[0].tested[0].outcomes.images == 80
    text = " ".join(sentence for pair in compared.conclusions for sentence in pair)
    assert "out-of-fold images" in text and "validation" not in text + " ".join(compared.cautions)
    usual = run(meaningless, tmp_path / "usual", folds=None)
    with pytest.raises(Refused, match=r"out of fold(?s:.*)Next: train both with --folds 4, or both without"):
        zoo.compare(others[0].path, usual.path)
    with pytest.raises(Refused, match=r"was trained in folds(?s:.*)without --folds"):
        zoo.soup([other.path for other in others], out=tmp_path / "soup")
    card = (others[0].path / "model/README.md").read_text("utf-8")
    assert "Out-of-fold accuracy" in card and "of 4 folds" in card


def test_the_class_with_the_most_different_pictures_says_how_many_folds_there_can_be(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 4)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(count):
            noise(10 * count + number).save(tmp_path / "data" / name / f"{number}.png")
    for copy in range(5):
        noise(20).save(tmp_path / "data" / "a" / f"copy{copy}.png")
    with pytest.raises(OptionError, match=r"needs a class of 5 .*, and 'b', which .* has 4 images\.\nNext: folds=4,"):
        zoo.plan(**USUAL, data=tmp_path / "data", folds=5)


@pytest.mark.long
def test_images_of_val_are_trained_on_and_those_of_test_judge_the_classifier(shapes: Path, tmp_path: Path) -> None:
    result = run(shapes, tmp_path / "run", folds=3)
    splits = [row["split"] for row in predictions(result)]
    assert (splits.count("out_of_fold"), splits.count("test")) == (54, 12)
    assert [*result.metrics] == ["out_of_fold", "test"]
    assert plan_of(result)["data"]["images"] == {"train": [18, 18, 18], "test": [4, 4, 4]}
    assert len(result.content["folds"]) == 3 and sum(fold["images"] for fold in result.content["folds"]) == 54


@pytest.mark.parametrize(
    ("classes", "arguments", "message"),
    [
        ({"a": 6, "b": 6}, {"folds": 1}, r"whole number from 2 on, got 1(?s:.*)folds=5"),
        (
            {"a": 6, "b": 4},
            {"folds": 7},
            r"a class of 7 different pictures, and 'a', .* 6 images\.\s(?s:.*)folds=6, or",
        ),
        ({"a": 6, "b": 1}, {}, r"class 'b' has 1 image: a fit without it cannot know the class"),
        ({"a": 6, "b": 1, "c": 1}, {}, r"class 'b' has 1 image: .* Of 2 classes there is one picture alone: b, c\."),
        ({"a": 6, "b": 6}, {"set": ("head.lr=auto",)}, r"lr of stage 'head' tries(?s:.*)--set head\.lr=3e-3, or leave"),
        ({"a": 6, "b": 6}, {"set": ("head.patience=2",)}, r"patience of stage 'head'(?s:.*)--set head\.patience=0"),
        ({"a": 6, "b": 6}, {"recipe": "staged"}, r"last and all|5 runs, (?s:.*)--recipe head_only; or --every-stage"),
        ({"a": 6, "b": 6}, {"folds": None, "every_stage": True}, r"no folds are asked for(?s:.*)add folds=5"),
    ],
)
def test_what_cannot_be_is_refused(
    classes: dict[str, int], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", classes, seed=4)
    with pytest.raises((OptionError, Refused, DataError), match=message):
        run(data, tmp_path / "run", **{"folds": 4, **arguments})
    assert not (tmp_path / "run").exists()


def test_a_class_of_copies_of_one_picture_is_refused(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"a": 5, "b": 1}, seed=5, copies=3)
    with pytest.raises(DataError, match=r"class 'b' has 3 images, all copies or near-duplicates of one picture"):
        run(data, tmp_path / "run")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (0, r"class 'b' has 1 image: a fit without it cannot know the class"),
        (1, r"class 'b' have copies or near-duplicates in another class, (?s:.*)zoo data check lists them"),
    ],
)
def test_a_class_whose_pictures_are_in_another_one_too_is_named_and_not_that_one(
    own: int, message: str, tmp_path: Path
) -> None:
    data = draw(tmp_path / "data", {"a": 6, "b": own}, seed=7)
    shutil.copy(data / "a" / "0-0.jpg", data / "b" / "copy.jpg")
    with pytest.raises(DataError, match=message):
        run(data, tmp_path / "run")


def test_a_class_smaller_than_the_number_of_folds_is_judged_whole_and_warned_about(tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"a": 9, "b": 2}, seed=6)
    result = run(data, tmp_path / "run", folds=4)
    assert len(predictions(result)) == 11
    assert any("1 of 2 classes has fewer images than there are folds" in line for line in plan_of(result)["warnings"])


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of runs in folds whose every stage is repeated."""
    pictures = tmp_path_factory.mktemp("two") / "data"
    for file in sorted(shapes.rglob("train/*/*.jpg"))[:24]:
        place = pictures / file.parent.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return {"data": pictures, "recipe": "staged", "epochs": 1, "batch_size": 8, "folds": 2, "every_stage": True}


@pytest.fixture(scope="module")
def of_every_stage(whole: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return run(out=tmp_path_factory.mktemp("runs") / "unbroken", **{**whole, "report": True})


@pytest.mark.long
def test_every_stage_and_blend_is_judged_out_of_fold_and_one_is_chosen(of_every_stage: zoo.Result) -> None:
    content = of_every_stage.content
    stages = content["stages"]
    assert [stage["name"] for stage in stages] == ["head", "last", "all"]
    assert all(set(stage["metrics"]) == {"out_of_fold"} for stage in stages)
    assert all(set(blend["metrics"]) == {"out_of_fold"} for stage in stages for blend in stage.get("blends", ()))
    assert content["selection"]["candidates"] == 9 and content["selection"]["on"].startswith("out-of-fold")
    assert len(predictions(of_every_stage)) == 24 == content["selection"]["images"]
    assert content["proof"] == "passed"
    assert not list(of_every_stage.path.rglob("checkpoint"))
    assert sorted(path.name for path in (of_every_stage.path / "folds").iterdir()) == ["1", "2"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "number"),
    [
        ("fold 2 of 2, last", 1),
        ("folds", 1),
        ("fold 1 of 2, all", 2),
        ("last", 1),
    ],
)
def test_a_run_stopped_in_a_fold_is_resumed_to_the_same_bytes(
    task: str,
    number: int,
    whole: dict[str, Any],
    of_every_stage: zoo.Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, "step", 0.0)
    monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, "epoch", 0.0)
    seen: list[str] = []

    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            seen.append(event.task)
            if seen.count(task) > number - 1 and event.task == task:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", on_event=stop, **whole)
    seen.clear()
    resumed = zoo.resume(tmp_path / "run", report=False, on_event=lambda event: None)
    assert bytes_of(resumed.path) == bytes_of(of_every_stage.path)


@pytest.mark.long
@pytest.mark.parametrize("task", ["folds", "fold 1 of 2, all"])
def test_a_fold_whose_logits_are_damaged_is_told_and_trained_again(
    task: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the fold was finished, and after its first stage."""
    for moment in ("step", "epoch"):
        monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, moment, 0.0)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == task and event.done:
            raise KeyboardInterrupt

    stages = [{"name": name, "train": [name], "epochs": 2, "lr": 1e-3} for name in ("head", "all")]
    asked = {"recipe": {"stages": stages}, "folds": 2, "every_stage": True, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path / "run", **asked, on_event=stop)
    fold = tmp_path / "run/folds/1"
    (fold / "out_of_fold.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"folds/1 cannot be read(?s:.*)\nNext: remove it, and resume the run") as told:
        zoo.resume(tmp_path / "run", report=False)
    assert str(fold) in str(told.value)
    shutil.rmtree(fold)
    assert zoo.resume(tmp_path / "run", report=False).proof == "passed"


@pytest.mark.long
def test_a_stage_that_trains_the_backbone_is_repeated_for_every_fold_where_that_is_said(
    few: Path, tmp_path: Path
) -> None:
    asked = {"recipe": "full", "epochs": 1, "folds": 2, "every_stage": True}
    result = run(few, tmp_path / "run", **asked)
    assert result.content["stages"][0]["metrics"] == {"out_of_fold": result.metrics["out_of_fold"]}
    assert sorted(path.name for path in (result.path / "folds").iterdir()) == ["1", "2"]
    lines = (result.path / "folds/1/history.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["val"]["accuracy"] == result.content["folds"][0]["accuracy"]


@pytest.mark.long
def test_the_estimate_counts_every_fold(few: Path) -> None:
    usual = {**USUAL, "data": few, "recipe": "full", "epochs": 4}
    once = zoo.plan(**usual, estimate=True).estimate
    folds = zoo.plan(**usual, folds=4, every_stage=True, estimate=True).estimate
    assert once is not None and folds is not None
    assert 3 < folds.stages[0].training / once.stages[0].training < 12


@pytest.mark.long
def test_the_estimate_counts_features_once_until_a_stage_has_trained_the_backbone(few: Path, tmp_path: Path) -> None:
    recipe = {
        "stages": [
            {"name": "head", "train": ["head"], "epochs": 1, "lr": 0.01},
            {"name": "last", "train": ["head", "last:1"], "epochs": 2, "lr": 0.001},
            {"name": "again", "train": ["head"], "epochs": 1, "lr": 0.01},
        ]
    }
    asked = {"recipe": recipe, "data": few, "folds": 3, "every_stage": True}
    plan = zoo.plan(**{**USUAL, **asked}, estimate=True)
    assert plan.estimate is not None and [stage.inputs for stage in plan.stages] == ["features", "prefix", "features"]
    head, last, again = (stage.features for stage in plan.estimate.stages)
    assert last < 3 * head, "the groups before the cut are fewer than all"
    assert again == pytest.approx(4 * head), "for each of three folds, and for all images"
