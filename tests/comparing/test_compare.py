"""`zoo compare` on real small runs: differences, pairing, statistics, conclusions, and the page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from tests.conftest import Zoo
from tests.reporting.test_page import CHROMIUM, browse
from zoo.comparing.differences import differences_between, value_of
from zoo.comparing.page import write_page
from zoo.data.sample import sample_image
from zoo.errors import Refused
from zoo.evaluation.metrics import wilson_interval
from zoo.evaluation.predictions import ImagePrediction, from_csv, to_csv
from zoo.evaluation.significance import Outcomes, bootstrap, holm, mcnemar, smallest_shown
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan
from zoo.storage.tensors import file_digest


def train(data: Path, out: Path, **arguments: Any) -> Path:
    defaults: dict[str, Any] = {
        "backbone": "timm/test_resnet",
        "weights": "random",
        "recipe": "head_only",
        "epochs": 2,
        "tune": False,
        "report": False,
    }
    return zoo.finetune(data=data, out=out, **{**defaults, **arguments}).path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def first(shapes: Path, folder: Path) -> Path:
    return train(shapes, folder / "first")


@pytest.fixture(scope="module")
def other(shapes: Path, folder: Path) -> Path:
    """One choice differs."""
    return train(shapes, folder / "other", set=["head.lr=1e-2"])


@pytest.fixture(scope="module")
def staged(shapes: Path, folder: Path) -> Path:
    """Several choices and the seed."""
    return train(shapes, folder / "staged", recipe="lp_ft", head="mlp", batch_size=8, seed=3)


@pytest.mark.long
def test_runs_on_two_tables_are_compared_on_the_pictures_that_both_have(shapes: Path, tmp_path: Path) -> None:
    pictures = shutil.copytree(shapes, tmp_path / "pictures")
    files = sorted(path.relative_to(tmp_path) for path in pictures.rglob("*.jpg"))
    rows = [f"{file},{file.parts[-2]},{file.parts[-3]}" for file in files]
    runs = []
    for name, left_out in (("all", ()), ("fewer", ("/train/red/0.jpg", "/val/red/0.jpg"))):
        table = tmp_path / f"{name}.csv"
        table.write_text(
            "\n".join(["path,label,split", *(row for row in rows if not any(f"{each}," in row for each in left_out))])
        )
        runs.append(train(table, tmp_path / name))
    tested = {each.split: each.outcomes.images for each in zoo.compare(*runs).against[0].tested}
    assert tested == {"test": 12, "val": 17}
    # Where a table is gone, it says so.
    (tmp_path / "fewer.csv").unlink()
    with pytest.raises(Refused, match="are gone or have changed"):
        zoo.compare(*runs)


@pytest.mark.long
def test_images_whose_labels_differ_are_left_out_and_counted(shapes: Path, tmp_path: Path) -> None:
    pictures = shutil.copytree(shapes, tmp_path / "pictures")
    files = sorted(path.relative_to(tmp_path) for path in pictures.rglob("*.jpg"))
    rows = [(str(file), file.parts[-2], file.parts[-3]) for file in files]
    corrected = {str(file) for file in files if file.parts[-3:-1] == ("val", "red")}
    runs = []
    for name, turned in (("before", set()), ("after", set(sorted(corrected)[:2])), ("all", {row[0] for row in rows})):
        table = tmp_path / f"{name}.csv"
        other = {"red": "green", "green": "blue", "blue": "red"}
        lines = [f"{file},{other[label] if file in turned else label},{split}" for file, label, split in rows]
        table.write_text("\n".join(["path,label,split", *lines]))
        runs.append(train(table, tmp_path / name))
    before, after, every = runs
    found = zoo.compare(before, after)
    (against,) = found.against
    counts = {each.split: each.outcomes.images for each in against.tested}
    assert against.relabelled == {"val": 2} and counts == {"test": 12, "val": 16} and not against.same_images
    assert (
        "2 validation images have another label in B than in A, and are left out of the comparison."
        in (found.conclusions[0])
    )
    assert found.to_dict()["comparisons"][0]["relabelled"] == {"val": 2}
    with pytest.raises(Refused, match="all of them under different labels") as refused:
        zoo.compare(before, every)
    assert "Next: train both on the same labels." in str(refused.value)


@pytest.mark.long
def test_the_same_files_under_other_names_are_paired_by_content_and_copies_are_left_out(
    shapes: Path, tmp_path: Path
) -> None:
    pictures = Path(shutil.copytree(shapes, tmp_path / "fl"))
    rows = []
    for file in sorted(path.relative_to(tmp_path) for path in pictures.rglob("*.jpg")):
        label = "green" if file.parts[-3:] == ("val", "red", "0.jpg") else file.parts[-2]
        rows.append(f"{file},{label},{file.parts[-3]}")
    # Outside of the folder, where the files have the names `fl/val/red/0.jpg`.
    (tmp_path / "rel.csv").write_text("\n".join(["path,label,split", *rows]))
    runs = train(pictures, tmp_path / "one"), train(tmp_path / "rel.csv", tmp_path / "two")
    (against,) = zoo.compare(*runs).against
    assert {each.split: each.outcomes.images for each in against.tested} == {"test": 12, "val": 17}
    assert (against.relabelled, against.ambiguous) == ({"val": 1}, {})

    shutil.copy(pictures / "val" / "blue" / "1.jpg", pictures / "val" / "blue" / "copy.jpg")
    (tmp_path / "rel.csv").write_text("\n".join(["path,label,split", *rows, "fl/val/blue/copy.jpg,blue,val"]))
    found = zoo.compare(train(pictures, tmp_path / "three"), train(tmp_path / "rel.csv", tmp_path / "four"))
    (against,) = found.against
    assert {each.split: each.outcomes.images for each in against.tested} == {"test": 12, "val": 16}
    assert against.ambiguous == {"val": 2} and found.to_dict()["comparisons"][0]["ambiguous"] == {"val": 2}
    told = "2 validation images have other names in B than in A and copies there, so it is unknown which is which"
    assert any(told in sentence for sentence in found.conclusions[0])


def test_of_two_copies_one_with_its_name_the_other_is_known_too(few: Path, tmp_path: Path) -> None:
    runs = []
    for name in ("copy", "again"):
        pictures = Path(shutil.copytree(few, tmp_path / name / "data"))
        picture = min((pictures / "val").rglob("*.jpg"))
        shutil.copy(picture, picture.with_name(f"{name}.jpg"))
        runs.append(train(pictures, tmp_path / name / "run"))
    (against,) = zoo.compare(*runs).against
    judged = sum(1 for _ in (few / "val").rglob("*.jpg")) + 1
    assert {each.split: each.outcomes.images for each in against.tested}["val"] == judged
    assert against.ambiguous == {} and against.same_images


@pytest.mark.long
def test_copies_among_the_judged_images_are_told_and_taken_for_one_observation(few: Path, tmp_path: Path) -> None:
    pictures = Path(shutil.copytree(few, tmp_path / "data"))
    runs = [train(pictures, tmp_path / "run", seed=0), train(pictures, tmp_path / "again", seed=1)]
    found = zoo.compare(*runs)
    assert found.against[0].copies == {} and "copies" not in " ".join(found.conclusions[0])
    picture, other = sorted((pictures / "val").rglob("*.jpg"))[:2]
    for number in range(2):
        shutil.copy(picture, picture.with_name(f"copy{number}.jpg"))
    shutil.copy(other, other.with_name("same.jpg"))
    shutil.copy(picture, min((pictures / "train").rglob("*.jpg")))  # in train it makes no judged image count twice
    runs = [train(pictures, tmp_path / f"copies{seed}", seed=seed) for seed in range(2)]
    found = zoo.compare(*runs)
    assert found.against[0].copies == {"val": 5} and found.to_dict()["comparisons"][0]["copies"] == {"val": 5}
    told = "5 validation images are copies of one another (2 different pictures). The test counts each picture once"
    assert any(sentence.startswith(told) for sentence in found.conclusions[0]), found.conclusions
    (test,) = found.against[0].tested
    assert (test.outcomes.images, test.of_pictures.images) == (7, 4)
    evaluation = json.loads((runs[0] / "evaluation.json").read_text("utf-8"))["val"]
    assert asdict(found.runs[0].scores["val"].accuracy) == evaluation["accuracy"] and "copies" in evaluation
    # The first is right on all images, the second on all but one picture, which is there three times.
    for run, wrong in zip(runs, ((), (picture.name, "copy0.jpg", "copy1.jpg")), strict=True):
        files = [f"val/{picture.parent.name}/{name}" for name in wrong]
        said = list(from_csv((run / "predictions.csv").read_text("utf-8")))
        said = [as_said(each, right=each.file not in files, file=each.file) for each in said]
        (run / "predictions.csv").write_text(to_csv(said), "utf-8")
        altered(run, "evaluation.json", predictions_digest=file_digest(run / "predictions.csv"))
    (test,) = zoo.compare(*runs).against[0].tested
    assert (test.outcomes.only_first, test.of_pictures.only_first, test.p) == (3, 1, 1)
    assert test.to_dict()["of_pictures"]["only_first"] == 1
    shutil.rmtree(pictures)
    gone = zoo.compare(*runs)
    assert gone.against[0].copies == {} and gone.against[0].tested[0].p == 0.25
    told = "5 validation images of A were copies of one another, but the images are gone"
    assert any(sentence.startswith(told) for sentence in gone.conclusions[0])


@pytest.fixture
def copied(first: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of the first run with some of its predictions changed."""

    def copy(name: str, *, wrong: int = 0, split: str = "test", repeat: int = 1) -> Path:
        made = shutil.copytree(first, tmp_path / name)
        said = list(from_csv((made / "predictions.csv").read_text("utf-8")))
        of_split = [each for each in said if each.split == split]
        rest = [each for each in said if each.split != split]
        several = [
            as_said(each, right=number >= wrong, file=f"{turn}/{each.file}" if turn else each.file)
            for number, (turn, each) in enumerate((turn, each) for turn in range(repeat) for each in of_split)
        ]
        (made / "predictions.csv").write_text(to_csv([*rest, *several]), "utf-8")
        altered(made, "evaluation.json", predictions_digest=file_digest(made / "predictions.csv"))
        return made

    return copy


