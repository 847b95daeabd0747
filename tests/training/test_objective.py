"""Mixup and CutMix: mixed batches, the loss of mixed targets, runs that mix, and where mixing is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import Tensor
from torch.nn import functional
from zoo.specs.recipe import Stage
from zoo.training.objective import Objective, balanced_weights, mix, mixes

TINY = ("--backbone", "timm/test_resnet", "--weights", "random")


def stage(**settings: Any) -> Stage:
    return Stage(**{"name": "all", "train": ("all",), "epochs": 1, "lr": 1e-3, **settings})


def batch(count: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Images of one colour each, which shows where a pixel comes from: image n has the value n + 1."""
    values = torch.arange(1.0, count + 1).view(-1, 1, 1, 1)
    return values.expand(count, 3, 24, 32).clone(), torch.arange(count) % classes


def expected_targets(mixed: Tensor, targets: Tensor, partners: list[int], classes: int) -> Tensor:
    """Measure the shares of each image and of its partner by the pixels."""
    count = len(mixed)
    shares = torch.zeros(count, classes)
    for index, partner in enumerate(partners):
        own, other = index + 1.0, partner + 1.0
        share = 1.0 if own == other else float((mixed[index].mean() - other) / (own - other))
        shares[index, targets[index]] += share
        shares[index, targets[partner]] += 1 - share
    return shares


def partners_of(key: str, count: int) -> list[int]:
    """The first draw of the batch's generator."""
    return random.Random(f"mix/{key}").sample(range(count), count)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_blends_images_and_targets_by_the_same_parameter(alpha: float) -> None:
    images, targets = batch()
    shares = []
    for number in range(40):
        key = f"0/all/1/{number}"
        mixed, soft = mix(images, targets, 5, stage(mixup=alpha), key=key)
        partners = partners_of(key, 8)
        assert torch.allclose(soft, expected_targets(mixed, targets, partners, 5), atol=1e-5)
        # Blended, not pasted: every image is still of one colour.
        assert torch.allclose(mixed, mixed[..., :1, :1].expand_as(mixed))
        moved = next(index for index, partner in enumerate(partners) if index != partner)
        shares.append(float((mixed[moved].mean() - partners[moved] - 1) / (moved - partners[moved])))
    assert all(-1e-5 <= share <= 1 + 1e-5 for share in shares) and len({round(share, 4) for share in shares}) > 20
    # Beta(alpha, alpha) has this variance about 1/2.
    variance = sum((share - 0.5) ** 2 for share in shares) / len(shares)
    assert variance == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.4)


def test_cutmix_pastes_one_box_and_shares_targets_by_its_true_area() -> None:
    images, targets = batch()
    areas, clipped = set(), 0
    for number in range(60):
        key = f"0/all/1/{number}"
        mixed, soft = mix(images, targets, 5, stage(cutmix=1.0), key=key)
        partners = partners_of(key, 8)
        assert torch.allclose(soft, expected_targets(mixed, targets, partners, 5), atol=1e-5)
        moved = next(index for index, partner in enumerate(partners) if index != partner)
        pasted = mixed[moved, 0] == partners[moved] + 1
        rows, columns = pasted.any(1).nonzero().flatten(), pasted.any(0).nonzero().flatten()
        areas.add(int(pasted.sum()))
        if len(rows):
            box = pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all() and pasted.sum() == box.sum()
            clipped += bool(rows[0] == 0 or rows[-1] == 23 or columns[0] == 0 or columns[-1] == 31)
        assert ((mixed[moved, 0] == moved + 1) | pasted).all()
        # The same box in every image and channel.
        boxes = [mixed[index] == partner + 1 for index, partner in enumerate(partners) if index != partner]
        assert all(torch.equal(each, boxes[0]) for each in boxes)
    assert len(areas) > 30 and clipped > 10


def test_with_both_each_batch_takes_one_of_the_two() -> None:
    images, targets = batch()
    blended = 0
    for number in range(400):
        mixed, _ = mix(images, targets, 5, stage(mixup=1.0, cutmix=1.0), key=str(number))
        whole = torch.equal(mixed.round(), mixed)
        blended += not whole
    assert 160 < blended < 240


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 0.4}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_key_alone_decides_and_nothing_else_is_touched(settings: dict[str, float]) -> None:
    images, targets = batch()
    before = images.clone()
    torch.manual_seed(1)
    random.seed(1)
    state, own = torch.random.get_rng_state(), random.getstate()
    first = mix(images, targets, 5, stage(**settings), key="0/all/1/2")
    again = mix(images, targets, 5, stage(**settings), key="0/all/1/2")
    other = mix(images, targets, 5, stage(**settings), key="0/all/1/3")
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before) and torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == own
    assert first[0].dtype == images.dtype and first[1].dtype == torch.float32
    assert torch.allclose(first[1].sum(1), torch.ones(8))


