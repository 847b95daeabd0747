"""Choosing among candidates on validation images, and the estimate of what that flatters the score by."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from tests.numeric import draw_unequal
from torch import Tensor
from zoo.errors import OptionError, RecipeError
from zoo.evaluation.copies import Copies, copies_among
from zoo.evaluation.metrics import Scores, score
from zoo.specs.plan import Plan
from zoo.specs.recipe import ChooseBy as Criterion
from zoo.training.choosing import Judged, best_temperature, image_weights, is_better, judge, optimism


def of_right(right: Tensor) -> Judged:
    """A candidate with these hits, bool[N], whose loss is 0 for a hit and 1 for a miss."""
    return Judged(right, 1 - right.float())


def with_hits(hits: int, images: int = 50) -> Judged:
    return of_right(torch.arange(images) < hits)


def draw(candidates: int, images: int, generator: torch.Generator, *, accuracy: float = 0.85) -> list[Judged]:
    """Candidates of equal true accuracy that agree on most images, as stages of one run do."""
    shared = torch.rand(images, generator=generator)
    own = torch.rand(candidates, images, generator=generator)
    agree = torch.rand(candidates, images, generator=generator) < 0.6
    return [of_right(row < accuracy) for row in torch.where(agree, shared, own)]


def chosen(candidates: list[Judged], criterion: Criterion, standard_errors: float) -> Judged:
    best = candidates[0]
    for candidate in candidates[1:]:
        if is_better(candidate, best, criterion, standard_errors):
            best = candidate
    return best


def test_judging_agrees_with_the_scores_that_are_reported() -> None:
    logits, targets = torch.randn(40, 5), torch.randint(0, 5, (40,))
    judged, scores = judge(logits, targets), score(logits, targets)
    assert float(judged.right.double().mean()) == scores.accuracy
    logits = 7 * (logits + 2 * torch.nn.functional.one_hot(targets, 5))
    scaled = judge(logits, targets)
    found = torch.tensor(best_temperature(logits, targets), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(logits.double() / found, targets).backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None and abs(float(found.grad)) < 1e-4, "a minimum"
    assert float(scaled.loss.mean()) < score(logits, targets).loss


@pytest.mark.parametrize("factor", [0.02, 0.5, 3.0, 300.0])
def test_overconfidence_alone_changes_nothing(factor: float) -> None:
    targets = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1))
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(2)) + torch.nn.functional.one_hot(targets, 4)
    plain, louder = judge(logits, targets), judge(factor * logits, targets)
    torch.testing.assert_close(louder.loss, plain.loss, atol=1e-3, rtol=1e-3)


def test_a_model_that_is_right_on_every_image_has_a_loss_near_zero() -> None:
    judged = judge(3 * torch.eye(4), torch.arange(4))
    assert float(judged.loss.max()) < 1e-6 and bool(judged.right.all())


def test_where_classes_count_alike_a_model_that_never_predicts_the_small_one_loses() -> None:
    targets = torch.tensor([0] * 27 + [1] * 3)
    always_large = torch.tensor([[4.0, 0.0]]).repeat(30, 1)
    # Right on nine tenths of either class.
    fair = torch.where(targets == 0, 2.0, -2.0)[:, None] * torch.tensor([[1.0, -1.0]])
    fair[:5] *= -1
    for criterion, wins in (
        ("accuracy", always_large),
        ("balanced_accuracy", fair),
        ("loss", None),
        ("balanced_loss", fair),
    ):
        weights = image_weights(targets, criterion)
        judged = {id(each): judge(each, targets, weights) for each in (always_large, fair)}
        one, other = judged[id(always_large)], judged[id(fair)]
        if wins is not None:
            winner, loser = (one, other) if wins is always_large else (other, one)
            assert is_better(winner, loser, criterion) and not is_better(loser, winner, criterion)
        if weights is not None:
            assert float(weights.mean()) == pytest.approx(1) and float(weights[-1]) == pytest.approx(5)


def test_a_tie_in_balanced_accuracy_goes_to_the_earlier_candidate_whatever_sums_are_rounded_to() -> None:
    # One of 3 is three of 9; and one of 10 with three of 30 is fourteen of 70.
    for counts, hits, others in (((3, 9, 49), (1, 0, 3), (0, 3, 3)), ((10, 30, 70), (1, 3, 0), (0, 0, 14))):
        targets = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
        weights = image_weights(targets, "balanced_accuracy")
        one, other = (
            replace(
                of_right(torch.cat([torch.arange(n) < h for n, h in zip(counts, right, strict=True)])), weights=weights
            )
            for right in (hits, others)
        )
        for later, best in ((one, other), (other, one)):
            assert not is_better(later, best, "balanced_accuracy")
        more = torch.cat([torch.arange(n) < h for n, h in zip(counts, (hits[0] + 1, *hits[1:]), strict=True)])
        assert is_better(replace(of_right(more), weights=weights), other, "balanced_accuracy")


def test_a_balanced_temperature_is_that_of_a_split_with_equal_classes() -> None:
    draw = torch.Generator().manual_seed(4)
    targets = torch.tensor([0] * 40 + [1] * 10 + [2] * 20)
    logits = 2 * torch.randn(70, 3, generator=draw) + torch.nn.functional.one_hot(targets, 3)
    alike = torch.cat([torch.arange(40), torch.arange(40, 50).repeat(4), torch.arange(50, 70).repeat(2)])
    found = best_temperature(logits, targets, image_weights(targets, "balanced_loss"))
    assert found == pytest.approx(best_temperature(logits[alike], targets[alike]), rel=1e-3)
    assert found != pytest.approx(best_temperature(logits, targets), rel=1e-2)


def test_a_loss_that_is_infinite_is_worse_than_any_other() -> None:
    targets = torch.arange(4)
    endless, usual = judge(3e38 * (1 - 2 * torch.eye(4)), targets), judge(torch.eye(4), targets)
    assert is_better(usual, endless, "loss") and not is_better(endless, usual, "loss")
    assert not is_better(endless, endless, "loss")


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
def test_a_later_candidate_must_be_better_by_more_than_the_error(criterion: Criterion) -> None:
    assert not is_better(with_hits(30), with_hits(30), criterion, 0), "a tie goes to the earlier one"
    assert not is_better(with_hits(29), with_hits(30), criterion, 0)
    assert is_better(with_hits(31), with_hits(30), criterion, 0)
    assert not is_better(with_hits(31), with_hits(30), criterion, 1), "a single image is luck"
    assert is_better(with_hits(32), with_hits(30), criterion, 1)
    # Four better and two worse: 2 < sqrt(6). Six better and two worse: 4 > sqrt(8).
    right = torch.arange(20) < 10
    for gained, better in ((4, False), (6, True)):
        later = right.clone()
        later[10 : 10 + gained], later[:2] = True, False
        assert is_better(of_right(later), of_right(right), criterion, 1) is better


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
@pytest.mark.parametrize("standard_errors", [0.0, 0.5, 1.0, 2.0])
def test_no_two_candidates_are_each_better_and_a_stricter_rule_never_finds_more(
    criterion: Criterion, standard_errors: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        one, other = (
            Judged(torch.rand(30, generator=generator) < 0.7, torch.rand(30, generator=generator)) for _ in range(2)
        )
        order = torch.randperm(30, generator=generator)
        shuffled = [Judged(each.right[order], each.loss[order]) for each in (one, other)]
        found = is_better(one, other, criterion, standard_errors)
        assert not (found and is_better(other, one, criterion, standard_errors))
        assert is_better(shuffled[0], shuffled[1], criterion, standard_errors) is found
        assert found <= is_better(one, other, criterion, standard_errors / 2)


@pytest.mark.long
@pytest.mark.parametrize("standard_errors", [0.0, 1.0])
@pytest.mark.parametrize("candidates", [2, 7])
def test_the_optimism_is_close_to_the_true_one_for_candidates_that_are_equal(
    candidates: int, standard_errors: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    true, estimated = [], []
    for number in range(600):
        drawn = draw(candidates, 100, generator)
        true.append(float(chosen(drawn, "accuracy", standard_errors).right.double().mean()) - 0.85)
        if number < 120:
            estimated.append(optimism(drawn, "accuracy", standard_errors) or 0.0)
    found, mean = torch.tensor(estimated).mean(), torch.tensor(true).mean()
    # About three standard errors of the simulation.
    assert abs(float(found - mean)) < 0.006, (found, mean)
    assert float(mean) > 0.008, "the simulation shows nothing"


def test_the_optimism_is_nothing_where_nothing_was_chosen_or_one_is_far_better() -> None:
    generator = torch.Generator().manual_seed(2)
    (alone,) = draw(1, 37, generator)
    assert optimism([alone], "accuracy", 0) == optimism([alone, alone], "accuracy", 0) == 0
    good = of_right(torch.rand(200, generator=generator) < 0.9)
    bad = of_right(torch.rand(200, generator=generator) < 0.3)
    assert optimism([bad, good], "accuracy", 1) == 0


def test_the_optimism_shrinks_with_the_images_and_is_the_same_each_time() -> None:
    few, many = (draw(6, images, torch.Generator().manual_seed(5)) for images in (60, 6000))
    small, large = optimism(many, "accuracy", 0), optimism(few, "accuracy", 0)
    assert small is not None and large is not None and 0 <= small < large / 3
    before = torch.random.get_rng_state()
    assert optimism(few, "loss", 1) == optimism(few, "loss", 1)
    assert torch.equal(torch.random.get_rng_state(), before), "a run's own draws stay as they are"


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
def test_images_that_are_there_twice_do_not_hide_the_optimism(criterion: Criterion) -> None:
    once = draw(6, 60, torch.Generator().manual_seed(5))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(6)) % 60
    twice = [Judged(each.right[order], each.loss[order]) for each in once]
    copies = copies_among(map(str, order.tolist()))
    # Which picture has which number differs, and so the halves that are drawn.
    found, before = optimism(twice, criterion, copies=copies), optimism(once, criterion)
    assert found is not None and before is not None and found == pytest.approx(before, rel=0.15)
    unaware = optimism(twice, criterion)
    assert unaware is not None and unaware < 0.75 * before
    in_order = [Judged(each.right.repeat(2), each.loss.repeat(2)) for each in once]
    assert optimism(in_order, criterion, copies=Copies(torch.arange(60).repeat(2).numpy())) == pytest.approx(before)
    assert optimism(once, criterion, copies=Copies(torch.zeros(60, dtype=torch.long).numpy())) is None


@pytest.mark.long
def test_a_run_on_images_that_are_there_twice_knows_its_optimism(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    data = tmp_path / "once"
    for split, count in (("train", 8), ("val", 40)):
        for number in range(count):
            # Nothing can be learned, so whatever is chosen was lucky.
            file = data / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(0, 256, (64, 64, 3), np.uint8)).save(file)
    twice = Path(shutil.copytree(data, tmp_path / "twice"))
    for file in sorted((twice / "val").rglob("*.png")):
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    usual: dict[str, Any] = {"weights": "random", "recipe": "lp_ft", "epochs": 2, "tune": False, "report": False}
    found, before = (
        zoo.finetune("timm/test_resnet", data=each, out=tmp_path / f"run {each.name}", **usual).content["selection"]
        for each in (twice, data)
    )
    assert before["optimism"] > 0.01 and found["optimism"] == pytest.approx(before["optimism"], rel=0.15)


def test_a_single_image_cannot_tell_what_choosing_is_worth() -> None:
    assert optimism([of_right(torch.tensor([True]))], "accuracy", 1) is None
    found = optimism(draw(3, 2, torch.Generator().manual_seed(0)), "accuracy", 1)
    assert found is not None and math.isfinite(found)


def test_choose_by_brings_the_rule_of_accuracy_back(few: Path, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": few, "recipe": "head_only"}
    by_loss, by_accuracy = (
        zoo.finetune(**usual, out=tmp_path / name, set=settings)
        for name, settings in (("loss", []), ("accuracy", ["choose_by=accuracy"]))
    )
    assert by_loss.content["selection"]["on"] == "val loss after temperature scaling"
    assert by_accuracy.content["selection"]["on"] == "val accuracy"


def test_a_plan_of_before_there_was_a_choice_goes_on_by_accuracy(few: Path) -> None:
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", data=few)
    assert plan.choose_by == "loss"
    stored = plan.model_dump(mode="json")
    del stored["choose_by"]
    assert Plan.model_validate(stored).choose_by == Plan.model_validate(stored).recipe_spec().choose_by == "accuracy"


def test_where_nothing_is_chosen_there_is_nothing_to_choose_by(few: Path) -> None:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": few}
    last = zoo.plan(**usual, set=["keep=last"])
    assert not any(stage.settings.blend or stage.settings.abandon for stage in last.stages)
    with pytest.raises(RecipeError, match="choose_by: would do nothing, keep 'last' chooses nothing"):
        zoo.plan(**usual, set=["keep=last", "choose_by=accuracy"])
    with pytest.raises(OptionError, match="did you mean 'choose_by=accuracy'"):
        zoo.plan(**usual, set=["chose_by=acuracy"])


@pytest.mark.long
def test_a_balanced_choice_is_advised_where_stages_are_balanced_and_decides(tmp_path: Path) -> None:
    recipe = tmp_path / "two.toml"
    stages = [
        f'[[stages]]\nname = "{name}"\ntrain = ["head"]\nsolver = "lbfgs"\n{knob}'
        for name, knob in (("plain", ""), ("even", 'class_weights = "balanced"\n'))
    ]
    recipe.write_text('summary = "twice the head"\n' + "\n".join(stages))
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": draw_unequal(tmp_path / "d")}
    plan = zoo.plan(**usual, recipe=recipe)
    (advised,) = (each for each in plan.warnings if "large classes count more" in each)
    assert advised.endswith("Next: --set choose_by=balanced_loss.")
    assert not any(
        "large classes" in each for each in zoo.plan(**usual, recipe=recipe, set=["choose_by=balanced_loss"]).warnings
    )
    kept = {}
    for criterion in ("accuracy", "balanced_accuracy"):
        run = zoo.finetune(**usual, recipe=recipe, set=[f"choose_by={criterion}"], out=tmp_path / criterion)
        kept[criterion] = run.content["selection"]["kept"]
        assert run.content["proof"] == "passed"
    assert kept == {"accuracy": "plain", "balanced_accuracy": "even"}


def test_a_balanced_choice_gives_no_stage_up_by_another_loss(few: Path, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": few}
    plan = zoo.plan(**usual, set=["choose_by=balanced_loss"])
    assert not any(stage.settings.abandon for stage in plan.stages) and any(
        stage.settings.blend for stage in plan.stages
    )
    with pytest.raises(RecipeError, match="abandon: a stage is given up by a loss in which large classes count more"):
        zoo.plan(**usual, set=["choose_by=balanced_loss", "all.abandon=true"])


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_unequal(tmp_path_factory.mktemp("rare") / "data")


def train_head(data: Path, out: Path, *settings: str) -> zoo.Result:
    """Train the head alone for 8 epochs by a constant rate, so that an epoch is the same whatever is chosen."""
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}
    fixed = ("head.epochs=8", "head.schedule=constant", "head.warmup=0", "head.class_weights=balanced")
    return zoo.finetune(**usual, data=data, out=out, report=False, set=[*fixed, *settings])


@pytest.fixture(scope="module")
def epochs(rare: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Scores]:
    """The validation scores of every epoch, plain and balanced, where none is chosen."""
    out = tmp_path_factory.mktemp("runs") / "every"
    run = train_head(rare, out, "head.lr=1e-3", "choose_by=balanced_accuracy")
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text("utf-8").splitlines()]
    return [Scores(**line["val"]) for line in lines]


def best_epoch(epochs: list[Scores], *names: str) -> int:
    """Counted from 1; on a tie the earlier one."""
    return 1 + max(range(len(epochs)), key=lambda at: (getattr(epochs[at], names[0]), -getattr(epochs[at], names[1])))


@pytest.mark.parametrize("choose_by", ["loss", "balanced_loss"])
def test_the_best_epoch_is_that_of_what_the_user_asked_for(
    choose_by: str, epochs: list[Scores], rare: Path, tmp_path: Path
) -> None:
    plain = best_epoch(epochs, "accuracy", "loss")
    balanced = best_epoch(epochs, "balanced_accuracy", "balanced_loss")
    assert epochs[plain - 1].balanced_accuracy != epochs[balanced - 1].balanced_accuracy, "the set shows nothing"
    run = train_head(rare, tmp_path / "run", "head.lr=1e-3", "head.keep_epoch=best", f"choose_by={choose_by}")
    expected = epochs[(balanced if "balanced" in choose_by else plain) - 1].to_dict()
    usual = ["accuracy", "macro_f1", "loss"]
    assert run.metrics["val"] == (expected if "balanced" in choose_by else {name: expected[name] for name in usual})


@pytest.mark.long
def test_an_epoch_is_waited_for_by_what_the_user_asked_for(epochs: list[Scores], rare: Path, tmp_path: Path) -> None:
    def waited_until(*names: str) -> int:
        shown = (number for number in range(1, 8) if number - best_epoch(epochs[:number], *names) == 2)
        return next(shown, len(epochs))

    expected = {
        "loss": waited_until("accuracy", "loss"),
        "balanced_loss": waited_until("balanced_accuracy", "balanced_loss"),
    }
    assert expected["loss"] != expected["balanced_loss"], "the set shows nothing"
    for choose_by, count in expected.items():
        run = train_head(rare, tmp_path / choose_by, "head.lr=1e-3", "head.patience=2", f"choose_by={choose_by}")
        assert run.content["stages"][0]["epochs"] == count


@pytest.mark.long
def test_the_rate_is_found_by_what_the_user_asked_for(rare: Path, tmp_path: Path) -> None:
    found = {}
    for choose_by in ("loss", "balanced_accuracy"):
        run = train_head(rare, tmp_path / choose_by, "head.lr=auto", f"choose_by={choose_by}")
        (stage,) = run.content["stages"]
        assert stage["tried"][f"{stage['lr']:g}"] == max(stage["tried"].values())
        name = "accuracy" if choose_by == "loss" else choose_by
        assert stage["tried"][f"{stage['lr']:g}"] == stage["metrics"]["val"][name]
        found[choose_by] = stage["lr"]
    assert found["loss"] != found["balanced_accuracy"]


def test_what_a_stage_chooses_inside_goes_by_it_also_where_the_last_stage_is_kept(rare: Path) -> None:
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": rare, "recipe": "head_only"}
    inside = ["keep=last", "head.keep_epoch=best"]
    assert zoo.plan(**usual, set=[*inside, "choose_by=balanced_loss"]).choose_by == "balanced_loss"
    for settings in (["keep=last", "choose_by=balanced_loss"], [*inside, "choose_by=accuracy"]):
        with pytest.raises(RecipeError, match="choose_by: would do nothing, keep 'last' chooses nothing"):
            zoo.plan(**usual, set=settings)


def test_a_recipe_s_balanced_choice_stays_where_the_last_stage_is_kept_and_an_epoch_is_chosen(
    rare: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "fair.toml"
    stage = '[[stages]]\nname = "head"\ntrain = ["head"]\nepochs = 2\nlr = 1e-3\n'
    recipe.write_text(f'summary = "fair"\nchoose_by = "balanced_loss"\n{stage}')
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": rare, "recipe": recipe}
    assert zoo.plan(**usual, set=["keep=last", "head.patience=1"]).choose_by == "balanced_loss"
    assert zoo.plan(**usual, set=["keep=last"]).choose_by == "loss", "nothing is chosen"
