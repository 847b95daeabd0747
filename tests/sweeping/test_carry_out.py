"""`zoo sweep` from beginning to end on trials of kept features: the winner, stopping and resuming, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.numeric import draw_unequal
from zoo.errors import CheckFailed, DataError, Refused, RunError, ZooError
from zoo.events import Event, Note, Progress

ASKED: dict[str, Any] = {
    "backbone": "timm/test_resnet=random",
    "recipe": "head_only",
    "over": {"head": ["linear", "cosine"], "head.epochs": [2, 3]},
    "seeds": 2,
}


@pytest.fixture(scope="module")
def photos(shapes: Path) -> Path:
    return shapes


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Sweep:
    """A sweep that nothing stopped."""
    return zoo.sweep(data=photos, out=tmp_path_factory.mktemp("sweeps") / "whole", **ASKED)


def stopped_after(count: int, out: Path, photos: Path, **changed: Any) -> list[str]:
    """Stop a sweep as Ctrl-C does, when so many trials have ended -> what it said in the end."""
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            said.append(event.text)
        if isinstance(event, Progress) and event.task == "trials" and event.done == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.sweep(data=photos, out=out, on_event=listen, **{**ASKED, **changed})
    return said


def test_the_winner_is_a_run_with_the_scores_of_its_trial_and_is_judged_once(whole: zoo.Sweep, photos: Path) -> None:
    best = whole.best
    assert len(whole.candidates) == 4 and len(whole.trials) == 8
    means = [each.mean() for each in whole.candidates]
    assert means == sorted(means, reverse=True)
    assert whole.winner_run == whole.folder / "winner" and best.rows[0].seed == 0
    assert dict(whole.winner_val) == dict(best.rows[0].val)
    judged = zoo.evaluate(whole.winner_run, data=photos / "test")
    assert whole.judged["images"] == 12 and whole.judged["accuracy"]["value"] == judged.scores.accuracy
    result = json.loads((whole.winner_run / "result.json").read_text("utf-8"))
    assert "test" not in result["metrics"], "the run itself did not look at it"
    # The same command gives the same classifier.
    settings = best.settings
    again = zoo.finetune(
        "timm/test_resnet",
        weights="random",
        data=f"table:{whole.folder / 'data.csv'}",
        head=settings["head"],
        recipe="head_only",
        set=[f"head.epochs={settings['head.epochs']}"],
        precision="float32",
        tune=False,
        out=whole.folder.parent / "again",
        report=False,
    )
    assert dict(again.metrics["val"]) == dict(whole.winner_val)


def test_the_folder_holds_the_record_the_table_and_the_page(whole: zoo.Sweep) -> None:
    record = json.loads((whole.folder / "sweep.json").read_text("utf-8"))
    assert record == json.loads(json.dumps(whole.to_dict()))
    assert record["candidates_looked_at"] == 4 and record["winner"]["judged"]["images"] == 12
    rows = list(csv.DictReader((whole.folder / "trials.csv").read_text("utf-8").splitlines()))
    assert [int(row["trial"]) for row in rows] == list(range(1, 9))
    assert {row["head"] for row in rows} == {"linear", "cosine"} and all(row["status"] == "done" for row in rows)
    assert not (whole.folder / ".lock").exists()
    page = (whole.folder / "sweep.html").read_text("utf-8")
    assert "nobody selected on" in page and "too good" in page and "https://" not in page


@pytest.mark.long
def test_a_stopped_sweep_keeps_what_is_done_and_ends_as_if_it_had_not_been(
    whole: zoo.Sweep, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    said = stopped_after(3, out, photos)
    assert f"3 of 8 trials are kept in {out}" in said[-1] and f"zoo sweep --resume {out}" in said[-1]
    rows = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "trials").iterdir()}
    assert len(rows) == 3
    found = zoo.sweep(resume=out)
    assert [(row.trial, row.settings, dict(row.val)) for row in found.trials] == [
        (row.trial, row.settings, dict(row.val)) for row in whole.trials
    ]
    assert {
        name: ((out / "trials" / name).stat().st_mtime_ns, (out / "trials" / name).read_bytes()) for name in rows
    } == rows
    assert found.judged == whole.judged
    with pytest.raises(Refused, match="finished"):
        zoo.sweep(resume=out)


@pytest.mark.long
def test_a_winner_that_does_not_have_the_scores_of_its_trial_is_found(photos: Path, tmp_path: Path) -> None:
    stopped_after(8, tmp_path / "sweep", photos)
    for path in (tmp_path / "sweep" / "trials").iterdir():
        row = json.loads(path.read_text("utf-8"))
        row["val"]["loss"] += 1e-6
        path.write_text(json.dumps(row), "utf-8")
    with pytest.raises(CheckFailed, match="differ from those of its trial"):
        zoo.sweep(resume=tmp_path / "sweep")


@pytest.mark.long
def test_a_seed_that_changes_nothing_is_not_tried_again(few: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    _save_weights(weights)
    found = zoo.sweep(
        data=few,
        backbone=f"timm/test_resnet={weights}",
        recipe="head_only",
        over=["head.class_weights=none,balanced", "head=linear"],
        seeds=3,
        out=tmp_path / "sweep",
    )
    assert len(found.trials) == 2 and not any(each.drawn for each in found.candidates)
    assert "the same for all" in str(found.table().rows)


def test_a_head_that_is_solved_in_closed_form_is_tried_once_and_not_once_a_seed(few: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    _save_weights(weights)
    found = zoo.sweep(
        data=few,
        backbone=f"timm/test_resnet={weights}",
        recipe="head_only",
        head="prototype",
        over={},
        seeds=3,
        out=tmp_path / "sweep",
    )
    assert [(len(each.rows), each.drawn) for each in found.candidates] == [(1, False)]


def test_failed_trials_are_told_and_do_not_win(few: Path, tmp_path: Path) -> None:
    over = {"head": "linear", "head.optimizer": "sgd", "head.epochs": 6, "head.lr": [1e30, 1e-2]}
    found = zoo.sweep(data=few, **{**ASKED, "over": over, "seeds": 1}, out=tmp_path / "sweep")
    assert found.best.settings["head.lr"] == "0.01" and found.candidates[-1].failed == 1
    assert "not finite" in found.trials[0].fault
    assert "failed" in (found.folder / "sweep.html").read_text("utf-8")
    with pytest.raises(RunError, match="No candidate succeeded"):
        zoo.sweep(data=few, **{**ASKED, "over": {**over, "head.lr": 1e30}, "seeds": 1}, out=tmp_path / "other")


def test_the_command_says_it_all(few: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    (tmp_path / "sweep.toml").write_text(
        f'data = "{few}"\nbackbone = "timm/test_resnet=random"\nrecipe = "head_only"\ndevice = "cuda:99"\n'
        '[over]\n"head.epochs" = [1, 2]\n'
    )
    words = ("sweep", "sweep.toml", "--over", "head=linear", "--out", "found")
    done = zoo_inside(*words)
    assert done.returncode != 0 and "cuda:99" in done.stderr
    done = zoo_inside(*words, "--device", "auto")
    assert done.returncode == 0, done.stderr
    assert "Winner: " in done.stdout and "nobody selected on" in done.stdout and "too good a number" in done.stdout
    assert "zoo sweep --resume found" in done.stdout
    done = zoo_inside("sweep", "--resume", "found", "--json")
    assert done.returncode == 2 and "finished" in json.loads(done.stdout)["error"]["message"]
    done = zoo_inside("sweep", "sweep.toml", "--on", "rai")
    assert done.returncode == 2 and "Did you mean 'ray'" in done.stderr


Break = Callable[[Path, Path], dict[str, Any]]


def _other_settings(sweep: Path, photos: Path) -> dict[str, Any]:
    return {**ASKED, "data": photos, "seeds": 3}


def _other_values(sweep: Path, photos: Path) -> dict[str, Any]:
    return {**ASKED, "data": photos, "over": {"head": ["linear", "cosine"], "head.epochs": [2, 4]}}


def _changed_image(sweep: Path, photos: Path) -> dict[str, Any]:
    shutil.copy(photos / "train" / "red" / "1.jpg", photos / "train" / "red" / "0.jpg")
    return {}


def _lost_image(sweep: Path, photos: Path) -> dict[str, Any]:
    (photos / "train" / "red" / "0.jpg").unlink()
    return {}


def _other_row(sweep: Path, photos: Path) -> dict[str, Any]:
    path = sweep / "trials" / "00001.json"
    path.write_text(path.read_text("utf-8").replace('"linear"', '"cosine"'), "utf-8")
    return {}


def _damaged_row(sweep: Path, photos: Path) -> dict[str, Any]:
    (sweep / "trials" / "00001.json").write_text("{", "utf-8")
    return {}


def _no_settings(sweep: Path, photos: Path) -> dict[str, Any]:
    (sweep / "settings.json").unlink()
    return {}


def _other_seeds_alone(sweep: Path, photos: Path) -> dict[str, Any]:
    return {"seeds": 3}


def _other_knob_alone(sweep: Path, photos: Path) -> dict[str, Any]:
    return {"head": "linear", "recipe": "head_only"}


def _newer(sweep: Path, photos: Path) -> dict[str, Any]:
    path = sweep / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "format": 9}), "utf-8")
    return {}


@pytest.mark.parametrize(
    ("broken_by", "kind", "said"),
    [
        (_other_settings, Refused, "another sweep:\n  seeds: 2 there, 3 now"),
        (_other_seeds_alone, Refused, "another sweep:\n  seeds: 2 there, 3 now\nNext"),
        (_other_knob_alone, Refused, r"another sweep:\n  head: \['linear', 'cosine'\] there, \['linear'\] now\nNext"),
        (_other_values, Refused, r"head.epochs: \['2', '3'\] there, \['2', '4'\] now"),
        (_changed_image, DataError, r"have changed .*red/0\.jpg"),
        (_lost_image, DataError, r"red/0\.jpg"),
        (_other_row, RunError, "of another trial"),
        (_damaged_row, RunError, "Next: remove it"),
        (_no_settings, RunError, "no folder of a sweep"),
        (_newer, RunError, "format 9"),
    ],
)
def test_another_sweep_or_other_images_are_not_resumed(
    broken_by: Break, kind: type[ZooError], said: str, started: Path, tmp_path: Path
) -> None:
    shutil.copytree(started, tmp_path / "kept")
    try:
        asked = broken_by(started / "sweep", started / "photos")
        with pytest.raises(kind, match=said):
            zoo.sweep(resume=started / "sweep", **asked)
    finally:
        shutil.rmtree(started)
        shutil.copytree(tmp_path / "kept", started)


@pytest.fixture(scope="module")
def started(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and a sweep on them that was stopped after its first trial."""
    folder = tmp_path_factory.mktemp("started")
    shutil.copytree(shapes, folder / "photos")
    stopped_after(1, folder / "sweep", folder / "photos")
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"over": {"head.lr": [0.1, -1]}}, r"Trial 2 \(.*head.lr=-1.*\n.*\n.*--over head\.lr"),
        ({"over": {"head.mixup": [0.2]}}, "would do nothing"),
        ({"over": {"head_option.p": [0.3, 1.5]}, "head": "dropout_linear"}, "Trial 2 .*p"),
        ({"backbone": "timm/test_resnett"}, "Did you mean"),
        ({"head": "prototype", "recipe": "full"}, "closed form"),
        ({"over": {"head.epochs": [0]}}, "at least 1"),
        ({"over": {"input_size": ["32xx"]}}, "is not a size"),
        ({"on": "rayy"}, "Did you mean 'ray'"),
        ({"on": "ray://nowhere"}, "address"),
        ({"at_once": 0}, "at least 1"),
    ],
)
def test_what_no_trial_could_do_is_refused_before_anything_runs(
    changed: dict[str, Any], said: str, few: Path, tmp_path: Path
) -> None:
    asked = {**ASKED, "over": {}, "seeds": 1, **changed}
    with pytest.raises(ZooError, match=said) as refused:
        zoo.sweep(data=few, out=tmp_path / "sweep", **asked)
    assert refused.value.exit_code == 2 and not (tmp_path / "sweep").exists()
    assert "--set" not in str(refused.value), "a sweep has no such option"


