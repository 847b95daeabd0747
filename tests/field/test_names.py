"""Names that look the same: Unicode's composed and decomposed forms, case, spaces, numbers."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from tests.field.pictures import CONTAINERS, by_class, contain, pictures_of, read, read_for_evaluation, write_pictures
from zoo.data.splits import similar
from zoo.text import folded

DECOMPOSED = unicodedata.normalize("NFD", "café")
assert DECOMPOSED != "café"


@pytest.mark.parametrize("container", CONTAINERS)
def test_both_forms_of_a_letter_are_one_class(container: str, tmp_path: Path) -> None:
    names = [*pictures_of("café", "thé"), *(f"{DECOMPOSED}/d{number}.jpg" for number in range(4))]
    dataset = read(contain(container, tmp_path, names))
    assert dataset.classes == ("café", "thé")
    assert {split: counts["café"] for split, counts in by_class(dataset).items()} == {"train": 8, "val": 2}
    (note,) = [note for note in dataset.notes if "look the same" in note]
    assert r"'cafe\u0301'" in note and r"'caf\xe9'" in note


def test_splits_evaluation_and_tables_compare_what_people_see(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, pictures_of("train/café", "train/thé", f"val/{DECOMPOSED}", "val/thé"))
    assert by_class(read(root)) == {split: {"café": 6, "thé": 6} for split in ("train", "val")}
    # A classifier that was trained before, on names written in the other way.
    split, dataset = read_for_evaluation(root, DECOMPOSED, "thé")
    assert split == "val" and by_class(dataset) == {"val": {DECOMPOSED: 6, "thé": 6}}
    write_pictures(tmp_path, pictures_of("a", "b"))
    rows = [f"{letter}/{number}.jpg,{label}" for letter, label in (("a", "café"), ("b", "thé")) for number in (1, 2, 3)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows, f"a/4.jpg,{DECOMPOSED}"]), encoding="utf-8")
    assert by_class(read(tmp_path / "table.csv"))["train"]["café"] == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"), ("dog", "dog "), ("0", "0.0"), ("1", "01"), ("straße", "STRASSE"), ("ant", "ant\u200b"),
        ("a b", "a\u00a0b"), ("\uff11", "1"),
    ],
)  # fmt: skip
def test_names_that_are_easily_confused_are_warned_of_and_shown_apart(one: str, other: str, tmp_path: Path) -> None:
    assert similar(["x", one, other, "y"]) == [(one, other)]
    root = write_pictures(tmp_path / "set", pictures_of(one, other, "zebra"))
    (warning,) = [
        warning
        for warning in zoo.plan(backbone="timm/test_resnet", weights="random", data=root).warnings
        if "easily taken for one another" in warning
    ]
    assert ascii(one) in warning and ascii(other) in warning
    (finding,) = [finding for finding in zoo.check_data(root).findings if finding.code == "similar_names"]
    assert set(finding.classes) == {one, other} and ascii(other) in finding.cases[0].detail
    # The next step: rename one.
    (root / other).rename(root / "another")
    assert not [finding for finding in zoo.check_data(root).findings if finding.code == "similar_names"]


def test_a_class_that_only_looks_like_one_of_train_shows_the_difference(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, pictures_of("train/cat", "train/dog", "val/cat", "val/dog "))
    with pytest.raises(zoo.DataError, match="'dog ' looks like 'dog': rename one to the other") as caught:
        read(root)
    assert "Did you mean" not in str(caught.value)
    (root / "val" / "dog ").rename(root / "val" / "dog")
    assert read(root).classes == ("cat", "dog")
    with pytest.raises(zoo.DataError, match=r"'Dog' looks like 'dog'"):
        read_for_evaluation(contain("folder", tmp_path / "other", pictures_of("cat", "Dog")), "cat", "dog")


def test_names_that_differ_are_left_alone() -> None:
    assert similar(["cat", "cats", "10", "1.0", "1.5", "15", "v1.0", "v1", "ant", "Änt", "cafe", "café"]) == []
    assert folded("Cat ") == "cat" and folded("0.0") == folded("0") == "0"


def test_the_whole_command_shows_the_difference(tmp_path: Path, zoo_inside: Zoo) -> None:
    root = write_pictures(tmp_path / "set", pictures_of("dog", "dog "))
    done = zoo_inside("data", "check", root)
    assert done.returncode == 0 and "'dog' and 'dog '" in done.stdout and "similar_names" in done.stdout