def as_said(each: ImagePrediction, *, right: bool, file: str) -> ImagePrediction:
    others = [name for name in ("red", "green", "blue") if name != each.label]
    return ImagePrediction(each.split, file, each.label, each.label if right else others[0], 0.9, 0.9 if right else 0.1)


def plan_of(run: Path) -> Plan:
    return Plan.model_validate_json((run / "plan.json").read_text("utf-8"))


def plans(few: Path, *several: dict[str, Any]) -> list[Plan]:
    """Made as for a run, without training."""
    defaults: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "data": few, "tune": False}
    return [zoo.plan(**{**defaults, **arguments}) for arguments in several]


def choices(few: Path, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    first, second = plans(few, one, other)
    return list(differences_between(first, second, default_registry(), same_files=True).choices)


def altered(run: Path, name: str, **values: Any) -> None:
    path = run / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),
        (4, 5, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (1, 9, 0.021484375),
        (10, 2, 0.03857421875),
        (5, 15, 0.04138946533203125),
        (150, 86, 3.7159361395713866e-05),
    ],
)
def test_mcnemar_is_the_exact_binomial(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-9)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def test_mcnemar_of_many_images_is_a_number() -> None:
    assert mcnemar(10_000, 10_400) == pytest.approx(0.005211904014323954)
    assert mcnemar(100, 9_000) == 0.0


