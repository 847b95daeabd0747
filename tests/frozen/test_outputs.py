"""What frozen groups put out is computed once, kept between runs, and never another thing than what comes out now."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors import safe_open
from tests.conftest import Zoo
from torch import Tensor
from zoo.distributed.group import ProcessGroup
from zoo.errors import CheckFailed, OptionError
from zoo.events import Event, Note, Progress
from zoo.frozen.cache_key import state_digest
from zoo.model.adapters import adapted
from zoo.model.build import build_headless
from zoo.model.cut import CannotCut, Cut
from zoo.model.model import ZooModel
from zoo.registry.registry import default_registry
from zoo.storage.eviction import entries, features_folder, size_limit
from zoo.storage.feature_cache import CacheKey, FeatureCache, name_of
from zoo.storage.table import Block, Table, block_of, joined

TINY = {"backbone": "timm/test_resnet", "weights": "random", "batch_size": 4}
CUT = """summary = "Only the last group."
[[stages]]
name = "last"
train = ["head", "last:1"]
epochs = 3
lr = 1e-3
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "cut.toml"
    path.write_text(CUT, "utf-8")
    return str(path)


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZOO_CACHE_DIR", str(folder))
    return folder


def outline(backbone: str) -> ZooModel:
    found = default_registry().backbone(backbone)
    return build_headless(found, "pooled", tag=found.tag).eval()


def weights_of(result: zoo.Result) -> bytes:
    return (result.path / "model" / "model.safetensors").read_bytes()


def history_of(result: zoo.Result) -> list[dict[str, Any]]:
    lines = (result.path / "history.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def computed(events: list[Event]) -> int:
    """Images whose features were computed."""
    return sum(isinstance(event, Progress) and event.task.startswith("features") for event in events)


# The cut


@pytest.mark.long
@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "squeezenet1_1"])
def test_prefix_and_suffix_give_the_bits_of_the_whole_at_every_group(backbone: str) -> None:
    model = outline(backbone)
    images = torch.rand(3, *model.preprocessing.input_size)
    with torch.no_grad():
        whole = model.features(images)
        for group in model.groups.names[1:]:
            cut = model.cut_before(group)
            assert torch.equal(model.features_after(cut, model.outputs_before(cut, images)), whole), group
            # One more image than it was traced with.
            more = torch.cat([images, images[:1]])
            assert len(model.features_after(cut, model.outputs_before(cut, more))) == 4


def test_the_suffix_trains_the_very_parameters_of_the_model_and_the_prefix_none() -> None:
    model = outline("timm/test_resnet")
    cut = model.cut_before("layer4")
    model.features_after(cut, model.outputs_before(cut, torch.rand(2, 3, 160, 160)).detach()).sum().backward()
    with_gradient = {model.group_of(name) for name, each in model.named_parameters() if each.grad is not None}
    assert with_gradient == {"layer4"}


@pytest.mark.parametrize(
    ("backbone", "group", "reason"),
    [
        ("timm/coat_lite_tiny", "serial_blocks4", "values cross the cut"),
        ("timm/twins_svt_base", "blocks.3", "cannot be traced"),
        ("timm/ghostnetv2_100", "blocks.8", "another in training"),
    ],
)
def test_a_backbone_that_cannot_be_cut_says_why(backbone: str, group: str, reason: str) -> None:
    found = default_registry().backbone(backbone)
    with torch.device("meta"):
        model = build_headless(found, "pooled", tag=found.tag)
    with pytest.raises(CannotCut, match=reason):
        model.cut_before(group)


@pytest.mark.long
def test_adapters_behind_a_cut_do_not_change_what_is_before_it() -> None:
    model = outline("timm/test_resnet")
    plain = state_digest(model, "layer4")
    with adapted(model, ("backbone.layer4.0.conv2",), rank=2, alpha=4):
        assert any("lora" in name for name, _ in model.named_parameters())
        assert state_digest(model, "layer4") == plain
    assert state_digest(model, "layer3") != plain


# Training on it


