"""Frozen groups see each validation image once in a stage, and what is judged has the bits of the whole model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from zoo.data.folder import read_folder
from zoo.data.store import ImageStore
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import Event, StageStarted
from zoo.frozen.cache_key import state_digest
from zoo.frozen.decision import worth_keeping_before
from zoo.frozen.inputs import ImageInputs
from zoo.frozen.kept_prefix import KeptPrefix, KeptPrefixes
from zoo.model.cut import Cut
from zoo.model.model import ZooModel
from zoo.specs.plan import StagePlan

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random"}
RECIPE = """summary = "Random crops."
[[stages]]
name = "head"
train = ["head"]
epochs = 2
lr = 1e-2
[[stages]]
name = "last"
train = ["head", "last:1"]
epochs = 3
lr = 1e-3
augment = "crop"
batch_size = 4
blend = [0.5]
[[stages]]
name = "again"
train = ["head", "last:1"]
epochs = 2
lr = 1e-4
augment = "crop"
batch_size = 4
[[stages]]
name = "all"
train = ["all"]
epochs = 1
lr = 1e-4
batch_size = 4
"""
CHUNK = 8
Judge = Callable[[KeptPrefix | None, ZooModel], Tensor]


@pytest.fixture
def seen() -> Iterator[list[int]]:
    """Number of images of every pass through a first convolution for which nothing is differentiated."""
    found: list[int] = []

    def watch(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and not torch.is_grad_enabled():
            found.append(len(given[0]))

    hook = register_module_forward_pre_hook(watch)
    yield found
    hook.remove()


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "crops.toml"
    path.write_text(RECIPE, "utf-8")
    return str(path)


@pytest.fixture
def model() -> ZooModel:
    torch.manual_seed(0)
    return zoo.create_model(**TINY, classes=3)


def stage_of(recipe: str, data: Path, **changes: Any) -> StagePlan:
    stage: StagePlan = zoo.plan(**TINY, recipe=recipe, data=data).stages[1]
    return stage.model_copy(update={"settings": stage.settings.model_copy(update=changes)})


@pytest.fixture
def judge(recipe: str, shapes: Path) -> Iterator[Judge]:
    """Validation logits of the 18 images, in chunks of eight."""
    store = ImageStore(zoo.create_model(**TINY, classes=3).preprocessing, workers=1)
    files, stage = read_folder(shapes, seed=0).splits["val"], stage_of(recipe, shapes)

    def judged(kept: KeptPrefix | None, model: ZooModel) -> Tensor:
        micro_batches = MicroBatches(CHUNK, work="validation", report=lambda event: None, retries=[])
        return ImageInputs(store, files, files, stage, micro_batches, lambda done: None, (), kept).val_logits(model)

    yield judged
    store.close()


def kept_of(model: ZooModel) -> KeptPrefix:
    last = model.groups.names[-1]
    return KeptPrefix(last, state_digest(model, last))


def train_last_group(model: ZooModel) -> None:
    last = model.groups.names[-1]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.group_of(name) in (last, "head"):
                parameter.add_(torch.randn_like(parameter), alpha=1e-2)


def test_frozen_groups_see_each_image_once_whatever_the_others_become(
    model: ZooModel, judge: Judge, seen: list[int]
) -> None:
    kept = kept_of(model)
    assert torch.equal(judge(kept, model), judge(None, model))
    seen.clear()
    for _ in range(3):
        train_last_group(model)
        found = judge(kept, model)
        assert not seen
        assert torch.equal(found, judge(None, model))
        seen.clear()
    average = copy.deepcopy(model)
    train_last_group(average)
    found = judge(kept, average)
    assert sum(seen) == 2 * CHUNK  # whether this model can be cut is asked of a chunk
    assert torch.equal(found, judge(None, average)) and not torch.equal(found, judge(None, model))
    with torch.no_grad():  # as by a blend with the end of a head stage before everything was trained
        next(model.backbone.parameters()).mul_(1.5)
    assert torch.equal(judge(kept, model), judge(None, model))


class InPlace(nn.Module):
    """The first layer after the cut changes what it gets, and doing that twice is not doing it once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.body = nn.Sequential(nn.Hardswish(inplace=True), nn.Conv2d(8, 8, 3, 2))

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.body(self.stem(images)).mean((2, 3))
        return pooled


