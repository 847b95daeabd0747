"""A plan says what it is likely to suffer from, and what it does with every parameter, before anything runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.planning.batch_sizes import batch_sizes, part_sizes
from zoo.planning.warnings import plan_warnings, shortlist_warnings
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan, ShortlistedBackbone, ShortlistPlan
from zoo.training.stored_plan import differences

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "head": "linear"}


def with_images(plan: Plan, *, train: list[int], val: list[int], size: tuple[int, int] | None = None) -> Plan:
    """The same plan for so many images of each class."""
    preprocessing = {**plan.preprocessing, "input_size": [3, *(size or (160, 160))]}
    return plan.model_copy(
        update={
            "classes": tuple(f"c{index}" for index in range(len(train))),
            "data": plan.data.model_copy(update={"images": {"train": train, "val": val}}),
            "preprocessing": preprocessing,
            "weights": plan.weights.model_copy(update={"kind": "tag"}),
        }
    )


@pytest.fixture(scope="module")
def full(shapes: Path) -> Plan:
    return zoo.plan(**USUAL, recipe="full", data=shapes)


def said(plan: Plan, *, own_loss: bool = False) -> list[str]:
    return list(plan_warnings(plan, native=(160, 160), own_loss=own_loss))


def test_a_plan_without_faults_says_nothing(full: Plan) -> None:
    assert said(with_images(full, train=[64, 64], val=[20, 20])) == []


@pytest.mark.parametrize(
    ("train", "batch", "words", "size"),
    [
        ([32, 36], 32, "a last batch of 4 images in every epoch in stage all", "--batch-size 30"),
        ([32, 33], 32, None, None),  # the one left over joins the batch before it
        ([9, 8], 4, "batches of 4 images (the last of 5: a single image joins the batch before it)", "--batch-size 8"),
        ([8, 8], 4, "batches of 4 images", "--batch-size 8"),
        ([3, 3], 32, "one batch of 6 images", "more training images"),
    ],
)
def test_small_batches_where_batch_norm_trains(
    full: Plan, train: list[int], batch: int, words: str | None, size: str | None
) -> None:
    (stage,) = full.stages
    stage = stage.model_copy(update={"settings": stage.settings.model_copy(update={"batch_size": batch})})
    plan = with_images(full.model_copy(update={"stages": (stage,)}), train=train, val=[20, 20])
    found = [each for each in said(plan) if each.startswith("Batch norm")]
    if words is None:
        assert found == []
        return
    assert len(found) == 1 and words in found[0] and f"Next: {size}, or --set all.batch_norm=frozen." in found[0]
    # Where none trains, the size of a batch is nobody's trouble.
    resting = plan.model_copy(update={"stages": (stage.model_copy(update={"batch_norms_training": 0}),)})
    assert not [each for each in said(resting) if each.startswith("Batch norm")]


@pytest.mark.parametrize(
    ("images", "size", "accumulate"), [(64, 8, 4), (70, 8, 2), (9, 4, 8), (33, 16, 1), (100, 32, 3)]
)
def test_parts_of_a_step_are_those_that_the_loop_makes(images: int, size: int, accumulate: int) -> None:
    longest = max(batch_sizes(images, size))
    steps = [torch.empty(step) for step in batch_sizes(images, size * accumulate)]
    parts = [len(part) for step in steps for part in step.tensor_split(math.ceil(len(step) / longest))]
    assert part_sizes(images, size, accumulate) == parts


def test_batch_norm_sees_the_parts_of_accumulated_batches(full: Plan) -> None:
    (stage,) = full.stages
    settings = stage.settings.model_copy(update={"batch_size": 4, "accumulate": 8})
    plan = full.model_copy(update={"stages": (stage.model_copy(update={"settings": settings}),)})
    (found,) = said(with_images(plan, train=[64, 64], val=[20, 20]))
    assert "Batch norm trains on batches of 4 images in stage all" in found


def test_classes_with_few_images_are_named_up_to_five(full: Plan) -> None:
    found = said(with_images(full, train=[64, 4], val=[20, 20]))
    assert [each for each in found if "1 of 2 classes has fewer than 5 images in train" in each and "c1 (4)" in each]
    found = said(with_images(full, train=[64] * 9, val=[20, *[3] * 8]))
    (few,) = [each for each in found if "fewer than 5" in each]
    assert few.startswith("8 of 9 classes have fewer than 5 images in val")
    assert "c1 (3), c2 (3), c3 (3), c4 (3), c5 (3) and 3 more." in few and "c6" not in few


def test_a_resolution_far_from_that_of_the_weights(full: Plan) -> None:
    def found(size: tuple[int, int]) -> list[str]:
        return said(with_images(full, train=[64, 64], val=[20, 20], size=size))

    assert found((240, 160)) == [] and found((120, 120)) == []
    (smaller,) = found((64, 160))
    assert "64x160 pixels, the weights were made for 160x160: 2.5 times smaller" in smaller
    assert "zoo list backbones --input-size 64x160" in smaller
    (larger,) = found((320, 320))
    assert "2.0 times larger" in larger
    random = with_images(full, train=[64, 64], val=[20, 20], size=(320, 320))
    random = random.model_copy(update={"weights": full.weights.model_copy(update={"kind": "random"})})
    assert said(random) == []


def test_unequal_classes_and_the_knob_that_helps(full: Plan) -> None:
    assert said(with_images(full, train=[100, 10], val=[20, 20])) == []
    plan = with_images(full, train=[150, 10], val=[20, 20])
    (unequal,) = said(plan)
    assert "c0 has 150 training images, c1 10 (15 times fewer)" in unequal
    assert "--set all.class_weights=balanced" in unequal
    (own,) = said(plan, own_loss=True)
    assert "class_weights" not in own and "--set all.sampling=balanced" in own
    (stage,) = plan.stages
    for knob in ("class_weights", "sampling"):
        balanced = stage.model_copy(update={"settings": stage.settings.model_copy(update={knob: "balanced"})})
        assert said(plan.model_copy(update={"stages": (balanced,)})) == []


def test_another_choice_is_advised_only_where_a_run_chooses_among_stages(full: Plan) -> None:
    plan = with_images(full, train=[150, 10], val=[20, 20])
    two = plan.model_copy(update={"stages": plan.stages * 2})
    assert ["choose_by=balanced_loss" in each for each in said(two)] == [True]
    # It would be refused: keep 'last' chooses nothing.
    assert ["choose_by" in each for each in said(two.model_copy(update={"keep": "last"}))] == [False]


@pytest.mark.parametrize(("knob", "value"), [("keep_epoch", "best"), ("patience", 3), ("lr", "auto")])
def test_what_is_chosen_inside_a_balanced_stage_by_large_classes_is_told_and_the_next_step_mends_it(
    knob: str, value: Any, full: Plan
) -> None:
    (stage,) = full.stages
    settings = stage.settings.model_copy(update={"class_weights": "balanced"})
    plan = with_images(full, train=[150, 10], val=[30, 10])

    def with_stage(**update: Any) -> Plan:
        changed = stage.model_copy(update={"settings": settings.model_copy(update=update)})
        return plan.model_copy(update={"stages": (changed,)})

    assert said(with_stage()) == [], "of a single stage nothing is chosen"
    chosen = with_stage(**{knob: value})
    (told,) = said(chosen)
    assert "In stage all every class has the same weight, but what is chosen inside a stage is decided by loss" in told
    assert told.endswith("Next: --set choose_by=balanced_loss.")
    assert said(chosen.model_copy(update={"choose_by": "balanced_loss"})) == []


def test_a_backbone_that_was_chosen_by_plain_accuracy_is_told_where_classes_should_count_the_same(full: Plan) -> None:
    found = [ShortlistedBackbone.model_construct(name=f"timm/{name}") for name in ("one", "two", "three")]
    shortlist = ShortlistPlan.model_construct(compared=3, backbones=tuple(found))
    plan = with_images(full, train=[150, 10], val=[30, 10])
    assert shortlist_warnings(plan, shortlist) == ()
    balanced = plan.model_copy(update={"choose_by": "balanced_accuracy"})
    (told,) = shortlist_warnings(balanced, shortlist)
    assert "the backbone was chosen among 3 by the plain accuracy of probes" in told
    assert "--backbone timm/one,timm/two --over choose_by=balanced_accuracy" in told
    assert shortlist_warnings(balanced, shortlist.model_copy(update={"compared": 1})) == ()
    assert shortlist_warnings(with_images(balanced, train=[64, 64], val=[20, 20]), shortlist) == ()


def test_a_validation_split_where_one_image_is_much(full: Plan) -> None:
    (coarse,) = said(with_images(full, train=[64, 64], val=[10, 9]))
    assert "has 19 images, so one of them is 5.3 points" in coarse
    assert said(with_images(full, train=[64, 64], val=[10, 10])) == []


def test_the_next_steps_that_warnings_name_are_accepted_and_silence_them(tmp_path: Path) -> None:
    for split, counts in (("train", (44, 4)), ("val", (12, 12))):
        for index, (name, count) in enumerate(zip("ab", counts, strict=True)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).resize((32, 32)).save(tmp_path / split / name / f"{number}.png")
    plan = zoo.plan(**USUAL, recipe="full", data=tmp_path, set=["all.batch_size=6"])
    assert [each.split()[0] for each in plan.warnings] == ["Batch", "1", "Classes"]
    arguments = ["all.batch_size=6", "all.class_weights=balanced", "all.batch_norm=frozen"]
    (few,) = zoo.plan(**USUAL, recipe="full", data=tmp_path, set=arguments).warnings
    assert few.startswith("1 of 2 classes has fewer than 5 images")


def test_plan_finetune_and_plan_json_carry_the_same_warnings(zoo_inside: Zoo, few: Path, tmp_path: Path) -> None:
    arguments = ("--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--recipe", "full")
    planned = zoo_inside("plan", *arguments, "--epochs", "1")
    warnings = json.loads(zoo_inside("plan", *arguments, "--epochs", "1", "--json").stdout)["warnings"]
    run = zoo_inside("finetune", *arguments, "--epochs", "1", "--out", "run")
    assert run.returncode == 0, run.stderr
    assert len(warnings) == 3 and json.loads((tmp_path / "run" / "plan.json").read_text())["warnings"] == warnings
    for text in (planned.stdout, run.stdout):
        assert "3 warnings:\n" in text and all(f"\n  {sentence}\n" in text for sentence in warnings)


def table(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with `stage` and contains `first`, by stage."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("stage") and first in line)
    rows = {}
    for line in lines[start + 1 :]:
        if not line.strip() or line.startswith(("peak rates", "weight decay")) or ": each image goes" in line:
            break
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        rows[cells[0]] = cells
    return rows


@pytest.mark.parametrize("recipe", [each.spec.name for each in default_registry().recipes() if each.plugin.own])
def test_the_printed_plan_is_the_plan(recipe: str, zoo_inside: Zoo, shapes: Path) -> None:
    arguments = ("--backbone", "timm/test_resnet", "--weights", "random", "--data", shapes, "--recipe", recipe)
    text = zoo_inside("plan", *arguments).stdout
    plan = Plan.model_validate_json(zoo_inside("plan", *arguments, "--json").stdout)
    trains, how = table(text, "trains"), table(text, "steps")
    assert list(trains) == list(how) == [stage.settings.name for stage in plan.stages]
    for stage in plan.stages:
        name = stage.settings.name
        assert f"{stage.trainable_parameters:,}" in trains[name] and f"{stage.frozen_parameters:,}" in trains[name]
        if stage.solver == "lbfgs":
            assert how[name][1:5] == ["-", "-", "-", "solver lbfgs, to the minimum"]
            assert f"\n{name}: {stage.solver_why}\n" in text
        else:
            assert f"{stage.steps:,}" in how[name] and f"{stage.settings.optimizer}, cosine" in how[name]
        if len(set(stage.rates.values())) > 1:
            rates = ", ".join(f"{group} {rate:.3g}" for group, rate in stage.rates.items())
            assert f"\npeak rates of {name}: {rates}\n" in text
        if stage.tensors:
            also = "adapters of rank 8 on" if stage.adapters else f"every {stage.tensors[0]}"
            assert "the rest of stem" in " ".join(trains[name]) and also in trains[name][1]


def test_weight_decay_is_printed_with_what_it_acts_on(zoo_inside: Zoo, shapes: Path) -> None:
    def row(*arguments: str) -> str:
        usual = ("--backbone", "timm/test_resnet", "--weights", "random", "--data", shapes, "--head", "linear")
        (cells,) = table(zoo_inside("plan", *usual, "--recipe", "full", *arguments).stdout, "steps").values()
        return next(cell for cell in cells if cell.startswith(("0.", "none")) and ("on" in cell))

    model = zoo.create_model("timm/test_resnet", head="linear", classes=3, weights="random")
    decayed = sum(each.numel() for each in model.parameters() if each.ndim > 1)
    assert row() == f"0.0001 on {decayed / 1e3:.1f}k"
    assert row("--set", "all.decay_all=true") == "0.0001 on all"
    assert row("--set", "all.weight_decay=0") == "none"
    assert row("--set", "all.train=norm") == "0.0001, on nothing that trains"


def test_knobs_of_a_stage_are_printed(zoo_inside: Zoo, shapes: Path) -> None:
    usual = ("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", shapes, "--recipe", "lp_ft")
    knobs = ("head.lr=auto", "head.views=3", "head.augment=crop", "all.accumulate=4", "all.batch_size=8")
    done = zoo_inside(*usual, *(word for knob in knobs for word in ("--set", knob)))
    rows = table(done.stdout, "steps")
    assert "found by trying" in rows["head"] and rows["head"][-1] == "cached features of 3 views (crop)"
    assert rows["all"][2] == "8 x 4" and rows["all"][-1] == "images, crop"


def test_a_closed_form_head_prints_no_steps(zoo_inside: Zoo, shapes: Path) -> None:
    done = zoo_inside(
        "plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", shapes, "--head", "prototype"
    )
    assert table(done.stdout, "steps")["head"] == [
        *("head", "-", "-", "-", "fitted in closed form, in one pass", "-", "-", "cached features")
    ]
    assert "peak rates" not in done.stdout and "weight decay acts" not in done.stdout


def test_a_run_goes_on_although_a_newer_zoo_warns_otherwise(full: Plan) -> None:
    worded = full.model_copy(update={"warnings": ("Said in other words.",)})
    assert differences(full, worded) == [] and differences(full, full.model_copy(update={"seed": 7}))
