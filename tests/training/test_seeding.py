"""The draws of an epoch: sampling, and the views of heads trained on features of augmented images."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import Tensor
from zoo.data.dataset import ImageFile
from zoo.data.folder import read_folder
from zoo.data.store import ImageStore
from zoo.evaluation import inference
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.frozen.inputs import CachedInputs, ImageInputs
from zoo.planning.batch_sizes import batch_sizes
from zoo.storage.table import table_of
from zoo.training import seeding

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random"}
ON_COMMAND = ("--backbone", "timm/test_resnet", "--weights", "random")
UNEVEN = [0] * 17 + [1] * 5 + [2] * 1
HEAD = '[[stages]]\nname = "{name}"\ntrain = ["head"]\nepochs = {epochs}\nlr = 1e-2\n'


def drawn(labels: list[int], key: str, *, size: int = 4) -> list[int]:
    return list(chain.from_iterable(seeding.epoch_batches("balanced", labels, size, key=key)))


# Sampling


def test_balanced_draws_every_class_equally_often_and_none_twice_before_all() -> None:
    extra: Counter[int] = Counter()
    for epoch in range(60):
        order = drawn(UNEVEN, f"0/all/{epoch}")
        classes = Counter(UNEVEN[index] for index in order)
        assert len(order) == 23 and sorted(classes.values()) == [7, 8, 8] and set(classes) == {0, 1, 2}
        times = Counter(order)
        for label, members in ((0, range(17)), (1, range(17, 22)), (2, range(22, 23))):
            counts = [times[index] for index in members]
            assert max(counts) - min(counts) <= 1, "an image came again before all of its class had come"
            extra[label] += classes[label] == 8
    assert all(25 < count < 55 for count in extra.values()), "all classes get the remainder in turn"


def test_frequent_classes_are_seen_whole_over_the_epochs() -> None:
    seen = set(chain.from_iterable(drawn(UNEVEN, f"0/all/{epoch}") for epoch in range(20)))
    assert seen == set(range(23))


def test_the_key_alone_decides_and_classes_come_mixed() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    order = drawn(UNEVEN, "0/all/1")
    assert order == drawn(UNEVEN, "0/all/1") != drawn(UNEVEN, "0/all/2")
    assert torch.equal(torch.random.get_rng_state(), state)
    labels = [UNEVEN[index] for index in order]
    assert labels != sorted(labels)


def test_batches_are_as_long_as_those_of_shuffled_ones() -> None:
    for size in (1, 4, 11, 22, 100):
        for sampling in ("shuffled", "balanced"):
            batches = seeding.epoch_batches(sampling, UNEVEN, size, key="k")  # type: ignore[arg-type]
            assert [len(each) for each in batches] == batch_sizes(23, size)
    shuffled = seeding.epoch_batches("shuffled", UNEVEN, 4, key="k")
    assert shuffled == seeding.shuffled_batches(23, 4, key="k")
    assert sorted(chain.from_iterable(shuffled)) == list(range(23))


def test_draws_are_the_same_in_every_version() -> None:
    """A run that was stopped is resumed with the same draws, whatever was upgraded in between."""
    assert drawn([0, 0, 0, 0, 1, 1], "0/head/3") == [1, 4, 4, 5, 2, 3]


def test_an_image_that_comes_again_is_augmented_anew(shapes: Path) -> None:
    (file, *others) = read_folder(shapes, seed=0).splits["train"]
    preprocessing = zoo.create_model(**TINY, classes=3).preprocessing
    store = ImageStore(preprocessing, workers=2)
    order = [[0, 1, 0], [0]]
    first, second = store.training_batches([file, *others], order, augment="crop", key="k", anew=True)
    once, again = store.training_batches([file, *others], order, augment="crop", key="k")
    store.close()
    assert torch.equal(first[0], once[0]) and torch.equal(first[1], once[1])
    assert len({each.numpy().tobytes() for each in (first[0], first[2], second[0])}) == 3
    assert torch.equal(once[0], once[2]) and torch.equal(once[0], again[0])


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures of one class, two of the other; two of each to validate."""
    from zoo.data.sample import sample_image

    root = tmp_path_factory.mktemp("uneven")
    for split, counts in (("train", (14, 2)), ("val", (2, 2))):
        for index, count in enumerate(counts):
            folder = root / split / "ab"[index]
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).save(folder / f"{number}.jpg", quality=90)
    return root


@pytest.mark.parametrize("recipe", ["head_only", pytest.param("full", marks=pytest.mark.long)])
def test_balanced_sampling_favours_the_rare_class(recipe: str, uneven: Path, tmp_path: Path) -> None:
    name = zoo.plan(**TINY, recipe=recipe, data=uneven).stages[0].settings.name
    biases = {}
    for sampling in ("shuffled", "balanced"):
        result = zoo.finetune(
            **TINY,
            head="linear",
            recipe=recipe,
            data=uneven,
            out=tmp_path / sampling,
            set=[f"{name}.sampling={sampling}", f"{name}.epochs=3", f"{name}.batch_size=4"],
        )
        assert result.proof == "passed"
        biases[sampling] = zoo.load(result.path).model.state_dict()["head.fc.bias"]
    rare = {sampling: float(bias[1] - bias[0]) for sampling, bias in biases.items()}
    assert rare["shuffled"] < rare["balanced"]


