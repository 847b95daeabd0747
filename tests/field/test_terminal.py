"""What a person sees: it fits a narrow terminal, a pipe gets all of it, and `-q` says less.

Relatives: tables of numbers that wrapped letter by letter, paths broken by newlines, colours in pipes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zoo
from tests.conftest import Zoo
from zoo.display.wrapping import wrapped
from zoo.planning import precision as speed
from zoo.planning.pass_times import Measured
from zoo.specs.plan import Compute

TINY = ("--backbone", "timm/test_resnet", "--weights", "random")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def run_folder(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return zoo.finetune(backbone="timm/test_resnet", weights="random", data=few, out=out, epochs=1).path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo, run_folder: Path, few: Path) -> Zoo:
    """Runs a command as on a terminal with COLUMNS columns, without its colours. RUN and DATA stand for folders."""

    twin = run_folder.with_name("run2")
    if not twin.exists():
        shutil.copytree(run_folder, twin)

    def run(words: str, columns: int | None) -> subprocess.CompletedProcess[str]:
        places = {"RUN": run_folder, "RUN2": twin, "DATA": few}
        monkeypatch.chdir(run_folder.parent)
        with monkeypatch.context() as patch:
            if columns is not None:
                patch.setenv("COLUMNS", str(columns))
                patch.setenv("TERM", "xterm")
                patch.setattr("sys.stdout.isatty", lambda: True)
            done = zoo_inside(*[str(places.get(word, word)) for word in words.split()])
        text = ESCAPE.sub("", done.stdout)
        return subprocess.CompletedProcess(done.args, done.returncode, text, done.stderr)

    return run


SHOWN = [
    "list",
    "list heads",
    "list recipes",
    "list sources",
    "list observers",
    "list plugins",
    "show gem",
    "show resnet18",
    "show resnet18 --head linear",
    "doctor",
    "cache show",
    "plan --backbone timm/test_resnet --weights random --no-tune --data DATA",
    "evaluate RUN --data DATA",
    "verify RUN",
    "data check DATA",
    "compare RUN RUN2 --html x.html",
    "plugins check linear",
]


def words_of(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("columns", [pytest.param(60, marks=pytest.mark.long), 40])
@pytest.mark.parametrize("words", SHOWN)
def test_it_fits_and_no_word_is_broken(words: str, columns: int, terminal: Zoo, tmp_path: Path) -> None:
    page = f" --html {tmp_path / 'page.html'}"
    narrow = terminal(words.replace(" --html x.html", page), columns)
    assert narrow.returncode == 0, narrow.stderr
    (tmp_path / "page.html").unlink(missing_ok=True)
    plain = terminal(words.replace(" --html x.html", page), None)
    # A single word may be longer than the line: a path, or a name. So may a command, which is to be copied.
    single = re.compile(r"\s*((\w+: )?\S+|([\w' ]+: )?zoo .*|\S+  +\S+)")
    lines = narrow.stdout.splitlines()
    assert [line for line in lines if len(line.rstrip()) > columns and not single.fullmatch(line)] == []
    times = re.compile(r"[\d.,]+%?|ms|s|min|just|now|ago")
    missing = {word for word in words_of(plain.stdout) - words_of(narrow.stdout) if not times.fullmatch(word)}
    assert missing == set()


def test_the_check_of_this_file_notices_a_broken_word() -> None:
    table = "a  optimi\n   zer"
    assert words_of("a optimizer") - words_of(table) == {"optimizer"}


def test_numbers_are_not_wrapped(terminal: Zoo) -> None:
    assert re.search(r"\d\.\d\d to \d\.\d\d", terminal("evaluate RUN --data DATA", 40).stdout)


def test_a_command_to_copy_stays_on_its_line() -> None:
    line = "Next: zoo finetune --backbone resnet18 --head gem --head-option p=3.0"
    assert wrapped(line, 40) == line
    assert wrapped("needs       a map of features and then more words", 30).splitlines()[1].startswith(" " * 12)
    assert wrapped("  one two three", 9) == "  one two\n  three"


@pytest.mark.parametrize(
    "words", ["list heads", "plan --backbone timm/test_resnet --weights random --no-tune --data DATA"]
)
def test_a_pipe_gets_it_whole_and_without_colours(words: str, terminal: Zoo) -> None:
    wide = terminal(words, None)
    assert "\x1b" not in wide.stdout + wide.stderr and max(map(len, wide.stdout.splitlines())) > 80


@pytest.mark.long
def test_no_color_is_heard_and_head_is_quiet(few: Path, run_folder: Path) -> None:
    command = f"{sys.executable} -m zoo data check {few} --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken" not in done.stderr
    # In a terminal of its own.
    script = f"import pty; pty.spawn([{sys.executable!r}, '-m', 'zoo', 'verify', {str(run_folder)!r}])"
    words = [sys.executable, "-c", script]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    seen = subprocess.run(words, capture_output=True, env=environment, input=b"", check=False).stdout
    assert b"passed: " in seen and not re.search(rb"\x1b\[[0-9;]*3[0-9]m", seen)


QUIET = [
    *SHOWN,
    "list weights resnet18",
    "list backbones resnet18",
    "predict RUN DATA/val",
    "cache clear sample",
    "weights list",
]


@pytest.mark.parametrize("words", QUIET)
def test_quiet_says_less_and_verbose_no_less(words: str, terminal: Zoo, few: Path, tmp_path: Path) -> None:
    def lines(flag: str) -> list[str]:
        (tmp_path / "page.html").unlink(missing_ok=True)
        given = words.replace("x.html", str(tmp_path / "page.html")).replace("DATA/val", f"{few}/val")
        done = terminal(f"{flag} {given}".strip(), None)
        assert done.returncode == 0, done.stderr
        # Times differ from call to call, and so does what there is to remove, which another test may have made.
        return [
            re.sub(r"[\d.]+ (ms|s|kB|MB)\b|[\d,]+ files?", "", line)
            for line in (done.stdout + done.stderr).splitlines()
        ]

    quiet, usual, verbose = lines("-q"), lines(""), lines("-v")
    assert quiet and set(quiet) <= set(usual) and len(quiet) <= len(usual) <= len(verbose)
    if words.split()[0] in ("evaluate", "verify", "data") or words in ("list", "show gem", "plugins check linear"):
        assert len(quiet) < len(usual)


def test_what_was_measured_is_named_and_measured_again(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Zoo
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "read_table", lambda: ())
    measured: list[str] = []

    def measure(*_: object, **__: object) -> Measured:
        measured.append("again")
        half = Compute("bfloat16", "channels_last")
        return Measured(half, certain=True, turns=3, rates={str(Compute()): 10.0, str(half): 30.0})

    monkeypatch.setattr(speed, "time_candidates", measure)
    plan = zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=True)
    zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=True)
    assert len(measured) == 1
    shown = terminal("cache show", None).stdout
    for said in (
        "timm/test_resnet",
        "training",
        "bfloat16, channels_last is taken",
        "10.0",
        "30.0",
        "on cpu",
        "thread",
    ):
        assert said in shown
    assert re.search(r", 20\d\d-\d\d-\d\d$", shown, re.MULTILINE)
    (item,) = [each for each in json.loads(terminal("cache show --json", None).stdout) if "measured" in each]
    assert item["kind"] == "measurements" and item["measured"]["chosen"] == str(plan.compute)
    step = re.search(r"To measure again: zoo (.*)", shown)
    assert step and terminal(step[1], None).returncode == 0
    zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=True)
    assert len(measured) == 2


@pytest.mark.long
def test_a_measurement_of_an_older_zoo_is_listed_and_made_again(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Zoo
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "read_table", lambda: ())
    first = zoo.plan(backbone="timm/test_resnet", weights="random", recipe="head_only", data=few, tune=True)
    (now,) = (tmp_path / "cache" / "kept").glob("precision-*.json")
    content = json.loads(now.read_text("utf-8"))
    now.unlink()
    # Under the name that a version before candidates took turns gave it, and with what a busy machine made of it.
    words = [content["of"], content["work"], content["precision"], *content["machine"]]
    older = now.with_name(f"precision-{hashlib.sha256(chr(10).join(words).encode()).hexdigest()[:24]}.json")
    wrong = {"chosen": str(Compute("bfloat16", "contiguous")), "images_per_second": {str(Compute()): 0.1}}
    kept = {key: content[key] for key in ("of", "work", "precision", "machine", "measured")}
    older.write_text(json.dumps({**kept, **wrong}), "utf-8")
    assert "taken no more" in terminal("cache show", None).stdout
    again = zoo.plan(backbone="timm/test_resnet", weights="random", recipe="head_only", data=few, tune=True)
    assert again.compute == first.compute and set(again.speeds) == set(first.speeds)
