"""Processes hear of one another: a job that was suspended as a whole goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ONE_OF_TWO = """
import os, sys, time
from pathlib import Path
from zoo.distributed import pulse
from zoo.distributed.launch import Launch
pulse.BEAT, pulse.SILENCE = 0.1, 1.5
rank, folder = int(sys.argv[1]), Path(sys.argv[2])

class Files:
    # torch's own store listens on every address of a machine
    def set(self, key, text):
        draft = folder / f"draft-{rank}"
        draft.write_text(text)
        os.replace(draft, folder / key.replace("/", "-"))
    def multi_get(self, keys):
        return [(folder / key.replace("/", "-")).read_bytes() for key in keys]

store = Files()
own = pulse.Pulse(store, Launch(rank, 2, rank, 2))
(folder / f"ready{rank}").touch()
while not (folder / f"ready{1 - rank}").exists():
    time.sleep(0.05)
own.begin()
own.begin_run()
time.sleep(0.5)
print("ready", flush=True)
input()
print(own.gone() or "hears the other", flush=True)
input()
"""


@pytest.mark.long
def test_a_job_that_was_suspended_goes_on(tmp_path: Path) -> None:
    """Nobody was silent while nobody listened. Processes go on one after the other."""
    words = [[sys.executable, "-c", ONE_OF_TWO, str(rank), str(tmp_path)] for rank in range(2)]
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


AT_ITS_END = """
import sys, threading, time
from pathlib import Path
from zoo.distributed import pulse
from zoo.distributed.launch import Launch
pulse.BEAT = 0.1
entered = threading.Event()

class Slow:
    def set(self, key, text):
        if threading.current_thread().name == "zoo-pulse":
            entered.set()
            time.sleep(1)  # inside torch, where a thread must not be when Python ends
            Path(sys.argv[1]).touch()
    def multi_get(self, keys):
        return []

own = pulse.Pulse(Slow(), Launch(0, 1, 0, 1))
own.begin()
assert entered.wait(5)
"""


def test_the_thread_leaves_the_store_before_python_ends(tmp_path: Path) -> None:
    """Python unwinds a thread that is left; inside the store's C++ that aborts a process whose run has succeeded."""
    done = subprocess.run([sys.executable, "-c", AT_ITS_END, str(tmp_path / "left")], check=False, timeout=60)
    assert done.returncode == 0 and (tmp_path / "left").exists()


WITHOUT_AN_ANSWER = """
import json, os, sys, threading, time
from zoo.distributed import pulse
from zoo.distributed.launch import Launch
pulse.BEAT, pulse.SILENCE, pulse.GRACE, pulse.LEAVING = 0.1, 1.0, 0.3, 0.3
answers = threading.Event()
answers.set()

class OfAMachineThatIsGone:
    # What waits for a machine without power is told nothing, for as long as a quarter of an hour.
    def set(self, key, text):
        self.text = text
    def multi_get(self, keys):
        answers.wait()
        return [json.dumps({**json.loads(self.text), "run": 9}).encode()] * len(keys)  # one that is done

own = pulse.Pulse(OfAMachineThatIsGone(), Launch(1, 2, 0, 1))
own.remember("To resume: zoo finetune --resume RUN")
own.begin()
own.begin_run()
time.sleep(1.3 if sys.argv[1] == "answers" else 0.3)
own.check()
if sys.argv[1] == "answers":
    os._exit(0)
answers.clear()
began = time.monotonic()
if sys.argv[1] == "hangs":
    time.sleep(30)  # in an operation that nobody ends
try:
    while time.monotonic() - began < 3:
        own.check()
        time.sleep(0.05)
except pulse.ProcessLost as lost:
    own.tell("failed", str(lost))  # as a run that ends does: it must not wait for the store either
    print(lost, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("then", ["ends", "hangs", "answers"])
def test_a_store_that_does_not_answer_ends_the_process_as_a_lost_one_does(then: str) -> None:
    """The store lies on the machine of process 0: where that is gone, all who ask it would wait with the job."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_AN_ANSWER, then],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "MASTER_ADDR": "node-7"},
    )
    assert time.monotonic() - began < 20
    if then == "answers":
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        return
    said = done.stderr if then == "hangs" else done.stdout
    assert done.returncode == (1 if then == "hangs" else 0), done.stdout + done.stderr
    assert "node-7" in said and "has not answered for 1 s" in said and "To resume: zoo finetune --resume RUN" in said
