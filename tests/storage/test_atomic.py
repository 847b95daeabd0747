"""Files are written whole or not at all, and a disk that takes no more is told as such."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from zoo.errors import RunError
from zoo.storage.atomic import new_text, write_text


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