def test_holm_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0) and holm([0.02]) == (0.02,) and holm([]) == ()


def test_the_bootstrap_is_that_of_drawing_the_images_anew() -> None:
    outcomes = Outcomes(both_right=100, only_first=9, only_second=21, both_wrong=20)
    found = bootstrap(outcomes)
    assert (found.resamples, found.seed) == (10_000, 0) and found == bootstrap(outcomes) != bootstrap(outcomes, seed=1)
    each = np.repeat([0, -1, 1, 0], [100, 9, 21, 20])
    drawn = np.random.default_rng(7).choice(each, size=(10_000, 150)).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.008) and found.high == pytest.approx(high, abs=0.008)
    assert found.low < outcomes.difference < found.high and outcomes.difference == pytest.approx(0.08)


def test_what_images_can_show_is_where_the_test_turns() -> None:
    outcomes = Outcomes(both_right=100, only_first=9, only_second=11, both_wrong=33)
    shown = smallest_shown(outcomes)
    assert shown == pytest.approx(10 / 153)
    assert mcnemar(5, 15) < 0.05 <= mcnemar(6, 14)
    assert smallest_shown(Outcomes(150, 1, 2, 0)) == pytest.approx(6 / 153), "fewer than six can never show anything"
    assert smallest_shown(Outcomes(3, 1, 1, 0)) is None


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ({}, {}, []),
        ({}, {"seed": 4}, []),
        ({}, {"head": "mlp"}, ["head"]),
        ({}, {"head_options": {"p": 0.4}}, ["head option p"]),
        ({}, {"set": ["head.lr=1e-2"]}, ["head.lr"]),
        ({}, {"set": ["head.solver=gradient"]}, ["head.solver"]),
        ({}, {"set": ["keep=last"]}, ["keep"]),
        ({}, {"set": ["choose_by=accuracy"]}, ["choose_by"]),
        ({}, {"recipe": "head_only", "set": ["choose_by=accuracy"]}, ["recipe", "choose_by"]),
        ({"set": ["choose_by=balanced_loss", "all.abandon=false"]}, {"set": ["keep=last"]}, ["keep"]),
        # An epoch is chosen by it in one of them, whichever stage is kept.
        (
            {"set": ["choose_by=balanced_loss", "all.keep_epoch=best"]},
            {"set": ["keep=last", "all.keep_epoch=best"]},
            ["keep", "choose_by"],
        ),
        ({}, {"epochs": 2}, ["epochs"]),
        ({}, {"batch_size": 4, "set": ["last.lr=1e-5"]}, ["last.lr", "batch_size"]),
        ({}, {"backbone": "timm/test_vit"}, ["backbone"]),
        ({}, {"input_size": (96, 96)}, ["input_size"]),
        ({}, {"decode": "fast"}, ["decode"]),
        ({}, {"precision": "bfloat16"}, ["precision"]),
        ({}, {"recipe": "head_only"}, ["recipe"]),
        ({"epochs": 3}, {"epochs": 3, "recipe": "head_only"}, ["recipe"]),
        ({"batch_size": 4}, {"batch_size": 4, "recipe": "full"}, ["recipe"]),
        ({}, {"epochs": 4, "recipe": "head_only"}, ["recipe", "epochs"]),
        ({}, {"recipe": "head_only", "set": ["head.lr=1e-2"]}, ["recipe", "head.lr"]),
        ({"recipe": "head_only"}, {"head": "prototype"}, ["head"]),
    ],
)
def test_a_choice_is_what_somebody_asked_for(
    one: dict[str, Any], other: dict[str, Any], named: list[str], few: Path
) -> None:
    assert choices(few, one, other) == named


