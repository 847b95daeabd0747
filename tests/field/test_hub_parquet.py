"""Parquet as the Hugging Face hub has it: images in the table, in one file or in a cloned folder of them.

Every test of a message does what its next step says, and reads the data then.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zoo
from pyarrow import parquet
from tests.field.pictures import pictures_of, write_pictures
from tests.packing import pack
from zoo.data.dataset import Dataset
from zoo.data.sources import find_data, read_dataset
from zoo.registry.registry import default_registry

NAMES = ("ants", "bees")
README = "---\nlicense: mit\n---\n"


def read(path: Path) -> Dataset:
    return read_dataset(find_data(path, default_registry(), lambda event: None), seed=0)


def used(path: Path) -> dict[str, tuple[str, str]]:
    """Name -> (split, label) of everything that is listed."""
    dataset = read(path)
    return {
        file.relative: (split, dataset.classes[file.label]) for split, files in dataset.splits.items() for file in files
    }


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative: file.content() for files in read(path).splits.values() for file in files}


def refusal(path: Path) -> str:
    with pytest.raises(zoo.DataError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 4 and "\nNext: " in message
    return message


def run_offered(message: str, folder: Path) -> Path:
    """Run the command that a message offers, in a folder, and return the last file that it names."""
    (line,) = [line for line in message.splitlines() if line.startswith("python -c ")]
    words = shlex.split(line)[1:]
    files = [str(each) for word in words[2:] for each in (folder.glob(word) if "*" in word else [word])]
    subprocess.run([sys.executable, *words[:2], *files], check=True, timeout=60, cwd=folder)
    return Path(files[-1])


def image(number: int) -> dict[str, Any]:
    return {"bytes": b"picture %d" % number, "path": f"{number}.jpg"}


def hub_table(columns: Mapping[str, Any], *, classes: Mapping[str, Sequence[str]] | None = None) -> pyarrow.Table:
    """A table as `push_to_hub` of Hugging Face datasets writes it, with the features in the metadata."""
    features: dict[str, Any] = {"image": {"_type": "Image"}} if "image" in columns else {}
    for name, names in (classes or {}).items():
        features[name] = {"names": list(names), "_type": "ClassLabel"}
    table = pyarrow.table(dict(columns))
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_hub(path: Path, numbers: Sequence[int], *, rows: int = 3, names: Sequence[str] = NAMES, **more: Any) -> Path:
    """Write images with these numbers; every second is of the second class. `rows` are in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [image(number) for number in numbers], "label": [number % 2 for number in numbers], **more}
    parquet.write_table(hub_table(columns, classes={"label": names}), path, row_group_size=rows)
    return path


def clone(folder: Path, place: str = "data") -> Path:
    """A data set of three splits as `git clone` gives it."""
    (folder / "README.md").parent.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(README)
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    write_hub(folder / place / "train-00000-of-00002.parquet", range(10))
    write_hub(folder / place / "train-00001-of-00002.parquet", range(10, 16))
    write_hub(folder / place / "validation-00000-of-00001.parquet", range(20, 24))
    write_hub(folder / place / "test-00000-of-00001.parquet", range(30, 34))
    return folder


# What is read


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [image(number) for number in range(6)]},
        {"img": [image(number) for number in range(6)]},
        {"image": [image(number)["bytes"] for number in range(6)]},
        {
            "picture": pyarrow.array([image(number)["bytes"] for number in range(6)], "large_binary"),
            "id": list("abcdef"),
        },
        {"image": [{"bytes": image(number)["bytes"]} for number in range(6)], "mask": [b"x"] * 6},
        {"image": [image(number) for number in range(6)], "thumbnail": [b"x"] * 6},
    ],
)
@pytest.mark.parametrize("labels", [["ants", "bees"] * 3, pyarrow.array(["ants", "bees"] * 3).dictionary_encode()])
def test_a_file_with_the_bytes_of_images_is_read(columns: dict[str, Any], labels: Any, tmp_path: Path) -> None:
    if "mask" in columns:
        columns = {**columns, "mask": [b"x"] * 6}
    parquet.write_table(pyarrow.table({**columns, "label": labels}), tmp_path / "t.parquet", row_group_size=4)
    named = any(isinstance(each, dict) and "path" in each for each in columns.get("image", columns.get("img", [])))
    found = contents(tmp_path / "t.parquet")
    suffix = ".jpg" if named else ""
    assert found == {f"{number:07d}{suffix}": b"picture %d" % number for number in range(6)}
    assert read(tmp_path / "t.parquet").classes == ("ants", "bees")


