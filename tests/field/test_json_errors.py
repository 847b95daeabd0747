"""A program that asks for JSON gets JSON, whatever happens (relatives: usage errors, signals).

Every command with `--json`, every kind of error: stdout is one document, and stderr has the text for people.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import zoo
import zoo.testing.report
import zoo.training.stage_watch
from tests.conftest import Zoo
from tests.field.pictures import write_pictures
from zoo.artefact.classifier import BATCH_SIZE
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.shown import shown
from zoo.errors import DataError, ZooError
from zoo.events import Note

PAGE = Path(__file__).parents[2] / "docs" / "command.md"
TINY = ("--backbone", "timm/test_resnet", "--weights", "random")


@pytest.fixture(scope="module")
def run_folder(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return zoo.finetune(backbone="timm/test_resnet", weights="random", data=few, out=out, epochs=1).path


def error_of(done: subprocess.CompletedProcess[str]) -> tuple[str, int]:
    """(kind, exit code) of the one document on stdout, which says what stderr says."""
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"kind", "message", "exit_code"} and error["exit_code"] == done.returncode
    assert error["message"].splitlines()[0] in done.stderr
    return error["kind"], done.returncode


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        ("list heads nothing --json", "unknown_name", 2),
        ("list heda --json", "refused", 2),
        ("list backbones --max-params many --json", "option", 2),
        ("show resnet81 --json", "unknown_name", 2),
        ("show nowhere.toml --json", "option", 2),
        ("plan --backbone resnet18 --data nowhere --json", "data", 1),
        ("plan --backbone resnet18 --epochs 0 --json", "option", 2),
        ("finetune --json", "option", 2),
        ("finetune --resume nowhere --json", "run", 1),
        ("evaluate nowhere --data nowhere --json", "artefact", 1),
        ("predict nowhere pic.jpg --json", "artefact", 1),
        ("export nowhere --to onnx --json", "artefact", 1),
        ("verify nowhere --json", "artefact", 1),
        ("report nowhere --json", "run", 1),
        ("compare nowhere neither --json", "run", 1),
        ("data check nowhere --json", "data", 1),
        ("plugins check nothing --json", "unknown_name", 2),
        ("weights verify nothing --json", "unknown_name", 2),
        # What typer refuses.
        ("cache show extra --json", "usage", 2),
        ("doctor --jsn --json", "usage", 2),
        ("evaluate --json run", "usage", 2),
        ("weights list a b --json", "usage", 2),
        ("nothing --json", "usage", 2),
        ("weights fetch --json", "usage", 2),
        ("list --json=yes", "usage", 2),
    ],
)
def test_every_command_and_kind_of_error(words: str, kind: str, code: int, zoo_inside: Zoo, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["pic.jpg"])
    assert error_of(zoo_inside(*words.split())) == (kind, code)


@pytest.mark.parametrize("words", ["list heda", "doctor --jsn", "predict nowhere -- --json"])
def test_without_the_option_stdout_stays_empty(words: str, zoo_inside: Zoo) -> None:
    done = zoo_inside(*words.split())
    assert done.returncode in (1, 2) and done.stdout == "" and done.stderr


def test_a_fault_of_zoo_itself_is_a_traceback_for_people_and_a_kind_for_programs(
    zoo_inside: Zoo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(pattern: str) -> None:
        raise RuntimeError("not\nplanned")

    monkeypatch.setattr("zoo.list_weights", fail)
    with pytest.raises(RuntimeError):
        zoo_inside("weights", "list", "--json")
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {"kind": "internal", "message": "RuntimeError: not", "exit_code": 1}


def test_a_check_that_fails_prints_its_report_and_nothing_behind_it(
    zoo_inside: Zoo, run_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (run_folder / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    damaged = bytearray((model / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (model / "model.safetensors").write_bytes(damaged)
    done = zoo_inside("verify", model, "--json")
    assert done.returncode == 3 and json.loads(done.stdout)["verdict"] == "failed"


@pytest.mark.long
def test_files_that_predict_leaves_out_leave_its_list_whole(zoo_inside: Zoo, run_folder: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["good.jpg"])
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    done = zoo_inside("predict", run_folder, "good.jpg", "bad.jpg", "--json")
    assert done.returncode == 1 and [Path(each["source"]).name for each in json.loads(done.stdout)] == ["good.jpg"]


@pytest.mark.long
def test_a_list_that_breaks_off_ends_with_the_error(run_folder: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["pic.jpg"])
    words = [sys.executable, "-m", "zoo", "predict", str(run_folder), "-", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("pic.jpg\n" * 3 * BATCH_SIZE)
        process.stdin.flush()
        printed = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        content = json.loads("".join([*printed, process.stdout.read()]))
        assert process.stderr.read() == "Interrupted.\n"
    assert process.returncode == 130
    assert content[0]["label"] and content[-1]["error"]["kind"] == "interrupted"
    assert not any("error" in item for item in content[:-1])


@pytest.mark.long
def test_a_run_that_fails_says_in_one_message_how_to_go_on(
    zoo_inside: Zoo, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **named: object) -> None:
        raise DataError("pic.jpg: the file was changed while it was in use")

    with monkeypatch.context() as broken:
        broken.setattr("zoo.training.run.draw_golden", fail)
        done = zoo_inside("finetune", *TINY, "--epochs", "1", "--data", few, "--out", "run", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "data" and error["message"].endswith("To resume: zoo finetune --resume run")
    assert done.stderr.count("zoo finetune --resume run") == 2  # as the run begins, and with the error
    again = zoo_inside(*error["message"].rpartition("zoo ")[2].split(), "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["path"] == "run"


@pytest.mark.parametrize(("words", "code"), [("list heda --json", 2), ("list heads", 0), ("cache show", 0)])
def test_a_closed_stdout_is_no_traceback(words: str, code: int, tmp_path: Path) -> None:
    command = ["/bin/bash", "-c", f"{sys.executable} -m zoo {words} >&-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "code", "key"),
    [("show resnet18x", 2, "error"), ("plan --no-tune --backbone timm/test_resnet --weights random", 0, "backbone")],
)
def test_with_a_closed_stderr_the_json_stays_alone(words: str, code: int, key: str, tmp_path: Path) -> None:
    command = ["/bin/bash", "-c", f"{sys.executable} -m zoo {words} --json 2>&-"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code and key in json.loads(done.stdout)


def test_what_is_said_to_people_goes_nowhere_where_there_is_no_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    console.hint("in plain words", Verbosity())
    console.err().print("by rich")
    with shown(None, True) as report:
        report(Note(text="in progress", loud=True))
    assert capsys.readouterr().out == ""


def kinds_without_a_name(classes: Iterable[type[ZooError]]) -> list[str]:
    """Classes that have no code of their own, or one that another has."""
    codes = [vars(each).get("code") for each in classes]
    return [each.__name__ for each, code in zip(classes, codes, strict=True) if code is None or codes.count(code) > 1]


def subclasses(of: type[ZooError]) -> list[type[ZooError]]:
    found = [of]
    for each in of.__subclasses__():
        found += subclasses(each) if each.__module__.startswith("zoo") else []
    return found


def test_every_error_has_a_name_of_its_own_and_the_page_lists_them_all() -> None:
    classes = subclasses(ZooError)
    assert kinds_without_a_name(classes) == []
    listed = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    others = {"usage": 2, "path": 1, "interrupted": 130, "terminated": 143, "aborted": 1, "internal": 1}
    assert {name: int(code) for name, code in listed.items()} == others | {
        each.code: each.exit_code for each in classes
    }

    class Nameless(DataError): ...

    class Twin(DataError):
        code = "device"

    assert kinds_without_a_name([*classes, Nameless, Twin]) == ["DeviceError", "Nameless", "Twin"]