def test_knobs_of_gradient_steps_are_no_choice_where_a_solver_fitted_the_head(few: Path, tmp_path: Path) -> None:
    text = default_registry().recipe("head_only").spec.to_toml()
    assert "epochs = 80" in text
    (tmp_path / "mine.toml").write_text(text.replace("epochs = 80", "epochs = 40"))
    solved, longer = {"recipe": "head_only", "head": "linear"}, {"recipe": str(tmp_path / "mine.toml")}
    # Neither of these had an epoch.
    assert choices(few, solved, {**solved, **longer}) == []
    assert choices(few, {**solved, "head": "cosine"}, {**solved, **longer, "head": "cosine"}) == ["epochs"]
    # One that did is told, and of the other one no number that did nothing.
    one, other = plans(few, solved, {**solved, "head": "cosine", "epochs": 5})
    found = differences_between(one, other, default_registry(), same_files=True)
    assert found.choices == ("head", "epochs")
    assert (value_of(one, "epochs"), value_of(other, "epochs")) == ("-", "5")
    assert (value_of(one, "head.lr"), value_of(one, "head.solver")) == ("-", "auto")


def test_what_follows_from_a_choice_is_told_apart(few: Path) -> None:
    one, other = plans(few, {}, {"backbone": "timm/test_vit", "epochs": 3})
    found = differences_between(one, other, default_registry(), same_files=True)
    assert found.choices == ("backbone", "epochs") and "steps" in found.follows and not found.seed
    assert value_of(other, "backbone") == "timm/test_vit" and value_of(other, "epochs") == "head -, last 3, all 3"
    moved = other.model_copy(update={"threads": 99, "versions": {**other.versions, "torch": "0.1"}})
    found = differences_between(other, moved, default_registry(), same_files=True)
    assert found.choices == () and found.surroundings == ("threads", "version of torch")
    assert value_of(moved, "version of torch") == "0.1"


