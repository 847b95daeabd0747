"""Processes hear of one another: a job that was suspended as a whole goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

ONE_OF_TWO = """
import sys, time
from torch.distributed import FileStore
from zoo.distributed import pulse
from zoo.distributed.launch import Launch
pulse.BEAT, pulse.SILENCE = 0.1, 1.5
rank = int(sys.argv[1])
store = FileStore(sys.argv[2], 2)
own = pulse.Pulse(store, Launch(rank, 2, rank, 2))
store.set(f"ready{rank}", "")
store.wait([f"ready{1 - rank}"])
own.begin()
own.begin_run()
time.sleep(0.5)
print("ready", flush=True)
input()
print(own.gone() or "hears the other", flush=True)
input()
"""


def test_a_job_that_was_suspended_goes_on(tmp_path: Path) -> None:
    """Nobody was silent while nobody listened. Processes go on one after the other."""
    words = [[sys.executable, "-c", ONE_OF_TWO, str(rank), str(tmp_path / "store")] for rank in range(2)]
    job = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in words]
    try:
        for each in job:
            assert each.stdout is not None and each.stdout.readline() == "ready\n"
        for each in job:
            each.send_signal(signal.SIGSTOP)
        time.sleep(3)
        for each in job:
            each.send_signal(signal.SIGCONT)
            time.sleep(0.5)
        for each in job:
            assert each.stdin is not None and each.stdout is not None
            each.stdin.write("\n")
            each.stdin.flush()
            assert each.stdout.readline() == "hears the other\n"
    finally:
        for each in job:
            each.kill()
            each.communicate()
