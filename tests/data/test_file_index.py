"""The index of files that were read vouches for a file only as long as no byte of it can have changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from zoo.data import file_index
from zoo.data.dataset import ImageFile
from zoo.data.file_index import FileIndex, stamp_of


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_index, "SETTLED", 0.0)  # files of a test are new


def a_file(path: Path, content: bytes = b"as it was") -> ImageFile:
    path.write_bytes(content)
    return ImageFile(path, path.name, 0)


def read(file: ImageFile) -> str:
    """Read a file as the image store does, and record it."""
    index = FileIndex()
    stamp = index.before_reading(file)
    digest = hashlib.sha256(file.content()).hexdigest()
    if stamp is not None and stamp_of(file) == stamp:
        index.add({str(file.path): (stamp, digest)})
    return digest


def test_a_file_that_has_not_changed_is_known_by_any_spelling_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(tmp_path / "1.jpg")
    assert FileIndex().digests([file]) == {}
    digest = read(file)
    monkeypatch.chdir(tmp_path)
    other = ImageFile(Path("1.jpg"), "other/1.jpg", 1)
    assert FileIndex().digests([file, other]) == {"other/1.jpg": digest}
    assert FileIndex().digests([file]) == {"1.jpg": digest}


def test_other_bytes_of_the_same_size_and_time_are_not_known(tmp_path: Path) -> None:
    file = a_file(tmp_path / "1.jpg")
    read(file)
    before = file.path.stat()
    time.sleep(0.02)  # a tick of the file system's clock
    file.path.write_bytes(b"as it is!")
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.path.stat().st_mtime_ns == before.st_mtime_ns and file.path.stat().st_size == before.st_size
    assert FileIndex().digests([file]) == {}


def test_another_file_in_its_place_is_not_known(tmp_path: Path) -> None:
    file = a_file(tmp_path / "1.jpg")
    read(file)
    a_file(tmp_path / "2.jpg").path.replace(file.path)
    assert FileIndex().digests([file]) == {}
    file.path.unlink()
    assert FileIndex().digests([file]) == {}


def test_a_file_that_was_changed_just_now_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "SETTLED", 60.0)
    file = a_file(tmp_path / "1.jpg")
    os.utime(file.path, (0, 0))  # which says nothing: any program may set it
    read(file)
    assert FileIndex().digests([file]) == {}


def test_images_inside_other_files_are_not_recorded(tmp_path: Path) -> None:
    file = a_file(tmp_path / "all.tar")
    assert FileIndex().before_reading(ImageFile(file.path, "1.jpg", 0, lambda: b"")) is None


def test_a_damaged_index_is_begun_anew(tmp_path: Path) -> None:
    file = a_file(tmp_path / "1.jpg")
    digest = read(file)
    (index,) = (tmp_path / "cache" / "kept").glob("*.sqlite")
    index.write_bytes(b"no index at all, but long enough to be taken for one" * 100)
    assert FileIndex().digests([file]) == {}
    read(file)
    assert FileIndex().digests([file]) == {"1.jpg": digest}


def test_an_index_that_is_full_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "MOST", 1)
    files = [a_file(tmp_path / f"{number}.jpg", bytes([number])) for number in range(3)]
    for file in files:
        read(file)
    assert set(FileIndex().digests(files)) == {"2.jpg"}
