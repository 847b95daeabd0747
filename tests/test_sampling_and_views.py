"""What an epoch draws."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.data.folder import read_folder
from zoo.data.store import ImageStore
from zoo.planning.batches import batch_sizes
from zoo.training import seeding

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random"}
ON_COMMAND = ("--backbone", "timm/test_resnet", "--weights", "random")
UNEVEN = [0] * 17 + [1] * 5 + [2] * 1
HEAD = '[[stages]]\nname = "{name}"\ntrain = ["head"]\nepochs = {epochs}\nlr = 1e-2\n'


def drawn(labels: list[int], key: str, *, size: int = 4) -> list[int]:
    return list(chain.from_iterable(seeding.epoch_batches("balanced", labels, size, text=key)))


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
    assert all(25 < count < 55 for count in extra.values()), "the rest goes to all classes in turn"


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
            batches = seeding.epoch_batches(sampling, UNEVEN, size, text="k")  # type: ignore[arg-type]
            assert [len(each) for each in batches] == batch_sizes(23, size)
    shuffled = seeding.epoch_batches("shuffled", UNEVEN, 4, text="k")
    assert shuffled == seeding.shuffled_batches(23, 4, text="k")
    assert sorted(chain.from_iterable(shuffled)) == list(range(23))


def test_draws_stay_what_they_were() -> None:
    """A run is resumed with the draws of the one that was broken off, whatever was upgraded in between."""
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


@pytest.mark.parametrize("recipe", ["head_only", "full"])
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


def recipe_of(path: Path, *settings: str, epochs: int = 3) -> str:
    """A recipe of head stages, each with these settings."""
    tables = [
        HEAD.format(name=f"h{number}", epochs=epochs) + each.replace(";", "\n") for number, each in enumerate(settings)
    ]
    path.write_text('summary = "Heads."\n' + "\n".join(tables), "utf-8")
    return str(path)


# Refusals


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["head.sampling=even"], ["(--set head.sampling): should be 'shuffled' or 'balanced'"]),
        (["all.sampling=balanced", "all.class_weights=balanced"], ["stages[2].sampling: 'balanced' already gives"]),
    ],
)
def test_values_that_cannot_be_or_would_do_nothing_are_refused(
    arguments: list[str], said: list[str], shapes: Path, zoo_inside: Zoo
) -> None:
    settings = chain.from_iterable(("--set", each) for each in arguments)
    done = zoo_inside("plan", *ON_COMMAND, "--data", shapes, *settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    words = " ".join(done.stderr.split())
    assert all(each in words for each in said)


def test_sampling_for_a_closed_form_head_is_refused(shapes: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    recipe = recipe_of(tmp_path / "even.toml", 'sampling = "balanced"')
    done = zoo_inside("plan", *ON_COMMAND, "--head", "prototype", "--recipe", recipe, "--data", shapes)
    assert done.returncode == 2
    assert "stages[0].sampling: would do nothing, this head is fitted in closed form" in done.stderr
