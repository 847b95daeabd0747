"""The shortlist: real backbones, real features, and every way in which it can end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from PIL import Image
from safetensors.torch import save_file
from tests.conftest import Zoo
from zoo.advice import rounds, shortlist
from zoo.advice.candidate_backbones import LeftOut, Limits, find_candidates, grouped
from zoo.data.check import similar
from zoo.errors import DataError, OptionError, Refused, UnknownName, WeightsError
from zoo.evaluation.metrics import wilson_interval
from zoo.events import Event, Note, Progress
from zoo.registry.registry import default_registry

TWO = "timm/test_resnet=random,timm/test_vit=random"


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights and without a network."""
    for name, folder in (("TORCH_HOME", "torch"), ("ZOO_CACHE_DIR", "cache")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def held(empty_machine: Path) -> Path:
    """A machine with weights of one backbone in the hub's cache."""
    hold(empty_machine, "timm/test_resnet")
    return empty_machine


def hold(machine: Path, name: str) -> None:
    """Put random weights into the hub's cache in place of a backbone's published ones."""
    source = default_registry().backbone(name).spec.weights[0].source
    assert isinstance(source, zoo.HubFile)
    folder = machine / "hub" / f"models--{source.repo_id.replace('/', '--')}"
    file = folder / "snapshots" / "0123" / "model.safetensors"
    file.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    state = zoo.create_model(name, classes=2, weights="random").backbone.state_dict()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)