def test_a_split_that_somebody_changed_is_a_choice(few: Path) -> None:
    one, other = plans(few, {}, {})
    moved = other.model_copy(update={"data": other.data.model_copy(update={"digest": "0" * 64})})
    found = differences_between(one, moved, default_registry(), same_files=True)
    assert found.choices == ("split",) and "split" not in found.follows
    found = differences_between(one, moved, default_registry(), same_files=False)
    assert found.choices == ("data",)


def test_a_changed_recipe_file_differs_in_what_was_changed(few: Path, tmp_path: Path) -> None:
    text = default_registry().recipe("head_only").spec.to_toml()
    (tmp_path / "mine.toml").write_text(text.replace("weight_decay = 0.0001", "weight_decay = 0.1"))
    assert choices(few, {"recipe": "head_only"}, {"recipe": str(tmp_path / "mine.toml")}) == ["head.weight_decay"]


def test_two_runs_are_compared_on_their_test_images_first(first: Path, other: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("compare", first, other, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["letter"] for each in found["runs"]] == ["A", "B"] and found["page"] is None
    assert found["differences"]["choices"] == [{"name": "head.lr", "values": ["0.003", "0.01"]}]
    (compared,) = found["comparisons"]
    assert (compared["run"], compared["against"], compared["same_images"]) == ("B", "A", True)
    assert [each["split"] for each in compared["tested"]] == ["test", "val"]
    test = compared["tested"][0]
    said = [
        {each.file: each.right for each in from_csv((run / "predictions.csv").read_text()) if each.split == "test"}
        for run in (first, other)
    ]
    assert test["images"] == 12 == len(said[0])
    assert test["only_first"] == sum(said[0][file] and not said[1][file] for file in said[0])
    assert test["only_second"] == sum(said[1][file] and not said[0][file] for file in said[0])
    for run, each in zip((first, other), found["runs"], strict=True):
        result = json.loads((run / "result.json").read_text())
        for split, metrics in result["metrics"].items():
            assert each["metrics"][split]["accuracy"]["value"] == pytest.approx(metrics["accuracy"])
            assert each["metrics"][split]["loss"] == metrics["loss"]
        assert each["seconds"] == result["seconds"]["total"] and each["proof"] == "passed"
        assert each["parameters_trained"] == result["stages"][0]["trainable_parameters"]
    assert "test images" in compared["conclusion"][0] and "One choice differs, head.lr (0.003 to 0.01)" in str(compared)
    assert "you choose on them" in found["cautions"][0]


def test_the_terminal_shows_the_same(first: Path, other: Path, staged: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("compare", first, other, staged, "--html", "page.html")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"A  {first}: timm/test_resnet") and lines[2].startswith(f"C  {staged}: ")
    for expected in (
        r"head\.lr +0\.003 +0\.01 +0\.003",
        r"recipe +head_only \(head\) +head_only \(head\) +lp_ft \(head, all\)",
        r"seed \(no choice\) +0 +0 +3",
        r"validation 95 % interval( +0\.\d{3} to [01]\.\d{3}){3}",
        r"proof( +passed){3}",
        r"C minus A +test +12 ",
        r"p, Holm$",
        r"3 choices differ \(head, recipe, batch_size, and the seed\)",
        r"2 runs are compared with A",
        r"^page: page\.html$",
    ):
        assert re.search(expected, done.stdout, re.MULTILINE), expected
    assert not re.search(r"[ \t]$", done.stdout, re.MULTILINE)
    again = zoo_inside("compare", first, other, "--html", "page.html")
    assert again.returncode == 2 and "zoo overwrites nothing" in again.stderr


def test_without_a_name_the_page_is_a_new_file_beside_the_first_run(
    first: Path, copied: Callable[..., Path], zoo_inside: Zoo
) -> None:
    one, two = copied("one"), copied("two", wrong=2)
    for name in ("comparison.html", "comparison-2.html"):
        assert f"page: {one.parent / name}" in zoo_inside("compare", one, two).stdout
        assert (one.parent / name).read_text("utf-8").count("<svg") >= 6


def test_two_comparisons_at_once_write_a_page_each(copied: Callable[..., Path]) -> None:
    found = zoo.compare(copied("one"), copied("two", wrong=2))
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: write_page(found), range(24)))
    assert len(set(pages)) == len(pages) and all(page.exists() for page in pages)


