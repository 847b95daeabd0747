"""One walk for training and prediction (fastai PR 2270, upscayl 1474), and the folders that systems leave behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from tests.field.pictures import CONTAINERS, contain, pictures_of, read, write_pictures
from zoo.data.paths import count_images, images_of
from zoo.data.walk import walk

CLASSES = pictures_of("cat", "dog")
LEFT_BEHIND = {
    "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg": "system file",
    "@eaDir/cat/1.jpg": "system file",
    "__MACOSX/cat/._1.jpg": "hidden",
    "cat/._1.jpg": "hidden",
    "cat/.ipynb_checkpoints/1-checkpoint.jpg": "hidden",
    "cat/Thumbs.db": "system file",
    "dog/.DS_Store": "hidden",
    "$RECYCLE.BIN/S-1-5/dog/1.jpg": "system file",
    "lost+found/dog/1.jpg": "system file",
    # Not in any report: QNAP, Synology's bin, other cases of the same names.
    "cat/.@__thumb/1.jpg": "hidden",
    "#recycle/dog/1.jpg": "system file",
    "dog/THUMBS.DB": "system file",
    "cat/@EADIR/1.jpg": "system file",
}


@pytest.fixture(scope="module")
def run_folder(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    tiny = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "epochs": 1}
    return zoo.finetune(data=shapes, out=out, **tiny).path


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_systems_leave_behind_is_no_data_in_any_container(container: str, tmp_path: Path) -> None:
    dataset = read(contain(container, tmp_path, [*CLASSES, *LEFT_BEHIND]))
    assert dataset.classes == ("cat", "dog")
    assert sum(map(len, dataset.splits.values())) == len(CLASSES)
    assert {file.relative: file.reason for file in dataset.skipped} == LEFT_BEHIND


def test_prediction_walks_as_training_does(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, [*CLASSES, *LEFT_BEHIND])
    (tmp_path / "elsewhere").mkdir()
    for number in range(6):
        (tmp_path / "elsewhere" / f"{number}.jpg").touch()
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "round").symlink_to(root)
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    dataset = read(root)
    trained_on = {file.path for files in dataset.splits.values() for file in files}
    assert trained_on == set(images_of([root])) and len(trained_on) == 12 + 6 + 6 + 1
    assert count_images([root]).images == len(trained_on)


def test_a_linked_folder_is_predicted_and_what_is_hidden_is_said(
    run_folder: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    root = write_pictures(tmp_path / "photos", ["1.jpg", ".NET/2.jpg", "._1.jpg", ".ipynb_checkpoints/1.jpg"])
    write_pictures(tmp_path / "linked", pictures_of("x"))
    (root / "link").symlink_to(tmp_path / "linked")
    done = zoo_inside("predict", run_folder, root, "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 7
    assert "1 hidden image not used: a name begins with a dot" in done.stderr
    # The next step of that message: their own path.
    done = zoo_inside("predict", run_folder, root / ".NET", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 1
    done = zoo_inside("predict", run_folder, root / ".NET" / "2.jpg", "--json")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 1


def test_a_link_to_nothing_fails_the_prediction_instead_of_vanishing(
    run_folder: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    root = write_pictures(tmp_path / "photos", ["1.jpg"])
    (root / "2.jpg").symlink_to(tmp_path / "nowhere.jpg")
    done = zoo_inside("predict", run_folder, root)
    assert done.returncode == 1 and "Left out" in done.stderr and "2.jpg" in done.stderr


def test_a_class_with_a_dot_is_counted_and_named(tmp_path: Path, zoo_inside: Zoo) -> None:
    root = write_pictures(
        tmp_path / "logos", [*pictures_of(".NET", "java", "rust"), "java/._1.jpg", "rust/Thumbs.db.jpg"]
    )
    (root / "java" / "Thumbs.db").touch()
    report = zoo.check_data(root)
    assert report.passed_over == {"hidden": 7, "system file": 1}
    (finding,) = [finding for finding in report.findings if finding.code == "hidden_images"]
    assert {file for case in finding.cases for file in case.files} == set(pictures_of(".NET"))
    done = zoo_inside("data", "check", root)
    assert "passed over: 7 hidden files, 1 system file" in done.stdout
    assert any("6 images are hidden by a dot" in note for note in read(root).notes)
    # The next step of the finding: rename the folder.
    (root / ".NET").rename(root / "dotNET")
    assert read(root).classes == ("dotNET", "java", "rust")


def test_folders_with_usual_names_are_data(tmp_path: Path) -> None:
    names = pictures_of("cat@home", "lost", "recycle", "thumbs", "db.cats")
    assert read(contain("folder", tmp_path, names)).classes == ("cat@home", "db.cats", "lost", "recycle", "thumbs")


def test_thumbnails_of_a_nas_are_neither_trained_on_nor_checked(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "nas", CLASSES)
    for name in ("cat", "dog"):
        write_pictures(root / name, [f"@eaDir/{number}.jpg/SYNOFILE_THUMB_M.jpg" for number in range(1, 7)], side=16)
    report = zoo.check_data(root)
    assert report.files == 12 and report.passed_over == {"system file": 12}
    assert not {"tiny", "not_used", "near_duplicates"} & {finding.code for finding in report.findings}


@pytest.fixture
def recursion_limit() -> Iterator[int]:
    """How deep Python's calls may go: less than usual, for the walk takes longer the deeper a folder is."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield 400
    sys.setrecursionlimit(before)


@pytest.mark.long
def test_folders_deeper_than_pythons_calls_are_walked(tmp_path: Path, recursion_limit: int) -> None:
    deep = recursion_limit + 50
    folders = [tmp_path / "photos"]
    for _ in range(deep):
        folders.append(folders[-1] / "a")
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "1.jpg").touch()
    found = [walked.kind for walked in walk(str(folders[0]))]
    (folders[-1] / "1.jpg").unlink()
    for folder in reversed(folders):  # what clears up after tests calls itself for every level
        folder.rmdir()
    assert found == ["folder"] * deep + ["file"]


def test_a_link_to_itself_is_an_unreadable_image(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, CLASSES)
    (root / "cat" / "round.jpg").symlink_to(root / "cat" / "round.jpg")
    assert any(file.relative == "cat/round.jpg" for files in read(root).splits.values() for file in files)


def test_a_pattern_passes_over_what_a_folder_does(tmp_path: Path) -> None:
    root = contain("folder", tmp_path, [*CLASSES, *LEFT_BEHIND])
    everything = set(images_of([root]))
    assert set(images_of([root / "*"])) == set(images_of([root / "**" / "*.jpg"])) == everything
    assert set(images_of([root / "cat" / ".ipynb_checkpoints" / "*.jpg"])) == {
        root / "cat" / ".ipynb_checkpoints" / "1-checkpoint.jpg"
    }
