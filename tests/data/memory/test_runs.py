"""Runs on objects: said in words in the plan, gone on with and verified where the same images are given again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from tests.conftest import Zoo
from tests.data.memory.kinds import Mapped, without_paths
from zoo.errors import DataError, OptionError, Refused
from zoo.events import Event, StageStarted
from zoo.registry.registry import default_registry
from zoo.training.stored_plan import read_plan

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only"}
Pairs = tuple[list[tuple[Any, str]], list[tuple[Any, str]]]


@pytest.fixture(scope="module")
def pairs(few: Path) -> Pairs:
    arrays: Pairs = without_paths(few)["arrays"]
    return arrays


@pytest.fixture(scope="module")
def others(pairs: Pairs) -> Pairs:
    """The same names and labels, and another picture in one place."""
    train, val = pairs
    return [(255 - train[0][0], train[0][1]), *train[1:]], val


@pytest.fixture(scope="module")
def run(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.finetune(**USUAL, data=pairs, out=tmp_path_factory.mktemp("runs") / "run").path


def steps_of(run: Path, **given: Any) -> str:
    return next(check.verdict for check in zoo.verify(run, **given).checks if check.name == "first_steps")


def pictures_in(page: Path) -> int:
    return page.read_text("utf-8").count("data:image/jpeg")


def test_the_plan_says_in_words_and_by_digest_what_the_data_were(run: Path, pairs: Pairs) -> None:
    data = json.loads((run / "plan.json").read_text("utf-8"))["data"]

    assert data["source"] == data["path"] == "train: a list of 8 images; val: a list of 4 images"
    assert data["reader"] == "session/data" and data["images"] == {"train": [4, 4], "val": [2, 2]}
    assert data["digest"] == zoo.plan(**USUAL, data=pairs).data.digest


def test_the_digest_is_of_the_pixels_whatever_holds_them(run: Path, few: Path) -> None:
    held = without_paths(few)
    stored = read_plan(run).data.digest
    assert zoo.plan(**USUAL, data=held["tensors"]).data.digest == stored
    assert zoo.plan(**USUAL, data=held["torch"]).data.digest == stored


@pytest.mark.long
def test_verify_repeats_the_steps_on_the_same_object_alone(run: Path, pairs: Pairs, others: Pairs, few: Path) -> None:
    assert zoo.verify(run, data=pairs).passed and steps_of(run, data=pairs) == "passed"
    assert zoo.verify(run, data=without_paths(few)["tensors"]).passed
    assert not zoo.verify(run, data=others).passed
    assert zoo.verify(run).passed and steps_of(run) == "warning"
    with pytest.raises(OptionError, match=r"was trained on an object in Python .*\nNext: give the same object again"):
        zoo.verify(run, data=few)


def test_the_report_has_pictures_where_the_same_object_is_given(run: Path, pairs: Pairs, others: Pairs) -> None:
    at_its_end = pictures_in(run / "report.html")
    assert at_its_end > 0 and pictures_in(zoo.report(run)) == 0
    page = (run / "report.html").read_text("utf-8")
    assert "the images were an object in Python" in page and "zoo.finetune(\n    &#39;timm/test_resnet" in page
    with pytest.raises(DataError, match=r"These are not the images of .*\nNext: give the same images"):
        zoo.report(run, data=others)
    assert pictures_in(zoo.report(run, data=pairs)) == at_its_end


def test_the_call_in_the_report_repeats_the_run(run: Path, pairs: Pairs, tmp_path: Path) -> None:
    from zoo.reporting.command import as_python, command_of

    plan = read_plan(run)
    call = as_python(command_of(plan, default_registry()), plan)
    again = eval(call.removesuffix(")") + f"out={str(tmp_path / 'again')!r})", {"zoo": zoo, "data": pairs})

    one, other = ((folder / "model" / "model.safetensors").read_bytes() for folder in (run, again.path))
    assert one == other


def test_commands_on_such_a_run_say_what_they_lack_and_do_not_fail(run: Path, zoo_inside: Zoo) -> None:
    verified, reported = zoo_inside("verify", run), zoo_inside("report", run)
    assert verified.returncode == 0 and "zoo.verify(RUN, data=...)" in " ".join(verified.stdout.split())
    assert reported.returncode == 0
    refused = zoo_inside("plan", "--backbone", "timm/test_resnet", "--data", "session/data:a list")
    assert refused.returncode == 2 and "were an object in Python (a list)" in refused.stderr


def test_a_stopped_run_goes_on_where_the_same_images_are_given(
    run: Path, pairs: Pairs, others: Pairs, tmp_path: Path
) -> None:
    notes: list[str] = []

    def stop(event: Event) -> None:
        notes.append(str(getattr(event, "text", "")))
        if isinstance(event, StageStarted):
            raise KeyboardInterrupt

    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(**USUAL, data=pairs, out=stopped, on_event=stop)
    steps = [note.rpartition(": ")[2] for note in notes if "esume: " in note or "is stopped: " in note]
    assert steps == [f"zoo.resume({str(stopped)!r}, data=data)"] * 2
    with pytest.raises(Refused, match=r"were an object in Python .*\nNext: give the same object in Python: zoo.resume"):
        zoo.resume(stopped)
    with pytest.raises(Refused, match=r"data\.digest"):
        zoo.resume(stopped, data=others)
    resumed = eval(steps[-1].removesuffix(")") + ", report=False)", {"zoo": zoo, "data": pairs})

    one, other = ((path / "model" / "model.safetensors").read_bytes() for path in (run, resumed.path))
    assert one == other


@pytest.mark.long
def test_runs_on_one_object_with_drawn_splits_are_compared_where_it_is_given(pairs: Pairs, tmp_path: Path) -> None:
    images = [*pairs[0], *pairs[1]]
    # Seeds whose drawn validation images have one in common with those of the first.
    one, other, third = (
        zoo.finetune(**USUAL, data=images, seed=seed, out=tmp_path / str(seed), report=False) for seed in (0, 2, 3)
    )
    with pytest.raises(Refused, match=r"which no name finds again.\nNext: .* zoo.compare\(RUN, RUN, data=\.\.\.\)"):
        zoo.compare(one, other)
    with pytest.raises(Refused, match=r"were an object in Python .* and the data given are others"):
        zoo.compare(one, other, data=pairs)
    found = zoo.compare(one, other, third, data=images)
    assert found.seeds == (0, 2, 3) and [pair.tested[0].outcomes.images for pair in found.against] == [1, 1]
    with pytest.raises(OptionError, match=r"not as a list.\nNext: zoo.compare\(\*runs\)"):
        zoo.compare([one, other])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"what has a path is found by it.\nNext: leave data out"):
        zoo.compare(one, other, data=tmp_path)


def test_a_run_on_files_is_compared_with_one_on_their_pictures_in_memory(
    few: Path, pairs: Pairs, run: Path, tmp_path: Path
) -> None:
    of_files = zoo.finetune(**USUAL, data=few, out=tmp_path / "of_files", report=False)
    with pytest.raises(Refused, match=r"zoo.compare\(RUN, RUN, data=\.\.\.\)"):
        zoo.compare(of_files, run)
    (against,) = zoo.compare(of_files, run, data=pairs).against
    assert {each.split: each.outcomes.images for each in against.tested} == {"val": len(pairs[1])}
    assert against.same_images and against.tested[0].outcomes.difference == 0


def test_a_run_on_a_folder_takes_no_object(few: Path, pairs: Pairs, tmp_path: Path) -> None:
    folder = zoo.finetune(**USUAL, data=few, out=tmp_path / "folder", report=False).path
    with pytest.raises(OptionError, match=r"which is found by its path.\nNext: leave data out"):
        zoo.report(folder, data=pairs)


def test_every_function_that_takes_data_takes_objects(run: Path, pairs: Pairs) -> None:
    _, val = pairs
    assert zoo.evaluate(run, data=val).split == "all"
    assert zoo.evaluate(run, data={"test": val}).split == "test"
    assert zoo.check_data(pairs).path == "train: a list of 8 images; val: a list of 4 images"
    request = zoo.Request(backbone="timm/test_resnet", weights="random", data=pairs)  # type: ignore[arg-type]
    assert zoo.plan(request).data.images == {"train": [4, 4], "val": [2, 2]}


@pytest.mark.long
def test_so_does_every_function_that_looks_at_data_before_a_run() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 40, 3), dtype=np.uint8)
    images = [(image, "ab"[index % 2]) for index, image in enumerate(noise)]
    assert zoo.check_labels(images, "timm/test_resnet", weights="random").data == "a list of 24 images"
    assert zoo.learning_curve(images, "timm/test_resnet", weights="random").data == "a list of 24 images"
    found = zoo.shortlist(images, backbones="timm/test_resnet=random", tune=False)
    assert found.data == "a list of 24 images"
    with pytest.raises(OptionError, match=r"these data are an object in memory.\nNext: change its labels yourself"):
        zoo.apply_suspects(images, "suspects.csv", "new.csv")  # type: ignore[arg-type]
    assert found.best.command == "zoo.finetune('timm/test_resnet', data=data, weights='random')"


def test_a_data_set_that_is_not_safe_for_threads_is_asked_by_one_at_a_time(pairs: Pairs) -> None:
    train = pairs[0]
    inside: list[int] = []

    def give(index: int) -> Any:
        assert not inside, "two threads at once"
        inside.append(index)
        try:
            return train[index]
        finally:
            inside.pop()

    assert zoo.plan(**USUAL, data=Mapped(give, 8), workers=4).data.skipped == ()
