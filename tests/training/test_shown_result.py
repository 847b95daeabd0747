"""What a result shows of its run, from the files of a real run whose class names are markup."""

from __future__ import annotations

import html
import json
import re
import shutil
import webbrowser
from dataclasses import replace
from pathlib import Path

import pytest
import zoo
from zoo.display.blocks import FRAME_MOST
from zoo.errors import OptionError, RunError
from zoo.training.result import Result

EVIL = "<script>alert(1)"


@pytest.fixture(scope="module")
def result(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    data = tmp_path_factory.mktemp("evil") / "data"
    shutil.copytree(few, data)
    first, *_ = sorted(folder.name for folder in (data / "train").iterdir())
    for split in data.iterdir():
        (split / first).rename(split / EVIL)
    return zoo.finetune(
        "timm/test_resnet",
        weights="random",
        data=data,
        out=data.parent / "run",
        recipe="lp_ft",
        epochs=2,
        tune=False,
        set=["all.abandon=false"],
    )


@pytest.fixture
def copy(result: Result, tmp_path: Path) -> Result:
    """The same, in a folder that a test may break."""
    return replace(result, path=Path(shutil.copytree(result.path, tmp_path / "run")))


def test_the_history_has_a_row_for_each_line_of_the_file(result: Result) -> None:
    lines = [json.loads(line) for line in (result.path / "history.jsonl").read_text("utf-8").splitlines()]
    history = result.history
    assert [(row["stage"], row["epoch"]) for row in history] == [("head", 1), ("all", 1), ("all", 2)]
    for row, line in zip(history, lines, strict=True):
        assert row["val_loss"] == line["val"]["loss"] and row["val_accuracy"] == line["val"]["accuracy"]
        assert row["train_loss"] == line["train_loss"] and row["seconds"] == line["seconds"]
        assert row["learning_rate"] == max(line["rates"].values(), default=None)
    pandas = pytest.importorskip("pandas")
    assert pandas.DataFrame(history)["train_loss"].tolist() == [line["train_loss"] for line in lines]


def test_the_stages_say_which_was_kept(result: Result) -> None:
    stages = result.stages
    assert [row["stage"] for row in stages] == ["head", "all"]
    assert [row["stage"] for row in stages if row["kept"]] == [result.content["selection"]["kept"]]
    kept = next(row for row in stages if row["kept"])
    assert kept["accuracy"] == result.metrics["val"]["accuracy"] and kept["given_up"] is None


def test_the_confusion_is_that_of_the_evaluation_with_names(result: Result) -> None:
    evaluation = json.loads((result.path / "evaluation.json").read_text("utf-8"))
    table = result.confusion
    assert table.split == "val" and table.classes == result.classes and EVIL in table.classes
    assert [list(row) for row in table.counts] == evaluation["val"]["confusion"]
    assert table.images == 4 and table[EVIL, EVIL] == table.counts[table.classes.index(EVIL)][table.classes.index(EVIL)]
    assert sum(images for _, _, images in table.confused) == round((1 - result.accuracy) * 4)
    page = table._repr_html_()
    assert "<script" not in page and html.escape(EVIL) in page
    with pytest.raises(OptionError, match=r"no class '<script>alert\(2\)'. Did you mean '<script>alert\(1\)'"):
        table["<script>alert(2)", EVIL]
    with pytest.raises(OptionError, match=r"has two classes; got '<script>"):
        table[EVIL]  # type: ignore[index]
    with pytest.raises(OptionError, match=r"no predictions on 'test'\.\nNext: give one of these: val"):
        result.confusion_on("test")


def test_predictions_that_were_tampered_with_are_no_confusion(copy: Result) -> None:
    file = copy.path / "predictions.csv"
    file.write_text(file.read_text("utf-8").replace(EVIL, "other"), "utf-8")
    with pytest.raises(RunError, match=r"predictions\.csv was changed after the run wrote it"):
        _ = copy.confusion
    # An older zoo recorded no digest.
    evaluation = copy.path / "evaluation.json"
    evaluation.write_text(evaluation.read_text("utf-8").replace("predictions_digest", "unknown"), "utf-8")
    with pytest.raises(RunError, match=r"predictions\.csv cannot be read: .* is of a class that the run does not have"):
        _ = copy.confusion
    file.unlink()
    with pytest.raises(RunError, match=r"predictions\.csv cannot be read"):
        _ = copy.confusion


def test_a_notebook_shows_the_report_whole(result: Result) -> None:
    page = result._repr_html_()
    source = re.search(r'srcdoc="([^"]*)"', page)
    assert source is not None and html.unescape(source[1]) == result.report_path.read_text("utf-8")
    assert re.findall(r"<\w+", page) == ["<iframe"]


def test_a_report_that_is_too_large_is_summed_up_with_a_link(copy: Result) -> None:
    with copy.report_path.open("a", encoding="utf-8") as file:
        file.write("<!--" + "x" * FRAME_MOST + "-->")
    page = copy._repr_html_()
    assert "<iframe" not in page and copy.report_path.as_uri() in page and len(page) < 10_000
    assert "more than the 2.0 MB that a notebook shows" in page
    assert f"{copy.accuracy:.4f}" in page and ">kept<" in page


def test_a_report_that_is_missing_can_be_written_again(copy: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    copy.report_path.unlink()
    assert "<iframe" not in copy._repr_html_() and "zoo.report(" in html.unescape(copy._repr_html_())
    with pytest.raises(RunError, match=r"has no report\.html") as error:
        copy.show()
    exec(str(error.value).splitlines()[1].removeprefix("Next: "), {"zoo": zoo})
    copy.show()
    assert opened == [copy.report_path.as_uri()] and "<iframe" in copy._repr_html_()


def test_without_a_browser_the_place_of_the_report_is_said(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    with pytest.raises(RunError, match="No browser can be opened") as error:
        result.show()
    assert str(result.report_path) in str(error.value)


def test_a_result_is_found_after_a_change_of_the_working_directory(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = {"weights": "random", "recipe": "head_only", "epochs": 1}
    result = zoo.finetune("timm/test_resnet", data=few, out="run", **tiny)
    assert str(result.path) == "run"

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert len(result.history) == 1 and result.report_path.is_file() and "val" in repr(result.confusion)
    assert result.classifier().classes == zoo.load(result).classes == result.classes