def test_a_large_difference_is_more_than_chance(copied: Callable[..., Path]) -> None:
    one, two = copied("one", wrong=30, repeat=10), copied("two", wrong=12, repeat=10)
    found = zoo.compare(one, two)
    assert isinstance(found, zoo.Comparison)
    test = found.against[0].tested[0]
    assert test.outcomes == Outcomes(both_right=90, only_first=0, only_second=18, both_wrong=12)
    assert test.significant and test.p == pytest.approx(2 / 2**18)
    assert found.runs[1].scores["test"].accuracy == wilson_interval(108, 120)
    assert found.conclusions[0][0].startswith(
        "The difference of +15.0 points on the 120 test images (A 75.0 %, B 90.0 %) is more than chance explains: "
        "p < 0.0001, 95 % interval +"
    )


def test_a_small_difference_may_be_chance_and_says_what_could_be_seen(copied: Callable[..., Path]) -> None:
    found = zoo.compare(copied("one", wrong=3, repeat=10), copied("two", wrong=5, repeat=10))
    assert found.conclusions[0][0].startswith(
        "The difference of -1.7 points on the 120 test images (A 97.5 %, B 95.8 %) may be chance: p = 0.5, "
    )
    assert "120 images can show differences of about 5.0 points or more" in found.conclusions[0][0]
    assert "Only 2 images tell them apart" in found.conclusions[0][0]
    assert found.conclusions[0][-1] == "No choice differs between A and B."


def test_two_that_are_right_on_the_same_images_are_not_called_equal(copied: Callable[..., Path]) -> None:
    found = zoo.compare(copied("one", wrong=1, repeat=10), copied("two", wrong=1, repeat=10))
    assert "differences below about 2.5 points could not have been seen" in found.conclusions[0][0]


