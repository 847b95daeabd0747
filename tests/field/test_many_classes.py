"""Thousands of classes: what is kept, written and shown grows with the images, not with the square of the classes.

Source: measured by ourselves (16 MB of `evaluation.json` at 1,200 classes, 3.2 GB of memory at 5,000).
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from tests.field.pictures import pictures_of, write_pictures
from torch import Tensor
from zoo.artefact.card import model_card
from zoo.artefact.evaluate import Evaluation
from zoo.artefact.read import read_config
from zoo.cli.evaluate import print_evaluation
from zoo.data.check.shortcut import find_shortcuts
from zoo.data.dataset import Dataset
from zoo.display.console import Verbosity
from zoo.errors import OptionError, RunError
from zoo.evaluation.confusion_matrix import (
    DENSE_MOST,
    SparseMatrix,
    cells_of,
    matrix_of,
    most_confused,
    read_matrix,
    to_json,
)
from zoo.evaluation.metrics import assess, confusion_matrix, score
from zoo.evaluation.predictions import predictions_of
from zoo.text import some
from zoo.training.proof import check_classes
from zoo.training.run_folder import EvaluatedSplit, RunFolder
from zoo.training.stored_plan import read_plan

MANY = 1000


def logits_of(classes: int, images: int = 3, *, confused: int = 0) -> tuple[Tensor, Tensor]:
    """logits[N, classes] and targets[N], all right but that most images of `confused` classes go to the next class."""
    targets = torch.arange(classes).repeat_interleave(images)
    logits = torch.randn(len(targets), classes, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(len(targets)), targets] += 20
    for wrong in range(0, 2 * confused, 2):
        logits[wrong * images : wrong * images + images - 1, wrong + 1] += 40
    return logits, targets


def names(classes: int) -> list[str]:
    return [f"species {number:05}" for number in range(classes)]


def write_evaluation(run: Path, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """Write evaluation.json and predictions.csv as a run does at its end -> the assessment of `val`."""
    files = tuple(f"val/{number}.jpg" for number in range(len(targets)))
    folder = RunFolder(run)
    evaluated = EvaluatedSplit(split="val", files=files, logits=logits, targets=targets)
    folder.write_evaluation([evaluated], names(logits.shape[1]))
    folder.remove_checkpoint()
    return read_evaluation(run)


def read_evaluation(run: Path) -> dict[str, Any]:
    assessment: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["val"]
    return assessment


def write_old_form(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the stored assessment of `val`."""
    content = json.loads((run / "evaluation.json").read_text())
    change(content["val"])
    (run / "evaluation.json").write_text(json.dumps(content))


def as_table(assessment: dict[str, Any]) -> None:
    """Put the matrix as zoo wrote it before: a table for any number of classes."""
    table = np.zeros((len(assessment["classes"]),) * 2, int)
    for true, predicted, images in assessment.pop("confusion_cells"):
        table[true, predicted] = images
    assessment["confusion"] = table.tolist()


