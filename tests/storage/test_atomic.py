"""Files are written whole or not at all, and a disk that takes no more is told as such."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from zoo.errors import Refused, RunError
from zoo.storage.atomic import new_text, try_file, try_new_path, write_text


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may have more than 100 bytes: the system refuses what a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_told_and_the_old_content_stays(tmp_path: Path, small_disk: None) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "before")
    with pytest.raises(RunError, match=r"table\.csv cannot be written"), new_text(path) as file:
        file.write("x" * 200)  # fewer than the buffer holds, so it is written at the end
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_block_is_not_told_as_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_text(tmp_path / "table.csv") as file:
        file.write((tmp_path / "missing").read_text())
    assert not list(tmp_path.iterdir())


def test_a_place_is_tried_and_nothing_stays_there(tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    old.write_text("before")
    try_file(old)
    try_file(tmp_path / "new.csv")
    try_new_path(tmp_path / "new.html")
    try_new_path(tmp_path / "deep" / "folder", with_parents=True)
    assert old.read_text() == "before" and list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("attempt", [try_file, try_new_path])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("missing/x.csv", r"there is no folder .*missing\.\nNext: make that folder"),
        ("file/x.csv", r"a part of it is a file, not a folder\.\nNext: "),
        ("x" * 300, r"File name too long\.\nNext: "),
    ],
)
def test_a_place_that_cannot_be_written_is_told_with_a_next_step(
    tmp_path: Path, attempt: Callable[[Path], None], place: str, told: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=told):
        attempt(tmp_path / place)


def test_a_file_takes_the_place_of_no_folder_and_no_device(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is a folder"):
        try_file(tmp_path)
    # A rename onto it would take the device away from the whole machine, where that is allowed.
    device = tmp_path / "pipe"
    os.mkfifo(device)
    with pytest.raises(Refused, match="a device or a pipe"):
        write_text(device, "x")
    with pytest.raises(Refused, match="overwrites nothing"):
        try_new_path(device)
