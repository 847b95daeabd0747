"""`zoo data curve` and `zoo.learning_curve`: real small runs, the same bytes again, and inputs that cannot be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.display.blocks import Line, TextTable
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
    assert [(each.name, each.judged) for each in report.record.classes if not each.judged] == [("tulip", 0)]
    rows = [row for block in report.blocks() if isinstance(block, TextTable) for row in block.rows]
    assert ["tulip", "1", "-", "-", "cannot be said"] in rows


def test_of_many_classes_a_terminal_and_a_notebook_show_the_worst(few: Path) -> None:
    report = zoo.learning_curve(few, **TINY)
    first = report.record.classes[0]
    many = tuple(replace(first, name=f"class {number}", recalls=(number / 3000,)) for number in range(3000))
    report = replace(report, record=replace(report.record, classes=many))
    blocks = [*report.blocks()]
    assert Line("the 40 of 3,000 classes with the lowest recall; zoo -v and --json have all") in blocks
    assert max(len(block.rows) for block in blocks if isinstance(block, TextTable)) == 40
    assert "class 39" in report._repr_html_() and "class 40" not in report._repr_html_()
    every = [block for block in report.blocks(all_classes=True) if isinstance(block, TextTable)]
    assert len(every[-1].rows) == 3000


def test_a_backbone_that_does_not_exist_is_met_with_the_nearest(zoo_inside: Zoo, few: Path) -> None:
    done = zoo_inside("data", "curve", few, "--backbone", "resnet81")
    assert done.returncode == 2 and "resnet18" in done.stderr
    with pytest.raises(Refused, match="exists"):
        zoo.learning_curve(few, html=few, **TINY)
