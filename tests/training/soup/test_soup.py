"""`zoo soup`: the greedy average of real small runs, its proof, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.conftest import Zoo
from tests.numeric import draw_few, draw_unequal
from torch import Tensor
from zoo.artefact.config import sealed
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.file_index import FileIndex, stamp_of
from zoo.data.store import ImageStore
from zoo.errors import ArtefactError, CheckFailed, DataError, Refused, RunError, ZooError
from zoo.evaluation.metrics import Scores
from zoo.storage.tensors import file_digest, same_bits, tensors_digest
from zoo.training.soup.average import average_of, by_quality, choose_greedily, not_worse
from zoo.training.soup.average_checks import check_average, check_ingredients, check_not_worse, check_unchanged
from zoo.training.soup.judge import Judge

USUAL: dict[str, Any] = {
    "backbone": "timm/test_resnet",
    "weights": "random",
    "recipe": "lp_ft",
    "epochs": 2,
    "tune": False,
    "report": False,
}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_few(tmp_path_factory.mktemp("images") / "data")
    shutil.copytree(root / "val", root / "test")
    return root


@pytest.fixture(scope="module")
def kept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps its last stage, which trains everything."""
    out = tmp_path_factory.mktemp("kept") / "run"
    return zoo.finetune(**USUAL, data=data, set=["keep=last", "all.batch_norm=train"], out=out).path


