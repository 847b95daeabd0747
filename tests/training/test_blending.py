"""Blends between the end of the head stage and that of a later one: what they are, chosen, named, proved, refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import Tensor
from zoo.cli.result import print_result
from zoo.display.console import Verbosity
from zoo.errors import CheckFailed, OptionError, RecipeError
from zoo.training import blending, candidates

RECIPE = """
summary = "A head, then the last stage, then everything."
[[stages]]
name = "head"
train = ["head"]
epochs = 3
lr = 1e-2
[[stages]]
name = "last"
train = ["head", "last:1"]
epochs = 1
lr = 1e-3
batch_size = 4
[[stages]]
name = "all"
train = ["all"]
epochs = 1
lr = 1e-3
batch_size = 4
"""
BLENDS = "last.blend=0.25,0.5"


@pytest.fixture(scope="module")
def usual(few: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = tmp_path_factory.mktemp("recipe") / "three.toml"
    recipe.write_text(RECIPE, "utf-8")
    return {"backbone": "timm/test_resnet", "weights": "random", "tune": False, "data": few, "recipe": str(recipe)}


@pytest.fixture
def keeping_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the blends of one half, whatever they score: on a few drawn pictures the rule itself may keep anything."""
    kept = []
    original = candidates.blends

    def noting(*arguments: Any) -> Iterator[blending.Blend]:
        for blend in original(*arguments):
            kept.append(blend.share == 0.5)
            yield blend
        kept.clear()

    monkeypatch.setattr(candidates, "blends", noting)
    monkeypatch.setattr(candidates, "is_better", lambda *judged: bool(kept and kept[-1]))


def state(result: zoo.Result) -> dict[str, Tensor]:
    return load_file(result.artefact / "model.safetensors")