@pytest.mark.parametrize("place", ["data", "plain_text", "."])
def test_a_cloned_data_set_is_read_with_its_splits_and_the_names_of_its_classes(place: str, tmp_path: Path) -> None:
    dataset = read(clone(tmp_path / "set", place))
    assert dataset.counts() == {"train": [8, 8], "val": [2, 2], "test": [2, 2]}
    assert dataset.classes == NAMES and dataset.reader == "sources/table"
    assert dataset.notes == ("image from column image, label from column label",)
    found = contents(tmp_path / "set")
    assert found["train/0000010.jpg"] == b"picture 10" and found["test/0000003.jpg"] == b"picture 33"
    assert [(each.relative, each.detail) for each in dataset.skipped] == [("README.md", "no Parquet file")]
    assert read(tmp_path / "set" / place).counts() == dataset.counts()


def test_the_folders_of_the_hubs_own_conversion_are_splits(tmp_path: Path) -> None:
    """`refs/convert/parquet` has CONFIGURATION/SPLIT/0000.parquet."""
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        write_hub(tmp_path / "default" / split / "0000.parquet", numbers)
        write_hub(tmp_path / "default" / split / "0001.parquet", range(20 + numbers[0], 24 + numbers[0]))
    assert read(tmp_path).counts() == {"train": [5, 5], "val": [1, 1], "test": [4, 4]}
    assert contents(tmp_path)["test/0000004.jpg"] == b"picture 28"


def test_a_column_of_splits_counts_and_must_agree_with_the_names_of_files(tmp_path: Path) -> None:
    splits = ["train", "Train", "val", "val", "train", "train", "test", "test"]
    path = write_hub(tmp_path / "t.parquet", range(8), split=splits)
    assert read(path).counts() == {"train": [2, 2], "val": [1, 1], "test": [1, 1]}
    assert used(path)["val/0000002.jpg"] == ("val", "ants")
    write_hub(tmp_path / "set" / "train-0.parquet", range(8), split=splits)
    assert "Row 3 of " in (message := refusal(tmp_path / "set")) and "rename the file" in message
    (tmp_path / "set" / "train-0.parquet").rename(tmp_path / "set" / "all.parquet")
    assert read(tmp_path / "set").counts() == read(path).counts()


def test_splits_in_a_column_of_another_name_are_refused(tmp_path: Path) -> None:
    splits = ["train", "train", "val", "val", "train", "train", "test", "test"]
    path = write_hub(tmp_path / "t.parquet", range(8), subset=splits)
    assert "The column 'subset' of " in refusal(path)
    table = parquet.read_table(path)
    parquet.write_table(table.rename_columns({"subset": "split"}), path)
    assert read(path).counts() == {"train": [2, 2], "val": [1, 1], "test": [1, 1]}


