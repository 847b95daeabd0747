"""Runs of a sweep in worker processes, and on a real Ray of this machine; workers and sweeps are killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from zoo.events import Event, Note, silent
from zoo.planning.request import make_request
from zoo.sweeping.local_workers import LocalWorkers, cores_here, equal_shares
from zoo.sweeping.run_queue import RETRIES, carry_out_jobs
from zoo.sweeping.trial_runs import RunJob, RunOutcome, carry_out_run, job_of, outcome_of_error

RECIPE = """
summary = "A stage that ends soon, so that there is a checkpoint, and one that takes a while."
[[stages]]
name = "head"
train = ["head"]
epochs = 1
lr = 1e-3
solver = "gradient"

[[stages]]
name = "all"
train = ["all"]
epochs = 12
lr = 1e-3
augment = "crop"
"""


@pytest.fixture
def words(few: Path, tmp_path: Path) -> list[str]:
    """The command of a sweep of three runs, two at once."""
    (tmp_path / "slow.toml").write_text(RECIPE, "utf-8")
    options = ["--data", str(few), "--backbone", "timm/test_resnet=random", "--recipe", str(tmp_path / "slow.toml")]
    return ["sweep", *options, "--over", "all.lr=1e-3,1e-4,1e-5", "--at-once", "2"]


@contextmanager
def process(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A `zoo` process, which is ended with the block."""
    with (folder / "said.txt").open("a") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "zoo", *words], cwd=folder, stdout=said, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def until(true: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """Wait for something to be true -> it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


def owner_with_checkpoint(sweep: Path) -> int:
    """The process that trains a run which has a checkpoint of its first stage; 0 where there is none yet."""
    for path in sweep.glob("runs/*/checkpoint/checkpoint.json"):
        owner = path.with_name("owner.json")
        if owner.exists() and not (path.parents[1] / "result.json").exists():
            return int(json.loads(owner.read_text("utf-8"))["process"])
    return 0


def is_gone(number: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{number}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def scores(sweep: Path) -> dict[tuple[str, int], Any]:
    found = [json.loads(path.read_text("utf-8")) for path in sorted((sweep / "trials").iterdir())]
    assert len({row["trial"] for row in found}) == len(found)
    return {(row["settings"]["all.lr"], row["seed"]): (row["val"], row["retries"]) for row in found}


def expected(sweep: Path, tmp_path: Path, threads: int) -> dict[str, float]:
    """The scores of one of these trials as `zoo finetune` gives them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run = zoo.finetune(
            "timm/test_resnet",
            weights="random",
            data=f"table:{sweep / 'data.csv'}",
            recipe=tmp_path / "slow.toml",
            set=["all.lr=1e-3"],
            precision="float32",
            tune=False,
            out=tmp_path / "alone",
            report=False,
        )
    finally:
        torch.set_num_threads(before)
    return dict(run.metrics["val"])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes as Linux shows them")
def test_a_lost_worker_goes_on_and_a_killed_sweep_is_resumed(words: list[str], tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    with process([*words, "--out", "sweep"], tmp_path) as running:
        lost = until(lambda: owner_with_checkpoint(sweep))
        os.kill(lost, signal.SIGKILL)
        until(lambda: len(list(sweep.glob("trials/*.json"))) == 1)
        workers = [
            int(json.loads(path.read_text("utf-8"))["process"]) for path in sweep.glob("runs/*/checkpoint/owner.json")
        ]
        running.kill()
        running.wait()
        until(lambda: all(map(is_gone, workers)), seconds=10)
    rows = {path: path.read_bytes() for path in sweep.glob("trials/*.json")}
    with process(["sweep", "--resume", "sweep"], tmp_path) as running:
        assert running.wait(timeout=120) == 0, (tmp_path / "said.txt").read_text("utf-8")
    found = scores(sweep)
    assert len(found) == 3 and all(path.read_bytes() == row for path, row in rows.items())
    assert "killed by SIGKILL" in (tmp_path / "said.txt").read_text("utf-8")
    assert found["1e-3", 0][0] == expected(sweep, tmp_path, max(1, len(cores_here()) // 2))
    record = json.loads((sweep / "sweep.json").read_text("utf-8"))
    assert record["trials"] == 3 and record["winner"]["run"].startswith("runs/")


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes as Linux shows them")
def test_a_worker_of_ray_that_is_killed_loses_nothing_and_nothing_runs_twice(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    sweep = tmp_path / "sweep"
    with process([*words, "--on", "ray", "--out", "sweep"], tmp_path) as running:
        os.kill(until(lambda: owner_with_checkpoint(sweep)), signal.SIGKILL)
        assert running.wait(timeout=240) == 0, (tmp_path / "said.txt").read_text("utf-8")
    found = scores(sweep)
    assert len(found) == 3 and sum(retries for _, retries in found.values()) == 1
    assert "was lost" in (tmp_path / "said.txt").read_text("utf-8")
    assert found["1e-3", 0][0] == expected(sweep, tmp_path, max(1, len(cores_here()) // 2))
    assert json.loads((sweep / "sweep.json").read_text("utf-8"))["trials"] == 3


@pytest.mark.long
def test_what_a_worker_of_ray_raises_is_told_in_its_own_words(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    # No ZooError: what a plugin may raise as well. In a process of its own, which Ray changes.
    code = """
from zoo.cluster.connect import connected
from zoo.cluster.place import parse_place
from zoo.events import silent
from zoo.sweeping.ray_workers import RayWorkers
from zoo.sweeping.trial_runs import RunJob
with connected(parse_place("ray"), silent, cores=1) as cluster:
    workers = RayWorkers(cluster, 1, "cpu", resuming="", report=silent)
    workers.start(RunJob(number=4, request={"backbone": "resnet18", "nonsense": 1}, run="run", threads=1))
    while not (ended := workers.wait()):
        pass
    print(ended[0].number, ended[0].outcome and ended[0].outcome.fault)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.startswith("4 TypeError: ") and "'nonsense'" in done.stdout, done.stdout + done.stderr


class OneAfterAnother:
    """Workers that end as they are told, to see what the queue makes of it."""

    def __init__(self, endings: dict[int, list[RunOutcome | None]]) -> None:
        self.endings, self.running, self.started, self.stopped = endings, list[int](), list[int](), False

    def has_room(self) -> bool:
        return len(self.running) < 2

    def start(self, job: RunJob) -> None:
        self.running.append(job.number)
        self.started.append(job.number)

    def wait(self) -> list[Any]:
        from zoo.sweeping.run_queue import Ending

        number = self.running.pop(0)
        return [Ending(number, self.endings[number].pop(0), "gone")]

    def stop(self) -> None:
        self.stopped = True


def job(number: int, run: Path = Path("run")) -> RunJob:
    return RunJob(number=number, request={}, run=str(run), threads=1)


def outcome(fault: str = "", *, stops: bool = False) -> RunOutcome:
    return RunOutcome(val={"accuracy": 0.5}, kept="all", seconds=1.0, fault=fault, stops=stops)


@pytest.mark.parametrize(("cores", "places"), [(7, 3), (5, 2), (4, 4), (8, 2), (2, 5), (1, 3)])
def test_all_workers_have_as_many_cores_so_that_no_trial_depends_on_which_one_took_it(cores: int, places: int) -> None:
    shares = equal_shares(range(10, 10 + cores), places)
    assert [len(share) for share in shares] == [max(1, cores // places)] * places
    used = [core for share in shares for core in share]
    assert set(used) <= set(range(10, 10 + cores)) and len(set(used)) == min(len(used), cores)


def test_a_lost_worker_is_tried_again_twice_at_most() -> None:
    workers = OneAfterAnother({1: [None, outcome()], 2: [None] * 9, 3: [outcome("it diverged")]})
    ended, said = dict[int, tuple[str, int]](), list[str]()

    def note(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Note) else [])

    def note_end(number: int, found: RunOutcome, retries: int) -> None:
        ended[number] = found.fault, retries

    carry_out_jobs([job(1), job(2), job(3)], workers, note_end, note)
    assert ended[1] == ("", 1) and ended[3] == ("it diverged", 0)
    assert ended[2][0].startswith("its worker was lost 3 times") and ended[2][1] == RETRIES
    assert workers.started.count(2) == 3 and workers.stopped
    assert sum("trial 2 was lost" in each for each in said) == 2


def test_a_run_decodes_with_as_many_threads_as_its_worker_has_cores(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # else it is set for the tests that follow
    asked = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only", "data": few, "tune": False}
    run = tmp_path / "run"
    request = make_request(**asked, head="linear", set=("head.epochs=1",))
    before = torch.get_num_threads()
    try:
        found = carry_out_run(job_of(1, request, run, threads=3))
    finally:
        torch.set_num_threads(before)
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    assert found.fault == "" and (plan["threads"], plan["workers"]) == (3, 3)


def test_a_fault_that_no_other_trial_would_escape_stops_the_sweep() -> None:
    workers = OneAfterAnother({1: [outcome("No space left", stops=True)], 2: [outcome()]})
    with pytest.raises(zoo.RunError, match=r"Trial 1 .*No space left"):
        carry_out_jobs([job(1), job(2)], workers, lambda *ended: None, silent)
    assert workers.stopped


@pytest.mark.long
def test_an_error_that_code_raises_is_told_at_once_and_only_a_lost_worker_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker of trial 7 lives and tells what was raised. That of trial 8 ends where torch should be imported."""
    ended, said = dict[int, tuple[str, int]](), list[str]()

    def note(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Note) else [])

    def note_end(number: int, found: RunOutcome, retries: int) -> None:
        ended[number] = found.fault, retries

    raising = replace(job(7, tmp_path / "run"), request={"backbone": "resnet18", "nonsense": 1})
    carry_out_jobs([raising], LocalWorkers(1, "cpu"), note_end, note)
    fault, retries = ended[7]
    assert fault.startswith("TypeError: ") and "'nonsense'" in fault and "\nNext: " in fault and retries == 0
    assert said == [f"Trial 7 failed: {fault}"]
    (tmp_path / "torch.py").write_text("import os\nos.write(2, b'no torch here')\nos._exit(1)\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    carry_out_jobs([job(8, tmp_path / "run")], LocalWorkers(1, "cpu"), note_end, note)
    assert ended[8] == ("its worker was lost 3 times; the last time: it ended with code 1: no torch here", RETRIES)


def test_what_a_run_raises_is_its_outcome_unless_it_may_pass() -> None:
    found = outcome_of_error(KeyError("no such column"))
    assert found is not None and found.fault.startswith("KeyError: 'no such column'\nNext: ") and not found.stops
    assert [outcome_of_error(error) for error in (MemoryError(), ConnectionResetError(), TimeoutError())] == [None] * 3


@pytest.mark.parametrize(("number", "stops"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.ENOENT, False)])
def test_a_disk_that_is_full_is_no_fault_of_a_trial(number: int, stops: bool) -> None:
    """A trial that has failed is not tried again."""
    found = outcome_of_error(OSError(number, os.strerror(number)))
    assert found is not None and found.stops is stops and os.strerror(number) in found.fault
