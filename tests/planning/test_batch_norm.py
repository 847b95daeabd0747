"""Batch norms keep what they know until there are enough images to learn something better from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zoo
from safetensors.torch import save_file
from tests.conftest import Zoo
from zoo.planning.batch_norm import ENOUGH_IMAGES, Evidence, decide_batch_norm
from zoo.specs.plan import StagePlan
from zoo.specs.recipe import Stage


def decided(*, images: int, pretrained: bool = True, **settings: object) -> tuple[str, str]:
    stage = Stage.model_validate({"name": "all", "train": ["all"], "epochs": 1, "lr": 1e-3, **settings})
    return decide_batch_norm(stage, Evidence(images=images, pretrained=pretrained))


@pytest.mark.parametrize(
    ("images", "pretrained", "settings", "policy", "why"),
    [
        (500, True, {}, "frozen", "500 training images say less"),
        (ENOUGH_IMAGES - 1, True, {}, "frozen", "say less"),
        (ENOUGH_IMAGES, True, {}, "train", "enough for statistics of their own"),
        (ENOUGH_IMAGES, True, {"batch_size": 4}, "frozen", "batches of 4 images"),
        (500, False, {}, "train", "the weights are random"),
        (500, False, {"batch_size": 1}, "frozen", "a batch of 1 image"),
        (10 * ENOUGH_IMAGES, True, {"batch_norm": "frozen"}, "frozen", ""),
        (10, True, {"batch_norm": "train"}, "train", ""),
        (10, False, {"batch_norm": "adapt"}, "adapt", ""),
    ],
)
def test_what_auto_becomes(images: int, pretrained: bool, settings: dict[str, object], policy: str, why: str) -> None:
    found, reason = decided(images=images, pretrained=pretrained, **settings)
    assert found == policy and why in reason and bool(reason) == bool(why)


def test_epochs_do_not_make_images_say_more() -> None:
    assert decided(images=500, epochs=1) == decided(images=500, epochs=1000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that were trained before, as far as a plan knows."""
    file = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    save_file(
        zoo.create_model("timm/test_resnet", head="linear", classes=2, weights="random").backbone.state_dict(), file
    )
    return file


def test_a_plan_says_what_was_decided_and_trains_only_that(few: Path, weights: Path, zoo_inside: Zoo) -> None:
    trained = zoo.plan(backbone="timm/test_resnet", weights=str(weights), data=few)
    head, last, everything = trained.stages
    assert [stage.batch_norm for stage in trained.stages] == ["frozen"] * 3
    assert not head.batch_norm_why and last.batch_norm_why and last.batch_norms_training == 0
    random = zoo.plan(backbone="timm/test_resnet", weights="random", data=few)
    assert random.stages[2].batch_norm == "train" and random.stages[2].batch_norms_frozen == 0
    assert everything.trainable_parameters < random.stages[2].trainable_parameters
    told = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", weights, "--data", few)
    assert "last, all: batch norms stay frozen: 8 training images say less" in " ".join(told.stdout.split())


def test_of_a_backbone_without_batch_norm_nothing_is_said(few: Path) -> None:
    plan = zoo.plan(backbone="squeezenet1_1", weights="random", data=few)
    assert not any(stage.batch_norm_why for stage in plan.stages)


def test_a_batch_of_one_image_is_possible_unless_batch_norms_are_told_to_train(few: Path, zoo_inside: Zoo) -> None:
    words = ["plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--batch-size", "1"]
    assert zoo_inside(*words).returncode == 0
    refused = zoo_inside(*words, "--set", "all.batch_norm=train")
    assert refused.returncode == 2 and "batch norm cannot train on 1 image" in refused.stderr


def test_what_older_recipes_and_plans_say_still_holds(few: Path) -> None:
    # Recipe files that were written with every default say `train` in the head's stage, too.
    every = [f"{stage}.batch_norm=train" for stage in ("head", "last", "all")]
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", data=few, set=every)
    assert [stage.batch_norm for stage in plan.stages] == ["train"] * 3
    stored = json.loads(plan.stages[1].model_dump_json())
    del stored["batch_norm"], stored["batch_norm_why"], stored["settings"]["abandon"]
    stored["settings"]["batch_norm"] = "frozen"
    assert StagePlan.model_validate(stored).batch_norm == "frozen"