@pytest.mark.parametrize(
    "backbone",
    [
        "timm/test_resnet",
        pytest.param("timm/test_vit", marks=pytest.mark.long),
        pytest.param("timm/test_convnext", marks=pytest.mark.long),
    ],
)
def test_a_kept_prefix_ends_where_the_whole_backbone_ends(
    few: Path, tmp_path: Path, recipe: str, backbone: str
) -> None:
    usual = {**TINY, "backbone": backbone, "recipe": recipe, "data": few}
    kept = zoo.finetune(**usual, out=tmp_path / "kept")
    whole = zoo.finetune(**usual, set=["last.prefix=off"], out=tmp_path / "whole")
    assert kept.proof == whole.proof == "passed"
    plans = [json.loads((run.path / "plan.json").read_text("utf-8"))["stages"][0] for run in (kept, whole)]
    assert [plan["inputs"] for plan in plans] == ["prefix", "images"]
    for one, other in zip(history_of(kept), history_of(whole), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-3)
        assert one["val"]["accuracy"] == other["val"]["accuracy"]
    checks = json.loads((kept.path / "proof.json").read_text("utf-8"))["checks"]
    assert [check["verdict"] for check in checks if check["name"] == "kept_prefix"] == ["passed"]


@pytest.mark.long
def test_when_memory_runs_out_all_rows_are_made_in_smaller_pieces(
    shapes: Path, tmp_path: Path, recipe: str, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ZooModel.outputs_before
    monkeypatch.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)

    def small_memory(self: ZooModel, cut: Cut, images: Tensor) -> Tensor:
        if len(images) > 18 and not self.training and cold.joinpath("features").exists():
            torch.empty(1 << 50)  # a petabyte: the allocator's own failure
        return whole(self, cut, images)

    monkeypatch.setattr(ZooModel, "outputs_before", small_memory)
    result = zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / "run")
    assert result.proof == "passed"
    assert {each["work"]: each["size"] for each in result.content["memory"]}["features"] == 16
    # Nothing of it stands for what whole pieces give.
    monkeypatch.setattr(ZooModel, "outputs_before", whole)
    events: list[Event] = []
    zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / "again", on_event=events.append)
    assert computed(events) > 0


@pytest.mark.long
def test_a_moving_average_is_judged_by_its_own_backbone(few: Path, tmp_path: Path, recipe: str) -> None:
    """A cut calls the modules of the model that was cut, and an average is a copy."""
    settings = ["last.ema=0.5", "last.lr=0.05"]
    kept = zoo.finetune(**TINY, recipe=recipe, data=few, set=settings, out=tmp_path / "kept")
    whole = zoo.finetune(**TINY, recipe=recipe, data=few, set=[*settings, "last.prefix=off"], out=tmp_path / "whole")
    assert kept.proof == whole.proof == "passed"
    for one, other in zip(history_of(kept), history_of(whole), strict=True):
        assert one["val"]["loss"] == pytest.approx(other["val"]["loss"], abs=1e-3)


@pytest.mark.long
def test_a_cut_that_gives_other_features_is_not_used_and_the_plan_says_so(
    few: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ZooModel.cut_before

    def wrong(self: ZooModel, group: str) -> Cut:
        cut = whole(self, group)
        return Cut(cut.before, cut.prefix, lambda outputs: cut.suffix(outputs) * 1.001)

    monkeypatch.setattr(ZooModel, "cut_before", wrong)
    result = zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "run")
    plan = json.loads((result.path / "plan.json").read_text("utf-8"))["stages"][0]
    assert plan["inputs"] == "images" and "gives other features than the whole" in plan["why"]
    assert result.proof == "passed"


def test_a_cut_that_goes_wrong_after_the_plan_fails_the_proof(
    few: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = ZooModel.cut_before, []

    def wrong_later(self: ZooModel, group: str) -> Cut:
        calls.append(group)
        cut = whole(self, group)
        # Planning and the check before the run come first.
        return cut if len(calls) <= 2 else Cut(cut.before, cut.prefix, lambda rows: cut.suffix(rows) * 1.001)

    monkeypatch.setattr(ZooModel, "cut_before", wrong_later)
    with pytest.raises(CheckFailed, match="kept_prefix"):
        zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["last.prefix=off"], "prefix is off"),
        (["last.augment=crop"], "augment=crop is random, which prevents caching"),
        (["last.mixup=0.2"], "mixup blends the images"),
        (["last.epochs=1"], "every image is used once"),
        (["last.gradient_checkpointing=true"], "gradient checkpointing is in the code"),
        (["last.train=['all']"], "the first group, stem, trains"),
        (["last.train=['head', 'bias']"], "the first group, stem, trains"),
    ],
)
def test_the_plan_says_why_nothing_is_computed_once(few: Path, recipe: str, settings: list[str], reason: str) -> None:
    stage = zoo.plan(**TINY, recipe=recipe, data=few, set=settings).stages[0]
    assert stage.inputs == "images" and reason in stage.why