def test_only_what_is_turned_on_mixes() -> None:
    assert not mixes(stage()) and mixes(stage(mixup=0.1)) and mixes(stage(cutmix=0.1))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_mixed_targets_is_torchs_whatever_the_micro_batches(smoothing: float, weighted: bool) -> None:
    torch.manual_seed(0)
    model = zoo.create_model("timm/test_resnet", head="linear", classes=3, weights="random").eval()
    features, targets = torch.randn(7, model.shape.pooled), torch.tensor([0, 0, 0, 0, 1, 2, 2])
    _, soft = mix(torch.zeros(7, 3, 8, 8), targets, 3, stage(mixup=1.0), key="k")
    weights = balanced_weights(targets, 3) if weighted else None
    expected = functional.cross_entropy(model.head(features), soft, weight=weights, label_smoothing=smoothing)
    objective = Objective(stage(label_smoothing=smoothing), weights)
    for parts in (1, 2, 7):
        total = sum(
            objective.micro_batch_loss(model, part, some, soft)
            for part, some in zip(features.tensor_split(parts), soft.tensor_split(parts), strict=True)
        )
        assert isinstance(total, Tensor) and torch.allclose(total, expected, atol=1e-6)


def run(data: Path, out: Path, *settings: str) -> tuple[float, dict[str, Tensor]]:
    """Run `full` -> the training loss of its last epoch, and the state dict."""
    result = zoo.finetune(
        backbone="timm/test_resnet", weights="random", recipe="full", epochs=2, data=data, out=out, set=settings
    )
    assert result.proof == "passed"
    history = (out / "history.jsonl").read_text("utf-8").splitlines()
    return json.loads(history[-1])["train_loss"], zoo.load(result.path).model.state_dict()


@pytest.mark.parametrize("knobs", [("all.mixup=1",), ("all.cutmix=1", "all.class_weights=balanced")])
@pytest.mark.long
def test_runs_train_on_mixed_images_and_can_be_repeated(knobs: tuple[str, ...], few: Path, tmp_path: Path) -> None:
    plain, before = run(few, tmp_path / "plain")
    mixed, state = run(few, tmp_path / "mixed", *knobs)
    again, same = run(few, tmp_path / "again", *knobs)
    assert plain != mixed == again
    assert all(torch.equal(same[name], tensor) for name, tensor in state.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "head.mixup=0.2"], "stages[0].mixup: would do nothing, the head alone trains on features computed"),
        (["--set", "head.cutmix=1"], "stages[0].cutmix: would do nothing, the head alone trains on features computed"),
        (["--head", "arcface", "--set", "last.mixup=0.2"], "stages[1].mixup: would do nothing, this head brings its"),
        (["--set", "last.mixup=-1"], "(--set last.mixup): should be at least 0"),
        (["--set", "last.cutmix=true"], "(--set last.cutmix): should be a valid number"),
        (
            ["--backbone", "timm/test_vit", "--set", "last.cutmix=1", "--set", "last.batch_size=1"],
            "stages[1].cutmix: would do nothing, a batch of 1 image has no other to mix it with",
        ),
    ],
)
def test_mixing_that_would_do_nothing_is_refused(
    arguments: list[str], message: str, shapes: Path, zoo_inside: Zoo
) -> None:
    usual = ("--weights", "random") if "--backbone" in arguments else TINY
    done = zoo_inside("plan", *usual, "--data", shapes, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_mixing_for_a_closed_form_head_is_refused(shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text('summary = "s"\n[[stages]]\nname = "h"\ntrain = ["head"]\nepochs = 1\nlr = 1\nmixup = 1\n')
    done = zoo_inside("plan", *TINY, "--head", "prototype", "--recipe", recipe, "--data", shapes)
    assert done.returncode == 2
    assert "stages[0].mixup: would do nothing, this head is fitted in closed form" in done.stderr
