"""A fault that may pass ends a job instead of becoming a row of it, and the same command goes on."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo
from pyarrow import parquet
from tests.bulk.failing_store import EXPIRED, FailingStore, failing_store
from tests.conftest import Zoo
from zoo.bulk.addresses import Address
from zoo.bulk.found_files import FoundFile
from zoo.bulk.patience import WAITS, read_listed
from zoo.bulk.sink import Sink
from zoo.errors import DataError, NoAnswer, RunError
from zoo.events import Progress

_MEMORY = Path("/proc/self/mem")
_ON_LINUX = pytest.mark.skipif(not _MEMORY.exists(), reason="the memory of a process is no file here")


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """A file of which the system says "Input/output error", as of a network folder that does not answer."""
    path = tmp_path / "photos" / "unreadable.jpg"
    path.parent.mkdir()
    path.symlink_to(_MEMORY)
    return path


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, few: Path) -> Iterator[FailingStore]:
    with failing_store() as each:
        for name, value in each.variables.items():
            monkeypatch.setenv(name, value)
        each.put(few, "few")
        yield each


def listed(store: FailingStore, name: str = "few/train/a/0.jpg") -> FoundFile:
    return FoundFile(f"s3://bucket/{name}", len(store.objects[name]))


@_ON_LINUX
def test_what_may_pass_is_tried_again_after_growing_waits(unreadable: Path) -> None:
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            unreadable.unlink()
            unreadable.write_bytes(b"here again")

    assert read_listed(FoundFile(str(unreadable), 10), pause=pause) == b"here again"
    assert waits == list(WAITS[:3]) == sorted(waits)


@_ON_LINUX
def test_what_does_not_answer_is_told_with_what_to_do(unreadable: Path) -> None:
    with pytest.raises(NoAnswer) as told:
        read_listed(FoundFile(str(unreadable), 10), waits=[0.0, 0.0])
    text = str(told.value)
    assert f"{unreadable} cannot be read now: Input/output error" in text
    assert "not noted as a fault of the image" in text and "\nNext: once it can be read, the same command" in text


@_ON_LINUX
def test_who_is_told_to_stop_waits_no_longer(unreadable: Path) -> None:
    asked: list[float] = []

    def stopped(seconds: float) -> bool:
        asked.append(seconds)
        return True

    with pytest.raises(DataError):
        read_listed(FoundFile(str(unreadable), 10), pause=stopped)
    assert len(asked) == 1


def test_a_file_that_is_gone_is_its_own_fault_and_a_folder_that_is_gone_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    gone = FoundFile(str(folder / "a.jpg"), 3)
    (folder / "b.jpg").write_bytes(b"abc")
    with pytest.raises(FileNotFoundError):
        read_listed(gone)
    with pytest.raises(IsADirectoryError):
        read_listed(FoundFile(str(folder), 3))
    (folder / "b.jpg").unlink()  # what is left of the place where a disk was connected
    for _ in range(2):
        with pytest.raises(DataError, match=r"gone or empty since it was listed: .*\nNext: connect it again"):
            read_listed(gone)
        # It was named, and never there.
        if not folder.exists():
            with pytest.raises(FileNotFoundError):
                read_listed(gone._replace(size=-1))
            return
        folder.rmdir()


def test_an_object_that_is_denied_is_its_own_fault_and_a_store_that_denies_all_is_not(store: FailingStore) -> None:
    store.denied, store.archived = {"few/train/a/0.jpg"}, {"few/train/a/1.jpg"}
    for name in ("few/train/a/0.jpg", "few/train/a/1.jpg"):
        with pytest.raises(OSError, match="AWS Error"):
            read_listed(listed(store, name))
    with pytest.raises(FileNotFoundError):
        read_listed(FoundFile("s3://bucket/few/none.jpg", 3))
    for fault in (403, EXPIRED):
        store.fault = fault
        with pytest.raises(DataError, match=r"refuses everything now(.|\n)*\nNext: renew the credentials"):
            read_listed(listed(store, "few/train/b/0.jpg"))


def test_a_key_that_pyarrow_does_not_take_is_its_own_fault(store: FailingStore) -> None:
    with pytest.raises(OSError, match="Empty path component"):
        read_listed(FoundFile("s3://bucket//x.jpg", 3))


@pytest.mark.long
@pytest.mark.parametrize("fault", [429, 500, 503, "reset"])
def test_a_store_that_fails_for_a_while_costs_nothing(fault: int | str, store: FailingStore) -> None:
    store.fault = fault

    def pause(seconds: float) -> None:
        store.fault = None

    assert read_listed(listed(store), pause=pause) == store.objects["few/train/a/0.jpg"]
    store.fault = fault
    with pytest.raises(DataError, match=r"cannot be read now: .*AWS Error"):
        read_listed(listed(store), waits=[0.0])


@pytest.mark.long
def test_the_folder_of_parts_is_asked_again_where_its_store_fails_for_a_while(store: FailingStore) -> None:
    store.objects["out/_job.json"] = b"{}"
    store.fault = "reset"

    def mend() -> None:
        store.fault = None

    mended = threading.Timer(4, mend)
    mended.start()
    assert Sink(Address("s3", "bucket/out")).read("_job.json") == b"{}"
    mended.join()
    store.denied = {"out/_job.json"}
    with pytest.raises(RunError, match=r"cannot be read: .*ACCESS_DENIED.*\nNext: "):
        Sink(Address("s3", "bucket/out")).read("_job.json")


@pytest.mark.parametrize("task", ["predict", "embed"])
def test_a_store_that_fails_in_the_middle_leaves_no_row_that_is_wrong(
    task: str, artefact: Path, store: FailingStore, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "out", "part_size": 4, "verbose": False}
    call = zoo.predict_files if task == "predict" else zoo.embed_files
    store.fault, store.good = EXPIRED, 10**6
    told: list[zoo.Event] = []

    def on_event(event: zoo.Event) -> None:
        told.append(event)
        if isinstance(event, Progress) and event.task == task and event.done == 4:
            store.good = 0  # after the first part

    with pytest.raises(NoAnswer, match=r"cannot be read now(.|\n)*\nNext: renew the credentials"):
        call(artefact, "s3://bucket/few", **asked, on_event=on_event)
    (first,) = (tmp_path / "out").glob("part-*")
    before = first.read_bytes()
    store.fault = None
    done = call(artefact, "s3://bucket/few", **asked)
    assert done.unreadable == 0 and done.computed == len(done.parts) - 1 and first.read_bytes() == before
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == len(store.objects) and all(row["error"] is None for row in rows)


@_ON_LINUX
def test_a_job_that_ends_does_not_wait_for_files_that_do_not_answer(
    artefact: Path, unreadable: Path, few: Path, tmp_path: Path
) -> None:
    away = Path(shutil.copytree(few / "train" / "a", tmp_path / "disk"))

    def on_event(event: zoo.Event) -> None:
        if isinstance(event, Progress) and event.task == "list files" and event.done == event.total:
            shutil.rmtree(away)

    begin = time.monotonic()
    with pytest.raises(DataError, match="a disk or a network folder may not be connected"):
        zoo.predict_files(artefact, [away, unreadable], out=tmp_path / "out", verbose=False, on_event=on_event)
    assert time.monotonic() - begin < sum(WAITS) / 2
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.long
def test_a_worker_of_ray_tells_it_and_writes_nothing(
    artefact: Path, store: FailingStore, tmp_path: Path, zoo_command: Zoo
) -> None:
    words = ("predict", artefact, "s3://bucket/few", "--on", "ray", "--processes", "1", "--out", "out")
    parts = ("--part-size", "4")
    store.fault, store.good = EXPIRED, 6
    failed = zoo_command(*words, *parts, timeout=240, **store.variables)
    assert failed.returncode == 1 and "Next: renew the credentials" in failed.stderr
    assert "Traceback" not in failed.stderr
    store.fault = None
    done = zoo_command(*words, *parts, timeout=240, **store.variables)
    assert done.returncode == 0, done.stderr
    rows = parquet.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == len(store.objects) and all(row["error"] is None for row in rows)