@pytest.mark.long
def test_views_let_augmented_images_be_kept(few: Path, tmp_path: Path, recipe: str) -> None:
    settings = ["last.augment=crop", "last.views=2"]
    result = zoo.finetune(**TINY, recipe=recipe, data=few, set=settings, out=tmp_path / "run")
    stage = json.loads((result.path / "plan.json").read_text("utf-8"))["stages"][0]
    assert (stage["inputs"], stage["views"]) == ("prefix", 2) and result.proof == "passed"


def test_a_prefix_that_costs_more_to_keep_than_to_compute_is_computed(
    few: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.frozen import decision as reuse

    monkeypatch.setitem(reuse._WRITTEN, "cpu", 10**9)
    stage = zoo.plan(**TINY, recipe=recipe, data=few).stages[0]
    assert stage.inputs == "images" and "costs more than" in stage.why


def test_the_plan_is_shown_with_what_is_kept(few: Path, recipe: str, zoo_inside: Zoo) -> None:
    shown = zoo_inside(
        "plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", few, "--recipe", recipe
    )
    assert "cached activations before layer4" in shown.stdout
    assert "goes through the groups before layer4 once" in shown.stdout


# The cache


@pytest.mark.long
def test_cold_warm_half_filled_and_damaged_caches_give_the_same_bytes(
    shapes: Path, tmp_path: Path, recipe: str, cold: Path
) -> None:
    def run(name: str) -> tuple[bytes, int]:
        events: list[Event] = []
        result = zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / name, on_event=events.append)
        assert result.proof == "passed"
        return weights_of(result), computed(events)

    expected, all_computed = run("cold")
    files = sorted(cold.glob("features/*/*.safetensors"))
    assert all_computed > 0 and len(files) == 2  # of train and of val
    assert run("warm") == (expected, 0)
    files[0].unlink()
    found, some = run("half")
    assert found == expected and 0 < some < all_computed
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(content)
    found, some = run("damaged")
    assert found == expected and 0 < some < all_computed
    files[1].write_bytes(files[1].read_bytes()[:100])
    assert run("cut off")[0] == expected


@pytest.mark.long
def test_rows_of_another_backbone_under_a_right_digest_are_found_out(
    shapes: Path, tmp_path: Path, recipe: str, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / "first")
    cache = FeatureCache()
    (entry,) = entries(features_folder())
    for path in entry.path.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor("rows")
        cache.keep(CacheKey(entry.facts), path.stem, Block(rows + 1, tuple(range(rows.ndim))))
    events: list[Event] = []
    called: list[str] = []
    for owner, name in ((FeatureCache, "drop"), (ProcessGroup, "meet"), (FeatureCache, "keep")):

        def noted(*arguments: Any, original: Any = getattr(owner, name), name: str = name) -> Any:
            called.append(name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)
    again = zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / "again", on_event=events.append)
    assert weights_of(again) == weights_of(first)
    assert any(
        isinstance(event, Note) and "differ from what this machine computes now" in event.text for event in events
    )
    # No process keeps new rows while another one may still drop the old ones.
    assert called[:3] == ["drop", "meet", "keep"]


@pytest.mark.long
def test_another_head_begins_with_what_the_first_left(few: Path, tmp_path: Path, cold: Path) -> None:
    usual = {**TINY, "recipe": "head_only", "epochs": 1, "data": few}
    events: list[Event] = []
    zoo.finetune(**usual, head="linear", out=tmp_path / "linear", on_event=events.append)
    assert computed(events) > 0
    events.clear()
    assert zoo.finetune(**usual, head="cosine", out=tmp_path / "cosine", on_event=events.append).proof == "passed"
    assert computed(events) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (96, 96)},
        pytest.param({"precision": "bfloat16"}, marks=pytest.mark.long),
        pytest.param({"seed": 1}, marks=pytest.mark.long),
    ],
    ids=["size", "precision", "weights"],
)
def test_whatever_changes_the_features_is_another_subject(
    few: Path, tmp_path: Path, cold: Path, change: dict[str, Any]
) -> None:
    usual = {**TINY, "recipe": "head_only", "epochs": 1, "data": few}
    zoo.finetune(**usual, out=tmp_path / "one")
    events: list[Event] = []
    zoo.finetune(**usual, **change, out=tmp_path / "other", on_event=events.append)
    assert computed(events) > 0 and len(entries(features_folder())) == 2


