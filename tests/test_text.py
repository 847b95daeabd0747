"""File names that are no UTF-8: every command goes through them and shows them alike, with `\\xff` for the byte."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from zoo.data.sample import sample_image
from zoo.display import console
from zoo.display.shown import shown
from zoo.display.wrapping import say
from zoo.evaluation.predictions import from_csv
from zoo.events import Note
from zoo.storage.atomic import json_line, json_text
from zoo.text import escaping_errors, file_named, in_points, points, printable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there may names be any bytes everywhere")
RAW, SHOWN = os.fsdecode(b"\xff%d.jpg"), r"\xff%d.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names") / "data"
    for split, count in (("train", 4), ("val", 2)):
        for index, name in enumerate((b"a", b"caf\xe9")):
            folder = root / split / os.fsdecode(name)
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 2, split, number).save(folder / (RAW % number))
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.finetune(
        backbone="timm/test_resnet",
        weights="random",
        data=data,
        recipe="head_only",
        epochs=1,
        tune=False,
        out=tmp_path_factory.mktemp("runs") / "run",
    ).path


def test_bytes_become_escapes_and_all_else_stays() -> None:
    assert printable(os.fsdecode(b"a\xff\xfe/caf\xc3\xa9.jpg")) == "a\\xff\\xfe/café.jpg"
    assert printable("café \\xff") == "café \\xff" and printable("\ud800") == "\\ud800"
    assert "é\udcff✓".encode("ascii", escaping_errors()) == rb"\xe9\xff\u2713"
    assert "é\udcff".encode("utf-8", escaping_errors()).decode() == "é\\xff"
    content = {"\udcff": ["\udcfe", 1, float("nan")]}
    assert json.loads(json_text(content)) == json.loads(json_line(content)) == {"\\xff": ["\\xfe", 1, None]}


def test_no_difference_is_written_as_minus_zero() -> None:
    """It would look like a loss. What is rounded to zero is one, too."""
    shares = [0.0, -0.0, -0.0004, 0.0004, -0.0006, 0.013]
    assert [points(share) for share in shares] == [*["+0.0 points"] * 4, "-0.1 points", "+1.3 points"]
    assert [in_points(share, signed=False) for share in shares] == [*["0.0"] * 4, "-0.1", "1.3"]


def test_a_file_is_found_again_by_how_its_name_is_shown(data: Path, tmp_path: Path) -> None:
    assert file_named(data, f"val/caf\\xe9/{SHOWN % 1}").exists()
    (tmp_path / r"\xff.jpg").touch()
    assert file_named(tmp_path, r"\xff.jpg") == tmp_path / r"\xff.jpg", "somebody may really call it so"
    assert file_named(tmp_path, r"\xfe.jpg") == tmp_path / r"\xfe.jpg"


def test_predict_shows_them_where_stdout_takes_utf8_alone(
    run: Path, data: Path, tmp_path: Path, zoo_inside: Zoo
) -> None:
    folder = data / "val" / os.fsdecode(b"caf\xe9")
    done = zoo_inside("predict", run, folder, tmp_path / os.fsdecode(b"no\xff.jpg"))
    assert done.returncode == 1, done.stderr
    assert done.stdout.isascii() and done.stdout.count(r"caf\xe9/\xff") == 2
    assert done.stderr.isascii() and r"no\xff.jpg: No such file" in done.stderr


def test_predict_writes_them_to_json_and_csv(run: Path, data: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    done = zoo_inside("predict", run, data / "val" / "a", "--json", "--csv", "said.csv")
    assert done.returncode == 0, done.stderr
    sources = [f"{data}/val/a/{SHOWN % number}" for number in range(2)]
    assert [each["source"] for each in json.loads(done.stdout)] == sources
    rows = list(csv.DictReader(io.StringIO((tmp_path / "said.csv").read_bytes().decode())))
    assert [row["source"] for row in rows] == sources


def test_evaluate_shows_them(run: Path, data: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    bad = data / "val" / "a" / os.fsdecode(b"bad\xff.jpg")
    bad.write_text("no image")
    try:
        done = zoo_inside("evaluate", run, "--data", data, "--json", "--csv", "said.csv")
    finally:
        bad.unlink()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    files = [f"val/{name}/{SHOWN % number}" for name in ("a", r"caf\xe9") for number in range(2)]
    assert [each["file"] for each in found["predictions"]] == files and [*found["unreadable"]] == [r"val/a/bad\xff.jpg"]
    said = list(from_csv((tmp_path / "said.csv").read_bytes().decode()))
    assert [each.file for each in said] == files and said[3].label == r"caf\xe9"
    assert r"Left out, unreadable: val/a/bad\xff.jpg" in done.stderr


def test_the_check_of_the_data_shows_them(data: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    elsewhere = tmp_path / os.fsdecode(b"data\xfe")
    for index, name in enumerate(("a", "b")):
        (elsewhere / name).mkdir(parents=True)
        sample_image(index, 2, "train", 0).save(elsewhere / name / (RAW % 0))
        (elsewhere / name / (RAW % 1)).write_text("no image")
    done = zoo_inside("data", "check", elsewhere, "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["path"].endswith(r"data\xfe")
    assert rf"a/{SHOWN % 1}" in [file for each in found["findings"] for case in each["cases"] for file in case["files"]]
    assert rf"a/{SHOWN % 1}: not an image" in zoo_inside("data", "check", elsewhere).stdout


def test_the_report_finds_the_pictures_and_shows_the_names(run: Path) -> None:
    page = (run / "report.html").read_bytes().decode("utf-8")
    assert "Cannot be read any more" not in page and "data:image/jpeg;base64," in page
    assert rf"val/caf\xe9/{SHOWN % 0}" in page


def test_a_run_folder_may_be_called_anything(run: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    strange = tmp_path / os.fsdecode(b"run\xfd")
    strange.symlink_to(run)
    done = zoo_inside("report", strange, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["report"].endswith(r"run\xfd/report.html")
    assert r"run\xfd" in (run / "report.html").read_bytes().decode("utf-8")


def test_a_plan_cannot_hold_a_data_folder_of_such_a_name(data: Path, tmp_path: Path, zoo_inside: Zoo) -> None:
    strange = tmp_path / os.fsdecode(b"data\xfe")
    strange.symlink_to(data)
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data", strange)
    assert done.returncode == 2 and r"data\xfe, holds bytes that are not UTF-8" in done.stderr, done.stderr
    assert "Next: rename what is escaped there." in done.stderr


def test_a_name_with_control_characters_takes_one_row_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A name may hold a line end, and what changes the colours of a terminal."""
    table = console.table(None, ["class", "images"], [["a\nb", "1"], ["\x1b[31mred", "2"], ["é\u2028", "3"]])
    console.show(console.out(), table)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split() for row in rows] == [[r"a\nb", "1"], [r"\x1b[31mred", "2"], ["é\\u2028", "3"]]