def test_rows_without_a_label_are_listed_and_numbers_without_names_are_names(tmp_path: Path) -> None:
    columns = {"image": [image(n) for n in range(8)], "label": [0.0, 1.0, 0.0, 1.0, None, float("nan"), 11.0, 11.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    dataset = read(tmp_path / "t.parquet")
    assert dataset.classes == ("0", "1", "11")
    assert [(each.relative, each.reason) for each in dataset.skipped] == [
        ("0000004.jpg", "no label"), ("0000005.jpg", "no label")
    ]  # fmt: skip
    write_hub(tmp_path / "named.parquet", range(6))
    table = parquet.read_table(tmp_path / "named.parquet")
    hidden = table.set_column(
        1, "label", pyarrow.array([0, 1, 0, 1, -1, None])
    )  # -1 is how hidden labels of test are told
    parquet.write_table(hidden, tmp_path / "named.parquet")
    assert len(read(tmp_path / "named.parquet").skipped) == 2


def test_a_number_that_no_name_of_a_class_is_for_is_refused(tmp_path: Path) -> None:
    path = write_hub(tmp_path / "t.parquet", range(6))
    table = parquet.read_table(path)
    parquet.write_table(table.set_column(1, "label", pyarrow.array([0, 1, 0, 1, 2, 2])), path)
    message = refusal(path)
    assert f"{path}: the label of row 5 is 2, and the data name 2 classes, 0 to 1." in message
    write_hub(path, range(6), names=("ants", "bees", "wasps"))  # "correct the list of classes"
    assert read(path).classes == NAMES
    texts = pyarrow.array(["0", "1"] * 3)  # a copy that was cast, with the names of before
    parquet.write_table(parquet.read_table(path).set_column(1, "label", texts), path)
    assert "has the label '0', and the data name 3 other classes, such as 'ants'" in refusal(path)
    assert "the classes 0 and 2 (counted from 0) have one name, 'ants'" in refusal(
        write_hub(path, range(6), names=("ants", "bees", "ants"))
    )


def test_images_by_path_alone_are_files_relative_to_the_table(tmp_path: Path) -> None:
    names = pictures_of("a", "b", count=2)
    write_pictures(tmp_path, names)
    rows = [{"bytes": None, "path": name} for name in names]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "label": [name[0] for name in names]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert sorted(contents(tmp_path / "t.parquet").values()) == sorted((tmp_path / name).read_bytes() for name in names)
    mixed = [*rows[:2], image(7), rows[3]]
    table = pyarrow.table({"image": pyarrow.array(mixed, kind), "label": [name[0] for name in names]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert sorted(contents(tmp_path / "t.parquet").values()) == sorted(
        [b"picture 7", *((tmp_path / names[at]).read_bytes() for at in (0, 1, 3))]
    )
    table = pyarrow.table(
        {"image": pyarrow.array([*rows[:3], {"path": "b/9.jpg"}], kind), "label": ["a", "a", "b", "b"]}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    message = refusal(tmp_path / "t.parquet")
    assert (
        "1 of the 4 files" in message and "Next: correct the paths, which are relative to the table's folder" in message
    )
    (near,) = re.findall(r"Did you mean '(b/\d\.jpg)'\?", message)
    table = pyarrow.table(
        {
            "image": pyarrow.array([*rows[:2], {"path": "b/1.jpg"}, {"path": "b/2.jpg"}], kind),
            "label": ["a", "a", "b", "b"],
        }
    )
    assert near in names
    parquet.write_table(table, tmp_path / "t.parquet")
    assert len(used(tmp_path / "t.parquet")) == 4


def test_a_table_of_paths_beside_thumbnails_stays_one_and_so_does_a_folder_of_such_tables(tmp_path: Path) -> None:
    names = pictures_of("a", "b", count=2)
    write_pictures(tmp_path, names)
    columns = {"Path": names, "label": [name[0] for name in names], "thumbnail": [b"x"] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert set(used(tmp_path / "t.parquet")) == set(names)
    for part, rows in (("part-0", slice(0, 2)), ("part-1", slice(2, 4))):
        some = {"path": [f"../{name}" for name in names[rows]], "label": columns["label"][rows]}
        (tmp_path / "parts").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table(some), tmp_path / "parts" / f"{part}.parquet")
    assert set(used(tmp_path / "parts")) == {f"../{name}" for name in names}


def test_a_table_of_paths_has_the_names_of_its_classes_too(tmp_path: Path) -> None:
    names = pictures_of("a", "b", count=2)
    write_pictures(tmp_path, names)
    for labels, said in (
        ([1, 1, 0, 0], ""),
        ([1, 1, 0, -1], "Row 4 of .* has no label"),
        ([1, 1, 0, 2], "the label of row 4 is 2, and the data name 2 classes, 0 to 1"),
    ):
        parquet.write_table(
            hub_table({"path": names, "label": labels}, classes={"label": NAMES}), tmp_path / "t.parquet"
        )
        if said:
            assert re.search(said, refusal(tmp_path / "t.parquet"))
        else:
            assert (
                used(tmp_path / "t.parquet")["b/2.jpg"][1] == "ants" and read(tmp_path / "t.parquet").classes == NAMES
            )


def test_class_folders_with_a_parquet_file_beside_them_stay_class_folders(tmp_path: Path) -> None:
    write_pictures(tmp_path, pictures_of("ants", "bees", count=3))
    write_hub(tmp_path / "features.parquet", range(4))
    assert read(tmp_path).reader == "folder"
    write_pictures(tmp_path / "split", pictures_of("train/ants", "train/bees", count=3))
    write_hub(tmp_path / "split" / "features.parquet", range(4))
    assert read(tmp_path / "split").reader == "folder"
    clone(tmp_path / "hub")
    write_pictures(tmp_path / "hub", ["assets/example.png"])  # of the README
    assert read(tmp_path / "hub").reader == "sources/table"


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_contents_are_right_in_any_order_and_from_many_threads_at_once(rows: int, tmp_path: Path) -> None:
    write_hub(tmp_path / "train-0.parquet", range(60), rows=rows)
    write_hub(tmp_path / "test-0.parquet", range(60, 100), rows=rows)
    files = [file for files in read(tmp_path).splits.values() for file in files]
    order = [*files, *files[::-1], *files[::3]] * 2
    barrier = threading.Barrier(8)

    def content(at: int) -> bytes:
        if at < 8:
            barrier.wait(timeout=10)
        return order[at].content()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(content, range(len(order))))
    first = {"train": 0, "val": 0, "test": 60}
    expected = [b"picture %d" % (first[file.relative.split("/")[0]] + int(file.relative[-11:-4])) for file in order]
    assert found == expected


def test_memory_stays_flat_however_much_the_files_hold(tmp_path: Path) -> None:
    size, count = 1 << 20, 128
    for part in range(2):
        blobs = [{"bytes": bytes([part, number]) * (size // 2), "path": None} for number in range(count // 2)]
        table = pyarrow.table({"image": blobs, "label": ["a", "b"] * (count // 4)})
        parquet.write_table(table, tmp_path / f"train-{part}.parquet", row_group_size=8, compression="none")
    del blobs, table
    read(tmp_path)
    before, peak = pyarrow.total_allocated_bytes(), 0
    for files in read(tmp_path).splits.values():
        for file in files:
            assert len(file.content()) == size
            peak = max(peak, pyarrow.total_allocated_bytes() - before)
    assert 0 < peak < count * size / 2


def test_a_file_that_changed_makes_its_images_unreadable_and_no_more(tmp_path: Path) -> None:
    path = write_hub(tmp_path / "t.parquet", range(40), rows=10)
    files = [file for files in read(path).splits.values() for file in files]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(zoo.DataError, match="cannot be read"):
        files[0].content()
    write_hub(path, range(4))
    with pytest.raises(zoo.DataError, match="cannot be read"):
        max(files, key=lambda file: file.relative).content()


def test_a_cloned_data_set_is_checked_as_every_other(few: Path, tmp_path: Path) -> None:
    path = pack(few, "hub", tmp_path)
    report = zoo.check_data(path)
    assert report.passed and report.files == 12
    write_hub(path / "data" / "test-00000-of-00001.parquet", range(4), names=("a", "b"))  # these are no images
    assert "unreadable" in {each.code for each in zoo.check_data(path).findings}


# What is refused, and what then works


@pytest.mark.parametrize("lacks", [0, 1])
def test_a_part_that_is_missing_is_named(lacks: int, tmp_path: Path) -> None:
    gone = clone(tmp_path / "set") / "data" / f"train-0000{lacks}-of-00002.parquet"
    content = gone.read_bytes()
    gone.unlink()
    message = refusal(tmp_path / "set")
    assert f"lacks 1 of the 2 parts of train: {gone.name}." in message
    gone.write_bytes(content)  # "download the rest"
    assert read(tmp_path / "set").counts()["train"] == [8, 8]
    gone.unlink()  # "or rename the files"
    (other,) = gone.parent.glob("train-*")
    other.rename(gone.parent / re.findall(r"train-a\.parquet", message)[0])
    assert sum(read(tmp_path / "set").counts()["train"]) == (6 if lacks == 0 else 10)
    alone = write_hub(tmp_path / "train-00000-of-00003.parquet", range(8))
    assert "only part 1 of 3; give the folder to read all" in read(alone).notes


def test_a_pointer_of_git_lfs_is_said(tmp_path: Path) -> None:
    """Without Git LFS, `git clone` leaves pointers."""
    pointer = clone(tmp_path / "set") / "data" / "test-00000-of-00001.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{pointer} is only a pointer of Git LFS" in (message := refusal(tmp_path / "set"))
    assert "or download the file" in message
    clone(tmp_path / "set")
    assert read(tmp_path / "set").counts()["test"] == [2, 2]


def test_several_configurations_are_several_data_sets(tmp_path: Path) -> None:
    for place in ("small", "large"):
        clone(tmp_path / "set", place)
    message = refusal(tmp_path / "set")
    assert "has Parquet files in 2 places, large, small, which may be different data sets" in message
    assert read(Path(message.rpartition("such as ")[2])).counts()["val"] == [2, 2]


def test_files_that_no_split_names_are_not_passed_over(tmp_path: Path) -> None:
    other = write_hub(clone(tmp_path / "set") / "data" / "extra-00000-of-00001.parquet", range(50, 60))
    message = refusal(tmp_path / "set")
    assert "and others: extra-00000-of-00001.parquet." in message
    other.rename(other.with_name(message.rpartition("rename it to ")[2]))
    assert read(tmp_path / "set").counts()["train"] == [13, 13]


def test_files_with_other_classes_or_columns_are_no_part_of_the_data_set(tmp_path: Path) -> None:
    for more in ({"names": ("bees", "ants")}, {"split": ["train"] * 4}):
        other = write_hub(clone(tmp_path / "set") / "data" / "test-extra.parquet", range(4), **more)
        message = refusal(tmp_path / "set")
        assert ("name their classes differently" if "names" in more else "have different columns") in message
        other.rename(tmp_path / other.name)  # "move one of them elsewhere"
        assert read(tmp_path / "set").counts()["test"] == [2, 2]


def test_of_two_columns_of_classes_one_is_kept_in_a_copy(tmp_path: Path) -> None:
    """cifar100 has fine_label and coarse_label."""
    columns = {"image": [image(n) for n in range(8)], "fine": [0, 1, 2, 3] * 2, "coarse": [0, 0, 1, 1] * 2}
    table = hub_table(columns, classes={"fine": "abcd", "coarse": "xy"})
    for name in ("train-0.parquet", "test-0.parquet"):
        parquet.write_table(table, tmp_path / name)
    message = refusal(tmp_path)
    assert "several columns that may be the label: fine, coarse" in message and "To keep fine" in message
    run_offered(message, tmp_path)
    dataset = read(tmp_path)
    assert dataset.classes == tuple("abcd") and "label from column fine" in dataset.notes[0]
    two = {"first": [image(n) for n in range(8)], "second": [image(n) for n in range(8)], "label": ["a", "b"] * 4}
    (tmp_path / "two").mkdir()
    parquet.write_table(pyarrow.table(two), tmp_path / "two" / "t.parquet")
    message = refusal(tmp_path / "two")
    assert "may be the image: first, second" in message
    run_offered(message, tmp_path / "two")
    assert len(used(tmp_path / "two")) == 8


def test_other_names_of_the_columns_of_paths_are_offered_with_a_command(tmp_path: Path) -> None:
    names = pictures_of("a", "b", count=2)
    write_pictures(tmp_path, names)
    columns = {"filename": names, "class": [name[0] for name in names], "by": ["x"] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    message = refusal(tmp_path / "t.parquet")
    assert "Did you mean 'filename' and 'class'?" in message
    assert set(used(run_offered(message, tmp_path))) == set(names)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[0], [1]] * 3, "has several labels an image"),
        ([True, False] * 3, "has values of another kind (bool)"),
        ([0.5, 1.0] * 3, "has float 0.5 as its label"),
        ([float("inf"), 1.0] * 3, "has float inf as its label"),
        (["0", "0.0"] * 3, "they would be two classes"),
        (['["a"]', "b"] * 3, "has a list as its label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: list[Any], said: str, tmp_path: Path) -> None:
    columns = {"image": [image(number) for number in range(6)], "label": labels}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert said in refusal(tmp_path / "t.parquet")
    columns["label"] = ["ants", "bees"] * 3  # every next step: one text or whole number a row
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").classes == NAMES


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [image(0), image(1)]}, "has no column of labels beside its images"),
        ({"image": [[1, 2], [3, 4]], "label": [0, 1]}, "holds list<"),
        ({"image": pyarrow.array([], "binary"), "label": pyarrow.array([], "int64")}, "has a header and no rows"),
    ],
)  # fmt: skip
def test_a_file_without_labels_images_or_rows_is_refused(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert said in refusal(tmp_path / "t.parquet")
    whole = {"image": [image(n)["bytes"] for n in range(4)], "label": [0, 1] * 2}  # bytes, and a column called label
    parquet.write_table(pyarrow.table(whole), tmp_path / "t.parquet")
    assert len(used(tmp_path / "t.parquet")) == 4
