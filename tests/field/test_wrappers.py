"""A folder around the class folders: alone, beside a README, twice, and around splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from tests.field.pictures import CONTAINERS, by_class, contain, pictures_of, read, read_for_evaluation

CLASSES = pictures_of("photos/cat", "photos/dog")
SPLITS = pictures_of(*(f"data/photos/{split}/{name}" for split in ("train", "val") for name in ("cat", "dog")))
WRAPPED = {
    "alone": (CLASSES, "photos"),
    "beside a README": ([*CLASSES, "README.md", "LICENSE", "docs/how.txt"], "photos"),
    "a README in it": ([*CLASSES, "photos/README.md"], "photos"),
    "two folders": ([f"set/{name}" for name in CLASSES], "set/photos"),
    "three folders": ([f"a/b/{name}" for name in CLASSES], "a/b/photos"),
    "around splits": (SPLITS, "data/photos"),
    "a word for a split in its name": ([f"dataset_train/{name}" for name in SPLITS], "dataset_train/data/photos"),
    "a split around splits": (
        pictures_of(*(f"train/{split}/{name}" for split in ("train", "val") for name in ("cat", "dog"))), "train",
    ),
    "system files beside": ([*CLASSES, "__MACOSX/photos/._1.jpg", ".DS_Store"], "photos"),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", WRAPPED)
def test_folders_around_everything_are_looked_through_and_said(container: str, kind: str, tmp_path: Path) -> None:
    names, around = WRAPPED[kind]
    dataset = read(contain(container, tmp_path, names))
    assert dataset.classes == ("cat", "dog")
    assert sum(map(len, dataset.splits.values())) == sum(name.endswith(".jpg") and "._" not in name for name in names)
    assert f"the folder {around}/ around everything is looked through" in dataset.notes


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_folder_in_each_split_is_looked_through(container: str, tmp_path: Path) -> None:
    # As the Intel image set is packed: seg_train/seg_train/buildings/1.jpg.
    names = pictures_of(*(f"seg_{split}/seg_{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")))
    assert by_class(read(contain(container, tmp_path, names))) == {
        "train": {"cat": 5, "dog": 5}, "val": {"cat": 1, "dog": 1}, "test": {"cat": 6, "dog": 6},
    }  # fmt: skip


def test_a_readme_beside_two_classes_changes_nothing(tmp_path: Path) -> None:
    for container in CONTAINERS:
        dataset = read(contain(container, tmp_path / container, [*pictures_of("cat", "dog"), "README.md"]))
        assert dataset.classes == ("cat", "dog") and not any("looked through" in note for note in dataset.notes)


@pytest.mark.parametrize("container", CONTAINERS)
def test_one_class_stays_one_class(container: str, tmp_path: Path) -> None:
    for number, names in enumerate((pictures_of("cat"), pictures_of("photos/cat"), [*CLASSES, *pictures_of("photos")])):
        with pytest.raises(zoo.DataError, match="has only the class"):
            read(contain(container, tmp_path / str(number), names))


def test_what_a_classifier_knows_as_a_class_is_not_looked_through(tmp_path: Path) -> None:
    for container in CONTAINERS:
        path = contain(container, tmp_path / container, pictures_of("cat/old", "cat/new"))
        assert by_class(read_for_evaluation(path, "cat", "dog")[1]) == {"val": {"cat": 12, "dog": 0}}
        assert by_class(read_for_evaluation(path, "old", "new")[1]) == {"val": {"old": 6, "new": 6}}


def test_a_class_folder_without_images_is_refused_in_every_container(tmp_path: Path) -> None:
    for container in CONTAINERS:
        names = [*pictures_of("cat", "dog"), "bird/sound.wav"]
        with pytest.raises(zoo.DataError, match="1 class folder without images: bird"):
            read(contain(container, tmp_path / container, names))
