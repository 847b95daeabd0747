"""Backbones and heads put together in real runs: map heads, closed-form heads, other input sizes, what is refused."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.data.dataset import ImageFile
from zoo.errors import CheckFailed, OptionError, Refused
from zoo.registry.registry import default_registry
from zoo.training.proof import check_preprocessing

CONVNEXT = {"backbone": "timm/test_convnext", "weights": "random", "epochs": 1}


def proof_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Check -> its entries, one a stage."""
    found: dict[str, list[dict[str, Any]]] = {}
    content = json.loads((path / "proof.json").read_text("utf-8"))
    for check in content["checks"] if isinstance(content, dict) else content:
        found.setdefault(check["name"], []).append(check)
    return found


def test_what_lies_behind_the_map_is_never_trained_and_the_plan_says_so(shapes: Path, tmp_path: Path) -> None:
    result = zoo.finetune(**CONVNEXT, head="gem", recipe="full", data=shapes, out=tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))
    assert plan["head"]["needs"] == "map"
    assert plan["backbone"]["idle"] == ["backbone.head.norm.bias", "backbone.head.norm.weight"]
    (stage,) = plan["stages"]
    assert stage["trainable_parameters"] + stage["frozen_parameters"] == sum(
        each.numel() for each in zoo.load(result.path).model.parameters()
    )
    assert stage["frozen_parameters"] == 2 * plan["backbone"]["features"]
    (frozen,) = proof_of(result.path)["frozen_unchanged"]
    assert frozen["verdict"] == "passed" and frozen["evidence"]["tensors"] == 2
    assert result.proof == "passed"
    pooled = zoo.plan(**CONVNEXT, head="linear", recipe="full", data=shapes)
    assert pooled.backbone.idle == () and pooled.stages[0].frozen_parameters == 0


def test_a_closed_form_head_is_fitted_in_one_pass_on_a_frozen_backbone(shapes: Path, tmp_path: Path) -> None:
    result = zoo.finetune(
        backbone="timm/test_convnext", weights="random", head="prototype", data=shapes, out=tmp_path / "run"
    )
    assert result.content["recipe"] == "recipes/head_only" and result.proof == "passed"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))
    (stage,) = plan["stages"]
    assert (stage["settings"]["epochs"], stage["steps"], stage["rates"], stage["trainable_parameters"]) == (1, 0, {}, 0)
    checks = proof_of(result.path)
    assert checks["closed_form"][0]["verdict"] == checks["frozen_unchanged"][0]["verdict"] == "passed"
    assert not {"gradients", "loss_movement", "optimizer_groups"} & checks.keys()
    history = (tmp_path / "run" / "history.jsonl").read_text("utf-8").splitlines()
    assert len(history) == 1 and json.loads(history[0])["epochs"] == 1
    # Class means of normalised features, whatever the order of the images.
    classifier = zoo.load(result.path)
    assert torch.equal(classifier.model.head.prototypes, zoo.load(result.path).model.head.prototypes)
    assert len(classifier.predict(sorted((shapes / "test" / "red").iterdir()))) == 4


def test_a_closed_form_that_has_two_answers_fails_its_check(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = default_registry().head("prototype")
    honest = found.spec.fit
    assert honest is not None

    def wavering(module: Any, features: Any, targets: Any) -> None:
        honest(module, features, targets)
        module.prototypes += 1e-6 * torch.rand_like(module.prototypes)

    monkeypatch.setattr(
        "zoo.registry.registry.resolve_spec", lambda *_: type(found)(replace(found.spec, fit=wavering), found.plugin)
    )
    (head_only,) = [each for each in default_registry().recipes() if each.spec.name == "head_only"]
    monkeypatch.setattr(type(default_registry()), "recipe", lambda self, name: head_only)
    with pytest.raises(CheckFailed, match=r"closed_form .*came out differently when fitted again"):
        zoo.finetune(
            backbone="timm/test_convnext", weights="random", head="prototype", data=shapes, out=tmp_path / "run"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--head", "prototype", "--recipe", "staged"], "Next: --recipe head_only, or a head that is trained"),
        (["--head", "prototype", "--epochs", "3"], "--epochs changes how gradients train"),
        (["--head", "prototype", "--set", "head.lr=1"], "--set changes how gradients train"),
        (
            ["--head", "gem", "--backbone", "timm/crossvit_9_240"],
            "a head that works there: linear, dropout_linear, mlp",
        ),
        (
            ["--head", "attention_pool", "--head-option", "heads=7"],
            "heads must divide the map's 64 channels, got 7; up to 16 these do",
        ),
        (["--head", "gem", "--head-option", "p=-2"], "p must be above 0 and finite, got -2.0"),
        (["--head", "gem", "--head-option", "p=three"], "p: should be a valid number"),
        (["--input-size", "wide"], "--input-size 'wide' is not a size"),
        (["--input-size", "0"], "--input-size '0' is not a size"),
        (["--input-size", "8", "--backbone", "timm/test_vit"], "does not take images of 8x8"),
        (["--backbone", "timm/test_convnext.r999_in1k"], "timm/test_convnext has: r160_in1k"),
    ],
)
def test_pairs_options_and_sizes_that_cannot_be_are_refused(
    arguments: list[str], said: str, shapes: Path, zoo_inside: Zoo
) -> None:
    usual = ["plan", "--data", str(shapes), "--weights", "random"]
    if "--backbone" not in arguments:
        usual += ["--backbone", "timm/test_convnext"]
    done = zoo_inside(*usual, *arguments)
    assert done.returncode == 2 and done.stdout == "" and said in done.stderr and "Traceback" not in done.stderr