def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first round have 12 images."""
    for name, value in (("FIRST", 12), ("OF_A_CLASS", 4), ("BLOCK", 12)):
        monkeypatch.setattr(rounds, name, value)


def test_backbones_are_ranked_on_the_training_images_and_a_second_call_reads_the_cache(shapes: Path) -> None:
    events: list[Event] = []
    found = zoo.shortlist(shapes, backbones=TWO, budget="5m", on_event=events.append)
    assert {each.candidate.label for each in found.ranked} == {"test_resnet=random", "test_vit=random"}
    assert [each.images for each in found.ranked] == [36, 36], "12 of each class; val and test are not looked at"
    first, second = found.ranked
    assert first.accuracy.value >= second.accuracy.value and first.as_good and first.interval is None
    assert second.difference == pytest.approx(second.accuracy.value - first.accuracy.value)
    assert all(each.latency is not None and each.latency.alone > 0 for each in found.ranked)
    done = [event for event in events if isinstance(event, Progress) and event.unit == "backbones"]
    assert [event.done for event in done] == [0, 1, 2]
    again: list[Event] = []
    repeated = zoo.shortlist(shapes, backbones=TWO, budget="5m", on_event=again.append)
    assert [each.accuracy for each in repeated.ranked] == [each.accuracy for each in found.ranked]
    assert [each.loss for each in repeated.ranked] == [each.loss for each in found.ranked]
    assert not [event for event in again if isinstance(event, Progress) and event.task.startswith("features")]


@pytest.mark.long
def test_the_numbers_do_not_depend_on_workers(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for workers in (1, 3):
        monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / str(workers)))
        # Not tuned: which precision is fastest is measured anew in each cache, and noise may choose another one.
        found = zoo.shortlist(shapes, backbones="timm/test_resnet=random", workers=workers, tune=False)
        losses.append([(each.loss, each.accuracy) for each in found.ranked])
    assert losses[0] == losses[1]


@pytest.mark.long
def test_the_command_of_the_winner_runs(shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    found = zoo.shortlist(shapes, backbones=TWO, head="linear", seed=3)
    words = shlex.split(found.best.command)
    assert words[:2] == ["zoo", "finetune"] and "--head" in words and words[-2:] == ["--seed", "3"]
    done = zoo_inside(*words[1:], "--recipe", "head_only", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_on_large_sets_samples_grow_and_what_cannot_win_goes_no_further(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rounds(monkeypatch)
    found = zoo.shortlist(shapes, backbones=TWO, budget="5m")
    assert {each.images for each in found.ranked if not each.out} == {36}
    monkeypatch.setattr(rounds, "DROPPED_BELOW", 1.1)  # whoever is behind is dropped
    found = zoo.shortlist(shapes, backbones=f"{TWO},timm/test_convnext=random", budget="5m")
    dropped = [each for each in found.ranked if each.out]
    assert dropped and all("cannot win" in each.out and each.images < 36 and not each.as_good for each in dropped)
    prior = {each.candidate.name: each for each in found.ranked}["timm/test_convnext=random"]
    assert not prior.out, "the best by prior stays: of equal ones the first by name"


def test_a_budget_that_is_spent_shows_what_is_known_and_one_for_nothing_says_what_it_takes(shapes: Path) -> None:
    with pytest.raises(OptionError, match=r"too small for one candidate: .* would take about") as refused:
        zoo.shortlist(shapes, backbones=TWO, budget=0.001)
    step = re.search(r"Next: --budget (\w+),", str(refused.value))
    assert step is not None
    found = zoo.shortlist(shapes, backbones=TWO, budget=step[1])
    assert found.ranked and found.seconds < found.budget


def test_ctrl_c_gives_the_ranking_so_far(shapes: Path) -> None:
    def press(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "backbones" and event.done == 1:
            raise KeyboardInterrupt

    found = zoo.shortlist(shapes, backbones=TWO, budget="5m", on_event=press)
    assert found.interrupted and len(found.ranked) == 1 and len(found.left_out) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"backbones": "timm/test_resnt=random"}, UnknownName, "test_resnet"),
        ({"backbones": "resnet18=nowhere.safetensors"}, WeightsError, "nowhere.safetensors"),
        ({"backbones": "test_res*=random"}, OptionError, "gives weights to a pattern"),
        ({"backbones": "nothing_like_*"}, OptionError, "No backbone with published weights matches"),
        ({"backbones": TWO, "budget": "soon"}, OptionError, "write it as 90s, 10m or 2h"),
        ({"backbones": TWO, "max_latency": "20"}, OptionError, "write it as 20ms or 0.5s"),
        ({"backbones": TWO, "licence": "apach-2.0"}, UnknownName, "apache-2.0"),
        ({"backbones": TWO, "head": "linaer"}, UnknownName, "linear"),
        ({"backbones": TWO, "max_params": "3 big"}, OptionError, "write it as 25M, 1.5B, 300k or 25000000"),
        ({"backbones": TWO, "max_params": 10}, OptionError, "The limits leave none of 2 candidates"),
        ({"backbones": TWO, "max_latency": "0.0001ms"}, OptionError, "over --max-latency 0.0001 ms"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(
    arguments: dict[str, Any], error: type[Exception], says: str, shapes: Path
) -> None:
    with pytest.raises(error, match=re.escape(says)):
        zoo.shortlist(shapes, **arguments)


def test_what_is_left_out_for_one_kind_of_reason_is_counted_together() -> None:
    names = [f"{name}=random" for name in ("resnet18", "resnet34", "resnet50", "timm/test_resnet")]
    found = find_candidates(default_registry(), names, Limits(head="linear", max_params=1_000_000), offline=True)
    assert grouped(found.left_out) == "3 over --max-params 1,000,000"
    names = [f"timm/{name}=random" for name in ("crossvit_9_240", "crossvit_15_240", "test_resnet")]
    found = find_candidates(default_registry(), names, Limits(head="gem"), offline=True)
    assert grouped(found.left_out) == "2 no gem on it"


def test_limits_are_those_of_the_weights_that_are_named_not_of_the_default_ones() -> None:
    """Weights for larger images have more positions, and more work for each image."""
    names = ["torchvision/vit_b_16", "torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1"]
    default, larger = find_candidates(default_registry(), names, Limits(), offline=False).chosen
    if "SWAG" in default.name:
        default, larger = larger, default
    assert default.parameters and larger.parameters and default.gmacs and larger.gmacs
    assert default.parameters == 85_798_656 and larger.parameters == 86_090_496
    assert larger.gmacs > 2.5 * default.gmacs
    found = find_candidates(default_registry(), names, Limits(max_params=86_000_000), offline=False)
    assert [each.name for each in found.chosen] == [default.name]
    assert found.left_out == (LeftOut(larger.name, "over --max-params 86,000,000: 86,090,496 parameters"),)


@pytest.mark.parametrize("limit", ["max_params", "max_latency"])
@pytest.mark.long
def test_the_limit_that_a_message_offers_leaves_something(limit: str, shapes: Path) -> None:
    with pytest.raises(OptionError) as refused:
        zoo.shortlist(shapes, backbones=TWO, **{limit: 10 if limit == "max_params" else "0.0001ms"})
    step = re.search(rf"Next: --{limit.replace('_', '-')} (\d[\d.]*)(ms)?", str(refused.value))
    assert step is not None
    value = int(step[1]) if limit == "max_params" else 5 * float(step[1])  # other programs take their time too
    assert zoo.shortlist(shapes, backbones=TWO, **{limit: value}).ranked


@pytest.mark.long
def test_candidates_that_cannot_take_the_head_or_have_another_licence_are_left_out(shapes: Path) -> None:
    found = zoo.shortlist(
        shapes, backbones=f"{TWO},timm/test_resnet.r160_in1k", head="gem", licence="mit", offline=True
    )
    reasons = {each.name: each.reason for each in found.left_out}
    assert "licence is apache-2.0" in reasons["timm/test_resnet.r160_in1k"]
    assert {each.candidate.label for each in found.ranked} | {name.rpartition("/")[2] for name in reasons} >= {
        "test_resnet=random"
    }


def test_without_weights_and_network_it_says_what_to_import(shapes: Path, empty_machine: Path) -> None:
    with pytest.raises(WeightsError, match="zoo weights import FOLDER"):
        zoo.shortlist(shapes, offline=True)
    with pytest.raises(WeightsError, match="None of the 1 candidates has its weights on this machine"):
        zoo.shortlist(shapes, backbones="timm/test_resnet", offline=True)


def test_what_is_on_this_machine_takes_part_by_itself(shapes: Path, held: Path) -> None:
    found = zoo.shortlist(shapes, offline=True)
    assert [each.candidate.name for each in found.ranked] == ["timm/test_resnet.r160_in1k"]
    assert found.best.candidate.licence == "apache-2.0" and found.best.candidate.download_bytes == 0


@pytest.mark.parametrize(
    ("single", "message"),
    [
        ("b", "b has 1 training image: of every class at least two"),
        ("bc", r"2 classes \(b, c\) have 1 training image: of every class at least two"),
    ],
)
def test_classes_with_one_image_are_refused(single: str, message: str, tmp_path: Path) -> None:
    from zoo.data.sample import sample_image

    for name, count in (("a", 4), *((each, 1) for each in single)):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                sample_image(0, 2, split, number).save(tmp_path / split / name / f"{number}.png")
    with pytest.raises(DataError, match=message):
        zoo.shortlist(tmp_path, backbones=TWO)


@pytest.mark.long
def test_a_class_of_nothing_but_copies_is_told_once(shapes: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    for file in (data / "train" / "red").iterdir():
        shutil.copy(data / "train" / "red" / "0.jpg", file) if file.stem != "0" else None
    events: list[Event] = []
    found = zoo.shortlist(data, backbones=TWO, tune=False, budget="5m", on_event=events.append)
    assert [each.images for each in found.ranked] == [24, 24]
    (text,) = [event.text for event in events if isinstance(event, Note) and "copies" in event.text]
    assert text.startswith("The images of red are copies of one another or nearly so, and judge no probe")


@pytest.mark.long
def test_images_that_are_there_twice_are_told_and_counted_once(shapes: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    for file in sorted((data / "train").rglob("*.jpg")):
        # The same pixels in other bytes.
        Image.open(file).save(file.with_name(f"copy of {file.stem}.png"))
    found = zoo.shortlist(data, backbones=TWO, tune=False, budget="5m")
    assert found.copies is not None and found.copies.images == found.best.images == 72
    assert found.copies.effective_images == found.copies.pictures == 36
    for each in found.ranked:
        assert each.accuracy == wilson_interval(round(each.accuracy.value * 36), 36)


@pytest.mark.long
def test_auto_puts_the_winner_into_the_plan_and_repeating_does_not_choose_again(
    shapes: Path, held: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"data": shapes, "recipe": "head_only", "offline": True}
    plan = zoo.plan(backbone="auto", **usual)
    assert plan.backbone.name == "timm/test_resnet.r160_in1k" and plan.shortlist is not None
    assert [each.name for each in plan.shortlist.backbones] == [plan.backbone.name]
    chosen = zoo.finetune(backbone="auto", budget="2m", **usual, out=tmp_path / "auto")
    named = zoo.finetune(backbone=plan.backbone.name, **usual, out=tmp_path / "named")
    weights = [(run.artefact / "model.safetensors").read_bytes() for run in (chosen, named)]
    assert weights[0] == weights[1]
    report = (chosen.path / "report.html").read_text("utf-8")
    assert "How the backbone was chosen" in report and "--backbone auto" not in report
    assert "How the backbone was chosen" not in (named.path / "report.html").read_text("utf-8")
    assert zoo.verify(chosen.path, offline=True).passed


@pytest.mark.long
def test_auto_chooses_on_a_part_of_a_large_set_as_a_plan_opens_one(
    shapes: Path, held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rounds(monkeypatch)
    usual: dict[str, Any] = {"backbone": "auto", "data": shapes, "offline": True, "estimate": False}
    events: list[Event] = []
    plan = zoo.plan(**usual, examine=20, on_event=events.append)
    assert plan.shortlist is not None and plan.shortlist.images == 36
    assert [each.images for each in plan.shortlist.backbones] == [20]
    assert "probe accuracy on 20 of 36 training images" in plan._repr_html_()
    opened = [each for each in events if isinstance(each, Progress) and each.task in ("decode", "compare images")]
    assert opened and max(each.total or 0 for each in opened) == 20
    assert any(isinstance(each, Note) and "on 20 of 36 training images" in each.text for each in events)
    for more, all_of_them in (({"budget": "5m"}, 36), ({"folds": 2, "recipe": "head_only"}, 54)):
        whole = zoo.plan(**usual, examine=20, **more).shortlist
        assert whole is not None and [each.images for each in whole.backbones] == [all_of_them]


def test_comparing_the_hashes_of_many_images_is_shown(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "QUICK", 10)
    events: list[Event] = []
    zoo.shortlist(shapes, backbones="timm/test_vit=random", tune=False, budget="5m", on_event=events.append)
    told = [each for each in events if isinstance(each, Progress) and each.task == "compare hashes"]
    assert told and told[-1].done == told[-1].total and told[-1].unit == "hashes"


def test_auto_spends_no_time_on_data_that_a_run_refuses(shapes: Path, held: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    shutil.rmtree(next((data / "val").iterdir()))
    events: list[Event] = []
    with pytest.raises(DataError, match="val"):
        zoo.plan(backbone="auto", data=data, recipe="head_only", offline=True, on_event=events.append)
    assert not [each for each in events if isinstance(each, Progress) and each.unit == "backbones"]


def test_auto_refuses_what_does_not_go_with_it(shapes: Path) -> None:
    with pytest.raises(OptionError, match="backbone auto chooses the weights too"):
        zoo.plan(backbone="auto", weights="random", data=shapes)
    with pytest.raises(OptionError, match="leave budget out"):
        zoo.plan(backbone="resnet18", budget="1m", data=shapes)


def test_the_command_prints_a_table_a_page_and_json(shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    page = tmp_path / "shortlist.html"
    done = zoo_inside("shortlist", "--data", shapes, "--backbones", TWO, "--no-tune", "--top", "1", "--html", page)
    assert done.returncode == 0, done.stderr
    assert "Shortlist for 36 training images" in done.stdout and "and 1 more: --top 2 shows them" in done.stdout
    assert "next: zoo finetune --backbone timm/test_" in done.stdout
    text = page.read_text("utf-8")
    assert not re.findall(r"https?://|@import|url\(|<script|<img", text) and text.count("<svg") == 2
    with pytest.raises(Refused, match="zoo overwrites nothing"):
        zoo.shortlist(shapes, backbones=TWO, html=page)
    done = zoo_inside("shortlist", "--data", shapes, "--backbones", TWO, "--no-tune", "--json")
    content = json.loads(done.stdout)
    assert content["best"] == content["ranked"][0]["name"] and len(content["ranked"]) == 2


@pytest.mark.long
def test_real_networks_are_told_from_a_random_one_on_real_images(real_data: Path) -> None:
    names = ["squeezenet1_1", "timm/tf_efficientnet_lite0"]
    files = [f"{name}={real_data}/weights/{name.rpartition('/')[2]}.safetensors" for name in names]
    found = zoo.shortlist(
        real_data / "data" / "hymenoptera", backbones=[*files, "timm/test_resnet=random"], budget="10m", tune=False
    )
    *pretrained, last = found.ranked
    assert last.candidate.random and not last.as_good
    assert all(last.accuracy.high < each.accuracy.low for each in pretrained)


@pytest.mark.long
def test_patterns_may_overlap_and_a_missing_file_is_named_by_its_option(shapes: Path) -> None:
    found = zoo.shortlist(shapes, backbones=f"{TWO},timm/test_vit=random", budget="5m")
    assert len(found.ranked) == 2
    with pytest.raises(WeightsError, match=r"in --backbones resnet18=nowhere\.safetensors"):
        zoo.shortlist(shapes, backbones="resnet18=nowhere.safetensors")


@pytest.mark.long
def test_one_candidate_that_fails_costs_only_itself(shapes: Path, tmp_path: Path) -> None:
    state = zoo.create_model("timm/test_resnet", classes=2, weights="random").backbone.state_dict()
    broken = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in broken.items()}, tmp_path / "nan.safetensors")
    found = zoo.shortlist(
        shapes, backbones=f"timm/test_vit=random,timm/test_resnet={tmp_path / 'nan.safetensors'}", budget="5m"
    )
    assert [each.name for each in found.ranked] == ["timm/test_vit=random"]
    assert "not finite" in found.left_out[0].reason


def test_no_limit_is_blamed_for_what_failed_otherwise(shapes: Path, tmp_path: Path) -> None:
    state = zoo.create_model("timm/test_resnet", classes=2, weights="random").backbone.state_dict()
    broken = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in broken.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(OptionError, match=r"not finite[\s\S]*Next: import weights"):
        zoo.shortlist(shapes, backbones=f"timm/test_resnet={tmp_path / 'nan.safetensors'}", max_latency="10s")


def test_a_second_shortlist_allows_itself_as_much_time_as_the_first(
    shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody gives a budget, it does not shrink because features are in the cache."""
    monkeypatch.setattr(shortlist, "LEAST_BUDGET", 0.001)
    first, second = (zoo.shortlist(shapes, backbones="timm/test_resnet=random") for _ in range(2))
    assert first.budget > 0.001 and second.budget > first.budget / 4, "the latency is the lowest ever measured here"


