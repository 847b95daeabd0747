"""Decisions about the whole set were made from one shard (webdataset 11)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import zoo
from tests.field.pictures import CONTAINERS, by_class, contain, pictures_of, read
from tests.packing import write_tar

YEARS = pictures_of("ants/2021", "ants/2022", "bees/2021", "bees/2022", count=3)


def shards_by(names: Iterable[str], place: Path, key: int) -> Path:
    """A folder with a shard for each name of the folder at depth `key`."""
    parts: dict[str, dict[str, bytes]] = {}
    for name in names:
        parts.setdefault(name.split("/")[key], {})[name] = b""
    for part, members in parts.items():
        write_tar(place / "shards" / f"{part}.tar", members)
    return place / "shards"


def shards_in_turn(names: Iterable[str], place: Path) -> Path:
    listed = list(names)
    for number in range(3):
        write_tar(place / "shards" / f"{number:03d}.tar", dict.fromkeys(listed[number::3], b""))
    return place / "shards"


LAYOUTS = {
    "years": YEARS,
    # Not in the report: a folder around everything, splits at the top, splits in the classes, a class in one shard.
    "wrapped": [f"photos/{name}" for name in YEARS],
    "splits": pictures_of(*(f"{split}/{name}" for split in ("train", "val") for name in ("ants", "bees")), count=4),
    "inside": pictures_of(*(f"{name}/{split}" for split in ("train", "val") for name in ("ants", "bees")), count=4),
    "plain": pictures_of("ants", "bees", "wasps", count=5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_one_tar_many_tars_and_zip_give_the_same_classes_and_splits(layout: str, tmp_path: Path) -> None:
    names = LAYOUTS[layout]
    expected = read(contain("folder", tmp_path, names))
    paths = [contain(container, tmp_path / container, names) for container in CONTAINERS]
    paths += [shards_by(names, tmp_path / f"by{key}", key) for key in range(min(name.count("/") for name in names))]
    paths += [shards_in_turn(names, tmp_path / "turn")]
    for path in paths:
        dataset = read(path)
        assert dataset.classes == expected.classes, path
        assert by_class(dataset) == by_class(expected), path


def test_what_is_refused_as_a_folder_is_refused_as_shards(tmp_path: Path) -> None:
    names = pictures_of(*(f"{part}/{name}" for part in ("A", "B") for name in ("ants", "bees")))
    for path in (contain("folder", tmp_path, names), shards_by(names, tmp_path, 0), shards_in_turn(names, tmp_path)):
        with pytest.raises(zoo.DataError, match=r"hold the same folders \(ants, bees\)"):
            read(path)


def test_splits_by_the_names_of_shards_keep_the_classes_of_all(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("ants", "bees"):
            members = dict.fromkeys(pictures_of(f"{name}/2021", f"{name}/2022", count=3), b"")
            write_tar(tmp_path / f"imagenet-{split}-{name}.tar", members)
    assert by_class(read(tmp_path)) == {split: {"ants": 6, "bees": 6} for split in ("train", "val")}


def test_a_shard_that_lost_its_labels_is_named(tmp_path: Path) -> None:
    for number in range(3):
        members: dict[str, bytes] = {}
        for index in range(4):
            members[f"images/{number}{index}.jpg"] = b""
            if number < 2:
                members[f"images/{number}{index}.cls"] = str(index % 2).encode()
        write_tar(tmp_path / f"{number}.tar", members)
    with pytest.raises(zoo.DataError, match=r"2\.tar has no label for any image"):
        read(tmp_path)
    (tmp_path / "2.tar").unlink()  # the next step
    assert read(tmp_path).classes == ("0", "1")


def test_samples_take_their_splits_from_the_folders_inside(tmp_path: Path) -> None:
    members = {}
    for split, count in (("train", 6), ("test", 4)):
        for index in range(count):
            members |= {f"{split}/{index}.jpg": b"", f"{split}/{index}.cls": str(index % 2).encode()}
    write_tar(tmp_path / "one.tar", members)
    assert by_class(read(tmp_path / "one.tar"))["test"] == {"0": 2, "1": 2}
    for split in ("train", "test"):
        of_split = {name: content for name, content in members.items() if name.startswith(split)}
        write_tar(tmp_path / "shards" / f"{'a' if split == 'train' else 'b'}.tar", of_split)
    assert by_class(read(tmp_path / "shards"))["test"] == {"0": 2, "1": 2}


def test_a_json_file_that_is_no_label_leaves_class_folders_alone(tmp_path: Path) -> None:
    members = {**dict.fromkeys(pictures_of("cat", "dog"), b""), "meta.json": b'{"label": "mine"}'}
    assert read(write_tar(tmp_path / "photos.tar", members)).classes == ("cat", "dog")


def test_shards_at_any_depth_are_read_or_listed(tmp_path: Path) -> None:
    for name in ("train/a/a.tar", "train/b.tar", "val/c/d/e.tar"):
        write_tar(tmp_path / name, dict.fromkeys(pictures_of("cat", "dog"), b""))
    assert by_class(read(Path(f"tar:{tmp_path}"))) == {
        "train": {"cat": 12, "dog": 12}, "val": {"cat": 6, "dog": 6},
    }  # fmt: skip


def test_shards_of_which_some_name_a_split_are_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("bullet_train", "car"):
        write_tar(tmp_path / f"{name}.tar", dict.fromkeys(pictures_of(name), b""))
    with pytest.raises(zoo.DataError, match=r"bullet_train\.tar has the name of the split train, car\.tar of none"):
        read(tmp_path)
    (tmp_path / "bullet_train.tar").rename(tmp_path / "shard-0.tar")  # the next step
    assert read(tmp_path).classes == ("bullet_train", "car")


def test_an_absurd_label_is_refused_by_the_name_of_its_sample(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    path = write_tar(tmp_path / "one.tar", {"a.jpg": b"", "a.cls": b"9" * 5000})
    with pytest.raises(zoo.DataError, match=r"a\.jpg has the label"):
        read(path)