# Views


def recipe_of(path: Path, *settings: str, epochs: int = 3) -> str:
    """A recipe of head stages, each with these settings."""
    tables = [
        HEAD.format(name=f"h{number}", epochs=epochs) + each.replace(";", "\n") for number, each in enumerate(settings)
    ]
    path.write_text('summary = "Heads."\n' + "\n".join(tables), "utf-8")
    return str(path)


def micro_batches_of(size: int) -> MicroBatches:
    return MicroBatches(size, work="test", report=lambda event: None, retries=[])


def test_features_of_a_view_are_those_of_its_images_however_many_go_at_once(shapes: Path) -> None:
    model = zoo.create_model(**TINY, classes=3).eval()
    files: list[ImageFile] = list(read_folder(shapes, seed=0).splits["train"])
    store = ImageStore(model.preprocessing, workers=2)
    found = []
    for key, size in (("0/h/view/1", 7), ("0/h/view/1", 32), ("0/h/view/2", 32)):
        batches = inference.view_batches(store, files, size, augment="crop", key=key)
        found.append(torch.cat(list(inference.outputs(model.features, model, batches, micro_batches_of(size)))))
    (images,) = store.training_batches(files, [range(len(files))], augment="crop", key="0/h/view/1")
    store.close()
    with torch.no_grad():
        expected = model.features(images)
    assert torch.allclose(found[0], expected, atol=1e-5) and torch.allclose(found[1], expected, atol=1e-5)
    assert not torch.allclose(found[2], expected, atol=1e-3)


def test_epochs_take_the_views_in_turn() -> None:
    views = [torch.full((4, 2), float(number)) for number in range(3)]
    inputs = CachedInputs(tuple(table_of(view) for view in views), table_of(torch.zeros(1, 2)), micro_batches_of(32))
    seen = [float(next(inputs.train_batches([[0, 3]], "key", epoch))[0, 0]) for epoch in range(1, 8)]
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_views_are_named_apart_from_epochs_and_from_other_stages(shapes: Path) -> None:
    plans = [
        zoo.plan(**TINY, recipe="staged", data=shapes, seed=seed, set=["head.views=4", "head.augment=crop"]).stages
        for seed in (0, 1)
    ]
    keys = [key for seed, plan in enumerate(plans) for key in plan[0].view_keys(seed)]
    epochs = [seeding.epoch_key(0, "head", epoch) for epoch in range(1, 9)]
    assert len({*keys, *epochs}) == 16 and plans[0][1].view_keys(0) == ()


@pytest.mark.long
def test_a_head_trained_on_views_sees_other_images_in_every_epoch(few: Path, tmp_path: Path) -> None:
    losses = {}
    for name, views in (("one", 1), ("three", 3), ("four", 4)):
        recipe = recipe_of(tmp_path / f"{name}.toml", f'augment = "crop";views = {views}')
        result = zoo.finetune(**TINY, head="linear", recipe=recipe, data=few, out=tmp_path / name)
        assert result.proof == "passed"
        history = (result.path / "history.jsonl").read_text("utf-8").splitlines()
        losses[name] = [json.loads(line)["train_loss"] for line in history]
    assert losses["three"] == losses["four"]  # three epochs look at three
    assert losses["one"][0] == losses["three"][0] and losses["one"][1:] != losses["three"][1:]


@pytest.mark.long
def test_every_stage_gets_the_features_it_asked_for(few: Path, tmp_path: Path) -> None:
    """Kept features serve another stage only where they are the same: those of the images as they are."""
    views = 'augment = "crop";views = 2'
    mixed = recipe_of(tmp_path / "mixed.toml", "", views, views, "", epochs=2)
    result = zoo.finetune(**TINY, head="linear", recipe=mixed, data=few, out=tmp_path / "run")
    assert result.proof == "passed"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text("utf-8"))
    assert [stage["views"] for stage in plan["stages"]] == [0, 2, 2, 0]
    assert {stage["inputs"] for stage in plan["stages"]} == {"features"}


@pytest.mark.long
def test_a_closed_form_head_is_fitted_to_all_views_at_once(few: Path, tmp_path: Path) -> None:
    prototypes = []
    for name, settings in (("none", ""), ("one", 'augment = "crop";views = 1'), ("five", 'augment = "crop";views = 5')):
        recipe = recipe_of(tmp_path / f"{name}.toml", settings)
        result = zoo.finetune(**TINY, head="prototype", recipe=recipe, data=few, out=tmp_path / name)
        assert result.proof == "passed"
        prototypes.append(zoo.load(result.path).model.state_dict()["head.prototypes"])
    assert all(not torch.equal(*pair) for pair in zip(prototypes, [*prototypes[1:], prototypes[0]], strict=True))


