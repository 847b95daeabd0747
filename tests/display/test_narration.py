"""How quickly a task goes on: counted from its first report, on a terminal, off one, and in a notebook."""

from __future__ import annotations

import io
import re
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from tests.display.test_shown import executed
from zoo.display.narration import Pace
from zoo.display.shown import shown
from zoo.events import Progress


def resumed(done: int) -> Progress:
    """A report of a task of which a half was done before."""
    return Progress(task="features", done=done, total=1000)


def test_what_was_done_before_took_no_time_here() -> None:
    pace = Pace(resumed(500), now=100.0)
    assert pace.rate(102.0) is None
    pace.hear(resumed(520), now=110.0)
    assert pace.rate(110.0) == 2.0 and pace.rate(110.0, least=10.0) is None


def test_a_task_that_begins_again_has_a_pace_of_its_own() -> None:
    pace = Pace(resumed(500), now=100.0)
    # As where memory ran out, and all is computed again in smaller batches.
    pace.hear(resumed(0), now=110.0)
    assert pace.rate(111.0) is None
    pace.hear(resumed(30), now=113.0)
    assert pace.rate(113.0) == 10.0


def test_off_a_terminal_lines_have_the_rate_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 10.0, 20.0])
    with redirect_stderr(io.StringIO()) as said, monkeypatch.context() as patch, shown(None, True) as report:
        patch.setattr(time, "monotonic", lambda: next(seconds))
        for done in (500, 500, 600):
            report(resumed(done))
    assert said.getvalue() == "  features: 500/1000 images\n  features: 600/1000 images, 5/s, 1 min 20 s left\n"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the notebook's own libraries
def test_a_notebook_has_the_rate_of_this_call(tmp_path: Path) -> None:
    cell = """
import time
from tests.display.test_narration import resumed
from zoo.display.shown import shown
with shown() as report:
    for done in range(500, 510):
        report(resumed(done))
        time.sleep(0.1)
"""
    _, displays = executed([cell], tmp_path)
    rates = re.findall(r"features 50\d/1,000 images, (\d+)/s", "".join(each["data"]["text/plain"] for each in displays))
    assert rates and max(map(int, rates)) <= 10
