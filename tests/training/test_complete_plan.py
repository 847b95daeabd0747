"""A plan of many images opens a part of them, and the run that it begins ends as if all had been opened at once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.kills import digest
from tests.numeric import draw_few
from zoo.data import file_index
from zoo.data.dataset import ImageFile
from zoo.data.drawn_part import draw_part
from zoo.data.folder import read_folder
from zoo.errors import DataError, OptionError, Refused
from zoo.events import Event, Note, PlanReady, Progress, RunStarted, StageStarted
from zoo.training.stored_plan import read_plan

PART, ALL = 20, 1000
RECIPE = """
summary = "Cached features first, then every step on images that are augmented."
[[stages]]
name = "head"
train = ["head"]
epochs = 2
lr = 1e-2

[[stages]]
name = "all"
train = ["all"]
epochs = 1
lr = 1e-3
augment = "crop"
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """104 pictures: one that cannot be read is below one in a hundred, two are above."""
    return draw_few(tmp_path_factory.mktemp("drawn") / "data", train=40, val=12)


@pytest.fixture
def pictures(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "pictures"))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = tmp_path_factory.mktemp("recipe") / "two.toml"
    recipe.write_text(RECIPE, "utf-8")
    model = {"backbone": "timm/test_resnet", "weights": "random", "input_size": 32}
    return {**model, "recipe": str(recipe), "tune": False}