def losses(result: zoo.Result) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (result.path / "history.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.long
def test_blends_are_judged_counted_and_recorded_and_training_goes_on_as_without(
    usual: dict[str, Any], tmp_path: Path
) -> None:
    plain = zoo.finetune(**usual, set=["keep=last"], out=tmp_path / "plain")
    result = zoo.finetune(**usual, set=[BLENDS, "all.blend=0.75"], out=tmp_path / "run")
    stages = result.content["stages"]
    assert [[(blend["from"], blend["share"]) for blend in stage.get("blends", [])] for stage in stages] == [
        [],
        [("head", 0.25), ("head", 0.5)],
        [("head", 0.75)],
    ]
    assert set(stages[1]["blends"][0]["metrics"]["val"]) == {"accuracy", "macro_f1", "loss"}
    selection = result.content["selection"]
    assert selection["candidates"] == selection["optimism_candidates"] == 6 and selection["images"] == 4
    assert 0 <= selection["optimism"] <= 1
    # The next stage begins from the stage's own end.
    assert losses(result) == losses(plain)
    ends = [[stage["metrics"] for stage in each.content["stages"]] for each in (result, plain)]
    assert ends[0] == ends[1] and result.proof == "passed"


@pytest.mark.long
@pytest.mark.usefixtures("keeping_the_middle")
def test_a_kept_blend_is_half_way_between_two_ends_and_is_named_everywhere(
    usual: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "two.toml"
    head, last, _ = RECIPE.split("[[stages]]\n")[1:]
    ends = []
    for number, stages in enumerate(([head], [head, last])):
        recipe.write_text("[[stages]]\n".join(['summary = "x"\nkeep = "last"\n', *stages]), "utf-8")
        ends.append(state(zoo.finetune(**{**usual, "recipe": str(recipe)}, out=tmp_path / f"end{number}")))
    result = zoo.finetune(**usual, set=[BLENDS], out=tmp_path / "run")
    before, after = ends
    moved = 0
    for name, tensor in state(result).items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, (before[name].double() * 0.5 + after[name].double() * 0.5).float()), name
        else:
            assert torch.equal(tensor, after[name]), name
        moved += not torch.equal(before[name], after[name])
    running = [name for name in after if "running_mean" in name and not torch.equal(before[name], after[name])]
    assert moved > 5 and running, "batch norms' statistics moved, and so did weights"

    selection = result.content["selection"]
    assert (selection["kept"], selection["blend"], selection["blend_from"]) == ("last", 0.5, "head")
    checks = json.loads((result.path / "proof.json").read_text("utf-8"))["checks"]
    (check,) = [check for check in checks if check["name"] == "blended"]
    assert (check["verdict"], check["stage"]) == ("passed", "last") and result.proof == "passed"
    assert f"the {len(after)} saved tensors are, bit for bit, what lies 50 % of the way" in check["summary"]

    words = "last, 50 % of the way from head"
    assert f"| kept | {words} |" in (result.artefact / "README.md").read_text("utf-8")
    page = (result.path / "report.html").read_text("utf-8")
    assert f"<b>{words}</b> (kept)" in page and f"Of the shaded stage a blend was kept: {words}." in page
    assert "last, 25 % of the way from head" in page
    print_result(result, Verbosity(), as_json=False)
    printed = capsys.readouterr().out
    assert f"{words} (kept)" in printed and "25 %" not in printed and "last (kept)" not in printed
    print_result(result, Verbosity(verbose=True), as_json=False)
    assert "25 % of the way from head" in capsys.readouterr().out
    comparison = zoo.compare(result.path, tmp_path / "end1")
    assert comparison.runs[0].kept_in_words == words and comparison.to_dict()["runs"][0]["blend"] == 0.5


@pytest.mark.usefixtures("keeping_the_middle")
def test_a_blend_that_is_not_what_lies_between_the_ends_fails_the_proof(
    usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = blending.blended
    monkeypatch.setattr(blending, "blended", lambda start, end, share: original(start, end, share / 2))
    with pytest.raises(CheckFailed, match=r"blended \(stage last\): .* is not what lies 50 % of the way from the end"):
        zoo.finetune(**usual, set=["last.blend=0.5"], out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text("utf-8"))["proof"] == "failed"


def test_tensors_that_no_stage_trains_are_checked_too() -> None:
    end = {"head.weight": torch.ones(3), "backbone.weight": torch.ones(2), "steps": torch.tensor(7)}
    start = blending.HeadEnd("head", {"head.weight": torch.zeros(3), "steps": torch.tensor(3)})
    blend = blending.Blend(0.25, start, end)
    saved = {**end, **blending.blended(start.state, end, 0.25)}
    assert torch.equal(saved["head.weight"], torch.full((3,), 0.25)) and int(saved["steps"]) == 7
    told = {"stage": "all", "start": "head", "share": 0.25}
    assert blending.check_blended(blend.digests(), saved, **told).verdict == "passed"
    for wrong in ({"backbone.weight": torch.zeros(2)}, {"steps": torch.tensor(3)}, {"more": torch.ones(1)}):
        check = blending.check_blended(blend.digests(), {**saved, **wrong}, **told)
        assert check.verdict == "failed" and check.evidence["differing"] == list(wrong)


@pytest.mark.parametrize(
    ("written", "read"),
    [("0.5", (0.5,)), ("0.25, 0.5,0.75", (0.25, 0.5, 0.75)), ("[0.5, 0.75]", (0.5, 0.75)), ("", ()), ("[]", ())],
)
def test_shares_are_written_with_commas_and_nothing_switches_blends_off(
    written: str, read: tuple[float, ...], usual: dict[str, Any]
) -> None:
    plan = zoo.plan(**usual, set=[f"last.blend={written}"])
    assert plan.stages[1].settings.blend == read


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("0.5,0.25", "should ascend and name no share twice, got 0.5, 0.25"),
        ("0.5,0.5", "should ascend and name no share twice"),
        ("0", "greater than 0"),
        ("1", "less than 1"),
        ("50", "less than 1"),
        ("half", "number"),
        ("0.25;0.5", "number"),
        ("0.25,", "number"),
        ("nan", "finite"),
    ],
)
def test_shares_that_cannot_be_are_refused(written: str, fault: str, usual: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=rf"--set last\.blend.*{fault}"):
        zoo.plan(**usual, set=[f"last.blend={written}"])


