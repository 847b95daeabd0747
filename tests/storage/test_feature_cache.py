"""Cached rows are exact, stored in half the bytes where that loses nothing, and never evicted from under a process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from zoo.errors import RunError
from zoo.storage.eviction import entries
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.in_use import RECENT, Hold, NoLocks, unused
from zoo.storage.table import block_of

KEY = CacheKey({"name": "one"})
SETUP = """
import sys
from pathlib import Path
import torch
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import block_of

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
"""


def bits(rows: Tensor) -> Tensor:
    return rows.contiguous().view(torch.int32)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SETUP + code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# Half the bytes


@pytest.mark.parametrize(
    ("rows", "halved"),
    [
        (torch.randn(7, 5).bfloat16().float(), True),
        (torch.tensor([[0.0, -0.0, float("inf"), 1e-40, 3.0]]), False),  # a denormal number of float32
        (torch.tensor([[0.0, -0.0, float("inf"), -float("inf"), 3.0]]), True),
        (torch.randn(7, 5), False),
        (torch.cat([torch.ones(6, 5), torch.full((1, 5), 1 + 2**-20)]), False),  # one row of seven
        (torch.tensor([[0x7F800001, 0x7FC00000]], dtype=torch.int32).view(torch.float32), False),  # a NaN's own bits
        (torch.randn(7, 5).bfloat16(), False),  # half the bytes as they are
    ],
)
def test_rows_come_back_with_their_bits_in_half_the_bytes_where_none_is_lost(
    tmp_path: Path, rows: Tensor, halved: bool
) -> None:
    cache = FeatureCache(tmp_path, limit=10**6)
    assert cache.keep(KEY, "images", block_of(rows))
    (path,) = tmp_path.glob("*/*.safetensors")
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("rows").element_size() == (2 if halved else rows.element_size())
        assert file.metadata().get("widens_to") == ("float32" if halved else None)
    for block in (cache.read(KEY, "images"), cache.stored(KEY, "images")):
        assert block is not None and block.dtype == rows.dtype and block.shape == tuple(rows.shape)
        back = block.rows.to(block.dtype)
        assert torch.equal(back.view(torch.uint8), rows.view(torch.uint8))


def test_a_layout_survives_being_stored_in_half_the_bytes(tmp_path: Path) -> None:
    outputs = torch.randn(2, 3, 4, 5).bfloat16().float().contiguous(memory_format=torch.channels_last)
    cache = FeatureCache(tmp_path, limit=10**6)
    cache.keep(KEY, "images", block_of(outputs))
    block = cache.read(KEY, "images")
    assert block is not None and block.widens_to == torch.float32
    assert torch.equal(block.outputs, outputs) and block.outputs.stride() == outputs.stride()


def test_a_file_as_it_was_written_before_is_read(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    digest = hashlib.sha256(rows.view(torch.uint8).numpy().data).hexdigest()
    (tmp_path / KEY.name).mkdir()
    facts = {"order": "0 1", "digest": digest}
    save_file({"rows": rows}, tmp_path / KEY.name / "images.safetensors", metadata=facts)
    block = FeatureCache(tmp_path, limit=10**6).read(KEY, "images")
    assert block is not None and torch.equal(bits(block.rows), bits(rows)) and block.dtype == torch.float32


def test_halved_rows_are_no_rows_of_bfloat16_to_whoever_does_not_know_them(tmp_path: Path) -> None:
    """Without its mark a halved block has another digest, so that its rows cannot be taken for narrow ones."""
    cache = FeatureCache(tmp_path, limit=10**6)
    cache.keep(KEY, "images", block_of(torch.ones(3, 4)))
    (path,) = tmp_path.glob("*/*.safetensors")
    with safe_open(path, framework="pt") as file:
        rows, facts = file.get_tensor("rows").clone(), dict(file.metadata())
    del facts["widens_to"]
    save_file({"rows": rows}, path, metadata=facts)
    assert cache.read(KEY, "images") is None and not path.exists()


# In use


def held_rows(folder: Path, name: str, *, used: float) -> FeatureCache:
    cache = FeatureCache(folder, limit=10**6)
    assert cache.keep(CacheKey({"name": name}), "images", block_of(torch.full((1, 1000), 0.1)))
    os.utime(folder / CacheKey({"name": name}).name / "about.json", (used, used))
    return cache


def test_two_commands_do_not_evict_what_the_other_uses(tmp_path: Path) -> None:
    other = child(
        "cache = FeatureCache(folder, limit=limit)\n"
        "cache.keep(CacheKey({'name': 'theirs'}), 'images', block_of(torch.full((1, 1000), 0.1)))\n"
        "print('there', flush=True)\n"
        "import time; time.sleep(60)",
        *(tmp_path, 10**6),
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "there\n"
        held_rows(tmp_path, "nobody's", used=time.time()).let_go()
        os.utime(tmp_path / CacheKey({"name": "theirs"}).name / "about.json", (1, 1))
        mine = FeatureCache(tmp_path, limit=9000)
        assert mine.room().held == pytest.approx(4000, abs=300)
        assert mine.keep(CacheKey({"name": "mine"}), "images", block_of(torch.full((1, 1000), 0.1)))
        assert {entry.facts["name"] for entry in entries(tmp_path)} == {"theirs", "mine"}
        # There is nothing left to evict.
        assert not mine.keep(CacheKey({"name": "more"}), "images", block_of(torch.full((1, 1000), 0.1)))
        assert {entry.facts["name"] for entry in entries(tmp_path) if entry.files} == {"theirs", "mine"}
    finally:
        other.kill()
        other.wait()
        for pipe in (other.stdout, other.stderr):
            assert pipe is not None
            pipe.close()
    # Nothing of a killed one stays.
    assert mine.keep(CacheKey({"name": "more"}), "images", block_of(torch.full((1, 1000), 0.1)))
    assert {entry.facts["name"] for entry in entries(tmp_path) if entry.files} == {"mine", "more"}


def test_what_does_not_fit_even_so_evicts_nothing(tmp_path: Path) -> None:
    held_rows(tmp_path, "old", used=1).let_go()
    cache = FeatureCache(tmp_path, limit=9000)
    assert not cache.keep(KEY, "images", block_of(torch.full((1, 10_000), 0.1)))
    assert [entry.facts["name"] for entry in entries(tmp_path) if entry.files] == ["old"]


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network drive that was mounted without locks."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_rows_are_kept_and_what_was_used_lately_stays(tmp_path: Path) -> None:
    with pytest.raises(NoLocks):
        Hold(tmp_path / "folder")
    held_rows(tmp_path, "long ago", used=time.time() - RECENT - 60)
    held_rows(tmp_path, "lately", used=time.time() - RECENT + 600)
    cache, began = FeatureCache(tmp_path, limit=9000), time.monotonic()
    with cache.filling(KEY, lambda: pytest.fail("nobody is waited for")):
        assert cache.keep(KEY, "images", block_of(torch.full((1, 1000), 0.1)))
    assert time.monotonic() - began < 5
    assert {entry.facts["name"] for entry in entries(tmp_path) if entry.files} == {"lately", "one"}
    assert not cache.keep(CacheKey({"name": "more"}), "images", block_of(torch.full((1, 1000), 0.1)))


def test_what_is_raised_while_rows_are_waited_for_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    def told() -> None:
        raise BrokenPipeError("nobody reads the progress any more")

    with FeatureCache(tmp_path).filling(KEY, lambda: None):
        with pytest.raises(BrokenPipeError, match="nobody reads"), FeatureCache(tmp_path).filling(KEY, told):
            pytest.fail("the rows are computed all the same")
        with FeatureCache(tmp_path, patience=0.1).filling(KEY, lambda: None):
            pass
    with FeatureCache(tmp_path).filling(KEY, lambda: pytest.fail("the first has ended")):
        pass


def test_what_cannot_be_read_while_rows_are_computed_is_told_and_others_need_not_wait(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="an image"), FeatureCache(tmp_path).filling(KEY, lambda: None):
        raise OSError("an image cannot be read")
    with FeatureCache(tmp_path).filling(KEY, lambda: pytest.fail("the first has ended")):
        pass


def test_a_folder_that_cannot_be_written_is_filled_by_nobody_and_waits_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "below")
    with cache.filling(KEY, lambda: pytest.fail("nobody is waited for")):
        assert not cache.keep(KEY, "images", block_of(torch.ones(1, 4)))


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path) -> None:
    held_rows(tmp_path, "one", used=1).let_go()
    (tmp_path / KEY.name / "in-use").unlink()
    (tmp_path / KEY.name / "in-use").mkdir()  # nobody can open that as a file, not even root
    assert FeatureCache(tmp_path, limit=10**6).read(KEY, "images") is not None
    with unused(tmp_path / KEY.name, 1.0) as free:
        assert not free


def test_rows_that_are_removed_while_they_are_trained_on_end_the_run_with_the_way_to_go_on(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, limit=10**6)
    cache.keep(KEY, "images", block_of(torch.ones(3, 4)))
    block = cache.stored(KEY, "images")
    assert block is not None and torch.equal(block.rows.float(), torch.ones(3, 4))
    cache.let_go()
    shutil.rmtree(tmp_path / KEY.name)
    with pytest.raises(RunError, match=r"cannot be read any more(?s:.*)zoo finetune --resume RUN"):
        _ = block.rows


# Killed, and full


def test_a_process_that_is_killed_while_it_writes_leaves_whole_blocks_only(tmp_path: Path) -> None:
    other = child(
        "cache = FeatureCache(folder, limit=limit)\n"
        "for number in range(10**6):\n"
        "    cache.keep(CacheKey({'name': 'one'}), str(number), block_of(torch.full((64, 2000), number + 0.1)))\n"
        "    print(number, flush=True)",
        *(tmp_path, 10**9),
    )
    assert other.stdout is not None and other.stderr is not None
    for _ in range(20):
        other.stdout.readline()
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    other.stderr.close()
    cache = FeatureCache(tmp_path, limit=10**9)
    names = [path.stem for path in tmp_path.glob("*/*.safetensors")]
    assert len(names) >= 20
    for name in names:
        block = cache.read(KEY, name)
        assert block is not None and torch.equal(block.rows, torch.full((64, 2000), int(name) + 0.1))
    # And filling goes on.
    with cache.filling(KEY, lambda: pytest.fail("the killed one holds nothing")):
        assert cache.keep(KEY, "next", block_of(torch.ones(1, 2)))


def test_a_write_that_breaks_off_leaves_nothing_and_says_that_it_is_not_stored(tmp_path: Path) -> None:
    """The largest size of a file stands for a disk that fills in the middle of one."""
    cache, usual = FeatureCache(tmp_path, limit=10**9), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        assert cache.keep(KEY, "small", block_of(torch.full((1, 1000), 0.1)))
        assert not cache.keep(KEY, "large", block_of(torch.full((100, 1000), 0.1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert cache.read(KEY, "small") is not None and cache.read(KEY, "large") is None
    assert [path.name for path in (tmp_path / KEY.name).iterdir() if path.name.startswith(".draft")] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_costs_nothing_that_is_there(small_disk: Path) -> None:
    cache, stored = FeatureCache(small_disk, limit=10**9), []
    for number in range(20):
        if cache.keep(KEY, str(number), block_of(torch.full((100, 1000), number + 0.1))):
            stored.append(number)
    assert 5 <= len(stored) <= 10
    for number in stored:
        block = cache.read(KEY, str(number))
        assert block is not None and torch.equal(block.rows, torch.full((100, 1000), number + 0.1))
    # What was used longest ago makes room on a full disk, too.
    cache.let_go()
    assert FeatureCache(small_disk, limit=10**9).keep(CacheKey({"name": "two"}), "x", block_of(torch.full((1, 9), 0.1)))
