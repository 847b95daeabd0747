"""Names of parts: the same for the same work, another one for anything that rows depend on."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from zoo.bulk.found_files import FoundFile
from zoo.bulk.parts import BulkJob, FilePart, PartList, number_of
from zoo.bulk.worker import packed_folder

JOB = BulkJob(task="predict", subject="run", identity="abc", settings={"top": 3, "views": None}, part_size=4)
FILES = [FoundFile(f"photos/{number}.jpg", 100 + number) for number in range(10)]


@contextlib.contextmanager
def parts_of(job: BulkJob, files: list[FoundFile]) -> Iterator[PartList]:
    with contextlib.closing(PartList(job)) as parts:
        assert list(parts.fill(files))[-1] == len(files) == parts.images
        yield parts


def test_parts_hold_every_file_once_in_order_and_are_read_in_any_order() -> None:
    with parts_of(JOB, FILES) as parts:
        read: dict[int, FilePart] = {number: parts[number] for number in (2, 0, 1)}
        assert len(parts) == 3
        assert [file for number in range(3) for file in read[number].files] == FILES
        assert list(parts.names().items()) == [(read[number].file_name, size) for number, size in enumerate((4, 4, 2))]
        assert [number_of(name) for name in parts.names()] == [0, 1, 2]


@pytest.mark.parametrize(
    "job",
    [
        replace(JOB, identity="abd"),
        replace(JOB, settings={"top": 2, "views": None}),
        replace(JOB, settings={"top": 3, "views": "flip"}),
        replace(JOB, task="embed"),
    ],
)
def test_another_job_has_other_names(job: BulkJob) -> None:
    with parts_of(JOB, FILES) as ours, parts_of(job, FILES) as theirs:
        assert not set(ours.names()) & set(theirs.names())


def test_only_the_part_of_a_changed_file_gets_another_name() -> None:
    changed = [*FILES[:5], FoundFile(FILES[5].name, 7), *FILES[6:]]
    renamed = [FoundFile("photos/zero.jpg", FILES[0].size), *FILES[1:]]
    with parts_of(JOB, FILES) as ours, parts_of(JOB, changed) as one, parts_of(JOB, renamed) as other:
        names = list(ours.names())
        assert [a == b for a, b in zip(names, one.names(), strict=True)] == [True, False, True]
        assert [a == b for a, b in zip(names, other.names(), strict=True)] == [False, True, True]


def test_where_the_artefact_lies_does_not_matter() -> None:
    with parts_of(JOB, FILES) as ours, parts_of(replace(JOB, subject="elsewhere/run"), FILES) as theirs:
        assert ours.names() == theirs.names()


def test_a_name_that_is_not_utf8_is_kept() -> None:
    odd = FoundFile("photos/\udcff.jpg", 1)
    with parts_of(JOB, [odd]) as parts:
        assert parts[0].files == (odd,)


@pytest.mark.parametrize("name", ["part-1.parquet", "part-000001-short.parquet", "x.parquet", "_job.json"])
def test_other_files_have_no_number(name: str) -> None:
    assert number_of(name) is None


def test_memory_holds_numbers_and_no_names(tmp_path: Path) -> None:
    """Twenty thousand names of a hundred letters are 2 MB; the list holds less than a quarter."""
    import tracemalloc

    job = replace(JOB, part_size=1000)
    tracemalloc.start()
    with contextlib.closing(PartList(job)) as parts:
        list(parts.fill(FoundFile(f"{number:0100d}", 1) for number in range(20_000)))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert parts[19].files[-1] == FoundFile(f"{19_999:0100d}", 1)
    assert held < 500_000


def test_an_artefact_of_links_is_sent_as_files(tmp_path: Path) -> None:
    """As the hub's cache lays it out: what the links name is not on the other machine."""
    (tmp_path / "blob").write_text("weights")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    with tarfile.open(fileobj=io.BytesIO(packed_folder(folder))) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    assert (tmp_path / "there" / "model.safetensors").read_text() == "weights"