@pytest.mark.long
def test_rows_mapped_from_files_train_to_the_same_bytes_as_those_in_memory(
    shapes: Path, tmp_path: Path, recipe: str, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {**TINY, "recipe": recipe, "data": shapes}
    in_memory = zoo.finetune(**usual, out=tmp_path / "memory")
    monkeypatch.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    monkeypatch.setattr("zoo.frozen.outputs.BLOCK", 1)  # 36 images in two files
    mapped = zoo.finetune(**usual, out=tmp_path / "mapped")
    assert weights_of(mapped) == weights_of(in_memory)


@pytest.mark.long
def test_without_room_small_features_stay_in_memory_and_large_ones_say_what_to_do(
    few: Path, tmp_path: Path, recipe: str, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "0")
    assert zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "small").proof == "passed"
    assert not list(cold.glob("features/*/*.safetensors"))
    monkeypatch.setattr("zoo.frozen.outputs.MEMORY_BUDGET", 0)
    with pytest.raises(zoo.ZooError, match="ZOO_CACHE_LIMIT"):
        zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "large")


def test_the_plan_keeps_nothing_beyond_the_limit(few: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "1KB")
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", 1000)
    stage = zoo.plan(**TINY, recipe=recipe, data=few).stages[0]
    assert stage.inputs == "images" and "over the cache's limit of 1.0 kB" in stage.why


@pytest.mark.long
def test_a_run_stopped_in_a_stage_with_a_kept_prefix_goes_on_to_the_same_bytes(
    few: Path, tmp_path: Path, recipe: str, cold: Path
) -> None:
    whole = zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "last" and event.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**TINY, recipe=recipe, data=few, out=tmp_path / "stopped", on_event=stop)
    resumed = zoo.resume(tmp_path / "stopped")
    assert weights_of(resumed) == weights_of(whole)


def rows_of(number: float, count: int = 1000) -> Block:
    return block_of(torch.full((1, count), number + 0.1))  # no number of bfloat16, so that it is stored whole


def test_the_subject_that_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    old, new = CacheKey({"name": "old"}), CacheKey({"name": "new"})
    for subject in (old, new):
        assert FeatureCache(tmp_path, limit=10**6).keep(subject, "images", rows_of(1))
    os.utime(tmp_path / old.name / "about.json", (1, 1))
    assert FeatureCache(tmp_path, limit=9000).keep(CacheKey({"name": "third"}), "images", rows_of(2))
    left = {entry.facts["name"] for entry in entries(tmp_path)}
    assert left == {"new", "third"}


def test_what_a_process_uses_is_not_removed_by_it_until_it_lets_go(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=5000)
    assert cache.keep(CacheKey({"name": "one"}), "images", rows_of(1))
    assert not cache.keep(CacheKey({"name": "two"}), "images", rows_of(2))
    assert cache.read(CacheKey({"name": "one"}), "images") is not None
    cache.let_go()
    assert cache.keep(CacheKey({"name": "two"}), "images", rows_of(2))


def test_drafts_of_killed_processes_count_and_go(tmp_path: Path) -> None:
    subject, cache = CacheKey({"name": "one"}), FeatureCache(tmp_path, limit=10**6)
    cache.keep(subject, "images", rows_of(1))
    (draft,) = [tmp_path / subject.name / ".draft-left"]
    draft.write_bytes(bytes(5000))
    assert entries(tmp_path)[0].bytes > 9000
    os.utime(draft, (1, 1))
    with cache.filling(subject, lambda: None):
        assert not draft.exists()


def test_two_that_need_the_same_take_turns_and_the_second_finds_it(tmp_path: Path) -> None:
    subject, order = CacheKey({"name": "shared"}), []

    def work(name: str, seconds: float) -> None:
        cache = FeatureCache(tmp_path, limit=10**6)
        with cache.filling(subject, lambda: order.append(f"{name} waits")):
            if cache.read(subject, "images") is None:
                time.sleep(seconds)
                cache.keep(subject, "images", rows_of(1))
                order.append(f"{name} computes")

    first = threading.Thread(target=work, args=("first", 1.0))
    first.start()
    time.sleep(0.3)
    work("second", 0)
    first.join()
    assert "second waits" in order and "first computes" in order and "second computes" not in order


