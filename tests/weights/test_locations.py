"""The store of weights, as several processes use it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
