"""Class-per-folder trees: what is used, how it is split and named, and every file accounted for."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from zoo.data.dataset import Dataset, Split
from zoo.data.folder import read_folder
from zoo.data.sources import DataLocation, read_evaluation_split
from zoo.errors import DataError


def write(root: Path, *names: str) -> Path:
    """Write files of these names below `root`. Listing does not open them, so any content will do."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def read_labelled(root: Path, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    return read_evaluation_split(DataLocation(str(root), root, None), classes)


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{number}.jpg" for number in range(count)]


def names_in(dataset: Dataset, split: Split) -> list[str]:
    return [file.relative for file in dataset.splits[split]]


def used(dataset: Dataset) -> list[str]:
    return [file.relative for files in dataset.splits.values() for file in files]


def reasons(dataset: Dataset) -> dict[str, str]:
    return {skipped.relative: skipped.reason for skipped in dataset.skipped}


def on_disk(root: Path) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())


def assert_accounted_for(dataset: Dataset, root: Path) -> None:
    """Every file is used or listed, and none of them twice."""
    assert sorted([*used(dataset), *(skipped.relative for skipped in dataset.skipped)]) == on_disk(root)


def refusal(root: Path, pattern: str) -> str:
    with pytest.raises(DataError, match=f"(?s){pattern}") as caught:
        read_folder(root, seed=0)
    return str(caught.value)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_a_validation_folder_is_used_as_it_is(tmp_path: Path, val: str) -> None:
    write(
        tmp_path, *numbered("train/a", 3), *numbered("train/b", 2), f"{val}/a/x.png", f"{val}/b/y.png", "test/b/z.jpg"
    )
    dataset = read_folder(tmp_path, seed=0)
    assert list(dataset.splits) == ["train", "val", "test"]
    assert names_in(dataset, "train") == [*numbered("train/a", 3), *numbered("train/b", 2)]
    assert names_in(dataset, "val") == [f"{val}/a/x.png", f"{val}/b/y.png"]
    assert names_in(dataset, "test") == ["test/b/z.jpg"]
    assert dataset.counts() == {"train": [3, 2], "val": [1, 1], "test": [0, 1]}
    assert dataset.notes == ()


def test_with_train_and_test_only_val_comes_from_train(tmp_path: Path) -> None:
    write(tmp_path, *numbered("train/a", 10), *numbered("train/b", 20), *numbered("test/a", 4), *numbered("test/b", 4))
    dataset = read_folder(tmp_path, seed=3)
    assert dataset.counts() == {"train": [8, 16], "val": [2, 4], "test": [4, 4]}
    assert all(name.startswith("train/") for name in names_in(dataset, "val"))
    assert dataset.notes == ("val: 20% of every class, drawn from train with seed 3",)


def test_one_folder_is_split_by_class_with_the_seed(tmp_path: Path) -> None:
    write(tmp_path, *numbered("a", 50), *numbered("b", 10), *numbered("c", 2))
    first = read_folder(tmp_path, seed=0)
    assert first.counts() == {"train": [40, 8, 1], "val": [10, 2, 1]}
    assert sorted(used(first)) == on_disk(tmp_path)
    assert read_folder(tmp_path, seed=0) == first
    assert names_in(read_folder(tmp_path, seed=1), "val") != names_in(first, "val")


def test_another_class_leaves_the_split_of_the_others(tmp_path: Path) -> None:
    before = read_folder(write(tmp_path, *numbered("b", 30), *numbered("c", 30)), seed=0)
    after = read_folder(write(tmp_path, *numbered("a", 30)), seed=0)
    assert [name for name in names_in(after, "val") if name[0] != "a"] == names_in(before, "val")


def test_classes_are_in_natural_order_and_val_is_mapped_by_name(tmp_path: Path) -> None:
    classes = ("class2", "class10", "Class11", "other")
    for split in ("train", "val"):
        write(tmp_path, *(f"{split}/{name}/{number}.jpg" for name in classes for number in range(2)))
    # Would stand first and shift every index if each split counted its own folders.
    (tmp_path / "val" / "aardvark").mkdir()
    dataset = read_folder(tmp_path, seed=0)
    assert dataset.classes == classes
    for file in (*dataset.splits["train"], *dataset.splits["val"]):
        assert dataset.classes[file.label] == file.path.parent.name


