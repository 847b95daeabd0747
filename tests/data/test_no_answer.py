"""An image that cannot be read for a while is not taken for one that is damaged: nothing goes on without it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import zoo
from zoo.data.dataset import ImageFile
from zoo.data.walk import kind_of
from zoo.errors import DataError, NoAnswer
from zoo.storage import passing_faults

_MEMORY = Path("/proc/self/mem")
_USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "tune": False}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing_faults, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def silent_disk(few: Path, tmp_path: Path) -> Path:
    """A folder of images of which the system says "Input/output error" of one, as a network folder does."""
    if not _MEMORY.exists():
        pytest.skip("the memory of a process is no file here")
    data = Path(shutil.copytree(few, tmp_path / "data"))
    file = sorted((data / "train").glob("*/*"))[0]
    file.unlink()
    file.symlink_to(_MEMORY)
    return data


def failing(times: int, error: OSError, then: bytes = b"the bytes") -> ImageFile:
    """An image whose reader fails so often."""
    left = [error] * times

    def read() -> bytes:
        if left:
            raise left.pop()
        return then

    return ImageFile(path=Path("archive.tar"), relative="train/a/0.jpg", label=0, reader=read)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.EHOSTDOWN])
def test_what_may_pass_is_read_again(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert failing(3, error).content() == b"the bytes"
    with pytest.raises(NoAnswer, match=r"^train/a/0.jpg cannot be read now: .*\nNext: once it can be read, the same "):
        failing(4, error).content()


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number)) for number in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENXIO)),
        OSError("the archive is damaged"),  # a reader's own words, without a number of the system
    ],
    ids=str,
)
def test_a_fault_of_the_file_itself_is_told_at_once(error: OSError) -> None:
    with pytest.raises(DataError) as told:
        failing(1, error).content()
    assert not isinstance(told.value, NoAnswer) and (error.strerror or str(error)) in str(told.value)


class _Entry:
    """An entry of a folder that the system cannot look at, as of a network folder that does not answer."""

    def __init__(self, number: int) -> None:
        self._error = OSError(number, os.strerror(number), "photos/cats")

    def is_dir(self) -> bool:
        raise self._error


def test_a_folder_that_cannot_be_looked_at_is_not_taken_for_a_file() -> None:
    """It may be the folder of a class, which would be missing then."""
    with pytest.raises(OSError, match="Input/output error"):
        kind_of(cast("Any", _Entry(errno.EIO)))
    assert kind_of(cast("Any", _Entry(errno.ELOOP))) == "file"


def test_no_run_no_check_and_no_score_goes_on_without_it(silent_disk: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(NoAnswer, match="cannot be read now: Input/output error"):
        zoo.finetune(**_USUAL, data=silent_disk, out=out)
    assert not (out / "model").exists()
    with pytest.raises(NoAnswer):
        zoo.plan(**_USUAL, data=silent_disk)
    with pytest.raises(NoAnswer):
        zoo.check_data(silent_disk)
    trained = zoo.finetune(**_USUAL, data=few, out=tmp_path / "other")
    with pytest.raises(NoAnswer):
        zoo.evaluate(trained.path, data=silent_disk / "train")
    # It answers again, and the same call is as if nothing had been.
    file = next(file for file in (silent_disk / "train").glob("*/*") if file.is_symlink())
    file.unlink()
    shutil.copy(few / file.relative_to(silent_disk), file)
    assert zoo.finetune(**_USUAL, data=silent_disk, out=out).metrics == trained.metrics