@pytest.fixture(scope="module")
def more(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real second run: the same head, another rate after it."""
    out = tmp_path_factory.mktemp("more") / "more"
    settings = ["keep=last", "all.batch_norm=train", "all.lr=1e-3"]
    return zoo.finetune(**USUAL, data=data, set=settings, out=out).path


def write_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def edit_plan(run: Path, *keys: str, value: Any) -> None:
    """Another value in `plan.json`, at the path of these keys."""
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    inner = plan
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (run / "plan.json").write_text(json.dumps(plan), "utf-8")


def edit_config(run: Path, **values: Any) -> None:
    """Other values in the config of a run's classifier, under its seal."""
    config = run / "model" / "config.json"
    config.write_text(json.dumps(sealed({**json.loads(config.read_text("utf-8")), **values})), "utf-8")


def change_tensors(run: Path, change: Callable[[Tensors], None]) -> None:
    """Other tensors in a run's classifier, under the right digest."""
    path = run / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    edit_config(run, digest=file_digest(path))


def variant(run: Path, out: Path, change: Callable[[Tensors], None], data: Path) -> Path:
    """A copy of a run with other weights, and the scores that these have: as if it had been trained so."""
    shutil.copytree(run, out)
    change_tensors(out, change)
    scored = zoo.evaluate(out, data=data, device="cpu").scores  # test holds the images of val
    metrics = {"val": scored.to_dict()}
    write_json(out / "result.json", metrics=metrics)
    return out


def first_norm(tensors: Tensors) -> str:
    return next(name.removesuffix(".running_mean") for name in tensors if name.endswith(".running_mean"))


def shifted(by: float) -> Callable[[Tensors], None]:
    """Move the decision between the two classes, a batch norm's running mean, and its count of batches."""

    def change(tensors: Tensors) -> None:
        norm = first_norm(tensors)
        tensors["head.fc.bias"] += torch.tensor([by, -by])
        tensors[f"{norm}.running_mean"] += by * 1e-4
        tensors[f"{norm}.num_batches_tracked"] += int(abs(by) + by)

    return change


@pytest.fixture(scope="module")
def off_centre(kept: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs around a good one: too far to one side, too far to the other, and much too far."""
    folder = tmp_path_factory.mktemp("variants")
    return [variant(kept, folder / name, shifted(by), data) for name, by in (("left", 2), ("right", -2), ("far", 50))]


@pytest.fixture(scope="module")
def soup(off_centre: list[Path], tmp_path_factory: pytest.TempPathFactory) -> zoo.Soup:
    return zoo.soup(off_centre, out=tmp_path_factory.mktemp("made") / "deep" / "soup", device="cpu")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def checks_of(soup: Path) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in json.loads((soup / "proof.json").read_text("utf-8"))["checks"]}


def test_a_stage_of_the_head_alone_records_the_head_that_it_ends_with(data: Path, tmp_path: Path) -> None:
    run = zoo.finetune(**{**USUAL, "recipe": "head_only"}, data=data, out=tmp_path / "run")
    tensors = load_file(run.path / "model" / "model.safetensors")
    head = {name.removeprefix("head."): each for name, each in tensors.items() if name.startswith("head.")}
    assert run.content["stages"][0]["head_digest"] == tensors_digest(head)


@pytest.mark.long
def test_it_is_the_same_whatever_comes_after_and_other_with_another_seed(
    kept: Path, more: Path, data: Path, tmp_path: Path
) -> None:
    def recorded(run: Path) -> list[str | None]:
        stages = json.loads((run / "result.json").read_text("utf-8"))["stages"]
        return [stage.get("head_digest") for stage in stages]

    other = zoo.finetune(**{**USUAL, "recipe": "head_only"}, data=data, seed=1, out=tmp_path / "other").path
    assert recorded(kept) == recorded(more) and recorded(kept)[1] is None
    assert recorded(other)[0] not in (None, recorded(kept)[0])


@pytest.mark.long
def test_what_makes_the_average_better_is_added_and_nothing_else(
    off_centre: list[Path], kept: Path, tmp_path: Path
) -> None:
    before = [digests(run) for run in off_centre]
    notes: list[str] = []
    soup = zoo.soup(off_centre, out=tmp_path / "soup", on_event=lambda event: notes.append(note(event)))
    assert sorted(soup.added) == ["left", "right"] and soup.ingredients[-1]["name"] == "far"
    assert soup.metrics["val"]["loss"] < min(each["metrics"]["val"]["loss"] for each in soup.ingredients)
    assert set(soup.metrics) == {"val", "test"} and soup.metrics["test"] == soup.metrics["val"]
    # Half way between the two lies the run that they were made from.
    saved = load_file(soup.artefact / "model.safetensors")
    norm = first_norm(saved)
    averaged = {"head.fc.bias", f"{norm}.running_mean"}
    count = f"{norm}.num_batches_tracked"
    for name, tensor in load_file(kept / "model" / "model.safetensors").items():
        if name != count:
            torch.testing.assert_close(saved[name], tensor, rtol=0, atol=1e-6 if name in averaged else 0)
    best = load_file(next(run for run in off_centre if run.name == soup.added[0]) / "model" / "model.safetensors")
    assert saved[count] == best[count]
    assert soup.content["batch_norms_averaged"] == 1 and any(
        "1 batch norm moved in these runs" in each for each in notes
    )
    assert soup.proof == "passed" and checks_of(soup.path) == {
        **dict.fromkeys(["ingredients", "not_worse", "soup_average", "unchanged_tensors", "saved_file"], "passed"),
        "better_than_guessing": checks_of(soup.path)["better_than_guessing"],
    }
    assert [digests(run) for run in off_centre] == before


@pytest.mark.long
def test_it_is_a_folder_like_a_run_s(
    soup: zoo.Soup, off_centre: list[Path], data: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    assert {path.name for path in soup.path.iterdir()} == {
        *("soup.json", "proof.json", "evaluation.json", "predictions.csv", "model")
    }
    assert [path for path in soup.path.parent.iterdir()] == [soup.path]
    assert json.loads((soup.path / "soup.json").read_text("utf-8")) == soup.content
    config = json.loads((soup.path / "model" / "config.json").read_text("utf-8"))
    assert [each["name"] for each in config["sources"]] == soup.added and config["recipe"] == "soup"
    assert config["sources"][0]["digest"] == soup.ingredients[0]["digest"]
    card = (soup.path / "model" / "README.md").read_text("utf-8")
    assert "| average of | " in card and "left" in card and "right" in card
    assert zoo.verify(soup.path).passed and soup.classifier().classes == ("a", "b")
    assert zoo.evaluate(soup.path, data=data, device="cpu").scores.to_dict() == soup.metrics["test"]
    rows = list(csv.DictReader((soup.path / "predictions.csv").open(encoding="utf-8")))
    shown = zoo.load(soup.path).predict([data / row["file"] for row in rows])
    assert [each.label for each in shown] == [row["predicted"] for row in rows]
    assert zoo.export(soup.path, to="pt2", out=tmp_path / "soup.pt2").path.exists()
    for command in (
        ["report", soup.path],
        ["compare", soup.path, off_centre[0]],
        ["finetune", "--resume", soup.path],
    ):
        done = zoo_inside(*command)
        assert done.returncode in (1, 2) and "is a soup of runs" in done.stderr


def test_copies_among_images_that_a_run_has_read_count_once(kept: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one.jpg", "same.jpg"):
        shutil.copy(data / "test" / "a" / "0.jpg", tmp_path / name)
    shutil.copy(data / "test" / "b" / "0.jpg", tmp_path / "other.jpg")
    files = tuple(ImageFile(path, path.name, 0) for path in sorted(tmp_path.glob("*.jpg")))
    model = zoo.load(kept).model
    with contextlib.closing(ImageStore(model.preprocessing, workers=1)) as store:
        dataset = Dataset(source="some", classes=("a", "b"), splits={"test": files})
        judge = Judge(model=model, dataset=dataset, store=store, chunk=4, report=lambda event: None)
        logits = judge.logits("test", "evaluate test")
        assert judge.evaluated("test", logits).copies is None, "nobody has read them before"
        stamps = [(file, stamp_of(file)) for file in files]
        FileIndex().add({str(file.path): (stamp, file_digest(file.path)) for file, stamp in stamps if stamp})
        found = judge.evaluated("test", logits).copies
    assert found is not None and found.counted().to_dict() == {"images": 2, "pictures": 1, "effective_images": 9 / 5}


def test_real_runs_make_one_and_it_does_not_depend_on_their_order(kept: Path, more: Path, tmp_path: Path) -> None:
    one = zoo.soup([kept, more], out=tmp_path / "one", device="cpu")
    two = zoo.soup([more, kept], out=tmp_path / "two", device="cpu", workers=1)
    assert digests(one.path / "model") == digests(two.path / "model") and one.proof == "passed"
    best = one.ingredients[0]["metrics"]["val"]
    assert one.content["start"]["head_digest"] and len(one.ingredients) == 2
    assert (one.metrics["val"]["accuracy"], -one.metrics["val"]["loss"]) >= (best["accuracy"], -best["loss"])


@pytest.mark.long
def test_where_no_average_is_as_good_it_is_the_best_run_alone_and_says_so(
    kept: Path, data: Path, tmp_path: Path
) -> None:
    runs = [kept, variant(kept, tmp_path / "far", shifted(50), data)]
    notes: list[str] = []
    soup = zoo.soup(runs, out=tmp_path / "soup", on_event=lambda event: notes.append(loud(event)))
    assert soup.added == ["run"] and soup.proof == "passed"
    assert any(note.startswith("No average was as good on the validation images as run alone") for note in notes)
    assert digests(soup.path / "model")["model.safetensors"] == digests(kept / "model")["model.safetensors"]


@pytest.mark.long
def test_a_run_with_the_weights_of_another_counts_once(off_centre: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(off_centre[0], tmp_path / "copy"))
    notes: list[str] = []
    soup = zoo.soup([*off_centre[:2], copy], out=tmp_path / "soup", on_event=lambda event: notes.append(loud(event)))
    assert sorted(soup.added) == ["left", "right"]
    assert [(each["name"], each["added"]) for each in soup.ingredients if each["same_as"]] == [("copy", False)]
    assert "copy has the weights of left, bit for bit: it counts once." in notes


@pytest.mark.long
def test_the_command_shows_every_ingredient(
    soup: zoo.Soup, off_centre: list[Path], tmp_path: Path, zoo_inside: Zoo
) -> None:
    done = zoo_inside("soup", *off_centre, "--out", tmp_path / "soup")
    assert done.returncode == 0, done.stderr
    assert "average of 2 runs" in done.stdout and f"classifier: {tmp_path / 'soup' / 'model'}" in done.stdout
    lines = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.split()}
    assert (lines["left"], lines["right"], lines["far"]) == ("yes", "yes", "no")
    told = zoo_inside("soup", *off_centre, "--out", tmp_path / "again", "--json")
    assert json.loads(told.stdout)["selection"] == soup.content["selection"]
    refused = zoo_inside("soup", *off_centre, "--out", tmp_path / "soup", "--json")
    assert refused.returncode == 2 and "exists" in json.loads(refused.stdout)["error"]["message"]


@pytest.mark.long
def test_nothing_is_left_of_one_that_breaks_off(
    off_centre: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.training.soup.make.write_evaluation", stop)
    with pytest.raises(KeyboardInterrupt):
        zoo.soup(off_centre, out=tmp_path / "soup")
    assert list(tmp_path.iterdir()) == []


def note(event: object) -> str:
    return event.text if isinstance(event, zoo.Note) else ""


def loud(event: object) -> str:
    return event.text if isinstance(event, zoo.Note) and event.loud else ""


@pytest.mark.long
def test_images_that_moved_are_found_by_data(off_centre: list[Path], data: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    with moved(data), pytest.raises(DataError, match="Next: say where they are now, with --data PATH") as refused:
        zoo.soup(off_centre, out=tmp_path / "soup")
    assert f"there is no {data}" in str(refused.value)
    with moved(data):
        assert zoo.soup(off_centre, out=tmp_path / "soup", data=elsewhere).proof == "passed"


def test_other_images_are_refused(off_centre: list[Path], data: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    shutil.copy(elsewhere / "val" / "a" / "0.jpg", elsewhere / "val" / "a" / "1.jpg")
    with pytest.raises(DataError, match="other names or contents"):
        zoo.soup(off_centre, out=tmp_path / "soup", data=elsewhere)
    (elsewhere / "val" / "a" / "1.jpg").unlink()
    with pytest.raises(DataError, match="3 images in val instead of 4") as refused:
        zoo.soup(off_centre, out=tmp_path / "soup", data=elsewhere)
    assert "--data PATH" in str(refused.value) and not (tmp_path / "soup").exists()
    with pytest.raises(DataError, match="There is no"):
        zoo.soup(off_centre, out=tmp_path / "soup", data=tmp_path / "nowhere")


@contextlib.contextmanager
def moved(folder: Path) -> Iterator[None]:
    away = folder.rename(folder.with_name("away"))
    try:
        yield
    finally:
        away.rename(folder)


def unfinished(run: Path) -> None:
    (run / "result.json").unlink()


def of_older_zoo(run: Path) -> None:
    stages = json.loads((run / "result.json").read_text("utf-8"))["stages"]
    write_json(run / "result.json", stages=[{**each, "head_digest": None} for each in stages])


def failed(run: Path) -> None:
    write_json(run / "result.json", proof="failed")
    checks = json.loads((run / "proof.json").read_text("utf-8"))["checks"]
    broken = {**checks[-1], "name": "frozen_tensors", "stage": "all", "verdict": "failed", "summary": "stem changed"}
    write_json(run / "proof.json", checks=[*checks, broken])


def other_head_stage(run: Path) -> None:
    stages = json.loads((run / "result.json").read_text("utf-8"))["stages"]
    write_json(run / "result.json", stages=[{**stages[0], "head_digest": "0" * 64}, *stages[1:]])
    planned = json.loads((run / "plan.json").read_text("utf-8"))["stages"]
    planned[0]["settings"]["lr"] = 0.5
    write_json(run / "plan.json", stages=planned, seed=7)
    edit_plan(run, "weights", value={"label": "tag", "kind": "tag", "digest": "d" * 64})


def without_head_stage(run: Path) -> None:
    plan = json.loads((run / "plan.json").read_text("utf-8"))
    write_json(run / "plan.json", stages=plan["stages"][1:])


def other_classes(*names: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        edit_plan(run, "classes", value=names)
        edit_config(run, classes=names)

    return change


def drawn_val(run: Path) -> None:
    edit_plan(run, "data", "digest", value="0" * 64)
    edit_plan(run, "data", "notes", value=["val: 20% of every class, drawn from train with seed 1"])
    edit_plan(run, "seed", value=1)


REFUSED: list[tuple[Callable[[Path], None], list[str]]] = [
    (unfinished, ["is not finished: it has no result.json", "Next: zoo finetune --resume"]),
    (of_older_zoo, ["an older zoo made it", "Next: train it again with this zoo"]),
    (failed, ["The proof of ", "frozen_tensors (stage all): stem changed", "Next: leave "]),
    (without_head_stage, ["did not begin with a stage that trains the head alone, but with 'all'", "--recipe lp_ft"]),
    (lambda run: edit_plan(run, "backbone", "name", value="timm/test_vit"), ["backbone: timm/test_resnet", "test_vit"]),
    (lambda run: edit_plan(run, "seed", value=1), ["weights: random, drawn from seed 0 and random, drawn from seed 1"]),
    (lambda run: edit_plan(run, "weights", "kind", value="tag"), ["weights: random, drawn from seed 0 and random ("]),
    (lambda run: edit_plan(run, "head", "name", value="heads/cosine"), ["head: heads/dropout_linear and heads/cosine"]),
    (lambda run: edit_plan(run, "head", "options", value={"p": 0.9}), ['head options: {"p": 0.2} and {"p": 0.9}']),
    (other_classes("b", "a"), ["classes: number 1 is 'a' and 'b'"]),
    (other_classes("a", "b", "c"), ["classes: 2 and 3"]),
    (lambda run: edit_plan(run, "preprocessing", "mean", value=[0, 0, 0]), ["preprocessing: "]),
    (lambda run: edit_plan(run, "data", "digest", value="0" * 64), ["trained and validated on other images", "Next:"]),
]


@pytest.mark.long
@pytest.mark.parametrize(("spoil", "words"), REFUSED)
def test_runs_that_are_no_ingredients(
    spoil: Callable[[Path], None], words: list[str], off_centre: list[Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(off_centre[1], tmp_path / "other"))
    spoil(other)
    with pytest.raises(Refused) as refused:
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    assert [word for word in [*words, "Next: ", str(other)] if word not in str(refused.value)] == []
    assert not (tmp_path / "soup").exists()


@pytest.mark.long
def test_another_head_names_what_trained_it_and_training_again_helps(
    kept: Path, more: Path, data: Path, tmp_path: Path
) -> None:
    settings = ["keep=last", "all.batch_norm=train", "all.lr=3e-4"]
    other = zoo.finetune(**USUAL, data=data, set=[*settings, "head.lr=1e-2"], out=tmp_path / "other").path
    with pytest.raises(Refused, match="did not begin from the same head") as refused:
        zoo.soup([kept, other], out=tmp_path / "soup")
    assert "  head.lr: 0.003 and 0.01" in str(refused.value)
    assert f"Next: train {other} again with --seed 0 and the same stage 'head'" in str(refused.value)
    # `more` was trained so: the seed and the stage of `kept`, and another stage after it.
    assert zoo.soup([kept, more], out=tmp_path / "soup").proof == "passed"


def test_another_seed_is_named_where_weights_are_from_a_file(off_centre: list[Path], tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in off_centre[:2]]
    for run in runs:
        edit_plan(run, "weights", value={"label": "tag", "kind": "tag", "digest": "d" * 64})
    other_head_stage(runs[1])
    with pytest.raises(Refused, match="did not begin from the same head") as refused:
        zoo.soup(runs, out=tmp_path / "soup")
    assert "  seed: 0 and 7" in str(refused.value) and "  head.lr: 0.003 and 0.5" in str(refused.value)


@pytest.mark.long
def test_the_same_weights_under_two_names_are_the_same_and_other_parts_of_a_file_are_not(
    off_centre: list[Path], tmp_path: Path
) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in off_centre[:2]]
    for run in runs:
        stored = {"label": f"file:{run.name}.pth", "kind": "file", "digest": "d" * 64}
        edit_plan(run, "weights", value=stored)
    assert zoo.soup(runs, out=tmp_path / "soup", device="cpu").proof == "passed"
    edit_plan(runs[1], "weights", value={**stored, "taken": "state_dict_ema"})
    with pytest.raises(Refused, match=r"weights: file:left\.pth \(d{12}\) and file:right\.pth, state_dict_ema \(d"):
        zoo.soup(runs, out=tmp_path / "other")


def test_validation_images_that_the_seed_drew(off_centre: list[Path], tmp_path: Path) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in off_centre[:2]]
    for run in runs:
        edit_plan(run, "weights", value={"label": "tag", "kind": "tag", "digest": "d" * 64})
    edit_plan(runs[0], "data", "notes", value=["val: 20% of every class, drawn from train with seed 0"])
    drawn_val(runs[1])
    with pytest.raises(Refused, match="other validation images") as refused:
        zoo.soup(runs, out=tmp_path / "soup")
    assert f"Next: train {runs[1]} again with --seed 0" in str(refused.value)


def test_the_same_weights_everywhere(data: Path, tmp_path: Path) -> None:
    """Runs that kept their head stage, all of them: there is nothing to average."""
    one = zoo.finetune(**{**USUAL, "recipe": "head_only"}, data=data, out=tmp_path / "one").path
    two = Path(shutil.copytree(one, tmp_path / "two"))
    with pytest.raises(Refused, match=r"of stage 'head'.* with which all of them began") as refused:
        zoo.soup([one, two], out=tmp_path / "soup")
    assert f"Next: use {one} as it is" in str(refused.value) and zoo.load(one).classes == ("a", "b")


def test_what_is_no_run(soup: zoo.Soup, off_centre: list[Path], tmp_path: Path) -> None:
    first = off_centre[0]

    def refusal(*runs: Path, kind: type[ZooError] = Refused) -> str:
        with pytest.raises(kind) as refused:
            zoo.soup(runs, out=tmp_path / "none")
        return str(refused.value)

    assert "two runs or more, and 1 was given" in refusal(first)
    assert "is given twice" in refusal(first, first)
    (tmp_path / "link").symlink_to(first)
    assert f"is given twice, as {first} and as {tmp_path / 'link'}" in refusal(first, tmp_path / "link")
    assert f"Next: give the run folder, {first}" in refusal(off_centre[1], first / "model")
    artefact = Path(shutil.copytree(first / "model", tmp_path / "alone"))
    assert "is a classifier without its run" in refusal(first, artefact)
    assert "There is no run folder" in refusal(first, tmp_path / "nothing", kind=RunError)
    assert f"{soup.path} is a soup, and a soup is made of runs" in refusal(first, soup.path)
    with pytest.raises(Refused, match="exists, and zoo overwrites nothing"):
        zoo.soup(off_centre, out=soup.path)


def test_a_record_that_is_damaged(off_centre: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(off_centre[1], tmp_path / "other"))
    write_json(other / "result.json", metrics={})
    with pytest.raises(RunError, match="is not as a run writes it: KeyError"):
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    (other / "result.json").write_text("[", "utf-8")
    with pytest.raises(RunError, match="cannot be read"):
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    shutil.copy(off_centre[1] / "result.json", other)
    edit_plan(other, "classes", value=["b", "a"])
    with pytest.raises(RunError, match="has other classes than its plan"):
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    assert not zoo.verify(other).passed
    edit_plan(other, "classes", value=["a", "b"])
    with (other / "model" / "model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ArtefactError, match="damaged"):
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")


def test_the_command_of_a_run_of_an_older_zoo_is_in_its_report(off_centre: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(off_centre[1], tmp_path / "other"))
    of_older_zoo(other)
    with pytest.raises(Refused, match=f"zoo report {other} writes a page with the command"):
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    assert "zoo finetune --backbone" in zoo.report(other).read_text("utf-8")


def scores(accuracy: float, loss: float) -> Scores:
    return Scores(accuracy=accuracy, macro_f1=accuracy, loss=loss)


def test_the_order_is_by_accuracy_then_loss_and_not_finite_comes_last() -> None:
    nan = float("nan")
    assert by_quality([scores(0.5, 1), scores(0.99, nan), scores(0.9, 0.4), scores(0.9, 0.2)]) == [3, 2, 0, 1]
    assert by_quality([scores(0.9, 0.2)] * 3) == [0, 1, 2]


def test_a_tie_in_accuracy_is_decided_by_the_loss() -> None:
    assert not_worse(scores(0.9, 0.3), scores(0.9, 0.3)) and not_worse(scores(0.91, 9), scores(0.9, 0.3))
    assert not not_worse(scores(0.9, 0.31), scores(0.9, 0.3))
    assert not not_worse(scores(0.9, float("nan")), scores(0.9, float("nan")))
    assert not not_worse(scores(0.99, float("nan")), scores(0.9, 0.3))


def test_ingredients_are_compared_by_balanced_scores_where_they_have_them() -> None:
    large, rare = Scores(0.9, 0.5, 0.3, 0.5, 1.2), Scores(0.8, 0.6, 0.5, 0.7, 0.6)
    assert by_quality([large, rare]) == [1, 0] and not_worse(rare, large) and not not_worse(large, rare)
    found = check_not_worse(large, rare)
    assert found.verdict == "failed" and "balanced accuracy 0.5000 and loss 1.2000" in found.summary


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that let every class count the same: the one takes most images for the large class, the other few."""
    folder = tmp_path_factory.mktemp("uneven")
    data = draw_unequal(folder / "data")
    shutil.copytree(data / "val", data / "test")
    settings = ["keep=last", "all.keep_epoch=best", "all.batch_norm=frozen", "choose_by=balanced_loss"]
    run = zoo.finetune(**USUAL, data=data, set=settings, out=folder / "run").path
    rows = csv.DictReader((run / "predictions.csv").read_text("utf-8").splitlines())
    of_large = sorted(float(row["probability_of_label"]) for row in rows if row["label"] == "a")
    middle = of_large[len(of_large) // 2]
    # So half of the large class is taken for the small one; a shift acts on both logits.
    back = math.log(middle / (1 - middle)) / 2
    return [variant(run, folder / name, shifted(by), data) for name, by in (("large", 20.0), ("rare", -back))]


@pytest.mark.long
def test_a_soup_goes_by_what_its_runs_were_asked_to_choose_by(
    uneven: list[Path], tmp_path: Path, zoo_inside: Zoo
) -> None:
    notes: list[str] = []

    def soup(name: str, runs: list[Path]) -> zoo.Soup:
        return zoo.soup(runs, out=tmp_path / name, device="cpu", on_event=lambda event: notes.append(loud(event)))

    balanced = soup("balanced", uneven)
    assert [each["name"] for each in balanced.ingredients] == ["rare", "large"] and balanced.proof == "passed"
    assert balanced.content["selection"]["on"] == "val accuracy with every class counting the same"
    of_val = balanced.metrics["val"]
    assert of_val["balanced_accuracy"] >= balanced.ingredients[0]["metrics"]["val"]["balanced_accuracy"]
    assert not any("disagree" in each for each in notes)
    asked = [Path(shutil.copytree(run, tmp_path / run.name)) for run in uneven]
    for run in asked:
        edit_plan(run, "choose_by", value="loss")
        edit_plan(run, "keep", value="best")
    plain = soup("plain", asked)
    assert [each["name"] for each in plain.ingredients] == ["large", "rare"]
    assert plain.content["selection"]["on"] == "val accuracy" and "balanced_accuracy" not in plain.metrics["val"]
    # They disagree: nothing tells which of the two is meant.
    mixed = soup("mixed", [asked[0], uneven[1]])
    assert [each["name"] for each in mixed.ingredients] == ["large", "rare"]
    (told,) = (each for each in notes if "disagree" in each)
    assert "rare has choose_by=balanced_loss" in told and "large has choose_by=loss" in told
    assert "train large again with --set choose_by=balanced_loss, or leave it out." in told
    done = zoo_inside("soup", *uneven, "--out", tmp_path / "shown")
    assert done.returncode == 0 and "val balanced accuracy" in done.stdout, done.stderr


def test_each_is_added_where_the_average_is_not_worse() -> None:
    """Models are numbers, the best average is 0, and accuracy falls with the distance from it."""
    models = [3.0, -1.0, 4.0, 1.5, -40.0]

    def judge(value: float) -> Scores:
        return scores(1 - abs(value) / 100, abs(value))

    asked: list[list[int]] = []

    def together(chosen: Sequence[int]) -> Scores:
        asked.append(list(chosen))
        return judge(sum(models[each] for each in chosen) / len(chosen))

    trials = choose_greedily([judge(model) for model in models], together)
    # -1; with 1.5 it is 0.25; with 3 it would be 1.17, with 4 it would be 1.5, with -40 it would be -13.
    assert [(trial.ingredient, trial.added) for trial in trials] == [
        *[(1, True), (3, True), (0, False), (2, False), (4, False)]
    ]
    assert asked == [[1, 3], [1, 3, 0], [1, 3, 2], [1, 3, 4]] and trials[0].together is None


def save(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_it_is_rounded_once_and_integers_are_the_first_one_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    states = [
        {
            "weight": torch.randn(50, 40) * 10.0 ** torch.randint(-6, 6, (50, 40)),
            "half": torch.randn(30).half(),
            "wave": torch.randn(4, dtype=torch.complex64),
            "batches": torch.tensor(7 + number),
            "frozen": torch.tensor([0.1, -0.0, float("nan"), float("inf")]),
        }
        for number in range(3)
    ]
    files = [save(tmp_path / f"{number}.safetensors", state) for number, state in enumerate(states)]
    average = average_of(files)
    exact = torch.stack([state["weight"].double() for state in states]).sum(0) / 3
    assert torch.equal(average["weight"], exact.float()) and average["half"].dtype == torch.float16
    assert average["batches"] == 7 and same_bits(average["frozen"], states[0]["frozen"])
    torch.testing.assert_close(average["wave"], sum(state["wave"] for state in states) / 3)
    saved = save(tmp_path / "soup.safetensors", average)
    assert {check_average(saved, files).verdict, check_unchanged(saved, files).verdict} == {"passed"}


def test_the_average_of_equal_values_is_that_value(tmp_path: Path) -> None:
    """Also where only some values of a tensor are equal, as in a row that never trained."""
    torch.manual_seed(0)
    row = torch.cat([torch.randn(1000) * 1e-30, torch.tensor([-0.0])])
    files = [
        save(tmp_path / f"{number}.safetensors", {"w": torch.stack([row, torch.full_like(row, number)])})
        for number in range(7)
    ]
    average = average_of(files)
    assert same_bits(average["w"][0], row)
    assert check_average(save(tmp_path / "soup.safetensors", average), files).verdict == "passed"


@pytest.fixture
def made(soup: zoo.Soup, off_centre: list[Path], tmp_path: Path) -> tuple[Path, list[Path]]:
    """The saved tensors of a soup, to be changed, and those of what was averaged, in its order."""
    saved = Path(shutil.copy(soup.artefact / "model.safetensors", tmp_path))
    sources = {run.name: run for run in off_centre}
    return saved, [sources[name] / "model/model.safetensors" for name in soup.added]


def test_a_value_that_is_no_average(made: tuple[Path, list[Path]]) -> None:
    saved, files = made
    tensors = load_file(saved)
    tensors["head.fc.bias"] = torch.nextafter(tensors["head.fc.bias"], torch.tensor(9.0))
    save(saved, tensors)
    found = check_average(saved, files)
    assert found.verdict == "failed" and found.evidence["differing"] == ["head.fc.bias"]
    assert check_unchanged(saved, files).verdict == "passed"


def test_a_frozen_tensor_that_changed(made: tuple[Path, list[Path]]) -> None:
    saved, files = made
    tensors = load_file(saved)
    name = next(name for name in tensors if name.endswith("conv1.weight"))
    tensors[name] += 1e-3
    save(saved, tensors)
    found = check_unchanged(saved, files)
    assert found.verdict == "failed" and found.evidence["changed"] == [name]


def test_the_proof_opens_each_file_once(made: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one reads the names of all its tensors: once a tensor, that is as many names as tensors squared."""
    saved, files = made
    opened: list[Path] = []

    def counted(path: Path, **named: Any) -> Any:
        opened.append(path)
        return safe_open(path, **named)

    monkeypatch.setattr("zoo.training.soup.average_checks.safe_open", counted)
    for check in (check_average, check_unchanged):
        opened.clear()
        assert check(saved, files).verdict == "passed" and opened == [saved, *files]


def test_a_tensor_that_is_missing(made: tuple[Path, list[Path]]) -> None:
    saved, files = made
    tensors = load_file(saved)
    del tensors["head.fc.bias"]
    save(saved, tensors)
    assert check_average(saved, files).verdict == "failed"


def test_a_soup_that_is_worse() -> None:
    assert check_not_worse(scores(0.8, 0.1), scores(0.9, 0.2)).verdict == "failed"
    assert check_not_worse(scores(0.9, 0.2), scores(0.9, 0.2)).verdict == "passed"


@pytest.mark.long
def test_a_run_that_is_not_what_it_recorded(off_centre: list[Path], data: Path, tmp_path: Path) -> None:
    """Its weights were changed, digest and all. Everything is written, and the exit code is 3."""
    other = Path(shutil.copytree(off_centre[1], tmp_path / "other"))
    change_tensors(other, shifted(-30))
    with pytest.raises(CheckFailed, match="ingredients: other: accuracy") as failure:
        zoo.soup([off_centre[0], other], out=tmp_path / "soup")
    assert failure.value.exit_code == 3 and checks_of(tmp_path / "soup")["ingredients"] == "failed"
    assert json.loads((tmp_path / "soup" / "soup.json").read_text("utf-8"))["proof"] == "failed"
    assert zoo.load(tmp_path / "soup").fault is not None


def test_close_scores_are_a_warning() -> None:
    near = check_ingredients([("a", scores(0.9, 0.3), scores(0.9, 0.3000001))])
    far = check_ingredients([("a", scores(0.9, 0.3), scores(0.8, 0.3))])
    same = check_ingredients([("a", scores(0.9, 0.3), scores(0.9, 0.3))])
    assert (near.verdict, far.verdict, same.verdict) == ("warning", "failed", "passed")


@pytest.mark.long
def test_a_saved_file_with_other_logits(
    off_centre: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.artefact.write import write_artefact

    def wrong(path: Path, state: Tensors, *arguments: Any, **options: Any) -> object:
        return write_artefact(path, {**state, "head.fc.bias": state["head.fc.bias"].flip(0) + 1}, *arguments, **options)

    monkeypatch.setattr("zoo.training.soup.make.write_artefact", wrong)
    with pytest.raises(CheckFailed, match="saved_file: the saved file gives other logits than the soup"):
        zoo.soup(off_centre[:2], out=tmp_path / "soup")
    failed = {name for name, verdict in checks_of(tmp_path / "soup").items() if verdict == "failed"}
    assert failed == {"saved_file", "soup_average"}
    assert json.loads((tmp_path / "soup/model/config.json").read_text("utf-8"))["proof"] == "failed"