def test_one_that_makes_no_progress_is_not_waited_for(tmp_path: Path) -> None:
    subject = CacheKey({"name": "shared"})
    with FeatureCache(tmp_path).filling(subject, lambda: None):
        cache = FeatureCache(tmp_path, limit=10**6, patience=0.3)
        with cache.filling(subject, lambda: None):
            assert cache.keep(subject, "images", rows_of(1))


@pytest.mark.parametrize(("text", "bytes_"), [("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("7", 7)])
def test_the_limit_is_a_size(text: str, bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_LIMIT", text)
    assert size_limit() == bytes_


def test_a_limit_that_is_no_size_is_refused_before_anything_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "much")
    with pytest.raises(OptionError, match="'much', which is not a size"):
        zoo.plan(**TINY, data=tmp_path / "not there")


@pytest.mark.long
def test_validation_behind_a_cut_goes_in_smaller_pieces_where_memory_runs_out(
    shapes: Path, tmp_path: Path, recipe: str, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ZooModel.features_after

    def small_memory(self: ZooModel, cut: Cut, rows: Tensor) -> Tensor:
        if len(rows) > 18 and cold.joinpath("features").exists():
            torch.empty(1 << 50)  # a petabyte: the allocator's own failure
        return whole(self, cut, rows)

    monkeypatch.setattr(ZooModel, "features_after", small_memory)
    result = zoo.finetune(**TINY, recipe=recipe, data=shapes, out=tmp_path / "run")
    assert result.proof == "passed"
    assert {each["work"]: each["size"] for each in result.content["memory"]} == {"validation last": 16}


# Tables


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def tokens_last(tensor: Tensor) -> Tensor:
    """A layout that no memory format names: joining such tensors must not lose it."""
    return tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


@pytest.mark.parametrize("layout", [lambda each: each, channels_last, tokens_last])
@pytest.mark.parametrize("length", [2, 3, 7])
def test_a_table_gives_rows_in_the_layout_that_they_came_in(layout: Callable[[Tensor], Tensor], length: int) -> None:
    outputs = layout(torch.rand(7, 3, 4, 5))
    table = Table([block_of(each) for each in torch.split(outputs, length)])
    for found, expected in (
        (table.rows([6, 0, 3]), outputs[[6, 0, 3]]),
        (torch.cat(list(table.chunks(4))), outputs),
        (table.in_one_piece().rows([5, 1]), outputs[[5, 1]]),
    ):
        assert torch.equal(found, expected)
    assert table.rows([1, 2]).stride()[1:] == outputs[1:3].stride()[1:]
    assert len(table) == 7 and table.bytes == 7 * 60 * 4


def test_blocks_of_several_layouts_become_one_table() -> None:
    outputs = torch.rand(4, 3, 4, 5)
    table = Table([block_of(channels_last(outputs[:2])), block_of(outputs[2:])])
    assert torch.equal(table.rows([0, 1, 2, 3]), outputs)
    assert torch.equal(joined([block_of(outputs[:1]), block_of(tokens_last(outputs[1:]))]).outputs, outputs)


def test_names_tell_orders_and_images_apart() -> None:
    assert len({name_of(["a", "b"]), name_of(["b", "a"]), name_of(["a"])}) == 3


# `zoo cache`


@pytest.mark.long
def test_the_cache_is_shown_and_cleared_by_kind(few: Path, tmp_path: Path, cold: Path, zoo_inside: Zoo) -> None:
    zoo.finetune(**TINY, recipe="head_only", epochs=1, data=few, out=tmp_path / "run")
    shown = zoo_inside("cache", "show").stdout
    assert "timm/test_resnet" in shown and "features" in shown and str(cold) in shown
    listed = json.loads(zoo_inside("cache", "show", "--json").stdout)
    assert {each["kind"] for each in listed} == {"features", "records"}
    assert "Removed 2 files" in zoo_inside("cache", "clear").stdout
    assert {each["kind"] for each in json.loads(zoo_inside("cache", "show", "--json").stdout)} == {"records"}
    zoo_inside("cache", "clear", "all")
    assert "holds nothing" in zoo_inside("cache", "show").stdout


def test_clearing_what_is_not_there_names_what_is(zoo_inside: Zoo) -> None:
    ended = zoo_inside("cache", "clear", "featurs")
    assert ended.returncode == 2 and "Did you mean 'features'?" in ended.stderr