def test_with_more_runs_the_p_values_are_corrected(copied: Callable[..., Path]) -> None:
    runs = [copied(name, wrong=wrong, repeat=10) for name, wrong in (("a", 0), ("b", 6), ("c", 7))]
    found = zoo.compare(*runs)
    ps = [each.tested[0].p for each in found.against]
    assert ps == [0.03125, 0.015625]
    assert [each.tested[0].p_adjusted for each in found.against] == list(holm(ps)) == [0.03125, 0.03125]
    assert any("Holm" in caution for caution in found.cautions)


@pytest.mark.long
def test_without_a_test_split_the_caution_is_that_validation_chose(few: Path, tmp_path: Path) -> None:
    runs = [train(few, tmp_path / name, recipe="lp_ft", seed=seed) for name, seed in (("a", 0), ("b", 1))]
    found = zoo.compare(*runs)
    assert [each.split for each in found.against[0].tested] == ["val"] and found.choices == ()
    assert "Only the seed differs between A and B" in found.conclusions[0][1]
    assert "already chosen on the validation images (A among 2, B among 2)" in found.cautions[-1]


@pytest.mark.long
def test_a_split_that_the_seed_drew_is_paired_by_the_bytes_of_its_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for index, name in enumerate(("a", "b")):
        (data / name).mkdir(parents=True)
        for number in range(20):
            sample_image(index, 2, "train", number).save(data / name / f"{number}.jpg")
    runs = [train(data, tmp_path / f"run{seed}", seed=seed) for seed in range(2)]
    said = [
        {each.file for each in from_csv((run / "predictions.csv").read_text()) if each.split == "val"} for run in runs
    ]
    found = zoo.compare(*runs)
    (against,) = found.against
    shared = said[0] & said[1]
    assert 0 < against.tested[0].outcomes.images == len(shared) < len(said[0]) and not against.same_images
    assert against.differences.choices == () and against.differences.follows[0] == "split"
    assert "The two judged different images" in found.conclusions[0][-1]
    one = next(iter(sorted(shared)))
    sample_image(0, 2, "val", 99).save(data / one)
    with pytest.raises(Refused, match="it is unknown which images they have in common") as refused:
        zoo.compare(*runs)
    assert "Next: put them back" in str(refused.value)


@pytest.mark.long
def test_images_of_the_same_name_are_not_paired_where_they_differ(tmp_path: Path, few: Path) -> None:
    changed = shutil.copytree(few, tmp_path / "data")
    sample_image(1, 2, "val", 77).save(changed / "val" / "a" / "0.jpg")
    one, two = train(few, tmp_path / "one"), train(changed, tmp_path / "two")
    found = zoo.compare(one, two)
    assert found.against[0].tested[0].outcomes.images == 3 and found.against[0].differences.choices == ("data",)
    for name in ("a", "b"):
        for number in range(2):
            sample_image(1, 2, "val", 50 + number).save(changed / "val" / name / f"{number}.jpg")
    shutil.rmtree(two)
    with pytest.raises(Refused, match="judged no image in common"):
        zoo.compare(one, train(changed, two))


def test_what_cannot_be_compared_is_refused_with_the_next_step(
    first: Path, other: Path, copied: Callable[..., Path], tmp_path: Path, zoo_inside: Zoo
) -> None:
    unfinished, mute, foreign = copied("unfinished"), copied("mute"), copied("foreign")
    (unfinished / "result.json").unlink()
    (mute / "predictions.csv").unlink()
    altered(foreign, "plan.json", classes=["red", "green", "pink"])
    (tmp_path / "link").symlink_to(first)
    for words, code, message, step in (
        ([first], 2, "A comparison needs two runs or more, and 1 was given", "Next: zoo compare RUN RUN"),
        ([first, f"{first}/"], 2, "is given twice", "Next: name each run once"),
        ([first, other, "link"], 2, "is given twice, as", "Next: name each run once"),
        ([first, mute], 2, "has no predictions.csv", "Next: repeat the run"),
        ([first, foreign], 2, f"only in {foreign}: pink", "Next: compare runs that were trained on the same"),
        ([first, unfinished], 1, "is not finished", f"Next: zoo finetune --resume {unfinished}"),
        ([first, tmp_path], 1, "is no run folder", ""),
        ([first, first.with_name("frist")], 1, "There is no run folder", f"Did you mean '{first}'?"),
    ):
        done = zoo_inside("compare", *words)
        assert done.returncode == code and message in done.stderr and step in done.stderr, (words, done.stderr)
    assert not list(tmp_path.glob("*.html")), "nothing is written for what is refused"