def test_a_sweep_that_is_stopped_before_its_images_are_read_leaves_no_folder(few: Path, tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "read images":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.sweep(data=few, out=tmp_path / "sweep", on_event=listen, **ASKED)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"exists already.*\nNext: choose another name.* under sweeps/"):
        zoo.sweep(data=few, out=tmp_path, **ASKED)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(Refused, match=r"Next: zoo sweep --resume .* goes on with the sweep in it; or choose"):
        zoo.sweep(data=few, out=tmp_path, **ASKED)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(RunError, match="Did you mean"):
        (tmp_path / "sweep7").mkdir()
        (tmp_path / "sweep7" / "settings.json").write_text("{}")
        zoo.sweep(resume=tmp_path / "sweep8")


@pytest.mark.long
def test_a_run_that_was_under_way_does_not_go_on_where_its_folder_was_moved(started: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(started / "sweep", tmp_path / "moved"))
    plan = moved / "runs" / "00002" / "plan.json"
    plan.parent.mkdir()
    plan.write_text(json.dumps({"data": {"path": str(tmp_path / "before" / "data.csv")}}))
    with pytest.raises(Refused, match=r"was in .*before when .*00002 was stopped.*\nNext: move the folder back"):
        zoo.sweep(resume=moved)
    shutil.rmtree(plan.parent)
    assert len(zoo.sweep(resume=moved).trials) == 8


