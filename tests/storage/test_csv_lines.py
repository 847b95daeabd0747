"""Whatever is in the name of a file or class, every table in CSV that zoo writes is read with the same name."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas
import pytest
import zoo
from tests.conftest import Zoo
from zoo.advice.suspects import Suspect, read_decisions, suspects_csv
from zoo.data.sample import sample_image
from zoo.evaluation.predictions import ImagePrediction, to_csv
from zoo.serving.unsure import rule_of
from zoo.storage.atomic import write_text
from zoo.storage.csv_lines import csv_text
from zoo.training.run_files import read_predictions

NAMES = ("a\rb", "c\nd", "e\r\nf", 'g"h', "i,j", "k\u2028l", "\r", "plain name", "m;n\to")
CLASSES = ("one\rclass", 'an "other", with\nall')


def cells_of(path: Path, column: str) -> list[str]:
    """A column as the csv module reads it, which pandas must read alike."""
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[column] for row in csv.DictReader(file, strict=True)]
    assert list(pandas.read_csv(path)[column]) == cells
    return cells


def test_the_csv_module_and_pandas_read_the_names_that_were_written(tmp_path: Path) -> None:
    write_text(tmp_path / "names.csv", csv_text([("name", "number"), *((name, 1) for name in NAMES)]))
    assert cells_of(tmp_path / "names.csv", "name") == list(NAMES)
    assert csv_text([("a", "b c", 1.5, ""), ("d",)]) == "a,b c,1.5,\nd\n"


def test_a_user_s_decisions_are_of_the_names_that_were_written(tmp_path: Path) -> None:
    numbers = {"probability_given": 0.1, "probability_suggested": 0.9, "margin": -2.0}
    suspects = [
        Suspect(file=name, split="train", given=CLASSES[0], suggested=CLASSES[1], issue=True, sha256="0", **numbers)
        for name in NAMES
    ]
    for text in (suspects_csv(suspects), suspects_csv(suspects).replace('\n"', '\r\n"')):
        (tmp_path / "suspects.csv").write_bytes(text.encode())
        decisions = read_decisions(tmp_path / "suspects.csv")
        assert [(each.file, each.given, each.suggested) for each in decisions] == [(n, *CLASSES) for n in NAMES]


def test_a_run_s_predictions_count_whatever_the_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    said = [ImagePrediction("val", f"{name}{number}", *CLASSES, 0.7, 0.3) for name in NAMES for number in range(9)]
    (tmp_path / "predictions.csv").write_text(to_csv(said), "utf-8", newline="")
    assert "cannot be read" not in rule_of(tmp_path / "model").why


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_every_table_of_a_real_run_names_the_files_that_are_there(tmp_path: Path, zoo_inside: Zoo) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        for index, label in enumerate(CLASSES):
            (data / split / label).mkdir(parents=True)
            for number, name in enumerate(NAMES):
                sample_image(index, 2, split, number).save(data / split / label / f"{name}.jpg")

    def below(folder: Path) -> list[str]:
        return sorted(path.relative_to(data).as_posix() for path in folder.rglob("*.jpg"))

    few = {"backbone": "timm/test_resnet", "weights": "random", "data": data}
    run = zoo.finetune(**few, recipe="head_only", epochs=1, tune=False, out=tmp_path / "run")
    assert sorted(cells_of(run.path / "predictions.csv", "file")) == below(data / "val")
    assert sorted(each.file for each in read_predictions(run.path)) == below(data / "val")
    assert {each.label for each in read_predictions(run.path)} == set(CLASSES)
    assert zoo_inside("evaluate", run.path, "--data", data, "--csv", "scored.csv").returncode == 0
    assert sorted(cells_of(tmp_path / "scored.csv", "file")) == below(data / "val")
    assert zoo_inside("predict", run.path, data / "val", "--csv", "said.csv").returncode == 0
    assert names(cells_of(tmp_path / "said.csv", "source"), data) == below(data / "val")
    zoo.embed(**few, out=tmp_path / "rows.npy")
    assert sorted(cells_of(tmp_path / "rows.csv", "file")) == below(data)


def names(sources: Iterable[str], data: Path) -> list[str]:
    return sorted(Path(each).relative_to(data).as_posix() for each in sources)