@pytest.fixture(scope="module")
def trained(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    chosen: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only"}
    return zoo.finetune(data=few, out=run, epochs=1, tune=False, **chosen).path


@pytest.fixture
def many(trained: Path, tmp_path: Path) -> Path:
    """A run with the evaluation of 1,000 classes, of which 30 are confused with the next."""
    run = shutil.copytree(trained, tmp_path / "many")
    write_evaluation(run, *logits_of(MANY, confused=30))
    return run


def test_what_is_written_grows_with_the_images_and_not_with_the_square_of_the_classes(tmp_path: Path) -> None:
    sizes = {}
    for classes in (MANY, 4 * MANY):
        run = tmp_path / str(classes)
        run.mkdir()
        assessment = write_evaluation(run, *logits_of(classes, 1))
        assert assessment["confusion"] is None and len(assessment["confusion_cells"]) == classes
        sizes[classes] = (run / "evaluation.json").stat().st_size
    assert sizes[MANY] < 600_000 and sizes[4 * MANY] < 4.2 * sizes[MANY]


def test_few_classes_keep_their_table_and_one_more_than_the_most_has_cells(tmp_path: Path) -> None:
    few, many = (write_evaluation(tmp_path, *logits_of(number, confused=2)) for number in (DENSE_MOST, DENSE_MOST + 1))
    assert "confusion_cells" not in few and len(few["confusion"]) == DENSE_MOST
    assert few["confusion"][0][:3] == [1, 2, 0] and many["confusion_cells"][:3] == [[0, 0, 1], [0, 1, 2], [1, 1, 3]]
    assert read_matrix(few)[2] == [0, 0, 1, 2, *[0] * (DENSE_MOST - 4)]
    assert read_matrix(many)[2] == (0, 0, 1, 2, *[0] * (DENSE_MOST - 3))


def test_a_program_that_knows_the_table_alone_stops_and_reads_nothing_else(tmp_path: Path) -> None:
    assessment = write_evaluation(tmp_path, *logits_of(MANY))
    with pytest.raises(TypeError):
        sum(map(sum, assessment["confusion"]))
    with pytest.raises(TypeError):
        json.dumps(confusion_matrix(*logits_of(MANY)))


def test_what_observers_get_reads_like_the_table(tmp_path: Path) -> None:
    size, cells = DENSE_MOST + 50, [(0, 3, 2), (0, 0, 1), (4, 4, 7), (249, 0, 5)]
    matrix = matrix_of(size, cells)
    table = tuple(
        tuple({(t, p): n for t, p, n in cells}.get((row, column), 0) for column in range(size)) for row in range(size)
    )
    assert isinstance(matrix, SparseMatrix) and matrix == table and hash(matrix) == hash(matrix_of(size, cells[::-1]))
    assert (
        matrix[0][3] == 2 and matrix[-1][0] == 5 and matrix[1:3] == table[1:3] and len(matrix) == len(matrix[7]) == size
    )
    assert sum(map(sum, matrix)) == 15 and list(matrix)[4] == table[4] and (np.array(matrix) == np.array(table)).all()
    assert copy.deepcopy(matrix) == matrix != matrix_of(size, cells[1:]) and matrix != table[::-1]
    assert list(cells_of(table)) == list(cells_of(matrix)) == sorted(cells)
    with pytest.raises(IndexError):
        matrix[size]


@pytest.mark.parametrize(("images", "classes"), [(7, 2), (300, 40), (120, 30_000)])
def test_rows_that_are_worked_on_in_parts_give_the_same_bits(images: int, classes: int) -> None:
    logits, targets = torch.randn(images, classes) * 5, torch.randint(classes, (images,))
    assert score(logits, targets).loss == float(torch.nn.functional.cross_entropy(logits, targets))
    probabilities = logits.double().softmax(1)
    made = predictions_of("val", [""] * images, logits, targets, names(classes))
    assert [each.probability for each in made] == probabilities.max(1).values.tolist()
    assert [each.probability_of_label for each in made] == probabilities[torch.arange(images), targets].tolist()
    found = assess(logits, targets, names(classes))
    if found.top5 is not None:
        assert found.top5.value == pytest.approx(
            float((logits.topk(5).indices == targets[:, None]).any(1).double().mean())
        )


def test_the_report_shows_the_most_confused_classes_and_stays_small(many: Path) -> None:
    zoo.report(many)
    page = (many / "report.html").read_text("utf-8")
    assert len(page) < 250_000 and "Shown: the 20 most confused of 1,000 classes" in page and "980 others" in page
    table = page[page.index('<table class="matrix') :].partition("</table>")[0]
    assert table.count('<th scope="row"') == 20 and table.count("<tr>") == 21
    assert 'title="species 00000 predicted as species 00001: 2"' in table
    assert "the 40 of 1000 classes with the lowest F1" in page


def test_runs_written_before_are_reported_and_compared_as_those_of_now(many: Path, tmp_path: Path) -> None:
    old = shutil.copytree(many, tmp_path / "old" / "many")
    write_old_form(old, as_table)
    assert (old / "evaluation.json").stat().st_size > 2e6
    for run in (old, many):
        zoo.report(run)
    assert (old / "report.html").read_bytes() == (many / "report.html").read_bytes()
    assert zoo.compare(old, many).runs[0].scores["val"].images == 3 * MANY


def test_many_classes_of_which_none_is_confused_have_no_matrix_to_show(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    write_evaluation(run, *logits_of(MANY))
    zoo.report(run)
    page = (run / "report.html").read_text("utf-8")
    assert (
        "There are no confusions: every validation image of 1,000 classes" in page
        and '<table class="matrix' not in page
    )
    picture = zoo.draw_confusion(confusion_matrix(*logits_of(MANY)), names(MANY))
    assert picture.shape[0] < 40 and picture.min() < 128, "one line of text"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("confusion_cells"), "neither confusion nor confusion_cells"),
        (lambda found: found["confusion_cells"].append([0, MANY, 1]), "outside of its 1000 classes"),
        (lambda found: found["confusion_cells"].append(found["confusion_cells"][0]), "given twice"),
        (lambda found: found["confusion_cells"].append([5, 6]), "not lists of three integers"),
        (lambda found: found["confusion_cells"].append([5, 6, 0.5]), "not lists of three integers"),
        (lambda found: found.update(confusion=[[1, 2], [3, 4]]), "no table of 1000 by 1000"),
    ],
)
def test_a_matrix_that_is_damaged_is_said_and_not_shown(
    change: Callable[[dict[str, Any]], Any], message: str, many: Path
) -> None:
    write_old_form(many, change)
    with pytest.raises(RunError, match=message) as found:
        zoo.report(many)
    assert "evaluation.json" in str(found.value)