HOSTILE = "\x1b]0;owned\x07\x9b31m\r\u2028"
"""It would set a terminal's title and its colour, and go back to the start of the line."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_no_name_reaches_the_terminal_as_a_command(options: tuple[str, ...], tmp_path: Path, zoo_inside: Zoo) -> None:
    """Files and folders come from others, and their names are in sentences as well as in tables."""
    for index, label in enumerate(("a", f"b{HOSTILE}")):
        folder = tmp_path / "data" / "train" / label
        folder.mkdir(parents=True)
        for number in range(3):
            # The first are alike in both classes, which a finding names.
            sample_image(index * min(number, 1), 2, "train", number).save(folder / f"{HOSTILE}{number}.png")
    checked = zoo_inside("data", "check", tmp_path / "data", *options)
    missing = zoo_inside("data", "check", tmp_path / f"gone{HOSTILE}", *options)
    for done in (checked, missing):
        said = done.stdout + done.stderr
        assert "owned" in said and not CONTROL.search(said), ascii(said)
    if options:
        classes = json.loads(checked.stdout)["classes"]
        assert f"b{HOSTILE}" in [each["name"] if isinstance(each, dict) else each for each in classes]


def test_lines_of_a_run_have_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(verbose=True) as report:
        report(Note(text=f"1 image cannot be read: {HOSTILE}.jpg\nNext: look at it"))
    said = capsys.readouterr().err
    assert "owned" in said and "\nNext" in said and not CONTROL.search(said), ascii(said)


@pytest.mark.parametrize("to_stderr", [False, True])
def test_what_a_command_says_has_none(to_stderr: bool, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"There is no class b{HOSTILE}.\n\tNext: zoo list", to_stderr=to_stderr)
    said = capsys.readouterr()
    text = said.err if to_stderr else said.out
    assert r"b\x1b]0;owned" in text and "\n\tNext: zoo list\n" in text and not CONTROL.search(text), ascii(text)
