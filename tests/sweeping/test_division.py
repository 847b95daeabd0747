"""Images divided before a sweep begins: nobody selects on what judges, and no picture is on two sides."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from zoo.data.dataset import ImageFile
from zoo.errors import DataError
from zoo.events import silent
from zoo.registry.registry import default_registry
from zoo.sweeping.division import (
    Division,
    divide,
    draw_parts,
    known_before,
    read_tables,
    refuse_changed,
    write_contents,
    write_tables,
)


def divided(data: Path, seed: int = 0) -> Division:
    return divide(data, default_registry(), silent, seed=seed)


def names(files: Sequence[ImageFile]) -> set[str]:
    return {file.relative for file in files}


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """Three classes of twelve, without splits, and a file that is no image."""
    photos = Path(shutil.copytree(shapes / "train", tmp_path / "photos"))
    (photos / "red" / "notes.txt").write_text("red")
    return photos


def test_what_the_data_divide_stays(shapes: Path) -> None:
    found = divided(shapes)
    assert [len(part) for part in (found.train, found.val, found.judged)] == [36, 18, 12]
    assert "test, which" in found.judged_by and "val, which" in found.chosen_by


def test_what_the_data_do_not_divide_is_drawn_by_the_seed(photos: Path) -> None:
    found, other = divided(photos), divided(photos, seed=1)
    parts = [names(part) for part in (found.train, found.val, found.judged)]
    assert found.record()["skipped_because"] == {"not an image": 1}
    assert [len(part) for part in parts] == [24, 6, 6] and len(set.union(*parts)) == 36
    assert all({file.label for file in part} == {0, 1, 2} for part in (found.train, found.val, found.judged))
    assert divided(photos) == found and names(other.judged) != names(found.judged)
    assert "holdout" in found.judged_by and "seed 1" in other.judged_by


def test_copies_and_near_copies_stay_on_one_side(photos: Path) -> None:
    for folder in photos.iterdir():
        for number in range(6):
            shutil.copy(folder / f"{number}.jpg", folder / f"copy{number}.jpg")
    for seed in range(5):
        found = divided(photos, seed)
        for part in (found.train, found.val, found.judged):
            there = names(part)
            for name in there:
                twin = name.replace("copy", "") if "copy" in name else name.replace("/", "/copy")
                assert twin in there or not (photos / twin).exists(), (seed, name)


def test_what_looks_like_an_image_that_the_data_choose_or_judge_by_is_not_drawn(photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data / "train")
    for folder in (data / "train").iterdir():
        for number in range(8):
            (data / "val" / folder.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{number}.jpg", data / "val" / folder.name / f"as{number}.jpg")
    for seed in range(3):
        found = divided(data, seed)
        assert len(found.judged) == 6 and len(found.val) == 24
        assert {Path(file.relative).stem for file in found.judged} <= {"8", "9", "10", "11"}, "chosen on otherwise"
    (data / "val").rename(data / "test")
    found = divided(data)
    assert {Path(file.relative).stem for file in found.val} <= {"8", "9", "10", "11"}
    for folder in (data / "test").iterdir():
        for number in range(8, 12):
            shutil.copy(data / "train" / folder.name / f"{number}.jpg", folder / f"as{number}.jpg")
    with pytest.raises(DataError, match="12 different images to train on, 12 of them like images of other splits"):
        divided(data)


def test_judged_images_that_trials_see_are_counted(shapes: Path, tmp_path: Path) -> None:
    data, folder = Path(shutil.copytree(shapes, tmp_path / "data")), tmp_path / "sweep"
    folder.mkdir()
    (data / "train" / "red" / "0.jpg").rename(data / "train" / "red" / "line\x85 \r end.jpg")
    (data / "test" / "red" / "1.jpg").rename(data / "test" / "red" / "line\u2028 \r end.jpg")
    for copies in (0, 1):
        if copies:
            shutil.copy(data / "val" / "red" / "0.jpg", data / "test" / "red" / "seen\u2028 \r.jpg")
        found = divided(data)
        write_tables(found, folder)
        tables = read_tables(folder, found.classes, default_registry(), silent)
        write_contents(folder, tables, silent)
        told = "1 of 13 images there is a copy of images in train or val" if copies else ""
        assert known_before(folder, *tables) == told


def test_a_class_with_too_few_different_images_is_refused(photos: Path) -> None:
    for path in (photos / "red").iterdir():
        shutil.copy(photos / "red" / "0.jpg", path) if path.name not in ("0.jpg", "1.jpg") else None
    with pytest.raises(DataError, match=r"'red' has 2 different images.*needs at least 3"):
        divided(photos)


def test_every_class_is_in_every_part_however_small_it_is() -> None:
    for count in range(3, 12):
        files = [ImageFile(Path(f"{label}/{n}"), f"{label}/{n}", label) for label in range(2) for n in range(count)]
        parts = draw_parts(files, range(len(files)), ["a", "b"], ["judged", "val"], seed=count)
        assert all({file.label for file in part} == {0, 1} for part in parts.values())
        assert sum(map(len, parts.values())) == len(files)


def test_tables_hold_the_division_and_images_in_an_archive_are_copied(photos: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", photos))
    contents = []
    for number, data in enumerate((photos, archive)):
        folder = tmp_path / f"sweep{number}"
        folder.mkdir()
        found = divided(data)
        write_tables(found, folder)
        of_trials, judged = read_tables(folder, found.classes, default_registry(), silent)
        assert of_trials.classes == found.classes
        assert {split: len(files) for split, files in of_trials.splits.items()} == {"train": 24, "val": 6}
        assert [len(files) for files in judged.splits.values()] == [6]
        files = [*of_trials.splits["train"], *of_trials.splits["val"], *judged.splits["val"]]
        contents.append([(file.content(), file.label) for file in files])
        assert all(file.reader is None for file in files)
        assert (folder / "images").exists() == (data is archive)
        digest = write_contents(folder, (of_trials, judged), silent)
        moved = folder.rename(tmp_path / f"moved{number}")
        refuse_changed(moved, read_tables(moved, found.classes, default_registry(), silent), digest, silent)
    assert contents[0] == contents[1]


def test_changed_images_are_named(photos: Path, tmp_path: Path) -> None:
    found = divided(photos)
    write_tables(found, tmp_path)
    tables = read_tables(tmp_path, found.classes, default_registry(), silent)
    digest = write_contents(tmp_path, tables, silent)
    refuse_changed(tmp_path, tables, digest, silent)
    (photos / "red" / "3.jpg").write_bytes((photos / "red" / "4.jpg").read_bytes())
    with pytest.raises(DataError, match=r"changed.*red/3\.jpg"):
        refuse_changed(tmp_path, tables, digest, silent)