def test_test_may_lack_a_class(tmp_path: Path) -> None:
    write(tmp_path, *numbered("train/a", 5), *numbered("train/b", 5), "test/b/0.jpg")
    (only,) = read_folder(tmp_path, seed=0).splits["test"]
    assert only.label == 1


def test_every_file_beside_train_is_listed_with_the_reason(tmp_path: Path) -> None:
    images = [
        "train/a/1.jpg",
        "train/a/2.JPG",
        "train/a/deep/er/3.Jpeg",
        "train/b/4.webp",
        "val/a/5.PNG",
        "val/b/6.tiff",
    ]
    others = {
        ".DS_Store": "hidden",
        ".git/objects/aa/bb": "hidden",
        "README.md": "not in a class folder",
        "loose.jpg": "not in a class folder",
        "extra/deep/7.jpg": "not in a class folder",
        "extra/.thumbs/7.jpg": "hidden",
        "train/.DS_Store": "hidden",
        "train/loose.jpg": "not in a class folder",
        "train/.cache/8.jpg": "hidden",
        "train/a/.hidden.jpg": "hidden",
        "train/a/.thumbs/9.jpg": "hidden",
        "train/a/notes.txt": "not an image",
        "train/a/moving.gif": "not an image",
        "train/a/jpg": "not an image",
        "val/b/deep/archive.tar.gz": "not an image",
    }
    dataset = read_folder(write(tmp_path, *images, *others), seed=0)
    assert used(dataset) == images
    assert reasons(dataset) == others
    assert_accounted_for(dataset, tmp_path)
    details = {skipped.relative: skipped.detail for skipped in dataset.skipped}
    assert details["train/a/moving.gif"] == ".gif extension"
    assert details["train/a/jpg"] == "no extension"


def test_every_file_of_one_folder_is_listed_with_the_reason(tmp_path: Path) -> None:
    others = {
        "Thumbs.db": "system file",
        ".venv/lib/x.png": "hidden",
        "a/._1.jpg": "hidden",
        "b/9": "not an image",
    }
    dataset = read_folder(write(tmp_path, *numbered("a", 3), *numbered("b/deep", 3), *others), seed=0)
    assert reasons(dataset) == others
    assert_accounted_for(dataset, tmp_path)


