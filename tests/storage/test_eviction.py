"""The cache folder is listed and cleared while other processes use and change it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import zoo
from tests.conftest import Zoo
from zoo.storage.eviction import cached_items, clear
from zoo.storage.feature_cache import CacheKey, FeatureCache
from zoo.storage.table import Block, block_of

KEY = CacheKey({"backbone": "timm/test_resnet"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(count: int = 4) -> Block:
    return block_of(torch.arange(8.0 * count).reshape(count, 8))


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Another thread makes and removes what other processes would."""
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for each in ("kept", "listings", "sample/v1-2-classes/train/a", f"features/{KEY.name}"):
                (folder / each).mkdir(parents=True, exist_ok=True)
                for name in ("1.safetensors", ".draft-2", "3.json"):
                    (folder / each / name).write_bytes(b"content")
                for name in ("1.safetensors", ".draft-2", "3.json"):
                    (folder / each / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "sample", ignore_errors=True)
            shutil.rmtree(folder / "features", ignore_errors=True)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_files_that_come_and_go_meanwhile_are_no_reason_to_fail(folder: Path) -> None:
    with changing(folder):
        until = time.monotonic() + 0.8
        while time.monotonic() < until:
            assert {item.kind for item in cached_items()} <= {
                "features",
                "measurements",
                "records",
                "sample",
                "listings",
            }


def test_rows_that_a_run_uses_are_left_and_said_to_be_until_it_lets_go(zoo_inside: Zoo) -> None:
    running, other = FeatureCache(), CacheKey({"backbone": "timm/other"})
    assert running.keep(KEY, "images", rows()) and FeatureCache().keep(other, "images", rows())
    cleared = zoo_inside("cache", "clear")
    assert cleared.returncode == 0 and "Removed 1 file," in cleared.stdout
    assert "Left 1 file," in cleared.stdout and "which a running process uses" in cleared.stdout
    assert running.read(KEY, "images") is not None and FeatureCache().read(other, "images") is None
    running.let_go()
    cleared = zoo_inside("cache", "clear", "features")
    assert "Removed 1 file," in cleared.stdout and "Left" not in cleared.stdout
    assert FeatureCache().read(KEY, "images") is None


DRAW = "import sys; from pathlib import Path; from zoo.data.sample import sample_folder; "
DRAW += "print(sample_folder(Path(sys.argv[1]), 2), flush=True); sys.stdin.read()"


def test_the_sample_set_is_left_as_long_as_the_process_runs_that_asked_for_it(folder: Path, zoo_inside: Zoo) -> None:
    command = [sys.executable, "-c", DRAW, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        drawn = Path(running.stdout.readline().strip())
        assert "Left 60 files" in zoo_inside("cache", "clear", "all").stdout and len([*drawn.rglob("*.jpg")]) == 60
        running.communicate()
    assert "Removed 60 files" in zoo_inside("cache", "clear", "sample").stdout
    assert "holds nothing" in zoo_inside("cache", "show").stdout and not drawn.exists()


def test_records_of_images_are_no_measurements(few: Path, folder: Path, zoo_inside: Zoo) -> None:
    zoo.check_data(few)
    zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=False)
    records = sorted(path for path in (folder / "kept").iterdir() if path.name.startswith(("readable-", "files-read-")))
    assert records and [item.path for item in cached_items() if item.kind == "records"] == records
    assert not any(item.path in records for item in cached_items() if item.kind == "measurements")
    assert re.search(rf"^records +images that were read or decoded before +{len(records)} ", shown(zoo_inside), re.M)
    clear(["measurements"])
    assert all(path.exists() for path in records)
    clear(["records"])
    assert not any(path.exists() for path in records) and "read or decoded" not in shown(zoo_inside)


def shown(zoo_inside: Zoo) -> str:
    return zoo_inside("cache", "show").stdout


def test_what_is_being_drawn_or_written_is_left_and_what_a_killed_process_left_is_not(folder: Path) -> None:
    for name in ("sample/.draft-new", "sample/.draft-old", "sample/v1-2-classes"):
        (folder / name).mkdir(parents=True)
    (folder / "kept").mkdir()
    for name in ("kept/.speeds.json-new", "kept/.speeds.json-old", "kept/speeds.json"):
        (folder / name).touch()
    for name in ("sample/.draft-old", "kept/.speeds.json-old"):
        os.utime(folder / name, (1, 1))
    cleared = clear(["all"])
    assert len(cleared.removed) == 4
    assert sorted(item.path.name for item in cleared.in_use) == [".draft-new", ".speeds.json-new"]
    assert sorted(item.path for item in cached_items()) == sorted(item.path for item in cleared.in_use)
