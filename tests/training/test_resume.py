"""A run that is stopped at any moment is resumed to the bytes of an unbroken one, or says why it cannot be."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file
from tests.conftest import Zoo
from tests.kills import RECIPE, Killing, digest
from tests.numeric import draw_few
from torch import Tensor, nn
from zoo.errors import CheckFailed, Refused, RunError
from zoo.events import EpochFinished, Event, Note, Progress, StageStarted
from zoo.storage import atomic
from zoo.training import candidates, checkpoint
from zoo.training.choosing import Judged
from zoo.training.run_folder import RunLock
from zoo.training.stage_state import StageProgress


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_few(tmp_path_factory.mktemp("pictures") / "data", train=12, val=6)


@pytest.fixture(scope="module")
def usual(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = tmp_path_factory.mktemp("recipe") / "everything.toml"
    recipe.write_text(RECIPE, "utf-8")
    return {
        "backbone": "timm/test_resnet",
        "weights": "random",
        "data": pictures,
        "recipe": str(recipe),
        "batch_size": 8,
        "tune": False,
    }


@pytest.fixture(scope="module")
def unbroken(usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> zoo.Result:
    return zoo.finetune(**usual, out=tmp_path_factory.mktemp("runs") / "unbroken")


@pytest.fixture
def saving_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, "step", 0.0)
    monkeypatch.setitem(checkpoint.SECONDS_BETWEEN, "epoch", 0.0)


class Stopping:
    """A report function that ends the run, as Ctrl-C does, after so many batches and epochs of a stage."""

    def __init__(self, stage: str, number: int) -> None:
        self._stage, self._left = stage, number
        self._in_stage = False
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, StageStarted):
            self._in_stage = event.stage == self._stage
        if self._in_stage and isinstance(event, (Progress, EpochFinished)):
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt


def stop(usual: dict[str, Any], out: Path, stage: str, number: int) -> Stopping:
    report = Stopping(stage, number)
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**usual, out=out, on_event=report)
    return report


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


@pytest.mark.usefixtures("saving_often")
@pytest.mark.parametrize(
    ("stage", "number"),
    # In the search for a rate, in an epoch, between epochs, and before anything of a stage.
    [
        ("head", 0),
        ("head", 3),
        ("last", 0),
        ("head", 8),
        ("head", 12),
        ("last", 1),
        ("last", 7),
        ("all", 2),
        ("all", 8),
    ],
)
@pytest.mark.long
def test_a_stopped_run_is_resumed_to_the_same_bytes_history_and_proof(
    stage: str, number: int, usual: dict[str, Any], unbroken: zoo.Result, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    report = stop(usual, run, stage, number)
    assert report.notes[-1] == f"Stopped. To resume: zoo finetune --resume {run}"
    assert not (run / "result.json").exists()
    resumed = zoo.resume(run)
    assert digest(run) == digest(unbroken.path)
    assert without_times(run) == without_times(unbroken.path)
    assert resumed.proof == "passed" and resumed.metrics == unbroken.metrics
    assert resumed.content["selection"] == unbroken.content["selection"]
    assert {each.name for each in run.iterdir()} == {each.name for each in unbroken.path.iterdir()}
    checks = [json.loads((each / "proof.json").read_text("utf-8"))["checks"] for each in (run, unbroken.path)]
    assert checks[0] == checks[1]


@pytest.mark.usefixtures("saving_often")
@pytest.mark.long
@pytest.mark.parametrize("number", [0, 2])
def test_a_kept_blend_and_the_head_that_later_ones_need_survive_a_stop(
    number: int, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever they score, the first blend of the second stage is kept.
    monkeypatch.setattr(candidates, "is_better", lambda later, *_: torch.equal(later.loss, first[0]))
    first: list[torch.Tensor] = []
    original = candidates.judge

    def noting(*arguments: Any) -> Judged:
        judged = original(*arguments)
        seen.append(judged.loss)
        first[:] = seen[1:2]
        return judged

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(candidates, "judge", noting)
    whole = zoo.finetune(**usual, out=tmp_path / "whole")
    monkeypatch.setattr(candidates, "judge", original)
    stop(usual, tmp_path / "run", "all", number)
    assert whole.content["selection"]["blend"] == 0.25
    saved = tmp_path / "run" / "checkpoint"
    (head,) = saved.glob("*-head_end.safetensors")
    assert load_file(head) and all(name.startswith("head.") for name in load_file(head)), "the rest is made again"
    resumed = zoo.resume(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(whole.path)
    assert resumed.content["selection"] == whole.content["selection"]
    checks = [json.loads((each / "proof.json").read_text("utf-8"))["checks"] for each in (saved.parent, whole.path)]
    assert checks[0] == checks[1] and "blended" in [check["name"] for check in checks[0]]
    blends = [[stage.get("blends") for stage in each.content["stages"]] for each in (resumed, whole)]
    assert blends[0] == blends[1]


@pytest.mark.long
def test_a_run_without_a_checkpoint_starts_again_from_its_plan(
    usual: dict[str, Any], unbroken: zoo.Result, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop(usual, run, "head", 0)
    assert not (run / "checkpoint" / "checkpoint.json").exists()
    assert zoo.resume(run).proof == "passed"
    assert digest(run) == digest(unbroken.path)


@pytest.mark.long
def test_a_run_whose_checkpoint_was_removed_tells_each_epoch_once(
    usual: dict[str, Any], unbroken: zoo.Result, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop(usual, run, "all", 4)
    shutil.rmtree(run / "checkpoint")
    with (run / "history.jsonl").open("a") as file:
        file.write('{"stage": "he')  # killed in the middle of a line
    result = zoo.resume(run)
    assert result.proof == "passed"
    assert [(each["stage"], each["epoch"]) for each in result.history] == [
        (each["stage"], each["epoch"]) for each in unbroken.history
    ]


@pytest.mark.long
def test_checkpoints_at_their_usual_moments_are_enough(
    usual: dict[str, Any], unbroken: zoo.Result, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stop(usual, run, "all", 4)
    saved = json.loads((run / "checkpoint" / "checkpoint.json").read_text("utf-8"))["facts"]
    assert [stage["name"] for stage in saved["stages"]] == ["head", "last"] and saved["stage"] is None
    zoo.resume(run)
    assert digest(run) == digest(unbroken.path)


@pytest.mark.long
def test_a_run_killed_at_random_moments_is_resumed_to_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    killing = Killing(data=pictures, folder=tmp_path)
    expected, seconds = killing.unbroken()
    draw = random.Random(4)
    runs = 0
    while len(killing.kills) < 3:
        runs += 1
        assert killing.killed_again_and_again(f"run{runs}", 3, draw, seconds) == expected
    assert killing.kills[0].find("history.jsonl") < 0, "the first kill comes before anything is trained"


# Moments, and the code that makes a run kill itself there: always in a public function.
MOMENTS = {
    "tensors half written": "checkpoint.save_tensors = dying(checkpoint.save_tensors, 3, half_written=True)",
    "tensors written, facts not": "checkpoint.write_text = dying(checkpoint.write_text, 4)",
    "facts renamed, old files there": "checkpoint.write_text = dying(checkpoint.write_text, 4, after=True)",
    "artefact half written": "write.file_digest = dying(write.file_digest, 1)",
    "result written, checkpoint there": (
        "run_folder.RunFolder.remove_checkpoint = dying(run_folder.RunFolder.remove_checkpoint, 1)"
    ),
}
_DYING = '''
import os, signal
import zoo.artefact.write as write, zoo.training.checkpoint as checkpoint, zoo.training.run_folder as run_folder
def dying(original, number, half_written=False, after=False):
    """The function, whose call with this number, from 1, kills the process: before it does anything, or after."""
    calls = 0
    def call(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls < number:
            return original(*arguments, **named)
        if half_written:
            arguments[0].write_bytes(b"half")
        if after:
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
'''


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_while_it_writes_is_resumed_to_the_same_bytes(
    moment: str, pictures: Path, unbroken: zoo.Result, tmp_path: Path
) -> None:
    killing = Killing(data=pictures, folder=tmp_path)
    run = tmp_path / "run"
    process = subprocess.run(
        killing.command(run, before=f"{_DYING}\n{MOMENTS[moment]}\n"), capture_output=True, check=False
    )
    assert process.returncode == -9, process.stderr
    if moment == "result written, checkpoint there":
        assert (run / "checkpoint").exists() and not (run / "report.html").exists()
        assert zoo.resume(run).proof == "passed"
        assert (run / "report.html").exists() and not (run / "checkpoint").exists()
        with pytest.raises(Refused, match="is finished"):
            zoo.resume(run)
        assert zoo.load(run).classes == ("a", "b")
        return
    zoo.resume(run)
    assert digest(run) == digest(unbroken.path)
    assert {each.name for each in run.iterdir()} == {each.name for each in unbroken.path.iterdir()}


class NanAtFirst(nn.Module):
    """Validation up to some step gives no numbers, as where running statistics overflow; training always does."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.stem(images)).mean((2, 3))
        steps = self.norm.num_batches_tracked
        assert steps is not None
        return pooled if self.training else torch.where((steps > 0) & (steps <= self.until), torch.nan, pooled)