def train_on(few: Path, out: Path, recipe: str) -> tuple[str, dict[str, Tensor]]:
    result = zoo.finetune(**TINY, head="gem", recipe=recipe, data=few, out=out)
    assert result.proof == "passed"
    plan = json.loads((out / "plan.json").read_text("utf-8"))
    return plan["stages"][0]["inputs"], zoo.load(result.path).model.state_dict()


def no_room_for_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "0")
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", 0)


@pytest.mark.long
def test_views_that_do_not_fit_in_memory_are_run_through_again_to_the_same_end(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path / "views.toml", 'augment = "crop";views = 2', epochs=4)
    kept, expected = train_on(few, tmp_path / "kept", recipe)
    no_room_for_features(monkeypatch)
    again, found = train_on(few, tmp_path / "again", recipe)
    assert (kept, again) == ("features", "images")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


def test_images_take_the_views_in_turn_as_well(shapes: Path) -> None:
    files = read_folder(shapes, seed=0).splits["train"]
    stage = zoo.plan(**TINY, recipe="head_only", data=shapes, set=["head.augment=crop", "head.views=2"]).stages[0]
    store = ImageStore(zoo.create_model(**TINY, classes=3).preprocessing, workers=1)
    keys = stage.view_keys(0)
    inputs = ImageInputs(store, files, files, stage, micro_batches_of(32), lambda done: None, keys)
    first, second, third = (next(inputs.train_batches([[0, 5]], f"0/head/{epoch}", epoch)) for epoch in (1, 2, 3))
    store.close()
    assert torch.equal(first, third) and not torch.equal(first, second)


def test_memory_counts_every_view(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(views: int) -> str:
        settings = ["head.augment=crop", f"head.views={views}"] if views else []
        return zoo.plan(**TINY, recipe="head_only", data=shapes, set=settings).stages[0].inputs

    plan = zoo.plan(**TINY, recipe="head_only", data=shapes)
    one = 4 * plan.backbone.features
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "0")
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", one * (2 * 36 + 18))
    assert (inputs(0), inputs(2), inputs(3)) == ("features", "features", "images")


def test_the_plan_says_what_the_head_trains_on(shapes: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    usual = ("plan", *ON_COMMAND, "--recipe", "head_only", "--data", shapes)
    knobs = ("--set", "head.augment=crop", "--set", "head.views=4")
    assert "cached features of 4 views (crop)" in zoo_inside(*usual, *knobs).stdout
    assert "cached features of 2 views (crop)" in zoo_inside(*usual, *knobs, "--epochs", "2").stdout
    plain = zoo_inside(*usual).stdout
    assert "cached features" in plain and "views" not in plain
    no_room_for_features(monkeypatch)
    assert "images, 4 views (crop)" in zoo_inside(*usual, *knobs).stdout


# Refusals


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["head.augment=rand"], ["stages[0].augment: 'rand' would do nothing, the head alone", "set views"]),
        (["head.views=2"], ["stages[0].views: would do nothing without augment", "set augment"]),
        (["all.views=2"], ["stages[2].views: would only show fewer crops, this stage trains stem, the first group"]),
        (["last.views=2", "last.augment=none"], ["stages[1].views: would do nothing without augment"]),
        (["head.views=-1"], ["(--set head.views): should be at least 0"]),
        (["head.sampling=even"], ["(--set head.sampling): should be 'shuffled' or 'balanced'"]),
        (["all.sampling=balanced", "all.class_weights=balanced"], ["stages[2].sampling: 'balanced' already gives"]),
    ],
)
def test_values_that_cannot_be_or_would_do_nothing_are_refused(
    arguments: list[str], messages: list[str], shapes: Path, zoo_inside: Zoo
) -> None:
    settings = chain.from_iterable(("--set", each) for each in arguments)
    done = zoo_inside("plan", *ON_COMMAND, "--data", shapes, *settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    words = " ".join(done.stderr.split())
    assert all(message in words for message in messages)


def test_sampling_for_a_closed_form_head_is_refused(shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    recipe = recipe_of(tmp_path / "even.toml", 'sampling = "balanced"')
    done = zoo_inside("plan", *ON_COMMAND, "--head", "prototype", "--recipe", recipe, "--data", shapes)
    assert done.returncode == 2
    assert "stages[0].sampling: would do nothing, this head is fitted in closed form" in done.stderr


def test_the_order_of_an_epoch_is_that_of_a_shuffled_list_whatever_holds_it() -> None:
    """Another order is another model: it is what earlier runs drew."""
    order = list(range(1000))
    random.Random("order/7/head/3").shuffle(order)
    batches = seeding.epoch_batches("shuffled", [0] * 1000, 64, key=seeding.epoch_key(7, "head", 3))
    assert list(chain.from_iterable(batches)) == order