@pytest.fixture(scope="module")
def damaged(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures, but for one that cannot be read and that a plan of a part does not open."""
    data = Path(shutil.copytree(drawn, tmp_path_factory.mktemp("damaged") / "data"))
    (bad,) = unopened(data, 1)
    bad.write_bytes(bad.read_bytes()[:200])
    return data


@pytest.fixture(scope="module")
def whole(damaged: Path, usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on them for which all were opened first."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    zoo.finetune(**usual, data=damaged, examine=ALL, out=run, report=False)
    return run


def unopened(data: Path, count: int) -> list[Path]:
    """Images that a plan of `PART` images does not open."""
    dataset = read_folder(data, seed=0)
    opened = {file.relative for files in draw_part(dataset, PART, seed=0).values() for file in files}
    return [file.path for files in dataset.splits.values() for file in files if file.relative not in opened][:count]


class Listening:
    """Keeps the events of a run, and ends it, as Ctrl-C does, at the first that `ends` says."""

    def __init__(self, ends: Any = lambda event: False) -> None:
        self.events: list[Event] = []
        self._ends = ends

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self._ends(event):
            raise KeyboardInterrupt

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def notes(self) -> list[str]:
        return [note.text for note in self.of(Note)]


def same_files(run: Path, other: Path) -> bool:
    same = [(run / name).read_bytes() == (other / name).read_bytes() for name in ("plan.json", "predictions.csv")]
    return digest(run) == digest(other) and all(same)


def test_a_run_has_the_bytes_that_it_has_when_all_images_are_opened_first(
    drawn: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    zoo.finetune(**usual, data=drawn, examine=ALL, out=tmp_path / "whole", report=False)
    told = Listening()
    zoo.finetune(**usual, data=drawn, examine=PART, out=tmp_path / "run", report=False, on_event=told)
    assert same_files(tmp_path / "run", tmp_path / "whole")
    assert "All 104 images were opened, and all can be read." in told.notes
    # Each was opened once.
    opened = [event.done for event in told.of(Progress) if event.task == "decode"]
    assert opened == [*range(1, PART + 1), *range(PART + 1, 104 + 1)]


def test_so_it_has_with_images_that_cannot_be_read_among_those_that_are_opened_later(
    damaged: Path, whole: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    told = Listening()
    run = tmp_path / "run"
    zoo.finetune(**usual, data=damaged, examine=PART, out=run, report=False, on_event=told)
    assert same_files(run, whole)
    (shown,), (started,) = told.of(PlanReady), told.of(RunStarted)
    assert shown.plan.data.examined.model_dump() == {"images": PART, "of": 104}
    assert shown.plan.data.skipped == () and sum(shown.plan.data.images["train"]) == 80
    assert shown.plan.data.digest.startswith("part:") and not started.plan.data.digest.startswith("part:")
    assert started.plan == read_plan(run) and started.plan.data.examined is None
    ((file, reason, _),) = started.plan.data.skipped
    assert reason == "unreadable" and sum(started.plan.data.images["train"]) == 79
    (said,) = [note for note in told.notes if note.startswith("All 104 images were opened")]
    assert f"1 of them cannot be read and is left out, so 103 are used: {file} (" in said


def test_a_choice_that_the_images_change_is_told(
    damaged: Path, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))  # in which no image was opened before
    needed = zoo.plan(**usual, data=damaged, examine=PART).stages[0].kept_bytes
    # Room for one image less than names tell, and one cannot be read.
    monkeypatch.setattr("zoo.frozen.decision.MEMORY_BUDGET", needed - 1)
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "1KB")
    told = Listening()
    run = tmp_path / "run"
    zoo.finetune(**usual, data=damaged, examine=PART, out=run, report=False, on_event=told)
    ((shown,), (started,)) = (
        [plan.stages[0].inputs for plan in (each.plan for each in told.of(kind))] for kind in (PlanReady, RunStarted)
    )
    assert (shown, started) == ("images", "features")
    notes = [note for note in told.notes if "differs from the plan that was shown" in note]
    assert notes == [
        "Now that all are known, stage 'head' differs from the plan that was shown: "
        "cached features, not images in every epoch"
    ]


@pytest.mark.parametrize(
    "ends",
    [
        lambda event: isinstance(event, Progress) and event.task == "decode" and event.done == 60,
        lambda event: isinstance(event, StageStarted) and event.stage == "all",
    ],
    ids=["while the rest is opened", "after it"],
)
def test_a_stopped_run_is_resumed_to_the_same_bytes(
    ends: Any, damaged: Path, whole: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    told = Listening(ends)
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**usual, data=damaged, examine=PART, out=run, report=False, on_event=told)
    assert told.notes[-1] == f"Stopped. To resume: zoo finetune --resume {run}"
    again = Listening()
    zoo.resume(run, on_event=again, report=False)
    assert same_files(run, whole)
    (started,) = again.of(RunStarted)
    assert started.resumed and started.plan == read_plan(run)


@pytest.mark.parametrize("change", ["opened", "size of another", "gone"])
def test_a_run_that_was_stopped_while_the_rest_was_opened_is_not_resumed_on_other_images(
    change: str, pictures: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(
            **usual,
            data=pictures,
            examine=PART,
            out=run,
            report=False,
            on_event=Listening(lambda event: isinstance(event, Progress) and event.done == 60),
        )
    (other,) = unopened(pictures, 1)
    opened = next(path for path in (pictures / "train" / "a").iterdir() if path not in unopened(pictures, 104))
    if change == "opened":
        content = bytearray(opened.read_bytes())
        content[-10] ^= 1
        opened.write_bytes(content)
    elif change == "gone":
        other.unlink()
    else:
        shutil.copy(opened, other)
    with pytest.raises(Refused, match=r"cannot be resumed: its plan differs.*\n.*data\.digest: \"part:"):
        zoo.resume(run)


def test_too_many_that_cannot_be_read_stop_a_run_with_their_list_and_leave_no_folder(
    pictures: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    bad = unopened(pictures, 2)
    for path in bad:
        path.write_bytes(b"no picture")
    told = Listening()
    with pytest.raises(DataError, match="2 of 104 images cannot be read; over 1% is a fault of the data") as refused:
        zoo.finetune(**usual, data=pictures, examine=PART, out=tmp_path / "run", on_event=told)
    assert all(path.name in str(refused.value) for path in bad)
    assert not (tmp_path / "run").exists() and not any("To resume" in note for note in told.notes[1:])
    assert told.of(PlanReady) and not told.of(RunStarted)
    for path in bad:
        path.unlink()  # the next step that the message names
    zoo.finetune(**usual, data=pictures, examine=PART, out=tmp_path / "run", report=False)


def test_a_class_without_a_readable_image_stops_a_run(pictures: Path, usual: dict[str, Any], tmp_path: Path) -> None:
    only, *others = sorted((pictures / "val" / "b").iterdir())
    for path in others:
        path.unlink()
    for number in range(len(others)):  # so that one in all is still below one in a hundred
        shutil.copy(pictures / "val" / "a" / f"{number}.jpg", pictures / "val" / "a" / f"again {number}.jpg")
    only.write_bytes(b"no picture")
    with pytest.raises(DataError, match="No readable image is left of b in val"):
        zoo.finetune(**usual, data=pictures, examine=PART, out=tmp_path / "run")


def test_folds_open_all_at_once(pictures: Path, usual: dict[str, Any]) -> None:
    plan = zoo.plan(**usual | {"recipe": "head_only"}, data=pictures, examine=PART, folds=2)
    assert plan.data.examined is None and plan.folds is not None


def test_an_estimate_is_measured_on_the_images_that_were_opened(
    pictures: Path, usual: dict[str, Any], zoo_inside: Zoo
) -> None:
    for path in unopened(pictures, 104):
        path.write_bytes(b"no picture")
    words = ["--backbone", "timm/test_resnet", "--weights", "random", "--recipe", usual["recipe"], "--data", pictures]
    words += ["--input-size", "32"]
    told = zoo_inside("plan", *words, "--examine", PART, "--estimate")
    assert told.returncode == 0, told.stderr
    flat = " ".join(told.stdout.split())
    assert "20 of 104 images, drawn by seed 0" in flat and "looked for in these alone" in flat
    assert "Measured on the 20 images that were opened, and scaled up to 104." in flat
    document = json.loads(zoo_inside("plan", *words, "--examine", PART, "--json").stdout)
    assert document["data"]["examined"] == {"images": 20, "of": 104}


def test_a_plan_warns_of_what_would_stop_its_run(pictures: Path, usual: dict[str, Any]) -> None:
    opened = [path for path in (pictures / "train" / "a").iterdir() if path not in unopened(pictures, 104)]
    opened[0].write_bytes(b"no picture")
    plan = zoo.plan(**usual, data=pictures, examine=PART)
    (said,) = [each for each in plan.warnings if "cannot be read" in each]
    assert said.startswith(
        "1 of the 20 images that were opened cannot be read. If that holds for all 104, the run stops"
    )


def test_files_without_a_byte_are_found_wherever_they_are(
    pictures: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    (empty,) = unopened(pictures, 1)
    empty.write_bytes(b"")
    plan = zoo.plan(**usual, data=pictures, examine=PART)
    assert plan.data.examined is not None and plan.data.examined.images == PART
    ((file, reason, _),) = plan.data.skipped
    assert (pictures / file, reason) == (empty, "unreadable") and sum(plan.data.images["train"]) == 79
    assert not any("cannot be read" in each for each in plan.warnings)  # it says nothing of the others
    told = Listening()
    zoo.finetune(**usual, data=pictures, examine=PART, out=tmp_path / "run", report=False, on_event=told)
    opened = [event.done for event in told.of(Progress) if event.task == "decode"]
    assert opened == [*range(1, PART + 2), *range(PART + 2, 104 + 1)]


def test_copies_in_a_part_are_said_to_be_of_the_part(pictures: Path, usual: dict[str, Any]) -> None:
    for path in (pictures / "val" / "a").iterdir():
        shutil.copy(pictures / "train" / "a" / "0.jpg", path)
    for path in (pictures / "train" / "a").iterdir():
        if path.name != "0.jpg":
            shutil.copy(pictures / "train" / "a" / "0.jpg", path)
    plan = zoo.plan(**usual, data=pictures, examine=PART)
    assert any(each.startswith("Of 20 images that were opened, 1 picture is in more") for each in plan.warnings)


def test_what_was_read_before_is_not_read_again_for_a_plan(
    pictures: Path, usual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_index, "SETTLED", 0.0)
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    first = zoo.plan(**usual, data=pictures, examine=PART)
    whole = zoo.plan(**usual, data=pictures, examine=ALL)
    time.sleep(0.02)
    changed = pictures / "train" / "a" / "7.jpg"
    changed.write_bytes((pictures / "train" / "a" / "8.jpg").read_bytes())
    read: list[str] = []
    content = ImageFile.content

    def watched(file: ImageFile) -> bytes:
        read.append(file.relative)
        return content(file)

    monkeypatch.setattr(ImageFile, "content", watched)
    again = zoo.plan(**usual, data=pictures, examine=PART)
    # All but one are known, so the plan is one of all images, though no more than 20 may be opened.
    assert read == ["train/a/7.jpg"]
    assert first.data.examined is not None and whole.data.examined is None and again.data.examined is None
    assert again.data.digest != whole.data.digest
    # A run reads what it uses.
    read.clear()
    run = zoo.finetune(**usual, data=pictures, examine=PART, out=tmp_path / "run", report=False)
    assert len(set(read)) == 104 and read_plan(run.folder).data.digest == again.data.digest


def test_fewer_than_ten_are_refused_and_the_next_step_holds(pictures: Path, usual: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="examine must be at least 10, got 3") as refused:
        zoo.plan(**usual, data=pictures, examine=3)
    assert "a number above that of all images opens all" in str(refused.value)
    assert zoo.plan(**usual, data=pictures, examine=105).data.examined is None


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_while_it_opens_the_rest_is_resumed_to_the_same_bytes(
    number: signal.Signals, damaged: Path, whole: Path, usual: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    slow = (
        "import time; from zoo.data.dataset import ImageFile; content = ImageFile.content\n"
        "def slowly(file): time.sleep(0.1); return content(file)\n"
        "ImageFile.content = slowly\n"
        "from zoo.cli.main import main; main()"
    )
    words = ["--backbone", "timm/test_resnet", "--weights", "random", "--recipe", usual["recipe"], "--no-tune"]
    words += ["--data", str(damaged), "--examine", str(PART), "--out", str(run), "--workers", "1", "--input-size", "32"]
    process = subprocess.Popen([sys.executable, "-c", slow, "finetune", *words], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (run / "plan.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert f"Interrupted.\nStopped. To resume: zoo finetune --resume {run}" in said
    assert read_plan(run).data.examined is not None
    zoo.resume(run, report=False)
    assert digest(run) == digest(whole)  # the plans differ in the number of threads that decode