def test_blends_that_would_do_nothing_are_refused(usual: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"stages\[1\]\.blend: would do nothing.*set keep to 'best'") as refused:
        zoo.plan(**usual, set=[BLENDS, "keep=last"])
    assert zoo.plan(**usual, set=[BLENDS, "keep=best"]).keep == "best" and "leave it out" in str(refused.value)
    with pytest.raises(RecipeError, match=r"stages\[0\]\.blend: there is nothing to blend with.*train = \[\"head\"\]"):
        zoo.plan(**{**usual, "recipe": "full"}, set=["all.blend=0.5"])
    with pytest.raises(RecipeError, match=r"stages\[0\]\.blend: there is nothing to blend with"):
        zoo.plan(**usual, set=["head.blend=0.5"])
    with pytest.raises((RecipeError, OptionError), match="closed form"):
        zoo.plan(**{**usual, "recipe": "head_only"}, head="prototype", set=["head.blend=0.5"])


def test_a_recipe_file_gets_told_the_form(usual: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE + "blend = 0.5\n", "utf-8")
    with pytest.raises(RecipeError, match=re.escape("stages[2].blend: should be a list, such as [0.25, 0.5, 0.75]")):
        zoo.plan(**{**usual, "recipe": str(recipe)})
    recipe.write_text(RECIPE + "blend = [0.25, 0.5, 0.75]\n", "utf-8")
    plan = zoo.plan(**{**usual, "recipe": str(recipe)})
    assert plan.stages[2].settings.blend == (0.25, 0.5, 0.75)


@pytest.mark.long
def test_blends_go_through_groups_that_an_earlier_stage_has_trained(few: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "last.toml"
    stages = RECIPE.split("[[stages]]\n")
    recipe.write_text("[[stages]]\n".join([*stages[:2], stages[3].replace("1e-3", "1e-2"), stages[2]]), "utf-8")
    found = []
    for prefix in ("off", "auto"):
        result = zoo.finetune(
            "timm/test_resnet", weights="random", recipe=str(recipe), data=few, out=tmp_path / prefix, seed=1,
            set=["last.epochs=3", BLENDS, f"last.prefix={prefix}"],
        )  # fmt: skip
        plan, content = (json.loads((result.path / name).read_text("utf-8")) for name in ("plan.json", "result.json"))
        found.append((plan["stages"][2]["inputs"], content["stages"][2]["blends"]))
    assert [inputs for inputs, _ in found] == ["images", "prefix"] and found[0][1] == found[1][1]


@pytest.mark.long
@pytest.mark.usefixtures("keeping_the_middle")
def test_a_kept_blend_of_a_stage_on_cached_features_is_that_of_the_saved_file(few: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "again.toml"
    stages = RECIPE.split("[[stages]]\n")
    again = stages[1].replace('"head"\n', '"again"\n', 1)
    recipe.write_text("[[stages]]\n".join([*stages[:2], stages[3].replace("1e-3", "1e-2"), again]), "utf-8")
    result = zoo.finetune(
        "timm/test_resnet", weights="random", recipe=str(recipe), data=few, out=tmp_path / "run",
        set=["again.blend=0.5", "again.solver=gradient"],
    )  # fmt: skip
    plan, content = (json.loads((result.path / name).read_text("utf-8")) for name in ("plan.json", "result.json"))
    assert plan["stages"][2]["inputs"] == "features" and result.proof != "failed"
    assert content["selection"]["kept"].startswith("again") and "blend" in str(content["stages"][2])