def test_predictions_that_somebody_changed_are_not_compared(
    first: Path, other: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    edited = shutil.copytree(other, tmp_path / "edited")
    table = edited / "predictions.csv"
    said = [as_said(each, right=True, file=each.file) for each in from_csv(table.read_text("utf-8"))]
    table.write_text(to_csv(said), "utf-8")
    done = zoo_inside("compare", first, edited)
    assert done.returncode == 1 and f"{table} was changed after the run wrote it" in done.stderr
    assert f"Next: zoo verify {edited}" in done.stderr and not done.stdout
    # An older zoo recorded no digest.
    recorded = json.loads((edited / "evaluation.json").read_text("utf-8"))
    del recorded["predictions_digest"]
    (edited / "evaluation.json").write_text(json.dumps(recorded), "utf-8")
    assert zoo.compare(first, edited).runs[1].scores["test"].accuracy.value == 1


def test_a_proof_that_failed_is_the_first_caution(first: Path, copied: Callable[..., Path]) -> None:
    broken = copied("broken")
    altered(broken, "result.json", proof="failed")
    found = zoo.compare(first, broken)
    assert found.cautions[0].startswith("The proof of B failed")


def test_comparing_changes_nothing(first: Path, other: Path) -> None:
    before = {each: each.read_bytes() for run in (first, other) for each in run.rglob("*") if each.is_file()}
    zoo.compare(first, other)
    assert {each: each.read_bytes() for run in (first, other) for each in run.rglob("*") if each.is_file()} == before


@pytest.fixture(scope="module")
def page(first: Path, other: Path, staged: Path, folder: Path) -> str:
    evil = shutil.copytree(first, folder / "<script>alert(1)<" / "run")
    plan = json.loads((evil / "plan.json").read_text("utf-8"))
    plan["data"]["source"] = "a\"b'<img src=x onerror=alert(1)>" + "long" * 40
    (evil / "plan.json").write_text(json.dumps(plan), "utf-8")
    zoo.compare(first, other, staged, evil, html=folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def test_the_page_needs_nothing_outside_it_and_names_stay_text(page: str) -> None:
    assert not re.findall(r"https?://|@import|url\(|<link(?! rel=\"icon\" href=\"data:)|<script|<img", page)
    assert "&lt;script&gt;alert(1)&lt;" in page and "prefers-color-scheme: dark" in page and "@media print" in page
    for part in ("conclusion", "differences", "metrics", "paired", "curves", "folders"):
        assert f'id="{part}"' in page, part
    assert len(re.findall('<svg class="chart', page)) == 2 * 3, "three charts for two widths each"
    assert len(re.findall(r'<polyline[^>]*class="line c1"', page)) == 2 * 2, "a curve for accuracy and one for loss"


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [pytest.param(400, marks=pytest.mark.long), 1400])
def test_a_real_browser_shows_it_without_errors_and_nothing_sticks_out(width: int, page: str, tmp_path: Path) -> None:
    done = browse(page, tmp_path, width)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None and title.group(1).startswith("["), done.stdout[:500] + done.stderr
    across, needed, broken, outside = json.loads(title.group(1))
    assert across == width and needed <= width and broken == 0 and outside == 0
