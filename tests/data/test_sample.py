"""The sample set: the same on every machine, and either complete or absent."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zoo.data.folder import read_folder
from zoo.data.sample import TRAIN_PER_CLASS, VAL_PER_CLASS, sample_classes, sample_folder, sample_image
from zoo.errors import DataError, OptionError

IMAGES = TRAIN_PER_CLASS + VAL_PER_CLASS

DRAW = "import sys; from pathlib import Path; from zoo.data.sample import sample_folder; "
DRAW += "print(sample_folder(Path(sys.argv[1]), int(sys.argv[2])))"


def start(cache: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", DRAW, str(cache), str(count)], stdout=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


@pytest.mark.parametrize("count", range(2, 21))
def test_class_names_are_unique_and_good_folder_names(count: int) -> None:
    names = sample_classes(count)
    assert len(set(names)) == len(names) == count
    assert all(name.replace("-", "").isalpha() and name == name.lower() for name in names)
    assert sample_classes(20)[:count] == names


def test_classes_differ_in_shape_or_texture() -> None:
    pairs = [tuple(name.split("-")) for name in sample_classes(20)]
    assert len(set(pairs)) == 20
    assert len({texture for texture, _ in pairs}) == 4
    assert len({shape for _, shape in pairs}) == 10


@pytest.mark.parametrize("count", [-1, 0, 1, 21, 1000])
def test_other_numbers_of_classes_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(OptionError, match=rf"2 to 20 classes, --classes asks for {count}\.\nNext: .*--data PATH"):
        sample_folder(tmp_path, count)
    assert list(tmp_path.iterdir()) == []


PIXELS = {
    (0, 2, "train", 0): "b86a80f486d78a80",
    (0, 10, "train", 0): "b86a80f486d78a80",
    (3, 10, "val", 19): "e20297c5e703ef46",
    (7, 8, "train", 39): "0fbd638b23d80408",
    (12, 20, "val", 0): "f55f93208b1935d9",
    (19, 20, "train", 5): "0265784fbb01a2dc",
}


@pytest.mark.parametrize("which", PIXELS, ids=str)
def test_pictures_stay_what_they_were(which: tuple[int, int, str, int]) -> None:
    image = sample_image(*which)
    assert (image.mode, image.size) == ("RGB", (208, 176))
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == PIXELS[which]


def test_no_picture_is_drawn_twice() -> None:
    keys = [(index, 20, split, number) for index in range(20) for split in ("train", "val") for number in range(2)]
    assert len({sample_image(*key).tobytes() for key in keys}) == len(keys)


def test_the_folder_is_a_whole_data_set(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = sample_folder(tmp_path, 3, progress=lambda done, total: seen.append((done, total)))
    dataset = read_folder(folder, seed=0)
    assert sorted(dataset.classes) == sorted(sample_classes(3))
    assert dataset.counts() == {"train": [TRAIN_PER_CLASS] * 3, "val": [VAL_PER_CLASS] * 3}
    assert dataset.skipped == ()
    assert seen == [(done, 3 * IMAGES) for done in range(1, 3 * IMAGES + 1)]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    folder = sample_folder(tmp_path, 2)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert sample_folder(tmp_path, 2, progress=lambda done, total: pytest.fail("drawn again")) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times


def test_two_processes_at_once_give_one_whole_folder(tmp_path: Path) -> None:
    both = [start(tmp_path / "both", 2) for _ in range(2)]
    folders = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert folders[0] == folders[1]
    assert [path.name for path in (tmp_path / "both/sample").iterdir()] == [Path(folders[0]).name]
    assert contents(Path(folders[0])) == contents(sample_folder(tmp_path / "alone", 2))


@pytest.mark.skipif(os.name != "posix", reason="needs a signal that cannot be handled")
@pytest.mark.parametrize("last", [signal.SIGKILL, signal.SIGINT])
def test_a_creation_that_is_broken_off_leaves_no_folder(tmp_path: Path, last: signal.Signals) -> None:
    deadline = time.monotonic() + 60
    with start(tmp_path, 20) as process:
        while not list(tmp_path.glob("sample/.draft-*/train/*/003.jpg")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(last)
        assert process.wait(timeout=60) != 0
    left = [path.name for path in (tmp_path / "sample").iterdir()]
    assert all(name.startswith(".draft-") for name in left)
    assert left == [] or last == signal.SIGKILL
    assert len(contents(sample_folder(tmp_path, 2))) == 2 * IMAGES


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written to .*v1-2-classes.*\nNext: set ZOO_CACHE_DIR"):
        sample_folder(tmp_path / "cache", 2)
