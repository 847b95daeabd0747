"""The site: nothing that should have a page is forgotten, it is built without a network, and a browser shows it."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import zoo

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDED = [name for name in ("mkdocs", "material", "mkdocstrings") if find_spec(name) is None]
with_mkdocs = pytest.mark.skipif(bool(NEEDED), reason=f"needs {', '.join(NEEDED)}: pip install -e '.[docs]'")


def module_of_the_site(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of `website/`, which mkdocs finds by that folder alone."""
    monkeypatch.syspath_prepend(str(ROOT / "website"))
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield module_of_the_site("specs", monkeypatch)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield module_of_the_site("reference", monkeypatch)


@pytest.fixture
def documents(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield module_of_the_site("documents", monkeypatch)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    yield module_of_the_site("notebook", monkeypatch)


def test_every_public_name_is_in_one_group_of_the_reference(reference: ModuleType) -> None:
    grouped = reference.grouped(reference.public_names())
    names = [name for group in grouped.values() for name in group]
    assert sorted(names) == sorted(set(zoo.__all__) - {"__version__"})
    assert all(grouped.values())
    # What is listed by hand exists: a name that was taken away would leave a group without a word.
    assert {name for group in reference.GROUPS.values() for name in group.names} <= set(names)
    assert "::: zoo.finetune\n" in reference.pages()["reference/train.md"]


def described_arguments(function: Any) -> set[str]:
    """Names in the section `Args` of a docstring, as the reference reads it."""
    section = (inspect.getdoc(function) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    return set(re.findall(r"^    ([^ :][^:]*):", section, re.MULTILINE))


def test_every_argument_that_a_docstring_describes_is_one() -> None:
    functions = [getattr(zoo, name) for name in zoo.__all__ if name.islower() and callable(getattr(zoo, name))]
    assert len(functions) > 20 and sum(len(described_arguments(function)) for function in functions) > 60
    wrong = {
        function.__name__: found
        for function in functions
        if (found := described_arguments(function) - set(inspect.signature(function).parameters))
    }
    assert wrong == {}, "the strict build of the site refuses these: one line for each name"


def test_a_name_that_no_group_knows_is_not_lost(reference: ModuleType) -> None:
    found = reference.grouped(
        {"brand_new": "somewhere.new", "Newer": "artefact.newer", "verify_all": "training.verify"}
    )
    assert found["extend"] == ["brand_new"] and found["use"] == ["Newer"] and found["judge"] == ["verify_all"]


def test_every_head_has_a_page_with_its_options(specs: ModuleType) -> None:
    pages = specs.head_pages()
    own = [head for head in zoo.list_heads() if f"heads/{head.name}.md" in pages]
    assert len(own) == len(pages) - 1 == 10
    for head in own:
        page = pages[f"heads/{head.name}.md"]
        assert page.startswith(f"# {head.name}\n\n{head.summary}") and f"[{head.name}]" in pages["heads/index.md"]
        options = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+?)` \| (.+) \|$", page, re.MULTILINE)
        assert {name: default for name, _, default, _ in options} == {
            name: str(field.default) for name, field in head.options.__dataclass_fields__.items()
        }
        assert all(kind and meaning.endswith(".") for _, kind, _, meaning in options), page


def test_every_recipe_has_a_page_with_its_stages(specs: ModuleType) -> None:
    pages = specs.recipe_pages()
    own = [recipe for recipe in zoo.list_recipes() if f"all-recipes/{recipe.name}.md" in pages]
    assert len(own) == len(pages) - 1 == 11
    for recipe in own:
        page = pages[f"all-recipes/{recipe.name}.md"]
        stages = re.findall(r"^\| (\w+) \| (`.*?`) \| (\S+) \| (\S+) \| .* \|$", page, re.MULTILINE)
        assert [name for name, *_ in stages] == [stage.name for stage in recipe.stages], page
        assert [trains.count("`") // 2 for _, trains, *_ in stages] == [len(stage.train) for stage in recipe.stages]


def test_the_first_page_claims_what_was_measured() -> None:
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    measured = (ROOT / "docs" / "measurements.md").read_text("utf-8")
    seconds = re.findall(r"\b\d+ s\b", text)
    assert len(seconds) >= 2 and [claim for claim in seconds if claim not in measured] == []
    assert f"{len(zoo.list_backbones()):,} backbones, ten heads" in text


@pytest.mark.parametrize(
    ("page", "written", "read"),
    [
        ("data.md", "[a](labels.md#b) [b](decisions)", "[a](labels.md#b) [b](decisions/README.md)"),
        ("decisions/001-layers.md", "[m](../measurements.md)", "[m](../measurements.md)"),
        ("data.md", "[n](notebook.ipynb) [r](../README.md)", "[n](notebook.md) [r](index.md)"),
        ("contributing.md", "[p](docs/plugins.md#x) [d](docs/decisions)", "[p](plugins.md#x) [d](decisions/README.md)"),
        ("data.md", "see [`code`](../zoo/errors.py).", "see `code`."),
        ("data.md", "[web](https://example.org/a.md) [here](#below)", "[web](https://example.org/a.md) [here](#below)"),
        ("data.md", "Read:\n- one\n  more\n- two", "Read:\n\n- one\n  more\n- two"),
        ("data.md", "1. one\n   more\n2. two\n   - three", "1. one\n   more\n2. two\n    - three"),
        ("data.md", "```\ntext\n- [x](../zoo)\n```\n", "```\ntext\n- [x](../zoo)\n```\n"),
    ],
)
def test_a_document_is_read_as_github_does(documents: ModuleType, page: str, written: str, read: str) -> None:
    assert documents.as_page(written, page) == read


def test_the_notebook_is_shown_with_what_its_cells_showed(notebook: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    assert notebook.pages(path, run=False) == {}
    outputs: list[dict[str, Any]] = [
        {"output_type": "stream", "name": "stdout", "text": ["1 of 2\r", "2 of 2\n", "\x1b[32m<done>\x1b[0m"]},
        {"output_type": "execute_result", "data": {"text/html": ["<b>a</b>\n", "\n| c"], "text/plain": "a"}},
        {"output_type": "display_data", "data": {"image/png": "aGk=\n"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "text"]},
        {"cell_type": "code", "source": "print('```')", "outputs": outputs},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    path.write_text(json.dumps({"cells": cells}), "utf-8")
    text = notebook.pages(path, run=False)["notebook.md"]
    assert text.startswith("# Title\n\ntext\n\n````python\nprint('```')\n````\n\nzoo-output-0\n")
    html = notebook.with_outputs("".join(f"<p>zoo-output-{number}</p>" for number in range(3)))
    assert "2 of 2\n&lt;done&gt;" in html and "1 of 2" not in html and "<b>a</b>\n\n| c" in html
    assert 'src="data:image/png;base64,aGk="' in html and "zoo-output-" not in html


def test_a_notebook_without_outputs_says_how_they_are_made(notebook: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    cells = [{"cell_type": "markdown", "source": "# A"}, {"cell_type": "code", "source": "1 + 1", "outputs": []}]
    path.write_text(json.dumps({"cells": cells}), "utf-8")
    text = notebook.pages(path, run=False)["notebook.md"]
    assert text.startswith("# A\n\n!!! note") and "ZOO_SITE_NOTEBOOK=run mkdocs build" in text and "1 + 1" in text


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
def test_the_notebook_is_run_where_this_is_asked_for(notebook: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("ipykernel")
    nbclient, v4 = pytest.importorskip("nbclient"), pytest.importorskip("nbformat").v4
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps(v4.new_notebook(cells=[v4.new_code_cell("6 * 7")])), "utf-8")
    assert "zoo-output-0" in notebook.pages(path, run=True)["notebook.md"]
    assert "42" in notebook.with_outputs("<p>zoo-output-0</p>")
    path.write_text(json.dumps(v4.new_notebook(cells=[v4.new_code_cell("1 / 0")])), "utf-8")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        notebook.pages(path, run=True)


OFFLINE = """
import socket, sys
def refuse(*arguments): raise OSError("the site is built without a network")
socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""


def build(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", str(folder), *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@with_mkdocs
@pytest.mark.long
def test_the_site_is_built_strictly_and_asks_no_other_host_for_anything(site: Path) -> None:
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    for path, text in pages.items():
        tags = re.findall(r"<(?:script|link|img|iframe|source|video|object)\b[^>]*>", text)
        assert [tag for tag in tags if re.search(r"""["'](?:https?:)?//""", tag)] == [], path
        inline = "\n".join(re.findall(r"<style.*?</style>", text, re.DOTALL))
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", inline), path
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", path.read_text("utf-8")), path
    lists_that_are_none = {path: re.findall(r"<p>[^<]*\n[-*] ", text) for path, text in pages.items()}
    assert {path: found for path, found in lists_that_are_none.items() if found} == {}


@with_mkdocs
@pytest.mark.long
def test_the_site_has_every_guide_head_recipe_and_name(site: Path) -> None:
    guides = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if path.name != "README.md"]
    assert [guide for guide in guides if not (site / guide.with_suffix(".html")).is_file()] == []
    assert (site / "decisions" / "index.html").is_file()
    home = (site / "index.html").read_text("utf-8")
    linked = {target for target in re.findall(r'href="([^"#:]+\.html)"', home)}
    wanted = {
        "recipes.html",
        "artefact.html",
        "decisions/index.html",
        "reference/train.html",
        "all-recipes/staged.html",
    }
    assert wanted | {"heads/linear.html", "contributing.html", "changelog.html"} <= linked
    text = "".join(path.read_text("utf-8") for path in (site / "reference").glob("*.html"))
    assert [name for name in zoo.__all__ if name != "__version__" and f'id="zoo.{name}"' not in text] == []


@with_mkdocs
@pytest.mark.long
def test_a_link_that_leads_nowhere_and_a_guide_without_a_place_stop_the_build(tmp_path: Path) -> None:
    copied = Path(shutil.copytree(ROOT / "docs", tmp_path / "docs"))
    with (copied / "choose.md").open("a") as file:
        file.write("\n[far](nowhere.md) [near](data.md#nowhere)\n")
    (copied / "decisions" / "unplaced.md").write_text("# Unplaced\n")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    settings = settings.replace("docs_dir: docs", f"docs_dir: {copied}").replace("paths: [.,", f"paths: [{ROOT},")
    settings = settings.replace("  - website/hooks.py", f"  - {ROOT / 'website' / 'hooks.py'}")
    (tmp_path / "mkdocs.yml").write_text(settings, "utf-8")
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    for said in ("a link 'nowhere.md'", "a link 'data.md#nowhere'", "unplaced.md", "Aborted with 3 warnings"):
        assert said in done.stderr + done.stdout, done.stderr


MEASURED = """<!doctype html><title>waiting</title>
<iframe id=page src="{page}" style="border:0;width:{width}px;height:1200px"></iframe>
<script>
document.getElementById("page").onload = () => setTimeout(() => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const broken = [...page.images].filter(each => each.complete && !each.naturalWidth && each.offsetParent).length;
  document.title = JSON.stringify([root.clientWidth, root.scrollWidth, broken]);
}}, 300);
</script>"""


@with_mkdocs
@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_real_browser_shows_it_and_nothing_sticks_out(width: int, site: Path, tmp_path: Path) -> None:
    for page in ("index.html", "recipes.html", "artefact.html", "reference/train.html", "heads/attention_pool.html"):
        frame = tmp_path / "frame.html"
        frame.write_text(MEASURED.format(page=(site / page).as_uri(), width=width), "utf-8")
        words = [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'own'}",
        ]
        words += ["--allow-file-access-from-files", "--hide-scrollbars", "--window-size=1500,1300", "--dump-dom"]
        words += ["--virtual-time-budget=5000", frame.as_uri()]
        shown = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
        title = re.search(r"<title>(.*?)</title>", shown)
        assert title is not None and title[1].startswith("["), shown[:500]
        across, needed, broken = json.loads(title[1])
        assert (across, broken) == (width, 0) and needed <= width, page
