"""What type checkers say of calls: good ones pass, and bad ones are refused before anything runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).parent / "typing" / "calls.py"
EXPECTED = re.compile(r"# error: ([a-z\- ]+)$")


@pytest.mark.long
def test_mypy_accepts_good_calls_and_refuses_bad_ones() -> None:
    pytest.importorskip("mypy", reason="mypy is in the extra dev")
    lines = CALLS.read_text("utf-8").splitlines()
    expected = {
        (number, code)
        for number, line in enumerate(lines, 1)
        if (found := EXPECTED.search(line))
        for code in found[1].split()
    }

    # Of the file alone, as a user's editor does it, with zoo as an installed package that says that it is typed.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            os.devnull,
            "--no-error-summary",
            CALLS,
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    said = {
        (int(found[1]), found[2])
        for line in done.stdout.splitlines()
        if (found := re.search(r"calls\.py:(\d+): error: .*\[([a-z\-]+)\]$", line))
    }
    assert len(expected) > 10
    assert said == expected, done.stdout + done.stderr
