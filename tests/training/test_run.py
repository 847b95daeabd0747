"""Runs from beginning to end on small images: files, metrics, memory, errors and progress are as promised."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from zoo.errors import CheckFailed, Refused
from zoo.evaluation.metrics import score
from zoo.events import Event, Note, Progress
from zoo.training import prepare
from zoo.training.run_folder import RunFolder

BACKBONE = "timm/test_resnet"


def train(data: Path, out: Path, **arguments: Any) -> zoo.Result:
    defaults: dict[str, Any] = {"backbone": BACKBONE, "weights": "random", "epochs": 3, "batch_size": 8}
    return zoo.finetune(data=data, out=out, **{**defaults, **arguments})


@pytest.fixture(scope="module")
def staged(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return train(shapes, tmp_path_factory.mktemp("runs") / "staged")


def test_a_run_leaves_exactly_the_files_that_are_promised(staged: zoo.Result) -> None:
    assert {each.name for each in staged.path.iterdir()} == {
        "plan.json",
        "history.jsonl",
        "proof.json",
        "result.json",
        "evaluation.json",
        "predictions.csv",
        "report.html",
        "model",
    }
    assert {each.name for each in staged.artefact.iterdir()} == {
        "config.json",
        "golden.safetensors",
        "model.safetensors",
        "README.md",
    }


def test_result_json_has_the_promised_keys_and_agrees_with_the_returned_result(staged: zoo.Result) -> None:
    stored = json.loads((staged.path / "result.json").read_text())
    assert stored == staged.content
    promised = {"format", "backbone", "weights", "head", "recipe", "classes", "metrics", "selection", "stages"}
    assert promised | {"seconds", "proof", "artefact"} <= stored.keys()
    assert stored["backbone"].startswith("timm/test_resnet") and stored["weights"] == "random"
    assert stored["classes"] == ["blue", "green", "red"]
    assert set(stored["metrics"]) == {"val", "test"}
    assert set(stored["seconds"]) == {"total", "data", "features", "train", "evaluate"}


def test_history_has_one_line_an_epoch(staged: zoo.Result) -> None:
    lines = [json.loads(line) for line in (staged.path / "history.jsonl").read_text().splitlines()]
    assert len(lines) == sum(stage["epochs"] for stage in staged.content["stages"])
    assert {"stage", "epoch", "rates", "train_loss", "val", "seconds", "images_per_second"} <= lines[0].keys()


def test_what_is_kept_is_one_of_the_candidates_with_its_scores(staged: zoo.Result) -> None:
    selection = staged.content["selection"]
    candidates = {}
    for stage in staged.content["stages"]:
        if not stage.get("abandoned"):
            candidates[stage["name"], None] = stage["metrics"]["val"]
            candidates |= {
                (stage["name"], blend["share"]): blend["metrics"]["val"] for blend in stage.get("blends", ())
            }
    assert staged.metrics["val"] == candidates[selection["kept"], selection["blend"]]
    assert selection["candidates"] == len(candidates)
    assert selection["on"] == "val loss after temperature scaling"


def test_the_metrics_are_those_of_the_saved_classifier(staged: zoo.Result, shapes: Path) -> None:
    evaluation = zoo.evaluate(staged.path, data=shapes / "val")
    assert evaluation.scores.to_dict() == staged.metrics["val"]
    assert zoo.evaluate(staged.path, data=shapes).scores.to_dict() == staged.metrics["test"]


def test_the_head_stage_sends_every_image_through_the_backbone_once(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    original = zoo.model.model.ZooModel.features  # type: ignore[attr-defined]

    def counting(self: Any, images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(images)
        return torch.as_tensor(original(self, images))

    monkeypatch.setattr("zoo.model.model.ZooModel.features", counting)
    train(shapes, tmp_path / "run", recipe="head_only", epochs=20, tune=False)
    train_images, val_images, test_images = 36, 18, 12
    chunks = sum(-(-count // 32) * 32 for count in (train_images, val_images, test_images))
    shape_check, saved_check = 2, 2 * 32
    assert seen <= chunks + shape_check + saved_check


@pytest.mark.long
def test_the_same_plan_gives_the_same_bytes_whatever_the_workers(shapes: Path, tmp_path: Path) -> None:
    first = train(shapes, tmp_path / "a", workers=1, epochs=2)
    again = train(shapes, tmp_path / "b", workers=3, epochs=2)
    assert (first.artefact / "model.safetensors").read_bytes() == (again.artefact / "model.safetensors").read_bytes()
    other = train(shapes, tmp_path / "c", seed=1, epochs=2)
    assert (first.artefact / "model.safetensors").read_bytes() != (other.artefact / "model.safetensors").read_bytes()


@pytest.mark.long
def test_full_trains_every_tensor_of_the_backbone(shapes: Path, tmp_path: Path) -> None:
    result = train(shapes, tmp_path / "run", recipe="full", epochs=1)
    (stage,) = result.content["stages"]
    assert stage["frozen_parameters"] == 0
    proof = json.loads((result.path / "proof.json").read_text())
    gradients = next(check for check in proof["checks"] if check["name"] == "gradients")
    assert gradients["verdict"] == "passed" and gradients["evidence"]["never"] == []


@pytest.mark.long
def test_a_batch_of_one_left_over_joins_the_one_before(shapes: Path, tmp_path: Path) -> None:
    # 36 images in batches of 5 leave one, on which batch norm could not train.
    assert train(shapes, tmp_path / "run", recipe="full", epochs=1, batch_size=5).proof == "passed"


def test_an_existing_run_is_never_overwritten(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(Refused, match="never overwritten"):
        train(shapes, tmp_path / "run")
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.long
def test_when_memory_runs_out_the_batch_is_halved_reported_and_recorded(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = zoo.model.model.ZooModel.features  # type: ignore[attr-defined]

    def small_memory(self: Any, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 5:
            torch.empty(1 << 50)  # a petabyte: the allocator's own failure
        return torch.as_tensor(original(self, images))

    monkeypatch.setattr("zoo.model.model.ZooModel.features", small_memory)
    events: list[Event] = []
    result = train(shapes, tmp_path / "run", epochs=1, on_event=events.append)
    sizes = {each["work"]: each["size"] for each in result.content["memory"]}
    assert sizes["features"] == 4 and sizes["training all"] == 4
    loud = [each.text for each in events if isinstance(each, Note) and each.loud]
    assert any("training all" in text and "4 images at a time" in text for text in loud)
    assert result.proof == "passed"


def test_halved_batches_accumulate_to_the_same_gradient() -> None:
    from zoo.evaluation.out_of_memory import MicroBatches
    from zoo.frozen.inputs import CachedInputs
    from zoo.specs.plan import StagePlan
    from zoo.specs.recipe import Stage
    from zoo.storage.table import table_of
    from zoo.training.objective import Objective
    from zoo.training.shares import Piece
    from zoo.training.stage_watch import StageWatch
    from zoo.training.trainer import StageSetup, train_step

    model = zoo.create_model(BACKBONE, head="linear", classes=3, weights="random")
    model.freeze_all_but(["head"])
    stage = StagePlan(
        settings=Stage(name="head", train=("head",), epochs=1, lr=0.1),
        trains=("head",),
        freezes=model.groups.names,
        trainable_parameters=0,
        frozen_parameters=0,
        rates={"head": 0.1},
        steps=1,
        inputs="features",
        batch_norms_frozen=0,
        batch_norms_training=0,
    )
    features, targets = torch.randn(11, model.shape.pooled), torch.arange(11) % 3
    gradients = []
    for size in (11, 4):
        micro_batches = MicroBatches(size, work="test", report=lambda event: None, retries=[])
        work = StageSetup(
            model=model,
            stage=stage,
            inputs=CachedInputs((table_of(features),), table_of(features), micro_batches),
            train_targets=targets,
            scored=lambda logits: score(logits, targets),
            seed=0,
            objective=Objective(stage.settings),
            watch=StageWatch(model, stage),
            micro_batches=micro_batches,
        )
        train_step(work, [Piece(features, targets)], targets)
        gradients.append(model.head.fc.weight.grad.clone())  # type: ignore[union-attr, operator]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.long
def test_a_rate_that_makes_the_loss_explode_stops_with_stage_step_and_rate(shapes: Path, tmp_path: Path) -> None:
    message = r"(?s)gradients \(stage all\).*Stage 'all', step .* learning rate of 1e\+30"
    with pytest.raises(CheckFailed, match=message) as caught:
        train(
            shapes,
            tmp_path / "run",
            epochs=1,
            set=["all.lr=1e30", "all.layer_decay=1", "last.abandon=false", "all.abandon=false"],
        )
    assert caught.value.exit_code == 3
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["proof"] == "failed" and stored["selection"]["kept"] in ("head", "last")
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in saved.values())


@pytest.mark.long
def test_layer_decay_lowers_the_rates_towards_the_input(shapes: Path, tmp_path: Path) -> None:
    plan = zoo.plan(backbone=BACKBONE, weights="random", data=shapes, recipe="full", set=["all.layer_decay=0.5"])
    rates = plan.stages[0].rates
    names = [group.name for group in plan.backbone.groups]
    assert rates["head"] == rates[names[-1]] == pytest.approx(plan.stages[0].settings.lr)
    for earlier, later in pairwise(names):
        assert rates[earlier] == pytest.approx(rates[later] / 2)
    result = train(shapes, tmp_path / "run", recipe="full", epochs=1, set=["all.layer_decay=0.5"])
    used = json.loads((result.path / "history.jsonl").read_text().splitlines()[0])["rates"]
    assert used[names[0]] / used["head"] == pytest.approx(0.5 ** (len(names) - 1))


def test_a_plan_downloads_trains_and_writes_nothing(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "obtain_weights", None)
    plan = zoo.plan(backbone="resnet18", data=shapes)
    assert plan.backbone.name == "torchvision/resnet18.IMAGENET1K_V1" and plan.weights.label == "IMAGENET1K_V1"
    assert list(tmp_path.iterdir()) == []


def test_the_plan_counts_what_the_run_then_trains(shapes: Path, staged: zoo.Result) -> None:
    plan = json.loads((staged.path / "plan.json").read_text())
    model = zoo.create_model(BACKBONE, classes=3, weights="random")
    total = sum(each.numel() for each in model.parameters())
    for stage in plan["stages"]:
        assert stage["trainable_parameters"] + stage["frozen_parameters"] == total
    assert [stage["inputs"] for stage in plan["stages"]] == ["features", "images", "images"]


def test_unreadable_images_are_skipped_listed_and_counted(shapes: Path, tmp_path: Path) -> None:
    from zoo.data.sample import sample_image

    data = tmp_path / "data"
    for name, index in (("a", 0), ("b", 1)):
        (data / name).mkdir(parents=True)
        for number in range(60):
            sample_image(index, 2, "train", number).resize((40, 40)).save(data / name / f"{number}.jpg")
    (data / "a" / "0.jpg").write_bytes((data / "a" / "1.jpg").read_bytes()[:400])
    plan = zoo.plan(backbone=BACKBONE, weights="random", data=data)
    assert [(file, reason) for file, reason, _ in plan.data.skipped] == [("a/0.jpg", "unreadable")]
    assert sum(sum(counts) for counts in plan.data.images.values()) == 119
    (data / "a" / "2.jpg").write_bytes(b"")
    with pytest.raises(
        zoo.ZooError, match=r"2 of 120 images cannot be read(?s:.*)a/0.jpg: (?s:.*)a/2.jpg: the file is empty"
    ):
        zoo.plan(backbone=BACKBONE, weights="random", data=data)


@pytest.mark.long
def test_progress_is_reported_for_everything_that_takes_long(shapes: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    # Weights of its own: the features of other tests' may be in the cache already.
    on = ["last.abandon=false", "all.abandon=false"]
    train(shapes, tmp_path / "run", epochs=1, seed=17, on_event=events.append, set=on)
    finished = {each.task for each in events if isinstance(each, Progress) and each.done == each.total}
    assert {
        "decode",
        "features of train",
        "features of val",
        "last",
        "all",
        "validate",
        "evaluate test",
    } <= finished


def test_runs_that_begin_in_the_same_second_have_a_folder_each(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", recipe="head_only", data=few, tune=False)
    ready = threading.Barrier(8)

    def create(_: int) -> Path:
        ready.wait()
        return RunFolder.create(plan, None).path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(create, range(8)))
    assert len(set(paths)) == 8 == len(list(Path("runs").iterdir())) and all(
        (each / "plan.json").exists() for each in paths
    )


def test_a_machine_that_does_not_see_the_run_folder_makes_none_of_its_own(tmp_path: Path) -> None:
    """Of several processes only the first writes. The others may be on machines without its drive."""
    assert RunFolder(tmp_path / "elsewhere").path == tmp_path / "elsewhere" and not list(tmp_path.iterdir())
    (tmp_path / "here").mkdir()
    RunFolder(tmp_path / "here")
    assert (tmp_path / "here" / "checkpoint").is_dir()