def _save_weights(path: Path) -> None:
    from safetensors.torch import save_file
    from timm import create_model

    save_file(create_model("test_resnet", pretrained=False).state_dict(), path)


@pytest.mark.long
def test_files_that_values_name_must_stay_and_are_found_from_anywhere(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = 'summary = "s"\n[[stages]]\nname = "head"\ntrain = ["head"]\nsolver = "gradient"\nepochs = 1\nlr = 1e-2\n'
    (tmp_path / "own.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    stopped_after(1, tmp_path / "sweep", few, recipe="own.toml", over={"head": ["linear", "cosine"]})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "own.toml").write_text(recipe.replace("1e-2", "1e-3"))
    with pytest.raises(Refused, match=r"own\.toml has changed"):
        zoo.sweep(resume=tmp_path / "sweep")
    (tmp_path / "own.toml").write_text(recipe)
    assert len(zoo.sweep(resume=tmp_path / "sweep").trials) == 4


@pytest.mark.long
def test_images_in_memory_are_kept_in_the_folder(shapes: Path, tmp_path: Path) -> None:
    pictures = [(path.read_bytes(), path.parent.name) for path in sorted((shapes / "train").glob("*/*.jpg"))]
    found = zoo.sweep(data=pictures, **{**ASKED, "over": {"head.epochs": 1}, "seeds": 1}, out=tmp_path / "sweep")
    assert found.division["train"] == 24 and len(list((tmp_path / "sweep" / "images").iterdir())) == 36


@pytest.mark.long
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(few: Path, zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.sweeping.kept_features import HeadTrials

    def interrupt(self: HeadTrials, request: object) -> None:
        raise KeyboardInterrupt

    words = ["sweep", "--data", str(few), "--backbone", "timm/test_resnet=random", "--recipe", "head_only"]
    with monkeypatch.context() as patched:
        patched.setattr(HeadTrials, "run", interrupt)
        done = zoo_inside(*words, "--over", "head.epochs=1,2", "--out", "sweep")
    assert done.returncode == 130
    assert "0 of 2 trials are kept in sweep" in done.stderr and "To resume: zoo sweep --resume sweep" in done.stderr
    assert zoo_inside("sweep", "--resume", "sweep").returncode == 0


def test_a_word_is_no_file_that_happens_to_have_its_name(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("head_only", "random"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    over = {"recipe": ["head_only"], "weights": ["random"], "head": ["prototype"]}
    found = zoo.sweep(data=photos, backbone="timm/test_resnet", over=over, seeds=1, out=tmp_path / "sweep")
    assert [row.status for row in found.trials] == ["done"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_unequal(tmp_path_factory.mktemp("uneven") / "data")


def rates(data: Path, out: Path, *choose_by: str, **named: Any) -> zoo.Sweep:
    """A sweep over a rate that is too low to neglect the small class, and one that soon does."""
    over = {"head.lr": ["3e-4", "1e-2"], "head.epochs": [12], "choose_by": list(choose_by)}
    asked: dict[str, Any] = {"backbone": "timm/test_resnet=random", "recipe": "head_only", "head": "linear"}
    return zoo.sweep(data=data, out=out, over=over, **asked, **named)


@pytest.mark.long
def test_the_winner_is_chosen_by_what_the_trials_were_asked_to_choose_by(uneven: Path, tmp_path: Path) -> None:
    plain = rates(uneven, tmp_path / "plain", "loss")
    fair = rates(uneven, tmp_path / "fair", "balanced_loss")
    assert (plain.best.settings["head.lr"], fair.best.settings["head.lr"]) == ("1e-2", "3e-4")
    assert dict(fair.winner_val) == dict(fair.best.rows[0].val) and "balanced_accuracy" in fair.winner_val
    found = zoo.evaluate(fair.winner_run, data=f"table:{fair.folder / 'judged.csv'}")
    recalls = [each.recall.value for each in found.assessment.classes if each.recall is not None]
    assert fair.judged["balanced_accuracy"] == sum(recalls) / 2
    assert "balanced_accuracy" not in plain.judged and set(plain.winner_val) == {"accuracy", "macro_f1", "loss"}


@pytest.mark.long
def test_a_sweep_whose_trials_disagree_goes_by_plain_accuracy_and_says_so(uneven: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def listen(event: Event) -> None:
        told.extend([event.text] if isinstance(event, Note) and event.loud else [])

    found = rates(uneven, tmp_path / "mixed", "loss", "balanced_loss", on_event=listen)
    assert found.best.settings["head.lr"] == "1e-2"
    (said,) = (each for each in told if "choose_by" in each)
    assert said.startswith("In 2 of 4 trials choose_by lets every class count the same")
    assert said.endswith(
        "Next: to compare them as if every class had equally many images, one kind of choose_by for all: "
        "--over choose_by=balanced_loss."
    )


@pytest.mark.long
def test_a_sweep_with_rows_of_an_older_zoo_goes_on_by_plain_accuracy_and_says_so(uneven: Path, tmp_path: Path) -> None:
    out = tmp_path / "before"

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "trials" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rates(uneven, out, "balanced_loss", on_event=stop)
    for path in (out / "trials").glob("*.json"):
        row = json.loads(path.read_text("utf-8"))
        del row["val"]["balanced_accuracy"], row["val"]["balanced_loss"]
        path.write_text(json.dumps(row), "utf-8")
    told: list[str] = []
    found = zoo.sweep(resume=out, on_event=lambda event: told.append(getattr(event, "text", "")))
    assert found.best.settings["head.lr"] == "1e-2"
    assert any(each.startswith("Candidates are compared by plain accuracy") for each in told)