@pytest.mark.parametrize("seed", range(25))
def test_in_any_tree_every_file_is_accounted_for(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    write(tmp_path, *(f"{split}{name}/{n}.jpg" for split in _splits(draw) for name in "ab" for n in range(2)))
    parts = ["a", "b", ".x", "deep", "UP"]
    for number in range(40):
        folders = [path for path in [tmp_path, *tmp_path.rglob("*")] if path.is_dir()]
        folder = draw.choice(folders)
        if draw.random() < 0.3 and folder != tmp_path and folder.name not in ("train", "val", "valid", "test"):
            folder = folder / draw.choice(parts)
            folder.mkdir(exist_ok=True)
        name = (
            draw.choice(["", ".", "._", "é "])
            + str(number)
            + draw.choice([".jpg", ".JPG", ".txt", "", ".tar.gz", ".PNG"])
        )
        (folder / name).touch()
    dataset = read_folder(tmp_path, seed=seed)
    assert_accounted_for(dataset, tmp_path)
    assert dataset.classes == ("a", "b")


def _splits(draw: random.Random) -> Iterable[str]:
    return draw.choice([[""], ["train/"], ["train/", "val/"], ["train/", "valid/", "test/"]])


def test_a_folder_below_a_hidden_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".cache" / "pets", *numbered("a", 2), *numbered("b", 2))
    monkeypatch.chdir(tmp_path)
    assert read_folder(Path(".cache/pets"), seed=0).counts() == {"train": [1, 1], "val": [1, 1]}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(tmp_path / "store", "cats/1.jpg", "cats/2.jpg", "one.jpg", "more/3.jpg")
    write(data, *numbered("dogs", 2))
    (data / "cats").symlink_to(tmp_path / "store/cats")
    (data / "dogs/linked.jpg").symlink_to(tmp_path / "store/one.jpg")
    (data / "dogs/more").symlink_to(tmp_path / "store/more")
    (data / "dogs/loop").symlink_to(data / "dogs")
    (data / "dogs/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (data / "gone").symlink_to(tmp_path / "nowhere")
    dataset = read_folder(data, seed=0)
    assert dataset.classes == ("cats", "dogs")
    # A link to nothing in a class folder is an image that cannot be read; `ImageStore.examine` says so.
    cats, dogs = ["cats/1.jpg", "cats/2.jpg"], [f"dogs/{name}.jpg" for name in ("0", "1", "gone", "linked", "more/3")]
    assert sorted(used(dataset)) == [*cats, *dogs]
    assert reasons(dataset) == {"gone": "not in a class folder"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, *numbered("a", 2), *numbered("b", 2))
    os.mkfifo(tmp_path / "a/pipe.jpg")
    dataset = read_folder(tmp_path, seed=0)
    assert [(skipped.relative, skipped.detail) for skipped in dataset.skipped] == [("a/pipe.jpg", "no regular file")]


@pytest.mark.skipif(os.name != "posix", reason="only there may names be any bytes")
def test_names_that_are_no_utf8_become_text(tmp_path: Path) -> None:
    write(tmp_path, *numbered("b", 2))
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    for number in range(2):
        Path(os.fsdecode(folder + b"/\xff%d.jpg" % number)).touch()
    dataset = read_folder(tmp_path, seed=0)
    assert dataset.classes == ("b", r"caf\xe9")
    assert sorted(used(dataset))[2:] == [r"caf\xe9/\xff0.jpg", r"caf\xe9/\xff1.jpg"]
    assert dataset.digest(dict.fromkeys(used(dataset), "0")).encode()
    assert all(file.path.exists() for files in dataset.splits.values() for file in files)


def test_a_folder_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "hymenoptera").mkdir()
    message = refusal(tmp_path / "hymenoptra", "There is no folder")
    assert f"Did you mean {str(tmp_path / 'hymenoptera')!r}?" in message
    assert "Did you mean" not in refusal(tmp_path / "xyz", "There is no folder")


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    refusal(write(tmp_path, "data.zip") / "data.zip", "data.zip' is a file.\nNext: give the folder")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There are no images below"),
        (["a/x.txt", "b/y.gif"], "There are no images below"),
        (["train/a/x.txt", "train/b/y.gif", "val/a/z.jpg"], "There are no images below"),
        (["1.jpg", "2.jpg"], r"No class folders with images found below .*, only loose images such as '1\.jpg'\."),
        (["train/1.jpg", "val/2.jpg"], r"has images directly in train/ and val/, and no class folders there\."),
        (["a/1.jpg", "b/x.txt"], "1 class folder without images: b"),
        (["train/a/1.jpg", "train/c10/x.txt", "train/c2/x.txt"], "2 class folders without images: c2, c10"),
        (["a/1.jpg", "a/2.jpg"], "has only the class 'a'"),
        (["a/1.jpg", "a/2.jpg", "b/3.jpg"], "The class 'b' has 1 image; drawing val from train needs at least 2"),
        (
            ["train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", "val/b/4.jpg", "val/a/x.txt"],
            r"val/ of .* has no images of 2 classes: a, c\.",
        ),
        (
            ["train/ants/1.jpg", "train/bees/2.jpg", "val/ants/3.jpg", "val/bee/4.jpg"],
            r"val/ of .* has classes that train/ lacks: bee\. Did you mean 'bees'\?\nThe classes of train/: ants, bees",
        ),
        (
            ["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg", "test/xyz/5.jpg"],
            r"test/ of .* has classes that train/ lacks: xyz\.\n",
        ),
        (
            ["Train/a/1.jpg", "Train/b/2.jpg", "valid/a/3.jpg"],
            r"valid/ of .* has no images of 1 class: b.*from Train/ to",
        ),
        (["train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "valid/a/4.jpg"], "has two val folders: val and valid"),
        (["val/a/1.jpg", "val/b/2.jpg"], "has val/ but no train/.\nNext: rename"),
        (["valid/a/1.jpg", "test/a/2.jpg"], "has test/ and valid/ but no train/.\nNext: rename"),
        (["test/a/1.jpg", "test/b/2.jpg"], "has test/ but no train/.\nNext: rename"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_clear_message(tmp_path: Path, files: list[str], message: str) -> None:
    text = refusal(write(tmp_path, *files), message)
    assert str(tmp_path) in text or "The class 'b'" in text
    assert len(text.splitlines()) <= 3


def test_all_classes_with_one_image_are_counted_at_once(tmp_path: Path) -> None:
    files = [f"class {number}/1.jpg" for number in range(12)] + ["many/1.jpg", "many/2.jpg"]
    message = r"^12 classes have 1 image; drawing val .*: 'class 0', 'class 1', .* and 2 more\.\nNext: add images"
    refusal(write(tmp_path, *files), message)


def test_words_for_splits_can_be_class_names(tmp_path: Path) -> None:
    dataset = read_folder(write(tmp_path, *numbered("valid", 5), *numbered("invalid", 5)), seed=0)
    assert dataset.classes == ("invalid", "valid")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, *numbered("a", 2), *numbered("b", 2))
    (tmp_path / "b").chmod(0)
    try:
        refusal(tmp_path, re.escape(f"{tmp_path}/b: Permission denied"))
    finally:
        (tmp_path / "b").chmod(0o755)


# What a trained classifier is evaluated on


def test_a_classifier_is_judged_on_test_before_val_before_all(tmp_path: Path) -> None:
    flat = numbered("a", 2) + numbered("b", 3)
    write(tmp_path / "all", *flat)
    write(tmp_path / "val", *(f"{split}/{name}" for split in ("train", "valid") for name in flat))
    write(tmp_path / "test", *(f"{split}/{name}" for split in ("train", "val", "test") for name in flat))
    for expected, folder in (("all", ""), ("val", "valid/"), ("test", "test/")):
        split, dataset = read_labelled(tmp_path / expected, ("b", "unseen", "a"))
        (files,) = dataset.splits.values()
        assert split == expected
        assert [(file.relative, file.label) for file in files] == [
            *((f"{folder}{name}", 0) for name in numbered("b", 3)),
            *((f"{folder}{name}", 2) for name in numbered("a", 2)),
        ]


def test_the_files_that_do_not_judge_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "val/a/1.jpg", "val/a/.DS_Store", "val/a/2.gif", "val/3.jpg", "val/b/4.jpg")
    _, dataset = read_labelled(tmp_path, ("a", "b"))
    assert_accounted_for(dataset, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "There are no images below"),
        (["1.jpg"], r"only loose images such as '1\.jpg'\."),
        (["a/x.txt"], "There are no images below"),
        (["a/1.jpg", "xyz/2.jpg", "c/3.jpg"], r"does not know: c, xyz\.\nIts classes: a, b\."),
        (["train/a/1.jpg", "train/b/2.jpg"], r"train/ but neither test nor val [^\n]*\nNext: .* give '.*train'"),
        (["val/a/1.jpg", "valid/a/2.jpg"], "has two val folders: val and valid"),
    ],
)
def test_what_cannot_judge_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path, *files), ("a", "b"))


def test_a_file_with_the_name_of_a_split_is_no_split(tmp_path: Path) -> None:
    split, dataset = read_labelled(write(tmp_path, "test", "val/a/1.jpg"), ("a", "b"))
    assert split == "val"
    assert len(dataset.splits["val"]) == 1


@pytest.mark.data
def test_hymenoptera(real_data: Path) -> None:
    root = real_data / "data/hymenoptera"
    dataset = read_folder(root, seed=0)
    assert dataset.classes == ("ants", "bees")
    assert dataset.counts() == {"train": [123, 121], "val": [70, 83]}
    assert [(skipped.relative, skipped.reason, skipped.detail) for skipped in dataset.skipped] == [
        ("train/ants/imageNotFound.gif", "not an image", ".gif extension")
    ]
    assert_accounted_for(dataset, root)
    split, judged = read_labelled(root, ("bees", "ants"))
    assert split == "val"
    assert judged.counts() == {"val": [83, 70]}


@pytest.mark.data
def test_flowers(real_data: Path) -> None:
    dataset = read_folder(real_data / "data/flowers5", seed=0)
    assert dataset.counts() == {"train": [100] * 5, "val": [40] * 5}
    assert_accounted_for(dataset, real_data / "data/flowers5")
