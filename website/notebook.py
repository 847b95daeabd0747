"""The notebook as a page: its text, its code, and what its cells show."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

NOT_RUN = """!!! note

    This is the code alone. `ZOO_SITE_NOTEBOOK=run mkdocs build` runs it and shows what every cell shows."""

_shown: list[str] = []
"""HTML of outputs by number. A page has `zoo-output-NUMBER` where it belongs, until Markdown is done with it."""


def pages(path: Path, *, run: bool) -> dict[str, str]:
    """Text of the notebook's page by its path; empty where there is no notebook.

    The notebook is stored without outputs, so that none is out of date: they are there only where it is run.
    """
    if not path.is_file():
        return {}
    _shown.clear()
    content = executed(path) if run else json.loads(path.read_text("utf-8"))
    texts = [_cell(each) for each in content["cells"]]
    if not any(cell.get("outputs") for cell in content["cells"]):
        texts.insert(1, NOT_RUN)
    return {"notebook.md": "\n\n".join(texts) + "\n"}


def executed(path: Path) -> dict[str, Any]:
    """Run the notebook in a kernel and a folder of its own (a minute), and return its content. An error ends it."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
        client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)})
    content: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return content


def with_outputs(page: str) -> str:
    """A page's HTML with outputs in their places."""
    return re.sub(r"<p>zoo-output-(\d+)</p>", lambda found: _shown[int(found[1])], page)


def _cell(cell: dict[str, Any]) -> str:
    source = _joined(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    if cell["cell_type"] != "code" or not source.strip():
        return ""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", source)), 3)
    return "\n\n".join([f"{fence}python\n{source}\n{fence}", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    kind = output["output_type"]
    data = output.get("data", {})
    if kind == "stream":
        return _keep(f"<pre>{html.escape(_plain(_joined(output['text'])))}</pre>")
    if kind == "error":
        return _keep(f"<pre>{html.escape(_plain(chr(10).join(output['traceback'])))}</pre>")
    if "text/html" in data:
        return _keep(_joined(data["text/html"]))
    if "image/svg+xml" in data:
        return _keep(_joined(data["image/svg+xml"]))
    for picture in ("image/png", "image/jpeg"):
        if picture in data:
            encoded = "".join(_joined(data[picture]).split())
            return _keep(f'<img alt="What the cell shows" src="data:{picture};base64,{encoded}">')
    return _keep(f"<pre>{html.escape(_plain(_joined(data.get('text/plain', ''))))}</pre>")


def _keep(shown: str) -> str:
    _shown.append(f'<div class="zoo-output">{shown}</div>')
    return f"zoo-output-{len(_shown) - 1}"


def _joined(text: str | list[str]) -> str:
    """Notebooks store texts as one string or as lines."""
    return text if isinstance(text, str) else "".join(text)


def _plain(text: str) -> str:
    """Without the colours of a terminal, and with what was written over on the same line left out."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
