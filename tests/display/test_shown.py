"""Progress of the library: where it is shown, where it is not, and what a real kernel makes of it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo.display.shown import shown
from zoo.events import Event, Note, Progress, StageFinished, StageStarted, silent

RUN: list[Event] = [
    StageStarted(stage="head", number=1, stages=1, epochs=2),
    *(Progress(task="<b>features</b>", done=done, total=40) for done in range(0, 41, 10)),
    StageFinished(stage="head", seconds=2.0, val={"loss": 0.5, "accuracy": 0.875}),
    Note(text="<script>alert(1)</script> is loud", loud=True),
]
SAID = "Stage 1 of 1: head, 2 epochs\n  done in 2.0 s: val loss 0.5000, val accuracy 0.875\n"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(on_event: Callable[[Event], None] | None = None, verbose: bool | None = None) -> None:
    with shown(on_event, verbose) as report:
        for event in RUN:
            report(event)


@pytest.mark.parametrize("verbose", [None, False])
def test_a_script_without_a_terminal_says_nothing(verbose: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    tell(None, verbose)
    assert capsys.readouterr() == ("", "")


def test_verbose_says_it_anywhere_and_never_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    tell(silent, True)
    out, err = capsys.readouterr()
    assert out == "" and err == SAID + "WARNING: <script>alert(1)</script> is loud\n"


def test_a_terminal_shows_bars_and_lines_unless_the_caller_listens() -> None:
    heard: list[Event] = []
    with redirect_stderr(Screen()) as terminal:
        tell(heard.append)
        assert heard == RUN and terminal.getvalue() == ""
        tell(None, False)
        assert terminal.getvalue() == ""
        tell()
        assert "Stage 1 of 1" in terminal.getvalue() and "<b>features</b>" in terminal.getvalue()
        heard.clear()
        tell(heard.append, True)
    assert heard == RUN and terminal.getvalue().count("Stage 1 of 1") == 2


def test_inside_a_display_there_is_no_second_one_and_an_error_leaves_the_place_free() -> None:
    with redirect_stderr(Screen()) as terminal:
        with pytest.raises(KeyError), shown() as report:
            report(RUN[0])
            tell()
            raise KeyError
        assert terminal.getvalue().count("Stage 1 of 1") == 1
        tell()
    assert terminal.getvalue().count("Stage 1 of 1") == 2


def test_a_call_that_is_to_be_quiet_keeps_the_calls_inside_it_quiet() -> None:
    with redirect_stderr(Screen()) as terminal:
        with shown(None, False) as report:
            tell(report)  # as one public function calls another: with its callable, and no word on `verbose`
            tell()
        assert terminal.getvalue() == ""
        with shown(None, False):
            tell(None, True)
        assert terminal.getvalue().count("Stage 1 of 1") == 1
        with shown(None, False):
            pass
        tell()
    assert terminal.getvalue().count("Stage 1 of 1") == 2


@pytest.mark.long
def test_every_step_of_a_quiet_evaluation_is_quiet(shapes: Path, tmp_path: Path) -> None:
    run = zoo.finetune("timm/test_resnet", weights="random", data=shapes, out=tmp_path / "run", epochs=1, tune=False)
    with redirect_stderr(Screen()) as terminal:
        assert zoo.evaluate(run.path, data=shapes, verbose=False).images == 12
        assert terminal.getvalue() == ""
        zoo.evaluate(run.path, data=shapes)
    assert terminal.getvalue()


def test_what_a_program_prints_into_a_file_goes_there_and_not_on_the_screen() -> None:
    with redirect_stdout(io.StringIO()) as file, redirect_stderr(Screen()) as terminal, shown() as report:
        report(RUN[1])
        print("mine")
    assert file.getvalue() == "mine\n" and "mine" not in terminal.getvalue()


def test_public_functions_show_it_and_take_nothing_else_for_verbose(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"weights": "random", "data": few, "tune": False}
    plan = zoo.plan("timm/test_resnet", **options, set=["head.augment=none"])
    assert capsys.readouterr() == ("", "")
    with pytest.raises(TypeError, match=r"zoo\.plan\(verbose=\.\.\.\) takes True, False or None, got 'no'"):
        zoo.plan("timm/test_resnet", **options, verbose="no")  # type: ignore[arg-type]
    assert zoo.plan("timm/test_resnet", **options, set=["head.augment=none"], verbose=True) == plan
    assert capsys.readouterr().out == ""


def executed(cells: list[str], folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Cells run by a real kernel in a folder -> the notebook, and every display and its updates as they came."""
    pytest.importorskip("ipykernel")
    nbclient, v4 = pytest.importorskip("nbclient"), pytest.importorskip("nbformat").v4
    displays: list[dict[str, Any]] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc,name-defined]
        def process_message(self, message: Any, cell: Any, index: int) -> Any:
            if "display_data" in message["msg_type"]:
                displays.append(message["content"])
            return super().process_message(message, cell, index)

    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    paths = os.pathsep.join(path for path in sys.path if path)
    client = Client(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, "PYTHONPATH": paths})
    return notebook, displays


@pytest.mark.filterwarnings("ignore")  # of the notebook's own libraries
@pytest.mark.long
def test_a_real_kernel_draws_one_output_anew_and_leaves_lines_without_bars(tmp_path: Path) -> None:
    cell = """
import sys, time
import zoo
from tests.display.test_shown import RUN
from zoo.display.shown import shown
with shown() as report:
    for event in RUN:
        time.sleep(0.11)
        report(event)
with shown(lambda event: None) as report:
    report(RUN[0])
with shown(verbose=False) as report:
    report(RUN[0])
"""
    notebook, displays = executed([cell], tmp_path)
    (output,) = notebook.cells[0].outputs
    assert len({each["transient"]["display_id"] for each in displays}) == 1 and len(displays) >= 4
    assert any("<progress" in each["data"]["text/html"] for each in displays)
    assert re.search(r"<b>features</b> [123]0/40 images", "".join(each["data"]["text/plain"] for each in displays))
    assert output.data["text/plain"] == f"{SAID}WARNING: <script>alert(1)</script> is loud"
    page = output.data["text/html"]
    assert "<progress" not in page and "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert not any("<b>" in each["data"]["text/html"] for each in displays)


@pytest.mark.parametrize(
    ("call", "first"), [("zoo.plan('resnet18', ", "load torch"), ("zoo.check_data('nothing', ", "")]
)
def test_the_seconds_in_which_torch_is_imported_are_shown(call: str, first: str) -> None:
    code = (
        "import sys, zoo\n"
        "def listen(event):\n"
        "    print(event.task, 'torch' in sys.modules)\n"
        "    sys.exit()\n"
        f"{call}on_event=listen, verbose=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == (f"{first} False\n" if first else ""), done.stderr
