"""The store of weights, as several processes use it at once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from zoo.specs.backbone import UrlFile
from zoo.weights.locations import in_store, put, stored
from zoo.weights.manifest import ManifestEntry, source_key

FETCHING = """
from zoo.weights.locations import own_folder
for _ in range(800):
    with own_folder() as folder:
        (folder / "file").touch()
"""


def test_processes_that_begin_at_once_do_not_remove_one_anothers_folders(tmp_path: Path) -> None:
    """Each removes what killed processes left, and must not take a folder for that which another is just making."""
    around = {**os.environ, "ZOO_CACHE_DIR": str(tmp_path)}
    words = [sys.executable, "-c", FETCHING]
    several = [subprocess.Popen(words, env=around, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [each.communicate(timeout=60)[1] for each in several]
    assert [each.returncode for each in several] == [0, 0, 0], "\n".join(said)
    assert not list((tmp_path / "weights").glob(".incoming-*"))


def test_entries_for_one_file_that_are_added_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names for the same bytes: each process adds its own to the same manifest."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    sources = [UrlFile(url=f"https://example.org/{number}.pth") for number in range(12)]
    entries = [
        ManifestEntry(
            name=f"test/net.{number}",
            tag=str(number),
            source=source_key(source),
            address=source.url,
            file="file",
            digest=digest,
            size=7,
            licence=None,
        )
        for number, source in enumerate(sources)
    ]
    # Threads wait for one another as processes do: the lock is one of the system.
    with ThreadPoolExecutor(len(entries)) as several:
        paths = set(several.map(lambda entry: put(entry, tmp_path / "file"), entries))
    assert sorted(entry.name for entry, _ in stored()) == sorted(entry.name for entry in entries)
    assert {in_store(source) for source in sources} == paths and len(paths) == 1