def nan_at_first(until: int = 3) -> Any:
    size = zoo.Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
    return zoo.module_backbone(NanAtFirst(until), preprocessing=size)


OF_NAN: dict[str, Any] = {"name": "all", "train": ["all"], "epochs": 4, "lr": 0.1, "keep_epoch": "best"}


@pytest.mark.usefixtures("saving_often")
@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_stage_with_a_validation_loss_that_is_no_number_is_resumed_to_the_same_bytes(
    older: bool, pictures: Path, tmp_path: Path
) -> None:
    stage = {**OF_NAN, "batch_norm": "train"}
    usual = {"recipe": {"stages": [stage]}, "data": pictures, "batch_size": 8}
    whole = zoo.finetune(backbone=nan_at_first(), **usual, out=tmp_path / "whole")
    first = json.loads((whole.path / "history.jsonl").read_text("utf-8").splitlines()[0])
    assert first["val"]["loss"] is None, "of what is tested here there is some"
    run = tmp_path / "run"
    stop({**usual, "backbone": nan_at_first()}, run, "all", 7)
    if older:  # it counted such an epoch as the best one, and wrote null for its loss
        path = run / "checkpoint" / "checkpoint.json"
        saved = json.loads(path.read_text("utf-8"))
        assert saved["facts"]["stage"]["position"]["epoch"] == 2
        saved["facts"]["stage"]["position"]["best"] = first["val"]
        path.write_text(json.dumps(saved), "utf-8")
    resumed = zoo.resume(run, backbone=nan_at_first())
    assert without_times(run) == without_times(whole.path) and resumed.metrics == whole.metrics
    assert resumed.content["selection"] == whole.content["selection"] and resumed.proof == whole.proof == "passed"
    states = [load_file(each.artefact / "model.safetensors") for each in (resumed, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("until", [3, 6], ids=["one epoch", "two, more than the patience"])
def test_an_epoch_without_numbers_is_never_the_best_one(until: int, tmp_path: Path) -> None:
    """Such logits count as class a. Here that is right for half of the images, and a trained model for none."""
    data = draw_few(tmp_path / "data", train=12, val=6)
    for of, to in (("a", "c"), ("b", "a"), ("c", "b")):
        (data / "val" / of).rename(data / "val" / to)
    stage = {**OF_NAN, "batch_norm": "train", "patience": 1}
    result = zoo.finetune(
        backbone=nan_at_first(until), recipe={"stages": [stage]}, data=data, batch_size=8, out=tmp_path / "run"
    )
    scores = [epoch["val"] for epoch in without_times(result.path)]
    finite = [each for each in scores if each["loss"] is not None]
    assert scores[0]["loss"] is None and scores[0]["accuracy"] > max(each["accuracy"] for each in finite)
    assert result.proof == "passed" and result.metrics["val"] in finite


def test_a_position_of_an_older_checkpoint_has_nan_where_that_wrote_null() -> None:
    epochs = [{"accuracy": 0.5, "macro_f1": 0.4, "loss": None}, {"accuracy": 0.6, "macro_f1": 0.6, "loss": 0.7}, {}]
    found = StageProgress.from_file({"epoch": 3, "best": epochs[0], "epochs": epochs})
    assert found.best is None and math.isnan(found.epochs[0]["loss"]) and found.epochs[1:] == epochs[1:]
    assert StageProgress.from_file({"best": epochs[1]}).best == epochs[1]
    # There is no best one to wait since.
    assert StageProgress.from_file({"best": epochs[0], "waited": 2}).waited == 0


def test_a_checkpoint_gives_back_numbers_that_are_not_finite(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    facts = {"epochs": [{"loss": math.inf}, {"loss": -math.inf}, {"loss": 0.5}, {}], "best": None, "name": "NaN"}
    checkpoint.Checkpoint(tmp_path).save({**facts, "loss": math.nan}, {})
    saved = checkpoint.Checkpoint(tmp_path).load()
    assert saved is not None and math.isnan(saved.facts.pop("loss")) and saved.facts == facts


@pytest.fixture
def stopped(usual: dict[str, Any], tmp_path: Path, saving_often: None) -> Path:
    stop(usual, tmp_path / "run", "last", 3)
    return tmp_path / "run"


@pytest.mark.long
def test_a_checkpoint_of_a_zoo_without_blends_is_resumed(stopped: Path, unbroken: zoo.Result) -> None:
    path = stopped / "checkpoint" / "checkpoint.json"
    saved = json.loads(path.read_text("utf-8"))
    assert saved["facts"]["plan"]["stages"][0]["settings"].pop("blend") == []
    for key in ("share", "start", "digests"):
        del saved["facts"]["best"][key]
    del saved["facts"]["judged"], saved["files"]["judged"]
    path.write_text(json.dumps(saved), "utf-8")
    assert zoo.resume(stopped).metrics == unbroken.metrics
    assert digest(stopped) == digest(unbroken.path)


@pytest.mark.usefixtures("saving_often")
def test_a_checkpoint_of_a_zoo_that_compared_epochs_by_plain_accuracy_is_resumed(
    pictures: Path, tmp_path: Path
) -> None:
    stages = [{"name": name, "train": ["head"], "epochs": 3, "lr": 1e-2, "keep_epoch": "best"} for name in "ab"]
    recipe = {"stages": stages, "choose_by": "balanced_loss"}
    asked = {"backbone": "timm/test_resnet", "weights": "random", "data": pictures, "recipe": recipe, "tune": False}
    run = tmp_path / "run"
    stop({**asked, "batch_size": 8}, run, "b", 8)
    path = run / "checkpoint" / "checkpoint.json"
    saved = json.loads(path.read_text("utf-8"))
    facts = saved["facts"]
    found = [facts["stage"]["position"]["best"], facts["best"]["scores"], facts["stages"][0]["metrics"]["val"]]
    for scores in found:
        del scores["balanced_accuracy"], scores["balanced_loss"]
    path.write_text(json.dumps(saved), "utf-8")
    resumed = zoo.resume(run)
    assert resumed.proof == "passed" and [each["epochs"] for each in resumed.content["stages"]] == [3, 3]


@pytest.mark.long
def test_the_seconds_of_a_resumed_stage_include_those_before_it_was_stopped(stopped: Path) -> None:
    path = stopped / "checkpoint" / "checkpoint.json"
    saved = json.loads(path.read_text("utf-8"))
    of_stage = saved["facts"]["stage"]["seconds"]
    assert 0 < of_stage["total"] <= saved["facts"]["seconds"]["total"]
    of_stage["total"] += 1000
    path.write_text(json.dumps(saved), "utf-8")
    seconds = {stage["name"]: stage["seconds"] for stage in zoo.resume(stopped).content["stages"]}
    assert seconds["last"] > 1000 > seconds["head"] + seconds["all"]


def changed(run: Path, *path: str | int, to: Any) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    inner = plan
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")


def test_other_data_is_refused_with_the_difference(usual: dict[str, Any], tmp_path: Path) -> None:
    data = Path(shutil.copytree(usual["data"], tmp_path / "data"))
    stop({**usual, "data": data}, tmp_path / "run", "head", 2)
    shutil.copy(data / "train" / "a" / "0.jpg", data / "train" / "b" / "0.jpg")
    with pytest.raises(Refused, match=r"(?s)cannot be resumed.*data\.digest: .* then, .* now"):
        zoo.resume(tmp_path / "run")


def test_other_versions_are_refused_with_the_difference(stopped: Path) -> None:
    changed(stopped, "versions", "torch", to="2.0.0")
    with pytest.raises(Refused, match=r'versions\.torch: "2\.0\.0" then, '):
        zoo.resume(stopped)


def test_a_checkpoint_of_another_plan_is_refused_with_the_difference(stopped: Path) -> None:
    changed(stopped, "seed", to=7)
    with pytest.raises(Refused, match=r"checkpoint belongs to another plan:\s+seed: 0 then, 7 now"):
        zoo.resume(stopped)


def test_a_damaged_checkpoint_is_noticed(stopped: Path) -> None:
    (path,) = (stopped / "checkpoint").glob("*-state.safetensors")
    content = load_file(path)
    save_file({name: each + 1 for name, each in content.items()}, path)
    with pytest.raises(RunError, match=r"is damaged: its SHA-256 .*\s+Next: .* remove .*checkpoint"):
        zoo.resume(stopped)


def test_a_run_is_written_by_one_process_at_a_time(stopped: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from zoo.training.run_folder import RunLock\n"
        "with RunLock(Path(sys.argv[1]) / 'checkpoint', run=Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, stopped], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(RunError, match=rf"is being written by another process: {holder.pid} on .*, since 20"):
            zoo.resume(stopped)
    finally:
        holder.kill()
        holder.communicate()
    # The system released the lock with its process.
    with RunLock(stopped / "checkpoint", run=stopped):
        pass


def test_a_drive_without_locks_says_what_a_lost_machine_may_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    # As another machine leaves it, whose processes nobody here can see.
    left = tmp_path / "lock"
    left.write_text("4711\nanother-machine\n", "utf-8")
    with warnings.catch_warnings(), pytest.raises(RunError, match="if that process is gone, remove") as refused:
        warnings.simplefilter("ignore")
        with RunLock(tmp_path, run=tmp_path):
            pass
    (named,) = re.findall(r"remove (.*)\.$", str(refused.value))
    Path(named).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with RunLock(tmp_path, run=tmp_path):
            pass


def test_a_run_that_was_killed_before_its_report_only_gets_the_report(
    unbroken: zoo.Result, tmp_path: Path, zoo_inside: Zoo
) -> None:
    run = shutil.copytree(unbroken.path, tmp_path / "unbroken")
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    (run / "checkpoint").mkdir()
    refused = zoo_inside("finetune", "--resume", "unbroken", "--no-report")
    assert refused.returncode == 2 and "is finished" in refused.stderr, "nothing is left to do"
    done = zoo_inside("finetune", "--resume", "unbroken")
    assert done.returncode == 0, done.stderr
    assert "unbroken is finished but for its report; nothing is trained again" in done.stdout
    assert "report: unbroken/report.html" in done.stdout and not (run / "checkpoint").exists()
    assert (run / "report.html").read_bytes() == page
    again = zoo_inside("finetune", "--resume", "unbroken")
    assert again.returncode == 2 and "unbroken is finished: there is nothing to resume" in again.stderr


def test_a_failed_proof_still_fails_when_only_the_report_was_missing(unbroken: zoo.Result, tmp_path: Path) -> None:
    run = shutil.copytree(unbroken.path, tmp_path / "run")
    (run / "report.html").unlink()
    for name, key in (("result.json", "proof"), ("proof.json", "verdict")):
        content = json.loads((run / name).read_text("utf-8"))
        content[key] = "failed"
        if "checks" in content:
            content["checks"][0]["verdict"] = "failed"
        (run / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckFailed, match="1 check of the proof failed"):
        zoo.resume(run)
    assert (run / "report.html").exists()


def test_a_finished_run_has_nothing_to_resume(unbroken: zoo.Result) -> None:
    with pytest.raises(Refused, match="is finished: there is nothing to resume"):
        zoo.resume(unbroken.path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--resume", "nowhere"], 1, "There is no run folder 'nowhere'"),
        (["--resume", "."], 1, ". is no run folder: it has no plan.json"),
        (
            ["--resume", "r", "--epochs", "3", "--set", "a.lr=1"],
            2,
            "--resume goes alone, the plan is in r; also given: ",
        ),
        ([], 2, "Missing option '--backbone'"),
    ],
)
def test_what_cannot_be_resumed_is_refused(arguments: list[str], code: int, message: str, zoo_inside: Zoo) -> None:
    done = zoo_inside("finetune", *arguments)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_diverging_loss_ends_a_resumed_run_as_it_ends_an_unbroken_one(
    usual: dict[str, Any], tmp_path: Path, saving_often: None
) -> None:
    burst = {**usual, "set": ["all.lr=1e30", "all.l2_sp=0"]}
    with pytest.raises(CheckFailed) as unbroken:
        zoo.finetune(**burst, out=tmp_path / "whole")
    stop(burst, tmp_path / "run", "last", 3)
    with pytest.raises(CheckFailed) as resumed:
        zoo.resume(tmp_path / "run")
    assert str(resumed.value).replace("/run/", "/whole/") == str(unbroken.value)
    assert re.search(r"Stage 'all', step \d+.* at a learning rate of 1e\+30", str(resumed.value))
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.long
def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_resume(
    usual: dict[str, Any], unbroken: zoo.Result, small_disk: Path, saving_often: None
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"

    def fill(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "last":
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(max(0, free - 100_000)))

    with pytest.raises(RunError, match=r"(?s)takes \d.* MB, \d.* MB are free.*last good checkpoint is intact") as full:
        zoo.finetune(**usual, out=run, on_event=fill)
    assert f"zoo finetune --resume {run}" in str(full.value)
    kept = [each.name for each in (run / "checkpoint").iterdir() if each.suffix == ".safetensors"]
    named = json.loads((run / "checkpoint" / "checkpoint.json").read_text("utf-8"))["files"]
    assert sorted(kept) == sorted(file["name"] for file in named.values())
    filler.unlink()
    zoo.resume(run)
    assert digest(run) == digest(unbroken.path)


@pytest.mark.long
def test_the_random_state_of_torch_does_not_affect_a_resumed_run(
    usual: dict[str, Any], unbroken: zoo.Result, tmp_path: Path, saving_often: None
) -> None:
    stop(usual, tmp_path / "run", "last", 2)
    torch.manual_seed(99)
    torch.rand(3)
    zoo.resume(tmp_path / "run")
    assert digest(tmp_path / "run") == digest(unbroken.path)


@pytest.mark.long
def test_a_terminated_run_says_how_to_resume_it(pictures: Path, tmp_path: Path) -> None:
    killing = Killing(data=pictures, folder=tmp_path)
    run = tmp_path / "run"
    process = subprocess.Popen(killing.command(run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (run / "history.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and f"To resume: zoo finetune --resume {run}" in stderr
    assert "Traceback" not in stderr


class _Sharing(nn.Module):
    """Two blocks that use one convolution and its norm, which the state dict has under three names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, 2), self.shared, nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), self.shared)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.second(self.first(self.stem(images))).mean((2, 3))
        return pooled


def test_a_backbone_whose_blocks_share_a_layer_is_trained_stopped_resumed_and_saved(
    few: Path, tmp_path: Path, saving_often: None
) -> None:
    def build(*, tag: str | None, state: Any) -> zoo.Backbone:
        members = {"stem": ("stem", "shared"), "first": ("first.0",), "second": ("second.0",)}
        groups = tuple(zoo.Group(name=name, members=each) for name, each in members.items())
        return zoo.Backbone(module=_Sharing(), shape=zoo.FeatureShape(pooled=8), groups=groups)

    size = zoo.Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = zoo.BackboneSpec(provider="mine", architecture="sharing", build=build, preprocessing=size)
    stages = [{"name": each, "train": [each], "epochs": 2, "lr": 0.01} for each in ("head", "all", "norm")]
    given: dict[str, Any] = {"data": few, "recipe": {"stages": stages, "keep": "last"}, "batch_size": 4}
    given |= {"weights": "random", "tune": False}
    whole = zoo.finetune(backbone, **given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(backbone, **given, out=tmp_path / "stopped", on_event=Stopping("norm", 2))
    resumed = zoo.resume(tmp_path / "stopped", backbone=backbone)
    assert digest(resumed.path) == digest(whole.path)
    state = load_file(resumed.artefact / "model.safetensors")
    for of_each in ("0.weight", "1.weight", "1.running_mean"):
        places = [state[f"backbone.{place}.{of_each}"] for place in ("shared", "first.1", "second.1")]
        assert torch.equal(places[0], places[1]) and torch.equal(places[0], places[2])
    assert zoo.load(resumed.path, backbone=backbone).classes == resumed.classes


def test_a_checkpoint_whose_folder_cannot_be_flushed_is_whole_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is in place by then, so its files must stay."""

    def fails(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    kept = checkpoint.Checkpoint(tmp_path)
    kept.folder.mkdir()
    kept.save({"step": 0}, {"model": {"weight": torch.full((2,), 0.0)}})
    monkeypatch.setattr(atomic, "sync_folder", fails)
    with pytest.raises(RunError):
        kept.save({"step": 1}, {"model": {"weight": torch.full((2,), 1.0)}})
    saved = checkpoint.Checkpoint(tmp_path).load()
    assert saved is not None and float(saved.parts["model"]["weight"][0]) == saved.facts["step"]
