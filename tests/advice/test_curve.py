"""`zoo data curve` and `zoo.learning_curve`: real small runs, the same bytes again, and inputs that cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.errors import DataError, Refused

TINY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random"}
WORDS = ("--backbone", "timm/test_resnet", "--weights", "random")


def test_the_command_says_what_more_images_would_bring_and_writes_a_page_once(
    zoo_inside: Zoo, shapes: Path, tmp_path: Path
) -> None:
    page = tmp_path / "curve.html"
    done = zoo_inside("data", "curve", shapes, *WORDS, "--html", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A linear probe classifies") and "of 36 images" in done.stdout
    assert "as many images (72)" in done.stdout and "green" in done.stdout
    html = page.read_text("utf-8")
    assert html.count("<svg") == 2 and "src=" not in html and "http" not in html.replace("http://www.w3.org", "")
    again = zoo_inside("data", "curve", shapes, *WORDS, "--html", page)
    assert again.returncode == 2 and f"{page} exists" in again.stderr and page.read_text("utf-8") == html


@pytest.mark.long
def test_json_is_the_same_again_and_another_seed_draws_anew(zoo_inside: Zoo, shapes: Path) -> None:
    first, again, other = (
        zoo_inside("data", "curve", shapes, *WORDS, "--json", "--seed", seed).stdout for seed in ("0", "0", "1")
    )
    assert first == again != other
    document = json.loads(first)
    assert document["images"] == 36 and document["page"] is None
    assert [each["times"] for each in document["forecasts"]] == [2, 4]
    assert [each["name"] for each in document["classes"]] == ["blue", "green", "red"]
    assert document["conclusion"] and document["points"][-1]["share"] == 1


def test_small_classes_are_named_and_too_few_images_say_nothing(few: Path) -> None:
    report = zoo.learning_curve(few, **TINY)
    assert any("fewer images than" in note for note in report.notes)
    assert all(each.gain is None for each in report.record.forecasts)
    assert sum("cannot be said" in sentence for sentence in report.sentences) == 2


def test_one_image_of_each_class_is_refused(few: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(few, data)
    for folder in (data / "train").iterdir():
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
    with pytest.raises(DataError, match="two different training images"):
        zoo.learning_curve(data, **TINY)


def test_a_class_of_one_image_is_fitted_to_and_judged_by_none(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes / "train", data)
    (data / "tulip").mkdir()
    sample_image(2, 3, "other", 0).save(data / "tulip" / "0.jpg")
    report = zoo.learning_curve(data, **TINY)
    assert "1 image alone in a class: fitted to, but judged by none." in report.notes
    assert "tulip" in report.classes and report.record.images == 31


def test_a_backbone_that_does_not_exist_is_met_with_the_nearest(zoo_inside: Zoo, few: Path) -> None:
    done = zoo_inside("data", "curve", few, "--backbone", "resnet81")
    assert done.returncode == 2 and "resnet18" in done.stderr
    with pytest.raises(Refused, match="exists"):
        zoo.learning_curve(few, html=few, **TINY)
