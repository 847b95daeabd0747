"""Test-time views: what is averaged is what the plain classifier says of each view, and evaluation compares both."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from PIL import Image, ImageOps
from tests.conftest import Zoo
from torchvision.transforms.functional import five_crop
from zoo.artefact.config import sealed
from zoo.artefact.views_effect import views_effect
from zoo.data.decode import read_image
from zoo.data.transform import finish_views, normalise, resize
from zoo.errors import OptionError, Refused
from zoo.evaluation.probabilities import mean_of_views


@pytest.fixture(scope="module")
def run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    zoo.finetune(
        "timm/test_resnet", weights="random", data=few, out=out, recipe="head_only", report=False, input_size=(64, 64)
    )
    return out


@pytest.fixture(scope="module")
def photo(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider than high, and not its own mirror image."""
    picture = Image.open(next((few / "val").rglob("*.jpg"))).resize((300, 200))
    picture.paste((250, 20, 20), (0, 0, 120, 60))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture.save(path)
    return path


def named(run: Path, place: Path, classes: list[str]) -> Path:
    """The run's classifier with other class names."""
    shutil.copytree(run / "model", place)
    config = json.loads((place / "config.json").read_text("utf-8"))
    config.pop("seal")
    (place / "config.json").write_text(json.dumps(sealed({**config, "classes": classes})), "utf-8")
    return place


def test_flip_is_the_mean_of_an_image_and_its_mirror_image(run: Path, photo: Path) -> None:
    plain, mirrored = zoo.load(run), ImageOps.mirror(Image.open(photo))
    of_both = [dict(each.top) for each in plain.predict([photo, mirrored])]
    found = zoo.load(run, views="flip").predict(photo)[0]
    assert found.views == "flip" and plain.predict(photo)[0].views is None
    for label, probability in found.top:
        # Resizing a mirrored picture and mirroring a resized one may differ in the last bits.
        assert probability == pytest.approx(sum(each[label] for each in of_both) / 2, abs=1e-3)
    assert of_both[0] != of_both[1]
    assert sum(probability for _, probability in found.top) == pytest.approx(1, abs=1e-6)


def test_five_are_torchvisions_crops_with_the_centre_first(run: Path, photo: Path) -> None:
    preprocessing = zoo.load(run).model.preprocessing
    pixels = resize(read_image(photo), preprocessing)
    views = torch.empty(5, *preprocessing.input_size)
    finish_views(pixels, preprocessing, "five", into=list(views))
    top_left, top_right, bottom_left, bottom_right, centre = (
        normalise(crop, preprocessing) for crop in five_crop(pixels, list(preprocessing.input_size[1:]))
    )
    expected = torch.stack([centre, top_left, top_right, bottom_left, bottom_right])
    assert torch.equal(views, expected) and len({tuple(view.flatten().tolist()) for view in views}) > 1


def test_the_mean_is_of_probabilities() -> None:
    logits = [torch.tensor([[4.0, 0.0], [900.0, -900.0]]), torch.tensor([[0.0, 1.0], [-900.0, 900.0]])]
    mean = torch.stack([each.double().softmax(1) for each in logits]).mean(0)
    assert torch.allclose(mean_of_views(logits).double().softmax(1), mean, atol=1e-6)
    assert torch.isfinite(mean_of_views(logits)[0]).all()


def test_evaluation_compares_with_what_the_classifier_is_without_views(run: Path, few: Path) -> None:
    without = zoo.evaluate(run, data=few)
    assert without.views is None
    for name, count in (("flip", 2), ("five", 5)):
        scored = zoo.evaluate(run, data=few, views=name)
        effect = scored.views
        assert effect is not None and effect.passes == count and effect.without == without.scores
        assert effect.outcomes.images == scored.images == 4
        assert effect.outcomes.difference == pytest.approx(scored.scores.accuracy - without.scores.accuracy)
        assert 0 < effect.seconds_without < effect.seconds_with
        assert scored.scores.loss != without.scores.loss
        predicted = zoo.load(run, views=name).predict([few / each.file for each in scored.predictions])
        for one, other in zip(scored.predictions, predicted, strict=True):
            assert one.predicted == other.label and one.probability == pytest.approx(other.probability, abs=1e-5)


def test_an_effect_counts_what_was_gained_and_lost() -> None:
    targets = torch.tensor([0, 0, 0, 1, 1])
    plain = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1], [0, 1]])
    views = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0]])
    effect = views_effect("flip", plain, views, targets, seconds=(1.0, 2.0))
    assert (effect.outcomes.only_second, effect.outcomes.only_first) == (2, 1)
    assert effect.to_dict()["difference"] == pytest.approx(0.2) and effect.to_dict()["averaged"] == "probabilities"
    brought, cost = effect.sentences()
    assert "+20.0 points" in brought and "2 gained, 1 lost" in brought and "which may be chance" in brought
    assert "400.0 ms for 200.0 ms here (2.0 times)" in cost


def test_views_that_make_no_sense_are_refused_before_the_model_is_read(run: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"views 'fliip' .* Did you mean 'flip'\?"):
        zoo.load(run, views="fliip")
    sides = named(run, tmp_path / "sides", ["arrow_left", "arrow_right"])
    (sides / "model.safetensors").unlink()
    with pytest.raises(Refused, match="the mirror image of 'arrow_left' is 'arrow_right'"):
        zoo.load(sides, views="flip")
    told: list[zoo.Event] = []
    zoo.load(named(run, tmp_path / "shoes", ["left shoe", "hat"]), views="flip", on_event=told.append)
    notes = [event for event in told if isinstance(event, zoo.Note) and event.loud]
    assert any("class names speak of sides: left shoe" in note.text for note in notes)


def test_the_commands_print_and_record_views_and_write_the_same_as_before_without(
    zoo_inside: Zoo, run: Path, few: Path, tmp_path: Path
) -> None:
    done = zoo_inside("evaluate", run, "--data", few, "--views", "flip", "--csv", "flip.csv")
    assert done.returncode == 0, done.stderr
    assert "views flip against the image alone: " in done.stdout and "2 passes for each image" in done.stdout
    with (tmp_path / "flip.csv").open(encoding="utf-8", newline="") as file:
        assert {row["views"] for row in csv.DictReader(file)} == {"flip"}
    content = json.loads(zoo_inside("evaluate", run, "--data", few, "--views", "flip", "--json").stdout)
    assert content["views"]["name"] == "flip" and content["views"]["without"]["accuracy"] <= 1
    assert {each["views"] for each in content["predictions"]} == {"flip"}
    plain = json.loads(zoo_inside("evaluate", run, "--data", few, "--json", "--csv", "plain.csv").stdout)
    assert "views" not in plain and "views" not in plain["predictions"][0]
    assert (tmp_path / "plain.csv").read_text("utf-8").splitlines()[0] == (
        "split,file,label,predicted,probability,probability_of_label"
    )
    words = ("predict", run, few / "val")
    listed = json.loads(zoo_inside(*words, "--views", "five", "--json", "--csv", "five.csv").stdout)
    assert {each["views"] for each in listed} == {"five"}
    assert (tmp_path / "five.csv").read_text("utf-8").startswith("source,label,probability,views\n")
    assert "views" not in json.loads(zoo_inside(*words, "--json").stdout)[0]
    unknown = zoo_inside(*words, "--views", "ten")
    assert unknown.returncode == 2 and "Next: flip" in unknown.stderr