def test_what_is_kept_stays_as_it_is_where_the_next_layer_works_in_place(judge: Judge) -> None:
    torch.manual_seed(0)
    size = zoo.Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
    model = zoo.create_model(zoo.module_backbone(InPlace(), preprocessing=size), classes=3)
    kept, expected = kept_of(model), judge(None, model)
    assert all(torch.equal(judge(kept, model), expected) for _ in range(3))
    outputs = torch.rand(2, 8, 15, 15) - 0.5
    before, cut = outputs.clone(), model.cut_before(kept.before)
    for training in (True, False, True, False):
        model.train(training)
        model.features_after(cut, outputs)
        assert torch.equal(outputs, before)


def test_a_cut_that_gives_other_bits_is_not_used(
    model: ZooModel, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_before = ZooModel.cut_before

    def wrong(self: ZooModel, group: str) -> Cut:
        cut = cut_before(self, group)
        return Cut(cut.before, cut.prefix, lambda outputs: cut.suffix(outputs) * 1.001)

    monkeypatch.setattr(ZooModel, "cut_before", wrong)
    kept = kept_of(model)
    assert all(torch.equal(judge(kept, model), judge(None, model)) for _ in range(2))


def test_where_memory_runs_out_the_whole_model_goes_on_in_smaller_batches(model: ZooModel, judge: Judge) -> None:
    kept = kept_of(model)
    judge(kept, model)

    def full(module: nn.Module, given: tuple[Any, ...]) -> None:
        if len(given[0]) > CHUNK // 2:
            raise torch.OutOfMemoryError("out of memory")

    hook = model.head.register_forward_pre_hook(full)
    assert torch.equal(judge(kept, model), judge(None, model))
    hook.remove()


def test_it_is_worth_it_only_for_groups_that_stay_and_for_several_passes(
    model: ZooModel, recipe: str, shapes: Path
) -> None:
    stage = stage_of(recipe, shapes)

    def before(stage: StagePlan = stage, passes: int = 4, images: int = 18) -> str:
        kept = worth_keeping_before(stage, model, images=images, passes=passes)
        return "" if kept is None else kept.before

    assert before() == model.groups.names[-1]
    assert not before(passes=1) and not before(images=10_000_000)
    assert not before(stage_of(recipe, shapes, prefix="off"))
    assert not before(stage.model_copy(update={"tensors": ("bias",)}))
    assert not before(stage.model_copy(update={"inputs": "prefix"}))


def test_the_next_stage_has_what_is_kept_unless_the_groups_before_it_have_changed(
    model: ZooModel, recipe: str, shapes: Path
) -> None:
    stage, prefixes = stage_of(recipe, shapes), KeptPrefixes()
    first = prefixes.of(model, stage, images=18, passes=4)
    train_last_group(model)
    assert first is not None and prefixes.of(model, stage, images=18, passes=4) is first
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    assert prefixes.of(model, stage, images=18, passes=4) not in (None, first)
    assert prefixes.of(model, stage, images=18, passes=1) is None


@pytest.mark.long
def test_a_run_with_random_crops_has_the_bytes_of_one_that_keeps_nothing(
    few: Path, tmp_path: Path, recipe: str, seen: list[int]
) -> None:
    chunk = zoo.plan(**TINY, recipe=recipe, data=few).chunk
    states, records, images = [], [], []
    for name, settings in (("off", ["last.prefix=off", "again.prefix=off"]), ("auto", [])):

        def listen(event: Event) -> None:
            if isinstance(event, StageStarted) and event.stage == "last":
                seen.clear()
            elif isinstance(event, StageStarted) and event.stage == "all":
                images.append(sum(seen))

        result = zoo.finetune(
            **TINY, recipe=recipe, data=few, seed=1, set=settings, out=tmp_path / name, on_event=listen
        )
        assert result.proof == "passed"
        states.append((result.path / "model" / "model.safetensors").read_bytes())
        stages = json.loads((result.path / "result.json").read_text("utf-8"))["stages"]
        records.append([{key: value for key, value in stage.items() if key != "seconds"} for stage in stages])
    assert states[0] == states[1] and records[0] == records[1]
    # Off: after three and two epochs and for a blend. Kept: once, and a few to see whether it is exact and worth it.
    assert images == [(3 + 1 + 2) * chunk, chunk + 2 * 4 + 2 * 2]
