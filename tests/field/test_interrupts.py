"""Ctrl-C at any time: one message, within a second, no traceback, and a run says how to go on.

It is pressed for real, on processes of their own. Pictures that take half a minute stand for what keeps threads busy.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from zoo.cli import interrupt

TINY = ("--backbone", "timm/test_resnet", "--weights", "random", "--no-tune")
SLOW = """
import pathlib, sys, time
import zoo.data.store
from zoo.cli.main import run

def decode(*_, **named):
    pathlib.Path("decoding").touch()
    time.sleep(30)

zoo.data.store.decode_closely = decode
run()
"""
"""zoo, where a picture takes half a minute to decode, in threads that Python waits for."""
STUCK = """
import pathlib, time
import zoo, zoo.cli.weights
from zoo.cli.main import run

def list_weights(pattern):
    while True:
        try:
            pathlib.Path("stuck").touch()
            time.sleep(30)
        except BaseException:
            pass

zoo.list_weights = list_weights
run()
"""
"""zoo, where something swallows every exception, as some libraries do with KeyboardInterrupt."""
SLACK = 1.5
"""Seconds that a busy machine may take beside zoo's own."""


@contextmanager
def started(folder: Path, *words: str | Path, code: str = "") -> Iterator[subprocess.Popen[str]]:
    program = ["-c", code] if code else ["-m", "zoo"]
    pipe = subprocess.PIPE
    command = [sys.executable, *program, *map(str, words)]
    # With a cache of its own: pictures that are known are not decoded again before the run.
    variables = {**os.environ, "ZOO_CACHE_DIR": str(folder / "cache")}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=variables) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not true() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert true(), process.communicate()


def pressed(process: subprocess.Popen[str], *, number: int = signal.SIGINT, times: int = 1) -> tuple[str, str, float]:
    """(stdout, stderr, seconds until it has ended) after so many signals."""
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.02)
    stdout, stderr = process.communicate(timeout=60)
    return stdout, stderr, time.monotonic() - began


def one_message(stderr: str) -> str:
    """The text from the only message on."""
    assert "Traceback" not in stderr and "Exception ignored" not in stderr, stderr
    assert stderr.count("Interrupted") == 1 and "WARNING: Stopped" not in stderr, stderr
    return stderr[stderr.index("Interrupted") :]


def test_a_second_is_promised() -> None:
    assert interrupt.PATIENCE < 1


@pytest.mark.parametrize("words", [["list", "heads"], ["finetune", *TINY], ["--help"]])
@pytest.mark.parametrize("delay", [0.06, 0.1, 0.4])
def test_while_it_starts(words: list[str], delay: float, tmp_path: Path) -> None:
    with started(tmp_path, *words) as process:
        time.sleep(delay)
        if process.poll() is not None:
            return  # it was faster
        _, stderr, seconds = pressed(process)
        if process.returncode in (0, -signal.SIGINT):
            return  # it had ended; or Python itself was still starting, and no line of zoo had run
        assert process.returncode == 130 and seconds < 1 + SLACK
        assert one_message(stderr) == "Interrupted.\n"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["plan", *TINY, "--data", "DATA"], marks=pytest.mark.long),
        ["finetune", *TINY, "--data", "DATA"],
    ],
)
@pytest.mark.long
def test_while_threads_are_busy_that_python_would_wait_for(words: list[str], few: Path, tmp_path: Path) -> None:
    with started(tmp_path, *[str(few) if word == "DATA" else word for word in words], code=SLOW) as process:
        wait_until((tmp_path / "decoding").exists, process)
        _, stderr, seconds = pressed(process)
        assert process.returncode == 130 and seconds < 1 + SLACK
        assert one_message(stderr) == "Interrupted.\n"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_while_something_swallows_it(times: int, tmp_path: Path) -> None:
    with started(tmp_path, "weights", "list", "--json", code=STUCK) as process:
        wait_until((tmp_path / "stuck").exists, process)
        stdout, stderr, seconds = pressed(process, times=times)
        assert process.returncode == 130 and seconds < 1 + SLACK
        assert one_message(stderr) == "Interrupted.\n"
        assert stdout.count('"kind": "interrupted"') == 1


def test_a_lost_process_of_a_run_that_hangs_is_told_to_programs_too(tmp_path: Path) -> None:
    # What ends it comes from the thread that hears the other processes; its stdout is that of programs even where all
    # that is printed meanwhile goes to stderr.
    code = """
import os, sys
from zoo.cli import document, interrupt
from zoo.process import prints_to_stderr
interrupt.watch()
interrupt.run_started("runs/one")
document.expect(sys.argv[1:])
with prints_to_stderr():
    interrupt.end_with("process_lost", "Process 1 of 2 has ended.", 1)
"""
    for words in ([], ["--json"]):
        with started(tmp_path, *words, code=code) as process:
            stdout, stderr = process.communicate(timeout=60)
        message = "Process 1 of 2 has ended.\nTo resume: zoo finetune --resume runs/one"
        assert process.returncode == 1 and stderr == f"Error: {message}\n"
        told = {"error": {"kind": "process_lost", "message": message, "exit_code": 1}}
        assert json.loads(stdout or "null") == (told if words else None)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        pytest.param(signal.SIGINT, 130, "Interrupted.", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, "Terminated.", marks=pytest.mark.long),
    ],
)
def test_a_run_says_what_is_kept_and_how_it_goes_on(
    number: int, code: int, said: str, few: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    with started(
        tmp_path, "finetune", *TINY, "--recipe", "full", "--epochs", "8", "--data", few, "--out", "run"
    ) as run:
        wait_until((tmp_path / "run" / "history.jsonl").exists, run)
        _, stderr, seconds = pressed(run, number=number, times=2)
        assert run.returncode == code and seconds < 1 + SLACK and "Traceback" not in stderr
    assert stderr.endswith(f"{said} What was finished is kept in run.\nTo resume: zoo finetune --resume run\n")
    assert not (tmp_path / "run" / "result.json").exists() and not (tmp_path / "run" / "model").exists()
    assert zoo_inside(*stderr.rstrip().rpartition("zoo ")[2].split()).returncode == 0
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.long
def test_the_report_is_all_that_a_finished_run_lacks(few: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    code = """
import time, zoo.reporting.page
from zoo.cli.main import run
def write_or_note(*_, **named):
    open("writing", "w").close()
    time.sleep(30)
zoo.reporting.page.write_or_note = write_or_note
run()
"""
    with started(tmp_path, "finetune", *TINY, "--epochs", "1", "--data", few, "--out", "run", code=code) as process:
        wait_until((tmp_path / "writing").exists, process)
        _, stderr, _ = pressed(process)
    assert one_message(stderr).endswith("Next: zoo report run\n")
    assert zoo_inside("report", "run").returncode == 0 and (tmp_path / "run" / "report.html").exists()


@pytest.mark.long
def test_what_hears_no_ctrl_c_stays_deaf(few: Path, tmp_path: Path) -> None:
    """`nohup zoo ... &` of a shell without job control: the neighbour that must stay as it is."""
    words = [sys.executable, "-m", "zoo", "plan", *TINY, "--data", str(few), "--json"]
    deaf = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", deaf, *words]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, cwd=tmp_path, env=dict(os.environ)) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_library_still_raises_keyboard_interrupt(few: Path, tmp_path: Path) -> None:
    def press(event: object) -> None:
        if isinstance(event, zoo.EpochFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(backbone="timm/test_resnet", weights="random", data=few, out=tmp_path / "run", on_event=press)
