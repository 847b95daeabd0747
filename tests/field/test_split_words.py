"""Folders of splits under other names were read as classes (fastai 1552, ultralytics 4310, datasets 4839)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from tests.field.pictures import CONTAINERS, by_class, contain, pictures_of, read, read_for_evaluation, write_pictures
from zoo.specs.data import SPLIT_WORDS, split_named

TUMOURS = ("glioma", "notumor", "pituitary")


def in_splits(*splits: str, classes: tuple[str, ...] = TUMOURS) -> list[str]:
    return pictures_of(*(f"{split}/{name}" for split in splits for name in classes))


def inside_classes(*splits: str, classes: tuple[str, ...] = TUMOURS) -> list[str]:
    return pictures_of(*(f"{name}/{split}" for split in splits for name in classes))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("train", "dev", "val"),
        ("train", "eval", "test"),
        ("TRAIN", "Evaluation", "test"),
        ("seg_train", "seg_test", "test"),
        ("train_images", "test_images", "test"),
        ("train-images", "valid_set", "val"),
        # Not in any report: digits, dots and spaces.
        ("01 train", "02.val", "val"),
        ("train_2017", "val_2017", "val"),
    ],
)
def test_words_for_splits_are_splits_in_every_container(
    container: str, train: str, other: str, split: str, tmp_path: Path
) -> None:
    of_split = dict.fromkeys(TUMOURS, 6)
    for number, names in enumerate((in_splits(train, other), inside_classes(train, other))):
        dataset = read(contain(container, tmp_path / str(number), names))
        assert dataset.classes == TUMOURS, names[0]
        found = by_class(dataset)
        assert found[split] == of_split
        if split == "val":
            assert found["train"] == of_split
        else:
            assert {name: found["train"][name] + found["val"][name] for name in TUMOURS} == of_split
        assert not dataset.skipped


def test_every_word_means_its_split_in_any_case_and_delimited() -> None:
    for split, words in SPLIT_WORDS.items():
        for word in words:
            for name in (word, word.upper(), f"seg_{word}", f"{word}-images", f"x.{word}.y", f"1{word}2", f" {word} "):
                assert split_named(name) == split, name
    # A word in another word, words of two splits, and words that mean none of them.
    for name in ("trains", "contest", "evaluate", "train_val", "trainval", "test-train", "holdout", ""):
        assert split_named(name) is None, name


def test_the_whole_command_says_what_it_read(tmp_path: Path, zoo_inside: Zoo) -> None:
    write_pictures(tmp_path / "brain", in_splits("Training", "Testing"))
    done = zoo_inside("data", "check", tmp_path / "brain")
    assert done.returncode == 0 and done.stdout.startswith("36 images, 3 classes, 3 splits"), done.stdout
    assert "\nTesting/ is test, Training/ is train\n" in done.stdout


def test_tables_and_evaluation_know_the_same_words(tmp_path: Path) -> None:
    write_pictures(tmp_path, in_splits("a"))
    rows = [
        f"a/{name}/{number}.jpg,{name},{split}"
        for name in TUMOURS
        for number, split in ((1, "Training"), (2, "Training"), (3, "dev"), (4, "Testing"))
    ]
    (tmp_path / "table.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert by_class(read(tmp_path / "table.csv")) == {
        "train": dict.fromkeys(TUMOURS, 2),
        "val": dict.fromkeys(TUMOURS, 1),
        "test": dict.fromkeys(TUMOURS, 1),
    }
    for names in (in_splits("Training", "Testing"), inside_classes("train", "testing")):
        for container in CONTAINERS:
            path = contain(container, tmp_path / names[0].split("/")[0] / container, names)
            split, dataset = read_for_evaluation(path, *TUMOURS)
            assert split == "test" and by_class(dataset) == {"test": dict.fromkeys(TUMOURS, 6)}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("names", [("A", "B"), ("fold1", "fold2", "fold3"), ("holdout", "rest")])
def test_top_folders_that_hold_the_same_folders_are_refused(
    container: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = contain(container, tmp_path, in_splits(*names))
    with pytest.raises(zoo.DataError, match=r"hold the same folders \(glioma, notumor, pituitary\)") as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_ways_out_of_a_refusal_work(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, in_splits("A", "B"))
    with pytest.raises(zoo.DataError, match="rename the outer folders to train, val or test"):
        read(root)
    (root / "A").rename(root / "train")
    # One split and a folder that may be another: still refused, with the folder named.
    with pytest.raises(zoo.DataError, match="has B/ beside train/") as caught:
        read(root)
    assert "rename it to train, val or test" in str(caught.value)
    (root / "B").rename(root / "test")
    assert read(root).classes == TUMOURS
    # The other way out: one folder for each class.
    again = contain("folder", tmp_path / "again", in_splits("A", "B"))
    for outer in ("A", "B"):
        for name in TUMOURS:
            for file in (again / outer / name).iterdir():
                (again / name).mkdir(exist_ok=True)
                file.rename(again / name / f"{outer}{file.name}")
        shutil.rmtree(again / outer)
    assert by_class(read(again))["train"] == dict.fromkeys(TUMOURS, 10)


def test_classes_that_are_named_by_a_table_or_a_classifier_are_no_riddle(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "set", in_splits("ants", "bees", classes=("camera1", "camera2")))
    with pytest.raises(zoo.DataError, match="list the images with their labels in a table"):
        read(root)
    # The lines that the message refers to.
    blocks = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8").split("```python\n")[1:]
    (lines,) = [block.split("```")[0] for block in blocks if block.startswith("import csv")]
    subprocess.run([sys.executable, "-c", lines.replace('"photos"', repr(str(root)))], check=True)
    assert read(root / "photos.csv").classes == ("ants", "bees")
    assert by_class(read_for_evaluation(root, "ants", "bees")[1]) == {"val": {"ants": 12, "bees": 12}}


NOT_SPLITS = {
    "a folder of files beside class folders": (pictures_of("car", "ship", "train"), ("car", "ship", "train")),
    "two words for one split": (pictures_of("valid", "invalid"), ("invalid", "valid")),
    "a word in the name of a class": (
        pictures_of("bullet_train", "car", "test_tube"), ("bullet_train", "car", "test_tube"),
    ),
    "a class with folders and a word": (
        pictures_of("bullet_train/2020", "bullet_train/2021", "car/red"), ("bullet_train", "car"),
    ),
    "dates": (pictures_of("ants/2021", "ants/2022", "bees/2021", "bees/2022"), ("ants", "bees")),
    "folders that differ": (pictures_of("ants/queen", "ants/worker", "bees/drone", "bees/queen"), ("ants", "bees")),
    "one folder in each": (pictures_of("ants/images", "bees/images"), ("ants", "bees")),
    "a folder called train in one class": (
        pictures_of("vehicle/train", "vehicle/car", "animal/cow"), ("animal", "vehicle"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", NOT_SPLITS)
def test_what_is_a_class_stays_one(container: str, kind: str, tmp_path: Path) -> None:
    names, classes = NOT_SPLITS[kind]
    dataset = read(contain(container, tmp_path, names))
    assert dataset.classes == classes and not dataset.skipped


REFUSED = {
    "a class called test beside train": (pictures_of("car", "test", "train"), r"test/ and train/ beside car/"),
    "splits without classes": (
        pictures_of("train_images", "test_images"), "images directly in test_images/ and train_images/",
    ),
    "a class called train that holds folders": (
        pictures_of("car", "ship", "train/diesel", "train/steam"),
        r"train/, which holds the folders diesel, steam, beside car/ and ship/",
    ),
    "two folders of one split": (in_splits("train", "val", "dev"), "two val folders: dev and val"),
    "val without classes": ([*in_splits("train"), *pictures_of("val")], r"images directly in val/"),
    "splits in one class": (
        [*pictures_of("cat/train", "cat/test"), *pictures_of("dog")],
        r"train/ in cat/, which may be splits, but also images without such a folder in dog/",
    ),
    "two words in one class": (inside_classes("train", "val", "dev"), "two val folders: dev and val"),
    "an unknown split": (in_splits("train", "val", "holdout"), r"has holdout/ beside train/ and val/"),
    "the same folders in each class of train": (
        pictures_of(*(f"train/{site}/{name}" for site in ("site1", "site2") for name in TUMOURS)),
        "hold the same folders",
    ),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused_with_the_ways_out(container: str, kind: str, tmp_path: Path) -> None:
    names, said = REFUSED[kind]
    path = contain(container, tmp_path, names)
    with pytest.raises(zoo.DataError, match=said) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} has ") and "\nNext: " in str(caught.value)


def renamed(root: Path, message: str) -> Path:
    """Do what the message says: rename the folder as it proposes."""
    proposed = re.search(r"rename (?:them|it), such as (?:(\S+)/ )?to (\S+?)/", message)
    assert proposed is not None, message
    old = proposed[1] or proposed[2].removesuffix("s")
    (root / old).rename(root / proposed[2])
    return root


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("a class called test beside train", ("car", "tests", "train")),
        ("a class called train that holds folders", ("car", "ship", "trains")),
    ],
)
def test_a_class_with_the_name_of_a_split_is_renamed_as_the_message_says(
    kind: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    root = contain("folder", tmp_path, REFUSED[kind][0])
    with pytest.raises(zoo.DataError) as caught:
        read(root)
    assert read(renamed(root, str(caught.value))).classes == classes


def test_a_test_folder_without_labels_is_left_out_and_said(tmp_path: Path) -> None:
    # As competitions give it out: the images of test are not labelled.
    dataset = read(contain("folder", tmp_path, [*in_splits("train"), *pictures_of("test")]))
    assert dataset.classes == TUMOURS and len(dataset.skipped) == 6
    assert any("test/" in note and "no class folders" in note for note in dataset.notes)


def test_an_empty_folder_of_a_split_is_not_drawn_again(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, in_splits("train"))
    (root / "val").mkdir()
    with pytest.raises(zoo.DataError, match=r"val/ of .* has no images of 3 classes"):
        read(root)
    (root / "val").rmdir()
    assert set(read(root).splits) == {"train", "val"}


BY_REVIEW = {
    "sites around splits": pictures_of(
        *(f"site{site}/{split}/{name}" for site in "AB" for split in ("train", "test") for name in ("cat", "dog"))
    ),
    "a delimited train beside images": [*in_splits("train_images"), *pictures_of("test_images")],
    "a delimited train beside a test": [*in_splits("seg_train"), *pictures_of("seg_pred")],
    "three folders of images": pictures_of("train_images", "test_images", "sample_images"),
    "loose images beside a test": pictures_of("cat", "cat/test", "dog", "dog/test"),
    "a test in every class": pictures_of("cat/test", "cat/indoors", "dog/test", "dog/outdoors"),
    "another split in every class": pictures_of("cat/train", "dog/test", "bird"),
    "splits two folders down": pictures_of(
        *(f"{name}/images/{split}" for name in TUMOURS for split in ("train", "test"))
    ),
    "a split in a split": [*in_splits("train"), *in_splits("train", classes=("glioma/test", "notumor/test"))],
    "the same folders beside others": [*in_splits("A", "B"), *pictures_of("extra"), *pictures_of("C/glioma")],
    "the same folders written otherwise": pictures_of("A/cafe\u0301", "A/dog", "B/caf\xe9", "B/dog"),
    "a split of files that are not images": [*in_splits("seg_train"), *(f"seg_val/{name}/1.gif" for name in TUMOURS)],
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", BY_REVIEW)
def test_what_a_review_found_to_be_read_without_a_word_is_refused(container: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(zoo.DataError, match="Next: "):
        read(contain(container, tmp_path, BY_REVIEW[kind]))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("test", ["test/test", "test/images", "test/public"])
def test_images_of_a_competition_one_folder_down_are_left_out_and_said(
    container: str, test: str, tmp_path: Path
) -> None:
    dataset = read(contain(container, tmp_path, [*in_splits("train"), *pictures_of(test)]))
    assert set(dataset.splits) == {"train", "val"} and len(dataset.skipped) == 6
    assert any("not used" in note and "test/" in note for note in dataset.notes)


def test_a_classifier_with_words_of_splits_in_its_classes_is_evaluated(tmp_path: Path) -> None:
    for classes in (("bullet_train", "car"), ("test_tube", "car"), ("test", "train")):
        root = contain("folder", tmp_path / classes[0], pictures_of(*(f"{name}/2021" for name in classes)))
        assert by_class(read_for_evaluation(root, *classes)[1]) == {"val": dict.fromkeys(classes, 6)}


def test_folders_in_splits_that_are_looked_through_are_said(tmp_path: Path) -> None:
    dataset = read(contain("folder", tmp_path, in_splits("train/images", "val/other")))
    assert dataset.classes == TUMOURS
    assert "folders in splits are looked through: train/images/, val/other/" in dataset.notes


def test_folders_of_dates_are_not_looked_for_classes(tmp_path: Path) -> None:
    for number, names in enumerate(
        (pictures_of("cat/2021", "cat/2022"), pictures_of("train/cat/2021", "train/cat/2022"))
    ):
        with pytest.raises(zoo.DataError, match="has only the class 'cat'"):
            read(contain("folder", tmp_path / str(number), names))


def test_an_unknown_split_in_every_class_is_renamed_as_the_message_says(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, inside_classes("train", "holdout"))
    with pytest.raises(zoo.DataError, match="but also holdout/ in glioma/"):
        read(root)
    for name in TUMOURS:
        (root / name / "holdout").rename(root / name / "test")
    assert set(by_class(read(root))) == {"train", "val", "test"}


def test_classes_with_the_names_of_splits_are_renamed_as_the_message_says(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, pictures_of("dev/1", "dev/2", "test/1", "test/2", "prod/x", "prod/y"))
    with pytest.raises(zoo.DataError, match="has dev/ and test/ but no train/") as caught:
        read(root)
    assert "rename them, such as" in str(caught.value)
    for name in ("dev", "test"):
        (root / name).rename(root / f"{name}s")
    with pytest.raises(zoo.DataError, match=r"devs/ and tests/, and both hold the same folders"):
        read(root)