def test_a_size_is_offered_only_where_no_other_limit_stands_in_the_way(shapes: Path) -> None:
    names = "timm/test_resnet.r160_in1k,timm/test_vit=random"
    with pytest.raises(OptionError, match=r"--max-params \d+, which timm/test_vit=random has"):
        zoo.shortlist(shapes, backbones=names, max_params=10, licence="mit")
    with pytest.raises(OptionError, match=r"Next: (?!--max-params)"):
        zoo.shortlist(shapes, backbones="timm/test_resnet.r160_in1k", max_params=10, licence="mit")


@pytest.mark.long
def test_rare_classes_are_in_every_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.data.sample import sample_image

    for index, (name, count) in enumerate((("many", 30), ("more", 30), ("rare", 3))):
        for split, images in (("train", count), ("val", 2)):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(images):
                sample_image(index, 3, split, number).save(tmp_path / split / name / f"{number}.png")
    small_rounds(monkeypatch)
    found = zoo.shortlist(tmp_path, backbones="timm/test_vit=random", budget="5m")
    assert [each.images for each in found.ranked] == [63]


def test_random_weights_are_not_as_good_as_pretrained_ones_however_few_images_there_are(
    shapes: Path, held: Path
) -> None:
    names = "timm/test_resnet.r160_in1k,timm/test_vit=random"
    found = zoo.shortlist(shapes, backbones=names, offline=True, budget="5m")
    if not found.best.candidate.random:
        assert not next(each for each in found.ranked if each.candidate.random).as_good
    assert found.smallest_shown is not None and found.smallest_shown > 0.05


@pytest.mark.long
def test_auto_in_folds_warns_where_there_was_a_choice(shapes: Path, held: Path) -> None:
    hold(held, "timm/test_vit")
    usual: dict[str, Any] = {"data": shapes, "recipe": "head_only", "offline": True}
    plan = zoo.plan(backbone="auto", folds=2, **usual)
    assert plan.shortlist is not None and plan.shortlist.compared == 2
    assert [each for each in plan.warnings if "chosen among 2 on the same images that the folds judge" in each]
    assert not [each for each in zoo.plan(backbone="auto", **usual).warnings if "folds judge" in each]


def test_auto_in_folds_warns_that_the_images_that_judge_chose(shapes: Path, held: Path, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"data": shapes, "recipe": "head_only", "offline": True, "folds": 2}
    assert not [each for each in zoo.plan(backbone="auto", **usual).warnings if "folds judge" in each], "one candidate"
    with pytest.raises(zoo.ZooError, match="exist"):
        zoo.finetune(backbone="auto", **{**usual, "offline": False}, out=shapes)
    with pytest.raises(UnknownName, match="head_only"):
        zoo.plan(backbone="auto", data=shapes, recipe="head_onyl")