def test_a_larger_input_size_trains_saves_and_predicts_at_that_size(shapes: Path, tmp_path: Path) -> None:
    result = zoo.finetune(
        backbone="timm/test_vit",
        weights="random",
        head="attention_pool",
        data=shapes,
        input_size=(192, 224),
        epochs=1,
        recipe="full",
        out=tmp_path / "run",
    )
    classifier = zoo.load(result.path)
    assert classifier.model.preprocessing.input_size == (3, 192, 224)
    assert classifier.model.backbone.pos_embed.shape == (1, 1 + 12 * 14, 64)
    assert classifier.predict([next((shapes / "test" / "red").iterdir())])[0].label in ("red", "green", "blue")
    (check,) = proof_of(result.path)["preprocessing"]
    assert check["verdict"] == "passed" and "enlarged or reduced to 192x224" in check["summary"]


@pytest.mark.parametrize("change", [{"mean": (0.4, 0.4, 0.4)}, {"resize_size": (999, 999)}, {"interpolation": "box"}])
def test_at_another_size_any_other_difference_fails_the_check(change: dict[str, Any], shapes: Path) -> None:
    spec = default_registry().backbone("timm/test_vit").spec
    tag = spec.tags[0]
    assert spec.reference is not None
    path = next((shapes / "train" / "red").iterdir())
    files = [ImageFile(path=path, relative=path.name, label=0)]
    native = spec.preprocessing_for(tag)
    right = native.at(320, 320)
    check = check_preprocessing(files, right, spec.reference(tag), weights=tag, native=native)
    assert check.verdict == "passed"
    wrong = check_preprocessing(files, replace(right, **change), spec.reference(tag), weights=tag, native=native)
    assert wrong.verdict == "failed"


@pytest.mark.long
def test_maps_that_would_fill_the_memory_are_computed_again_each_epoch(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {**CONVNEXT, "head": "gem", "recipe": "head_only", "data": shapes}
    kept = zoo.finetune(**arguments, out=tmp_path / "kept")
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "1KB")
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", 2000 * 60)  # pooled features fit
    again = zoo.finetune(**arguments, out=tmp_path / "again")
    inputs = [json.loads((each.path / "plan.json").read_text("utf-8"))["stages"][0]["inputs"] for each in (kept, again)]
    assert inputs == ["features", "images"]
    states = [zoo.load(each.path).model.state_dict() for each in (kept, again)]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-4), name
    pooled = zoo.plan(**{**arguments, "head": "linear"})
    assert pooled.stages[0].inputs == "features"


def test_the_library_refuses_what_the_command_line_refuses() -> None:
    with pytest.raises(Refused, match="a head that works there: linear"):
        zoo.create_model("timm/crossvit_9_240", head="gem", classes=2, weights="random")
    with pytest.raises(OptionError, match="does not take images of 225x225"):
        zoo.create_model("torchvision/maxvit_t", classes=2, weights="random", input_size=(225, 225))
    model = zoo.create_model("timm/test_resnet", head="gem", classes=2, weights="random", input_size=(96, 128))
    assert model(torch.zeros(1, 3, 96, 128)).shape == (1, 2)


