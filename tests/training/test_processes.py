from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from tests import ranks
from tests.conftest import Zoo
from tests.machines import Machines
from zoo.events import Event, Progress
from zoo.training.stored_plan import read_plan

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]


def start(works: str, data: Path, out: Path, *, count: int = 2) -> subprocess.Popen[str]:
    """Start processes of tests/ranks.py, which hear one another on this machine alone."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting]
    command = [*launcher, "--nproc-per-node", str(count), str(ROOT / "tests" / "ranks.py"), works, str(data), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": paths()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def paths() -> str:
    """PYTHONPATH of a process that imports this repository's zoo, plugins and tests."""
    ours = [str(ROOT), *(str(ROOT / each) for each in ("plugins", "heads", "recipes"))]
    return os.pathsep.join([*ours, os.environ.get("PYTHONPATH", "")])


def carry_out(works: str, data: Path, out: Path) -> str:
    """Carry them out -> what the processes said."""
    code, said = ended(start(works, data, out))
    assert code == 0, said
    return said


def ended(process: subprocess.Popen[str], *, within: float = 150) -> tuple[int, str]:
    """Wait for it -> (exit status, what it said). Where it takes too long it is ended, and its processes by it."""
    try:
        said = process.communicate(timeout=within)[0]
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail(f"not ended within {within} s: {process.communicate(timeout=60)[0]}")
    return process.returncode, said


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in more images than a block of features has, so that both processes have some."""
    from zoo.data.sample import sample_image

    root = tmp_path_factory.mktemp("many")
    for split, count in (("train", 75), ("val", 70), ("test", 3)):
        for index, name in enumerate(("red", "green")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 3, split, number).resize((40, 40)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def together(shapes: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all runs."""
    out = tmp_path_factory.mktemp("together")
    for rank in range(2):
        (out.parent / f"data-{rank}").symlink_to((shapes, many)[rank])
        changed = shutil.copytree(shapes, out.parent / f"changed-{rank}")
        shutil.copy(shapes / "train" / "red" / f"{rank}.jpg", changed / "train" / "red" / "3.jpg")
    spoil(many, out.parent / "spoilt")
    carry_out("runs,features,faults,room", shapes, out)
    return out


