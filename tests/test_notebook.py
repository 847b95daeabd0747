"""docs/notebook.ipynb in a real kernel: every cell runs, what it shows is there, and a browser shows it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.test_page import CHROMIUM, browse

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return found


def test_it_is_stored_without_outputs_so_that_none_is_out_of_date() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    # An error in a cell ends it, with the cell and the traceback.
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)})
    return notebook


def shown(notebook: Any, source: str) -> str:
    """The HTML that the cell whose last line is `source` shows."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.splitlines()[-1] == source)
    pages = [output.data.get("text/html", "") for output in cell.outputs if "data" in output]
    return "\n".join(pages)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the notebook's own libraries
def test_every_cell_runs_and_shows_what_it_is_there_for(executed: Any) -> None:
    for source, *expected in (
        ("zoo.check_data(PHOTOS)", "105 images, 3 classes, 1 split: nothing found", "cornflower"),
        ('zoo.plan(BACKBONE, weights=WEIGHTS, data=PHOTOS, recipe="lp_ft", epochs=3)', "peak rate", "<table"),
        ("first", "Stage 2 of 2: all, 3 epochs", "<iframe", "zoo report"),
        ("first.history", ">val_accuracy<", ">all<"),
        ("first.stages", ">kept<"),
        ("first.confusion", ">daisy<", "true classes in rows"),
        ("second.history", "Stage 2 of 2", ">val_accuracy<"),
        ("zoo.compare(first.path, second.path)", "<iframe", "95 % interval"),
    ):
        page = shown(executed, source)
        assert all(text in page for text in expected), (source, expected, page[:2000])
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any("<progress" in output.data.get("text/html", "") for output in outputs if "data" in output)
    # No warning of a library, and nothing that is only meant for a terminal.
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.filterwarnings("ignore")  # of the notebook's own libraries
def test_a_real_browser_shows_it(executed: Any, tmp_path: Path) -> None:
    exporter = pytest.importorskip("nbconvert").HTMLExporter(theme="dark", template_name="basic")
    page, _ = exporter.from_notebook_node(executed)
    done = browse(f"<!doctype html><title>notebook</title>{page}", tmp_path, 1400)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None and title.group(1).startswith("["), done.stdout[:500]
    across, needed, broken, _ = json.loads(title.group(1))
    assert across == 1400 and needed <= 1400 and broken == 0