def test_the_picture_has_a_size_that_can_be_shown_whatever_the_number_of_classes() -> None:
    logits, targets = logits_of(3000, 2, confused=30)
    picture = zoo.draw_confusion(confusion_matrix(logits, targets), names(3000))
    assert max(picture.shape) < 2000
    table = [list(row) for row in confusion_matrix(*logits_of(300, 2, confused=30))]
    assert (
        zoo.draw_confusion(table, names(300)) == zoo.draw_confusion(matrix_of(300, cells_of(table)), names(300))
    ).all()
    assert zoo.draw_confusion(np.eye(DENSE_MOST, dtype=int).tolist(), names(DENSE_MOST)).shape == (1200, 1200, 3)


def test_the_most_confused_are_chosen_by_pairs_in_both_directions() -> None:
    matrix = matrix_of(MANY, [(5, 5, 90), (7, 1, 3), (1, 7, 3), (9, 8, 5), (7, 2, 1), (40, 41, 1)])
    assert most_confused(matrix, 4) == [1, 7, 8, 9] and most_confused(matrix, 5) == [1, 7, 8, 9, 2]
    assert most_confused(matrix, 3) == [1, 7, 2], "half a pair would show nothing"
    assert most_confused(matrix_of(MANY, [(3, 3, 1)]), 20) == []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(evaluation: Evaluation, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    print_evaluation(evaluation, Verbosity(), as_json=False)
    return stream.getvalue()


def test_a_terminal_gets_the_worst_classes_and_a_pipe_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    logits, targets = logits_of(MANY, confused=2)
    evaluation = Evaluation(
        split="val",
        images=len(targets),
        scores=score(logits, targets),
        assessment=assess(logits, targets, names(MANY)),
        predictions=(),
        per_class={},
        unreadable={},
    )
    shown = printed(evaluation, Terminal(), monkeypatch)
    assert "the 40 of 1,000 classes with the lowest F1; --json has all" in shown and shown.count("species") == 40
    assert shown.index("species 00000") < shown.index("species 00001") and "species 00500" not in shown
    assert printed(evaluation, io.StringIO(), monkeypatch).count("species") == MANY
    small = replace(evaluation, assessment=assess(*logits_of(100), names(100)))
    assert printed(small, Terminal(), monkeypatch).count("species") == 100


def test_json_of_evaluate_has_the_cells(capsys: pytest.CaptureFixture[str]) -> None:
    logits, targets = logits_of(MANY, confused=2)
    assessment = assess(logits, targets, names(MANY))
    evaluation = Evaluation(
        split="all",
        images=len(targets),
        scores=score(logits, targets),
        assessment=assessment,
        predictions=(),
        per_class={},
        unreadable={},
    )
    print_evaluation(evaluation, Verbosity(), as_json=True)
    found = json.loads(capsys.readouterr().out)["assessment"]
    assert read_matrix(found) == assessment.confusion and found["confusion"] is None
    assert list(to_json(assess(*logits_of(9), names(9)).confusion)) == ["confusion"]


def test_messages_and_the_card_name_some_classes_and_count_the_rest(trained: Path, tmp_path: Path) -> None:
    classes = [f"c{number:02}" for number in range(25)]
    write_pictures(tmp_path / "data", pictures_of(*classes, count=2))
    with pytest.raises(OptionError, match=r"has 25 class folders: c00, .*, c09 and 15 more\.\nNext: leave classes out"):
        zoo.plan(backbone="timm/test_resnet", weights="random", data=tmp_path / "data", classes=3)
    assert len(zoo.plan(backbone="timm/test_resnet", weights="random", data=tmp_path / "data").classes) == 25
    config, plan = read_config(trained / "model"), read_plan(trained)
    wide = model_card(config.model_copy(update={"classes": tuple(names(MANY))}), plan)
    assert "species 00199 and 800 more |" in wide and "- species 00999" in wide, "the front matter has all"
    assert f"| classes | {', '.join(config.classes)} |" in model_card(config, plan)
    assert some(["a", "b"], 2) == "a, b" and some(["a", "b", "c"], 2) == "a, b and 1 more"


def test_the_proof_says_which_class_is_first_out_of_order(tmp_path: Path) -> None:
    wanted = tuple(names(MANY))
    dataset = Dataset(source="here", folder=tmp_path, classes=wanted, splits={}, skipped=(), notes=())
    assert check_classes(dataset, wanted).verdict == "passed"
    swapped: Sequence[str] = [wanted[0], wanted[2], wanted[1], *wanted[3:]]
    check = check_classes(dataset, swapped)
    assert check.verdict == "failed" and len(check.summary) < 200
    assert "class 2 is 'species 00002' in the model, 'species 00001' in the data" in check.summary


def test_a_shortcut_is_found_in_every_block_of_classes() -> None:
    count, revealed = 600, {3, 300, 599}
    labels = [label for label in range(count) for _ in range(20)]
    sizes = [(64 * (2 + min(label, 300)), 50) if label in revealed else (400, 400) for label in labels]
    sizes = [(size[0] + 9000, 50) if label == 599 else size for label, size in zip(labels, sizes, strict=True)]
    assert {found.label for found in find_shortcuts(sizes, labels, count)} == revealed
