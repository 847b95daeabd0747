"""A classifier that is judged on images that trained it says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.events import Event, Note


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder without splits, so that val was drawn from the same images: 16 to train on, 4 to choose."""
    root = tmp_path_factory.mktemp("drawn")
    for index, name in enumerate(("a", "b")):
        (root / "data" / name).mkdir(parents=True)
        for number in range(10):
            sample_image(index, 2, "train", number).save(root / "data" / name / f"{number}.jpg")
    zoo.finetune(
        "timm/test_resnet",
        data=root / "data",
        weights="random",
        recipe="head_only",
        tune=False,
        report=False,
        out=root / "run",
    )
    return root


def warnings(run: Path, data: Path) -> tuple[zoo.Evaluation, list[str]]:
    events: list[Event] = []
    found = zoo.evaluate(run, data=data, on_event=events.append)
    return found, [event.text for event in events if isinstance(event, Note) and event.loud]


def test_images_that_trained_it_are_counted(drawn: Path, zoo_inside: Zoo) -> None:
    run, data = drawn / "run", drawn / "data"
    for classifier in (run, run / "model"):
        found, said = warnings(classifier, data)
        assert found.images == 20 and found.trained_on == 16
        assert said == [
            "16 of these 20 images trained this classifier, so its scores on them are too good. Next: give images "
            f"that it has not seen. What it scored on such images is in {run / 'result.json'}."
        ]
    done = zoo_inside("evaluate", str(run), "--data", str(data), "--json")
    assert json.loads(done.stdout)["trained_on"] == 16 and "are too good" in done.stderr


def test_a_folder_inside_and_a_link_are_found(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(drawn / "data")
    assert warnings(drawn / "run", tmp_path / "link")[0].trained_on == 16
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a").symlink_to(drawn / "data" / "a")
    assert warnings(drawn / "run", tmp_path / "part")[0].trained_on == 8


def test_images_of_an_archive_are_known_by_their_place_in_it(drawn: Path, tmp_path: Path) -> None:
    """Their bytes are not compared."""
    archive = Path(shutil.make_archive(str(tmp_path / "data"), "zip", drawn / "data"))
    usual = {"weights": "random", "recipe": "head_only", "tune": False, "report": False}
    run = zoo.finetune("timm/test_resnet", data=archive, out=tmp_path / "run", **usual).path
    assert warnings(run, archive)[0].trained_on == 16


def test_copies_under_other_names_are_found_by_their_bytes(drawn: Path, tmp_path: Path) -> None:
    for file in (drawn / "data").glob("*/*.jpg"):
        (tmp_path / "test" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "test" / file.parent.name / f"copy of {file.name}")
    assert warnings(drawn / "run", tmp_path / "test")[0].trained_on == 16


@pytest.mark.long
def test_a_soup_knows_the_images_of_its_runs(drawn: Path, few: Path, tmp_path: Path) -> None:
    usual = {"weights": "random", "recipe": "lp_ft", "epochs": 1, "tune": False, "report": False}
    runs = [
        zoo.finetune(
            "timm/test_resnet", data=few, out=tmp_path / str(rate), set=[f"all.lr={rate}", "keep=last"], **usual
        ).path
        for rate in (1e-4, 2e-4)
    ]
    soup = zoo.soup(runs, out=tmp_path / "soup")
    for classifier in (soup.path, soup.path / "model"):
        found, said = warnings(classifier, few / "train")
        assert found.trained_on == found.images and f"is in {soup.path / 'soup.json'}." in said[0]


def test_other_images_are_judged_without_a_word(drawn: Path, tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b")):
        (tmp_path / "new" / name).mkdir(parents=True)
        sample_image(index, 2, "test", 0).save(tmp_path / "new" / name / "0.jpg")
    assert warnings(drawn / "run", tmp_path / "new") == (warnings(drawn / "run", tmp_path / "new")[0], [])
    # One that has the size of a training image, and other bytes.
    more = tmp_path / "new" / "a" / "1.jpg"
    sample_image(0, 2, "test", 1).save(more)
    size = max(file.stat().st_size for file in (drawn / "data").glob("*/*.jpg"))
    more.write_bytes(more.read_bytes().ljust(size, b"\0"))
    assert more.stat().st_size == size and warnings(drawn / "run", tmp_path / "new")[1] == []
    # An artefact without its run says nothing of images.
    artefact = shutil.copytree(drawn / "run" / "model", tmp_path / "artefact")
    events: list[Event] = []
    assert zoo.evaluate(artefact, data=drawn / "data", on_event=events.append).trained_on == 0
    assert not [event for event in events if getattr(event, "task", "") == "look for training images"]


def test_where_the_data_have_changed_it_is_said(drawn: Path, tmp_path: Path) -> None:
    """With another image, val is drawn otherwise."""
    data = shutil.copytree(drawn / "data", tmp_path / "data")
    run = shutil.copytree(drawn / "run", tmp_path / "run")
    plan = json.loads((run / "plan.json").read_text())
    plan["data"]["path"] = str(data)
    (run / "plan.json").write_text(json.dumps(plan))
    sample_image(0, 2, "test", 0).save(data / "a" / "more.jpg")
    (said,) = warnings(run, data)[1]
    assert said.startswith("The training data have changed since. Perhaps ")


def test_the_validation_folder_of_a_run_was_not_trained_on(few: Path, tmp_path: Path) -> None:
    zoo.finetune(
        "timm/test_resnet", data=few, weights="random", recipe="head_only", tune=False, report=False, out=tmp_path / "r"
    )
    assert warnings(tmp_path / "r", few)[1] == [] and warnings(tmp_path / "r", few / "val")[1] == []
    found, said = warnings(tmp_path / "r", few / "train")
    assert found.trained_on == found.images and said[0].startswith(
        f"These {found.images} images trained this classifier"
    )