def test_a_batch_of_one_in_one_stage_freezes_nothing_else(shapes: Path) -> None:
    plain = zoo.plan(backbone="timm/test_vit", weights="random", data=shapes)
    single = zoo.plan(backbone="timm/test_vit", weights="random", data=shapes, set=["head.batch_size=1"])
    assert single.backbone.idle == plain.backbone.idle == ()
    assert [stage.trainable_parameters for stage in single.stages] == [
        stage.trainable_parameters for stage in plain.stages
    ]


@pytest.mark.parametrize(("backbone", "head"), [("timm/efficientvim_m1", "linear"), ("timm/cait_xxs24_224", "gem")])
def test_odd_backbones_can_be_planned_with_stages_that_train_them(backbone: str, head: str, shapes: Path) -> None:
    plan = zoo.plan(backbone=backbone, weights="random", head=head, data=shapes)
    assert all(stage.trainable_parameters for stage in plan.stages)
    last = [name for name in plan.stages[1].trains if name != "head"]
    assert last == (["blocks.23"] if head == "gem" else ["stages.2"])
    assert bool(plan.backbone.idle)


def test_selectors_and_rates_count_only_groups_that_take_part(shapes: Path) -> None:
    plan = zoo.plan(backbone="alexnet", weights="random", head="gem", data=shapes, recipe="full")
    (stage,) = plan.stages
    assert stage.rates["conv5"] == stage.settings.lr and "classifier" not in stage.rates
    assert stage.freezes == ("classifier",)
    last = zoo.plan(backbone="alexnet", weights="random", head="gem", data=shapes, recipe="staged").stages[1]
    assert last.trains == ("conv5", "head") and last.trainable_parameters > 500_000


@pytest.mark.long
def test_features_are_kept_once_and_given_up_before_images_are_needed(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.frozen.inputs import CachedInputs
    from zoo.training import stages

    kept: list[bool] = []

    class Looking(stages.StageTrainer):
        def __init__(self, work: stages.StageWork) -> None:
            kept.append(isinstance(work.inputs, CachedInputs))
            if isinstance(work.inputs, CachedInputs):
                rows = work.inputs.views[0].rows(range(36))
                assert len(work.inputs.views[0]) == 36 and not rows.is_inference()  # heads train on them
            else:
                gc.collect()
                assert not any(type(each) is CachedInputs for each in gc.get_objects())
            super().__init__(work)

    monkeypatch.setattr(stages, "StageTrainer", Looking)
    zoo.finetune(**CONVNEXT, head="gem", data=shapes, out=tmp_path / "run")
    assert kept == [True, False, False]


def test_gradients_of_zeros_alone_are_a_warning(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.model.model import ZooModel

    forward = ZooModel.features

    def without(self: ZooModel, images: torch.Tensor) -> torch.Tensor:
        features = forward(self, images)
        return features + 0.0 * sum(each.sum() for each in self.backbone.parameters())

    def cut(self: ZooModel, images: torch.Tensor) -> torch.Tensor:
        # The backbone's outputs count for nothing: its gradients are there, and zeros.
        return images.mean((2, 3)).repeat(1, self.shape.pooled)[:, : self.shape.pooled] + without(self, images) * 0.0

    monkeypatch.setattr(ZooModel, "features", cut)
    zoo.finetune(**CONVNEXT, head="linear", recipe="full", data=shapes, out=tmp_path / "run")
    (check,) = proof_of(tmp_path / "run")["gradients"]
    assert check["verdict"] == "warning" and "got a gradient of only zeros in every step" in check["summary"]


@pytest.mark.parametrize("size", [(1, 1), (-8, 64), 9000, (64, 64, 3), "96x", (96.0, 96)])
def test_sizes_that_make_no_sense_are_refused_by_the_library(size: Any) -> None:
    with pytest.raises(OptionError, match="is not a size"):
        zoo.create_model("timm/test_resnet", classes=2, weights="random", input_size=size)
    with pytest.raises(OptionError, match="is not a size"):
        zoo.list_backbones(input_size=size)


def test_one_number_is_a_square() -> None:
    model = zoo.create_model("timm/test_resnet", classes=2, weights="random", input_size=96)  # type: ignore[arg-type]
    assert model.preprocessing.input_size == (3, 96, 96)
    square, pair = (zoo.list_backbones("vit*", input_size=size) for size in (384, [384, 384]))  # type: ignore[arg-type]
    assert [each.tags for each in square] == [each.tags for each in pair] != []