def spoil(data: Path, folder: Path) -> None:
    """4,204 images in more parts than a process opens at a time, 100 of which cannot be read."""
    content = (data / "test" / "red" / "0.png").read_bytes()
    for split, count in (("train", 2100), ("val", 2)):
        for name in ("red", "green"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                bad = (split, name) == ("train", "green") and number < 100
                (folder / split / name / f"{number:04d}.png").write_bytes(b"no picture" if bad else content)


@pytest.fixture(scope="module")
def alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the same."""
    out = tmp_path_factory.mktemp("alone")
    ranks.runs(shapes, out)
    return out


def checks_of(run: Path) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads((run / "proof.json").read_text())["checks"]}


@pytest.mark.parametrize("name", ["shared", "mixed"])
def test_two_processes_have_the_gradients_of_one(name: str, together: Path, alone: Path) -> None:
    one = load_file(alone / f"{name}-0.safetensors")
    first, second = (load_file(together / f"{name}-{rank}.safetensors") for rank in range(2))
    assert one.keys() == first.keys() == second.keys()
    for key, gradient in one.items():
        assert torch.equal(first[key], second[key])
        assert float((first[key] - gradient).norm()) <= 1e-5 * float(gradient.norm())
    accuracies = [json.loads((each / name / "result.json").read_text())["metrics"] for each in (together, alone)]
    assert all(
        abs(accuracies[0][split]["accuracy"] - accuracies[1][split]["accuracy"]) <= 0.01 for split in ("val", "test")
    )
    checks = checks_of(together / name)
    assert checks["processes_alike"]["verdict"] == "passed" and checks["processes"]["evidence"] == {"processes": [2]}


def test_the_plan_of_one_process_says_nothing_of_processes(together: Path, alone: Path) -> None:
    plans = [json.loads((each / "shared" / "plan.json").read_text()) for each in (together, alone)]
    assert plans[0].pop("processes") == 2 and "processes" not in plans[1]
    assert plans[0]["data"] == plans[1]["data"]
    assert "processes" not in json.loads((alone / "shared" / "result.json").read_text())


def test_one_process_verifies_what_two_made_bit_for_bit(together: Path) -> None:
    verification = zoo.verify(together / "shared")
    assert verification.passed
    assert "bit for bit" in next(check.summary for check in verification.checks if check.name == "first_steps")


def test_every_image_is_decoded_and_computed_once(together: Path, many: Path) -> None:
    images = [path.relative_to(many).as_posix() for path in many.glob("*/*/*.png")]
    found = [json.loads((together / f"features-{rank}.json").read_text()) for rank in range(2)]
    decoded = [name for each in found for name in each["decoded"]]
    assert sorted(decoded) == sorted(images) and all(each["decoded"] for each in found)
    features = [path for path in images if not path.startswith("test/")]
    assert sum(len(each["kept"]) for each in found) == len(features) and all(each["kept"] for each in found)
    assert not set(found[0]["kept"]) & set(found[1]["kept"])
    # Where each has a cache of its own, each ends with all rows: those of the other were sent.
    assert all(len(each["kept_apart"]) == len(features) for each in found)
    zoo.finetune(**ranks.FEATURES, data=many, out=together / "features-alone")
    assert (
        ranks.digest(together / "features-alone")
        == ranks.digest(together / "features")
        == ranks.digest(together / "apart")
    )


def test_what_cannot_be_shared_is_refused_and_what_is_tampered_with_is_found(shapes: Path, together: Path) -> None:
    said, other = (json.loads((together / f"faults-{rank}.json").read_text()) for rank in range(2))
    assert said == other
    assert said["other_data"][0] == "Refused" and "images of train in process 0" in said["other_data"][1]
    assert "other content in train/red/3.jpg" in said["other_content"][1]
    assert (
        "seed: 0 in process 0, 1 in process 1" in said["other_seed"][1]
        and "nothing was trained" in said["other_seed"][1]
    )
    assert 'backbone: "auto" in process 0, "timm/test_vit" in process 1' in said["other_backbone"][1]
    assert "--set all.batch_norm=frozen" in said["batch_norms"][1]
    assert said["spoilt"][0] == "DataError"
    assert "100 of 4204 images cannot be read, among the first 4,000 that were opened" in said["spoilt"][1]
    refused = [
        each
        for each in ("other_data", "other_content", "other_seed", "other_backbone", "batch_norms", "spoilt")
        if (together / each).exists()
    ]
    assert refused == []
    tampered = checks_of(together / "tampered")["processes_alike"]
    assert said["tampered"][0] == "CheckFailed" and "trained tensors of process 1" in tampered["summary"]
    frozen = checks_of(together / "frozen")
    assert frozen["processes_alike"]["verdict"] == frozen["frozen_unchanged"]["verdict"] == "failed"
    assert frozen["frozen_unchanged"]["summary"].startswith("in process 1: backbone.")


def test_the_rows_of_all_processes_are_counted_before_the_disk_is_full(together: Path) -> None:
    for rank in range(2):
        found = json.loads((together / f"room-{rank}.json").read_text())
        assert "fit neither into memory nor into" in found["said"]
        assert found["done"] <= found["chunk"] < 75, "the first rows tell how large the others are"


def test_a_killed_process_ends_the_job_by_name_and_the_run_goes_on(
    shapes: Path, together: Path, zoo_command: Zoo
) -> None:
    began = time.monotonic()
    code, said = ended(start("killed", shapes, together))
    assert code != 0 and time.monotonic() - began < 60
    assert "Process 1 of 2 (process number" in said or "rank      : 1 (local_rank: 1)" in said
    shutil.copytree(together / "killed", together / "again")
    carry_out("resumed", shapes, together)
    assert ranks.digest(together / "again") == ranks.digest(together / "shared")
    assert checks_of(together / "again")["processes"]["verdict"] == "passed"
    resumed = zoo_command("finetune", "--resume", together / "killed", "--no-report")
    assert resumed.returncode == 0, resumed.stderr
    assert "begun with 2 processes and goes on with 1" in " ".join(resumed.stderr.split())
    check = checks_of(together / "killed")["processes"]
    assert check["verdict"] == "warning" and check["evidence"]["processes"] == [2, 1]
    before, now = (load_file(together / run / "model" / "model.safetensors") for run in ("shared", "killed"))
    assert all(torch.allclose(before[key], now[key], atol=1e-5) for key in before)


def test_a_run_that_one_process_planned_on_a_part_of_the_images_goes_on_with_two(many: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "decode" and event.done == 60:
            raise KeyboardInterrupt

    (data := tmp_path / "data").symlink_to(many)
    arguments: dict[str, Any] = {**ranks.SHARED, "epochs": 1, "data": data, "examine": 20}
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**arguments, out=tmp_path / "of-part", on_event=stop)
    shutil.copytree(tmp_path / "of-part", tmp_path / "alone")
    assert read_plan(tmp_path / "of-part").data.examined is not None
    carry_out("of_part", many, tmp_path)
    zoo.resume(tmp_path / "alone", report=False)
    plans = [read_plan(tmp_path / each) for each in ("of-part", "alone")]
    assert plans[0] == plans[1] and plans[0].data.examined is None
    assert ranks.digest(tmp_path / "of-part") == ranks.digest(tmp_path / "alone")
    check = checks_of(tmp_path / "of-part")["processes"]
    assert check["verdict"] == "warning" and check["evidence"] == {"processes": [1, 2]}


@pytest.fixture
def two_machines() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.close()


def begin(machines: Machines, works: str, data: Path, out: Path) -> list[subprocess.Popen[bytes]]:
    """Start a process on each machine, with a cache of its own; both see the folder of the run."""
    program = [str(ROOT / "tests" / "ranks.py"), works, str(data), str(out)]
    return [
        machines.start(
            each, program, out / f"said-{each}", PYTHONPATH=paths(), ZOO_CACHE_DIR=str(out / f"cache-{each}")
        )
        for each in range(2)
    ]


def test_two_machines_do_what_one_process_does(two_machines: Machines, many: Path, tmp_path: Path) -> None:
    for machine, process in enumerate(begin(two_machines, "machines", many, tmp_path)):
        assert process.wait(150) == 0, (tmp_path / f"said-{machine}").read_text()
    zoo.finetune(**ranks.FEATURES, data=many, out=tmp_path / "alone")
    assert ranks.digest(tmp_path / "features") == ranks.digest(tmp_path / "alone")
    checks = checks_of(tmp_path / "shared")
    assert checks["processes_alike"]["verdict"] == "passed" and checks["processes"]["evidence"] == {"processes": [2]}


def test_machines_that_lose_one_another_end_within_a_minute_and_say_whom(
    two_machines: Machines, shapes: Path, tmp_path: Path
) -> None:
    """No connection is closed: who waits for the other would wait for as long as the job has time."""
    jobs = begin(two_machines, "cut_off", shapes, tmp_path)
    try:
        wait_for(lambda: all((tmp_path / f"epoch-{each}").exists() for each in range(2)), within=120)
        two_machines.cut()
        said = [tmp_path / f"said-{each}" for each in range(2)]
        wait_for(lambda: all("Error: " in each.read_text() for each in said), within=60)
    finally:
        for job in jobs:
            # The launchers too: torch's own waits for the machine that it has lost.
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    assert "Process 1 of 2" in said[0].read_text() and "has not been heard of for" in said[0].read_text()
    assert two_machines.address(0) in said[1].read_text() and "has not answered for" in said[1].read_text()
    assert "To resume: zoo finetune --resume" in said[1].read_text()


def wait_for(state: Callable[[], bool], *, within: float) -> None:
    until = time.monotonic() + within
    while not state():
        assert time.monotonic() < until, f"not seen within {within:.0f} s"
        time.sleep(0.2)
