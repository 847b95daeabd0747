"""The documents name what exists: modules, files, pages, layers, knobs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.commands import fault_of
from tests.conftest import Zoo
from zoo.specs.recipe import Stage

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = sorted(DECISIONS.glob("[0-9]*.md"))
ABOUT_CODE = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md", DECISIONS / "README.md", *PAGES]
ALL = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
USED = [path for path in ALL if path.name not in ("CHANGELOG.md", "measurements.md", "support.md")]
# Entry-point groups are written like modules.
ENTRY_POINT_GROUPS = {"zoo.commands"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    words = dotted.split(".")
    for count in range(len(words), 0, -1):
        module = ".".join(words[:count])
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            continue
        if found:
            value: Any = importlib.import_module(module)
            return all((value := getattr(value, word, None)) is not None for word in words[count:])
    return False


@pytest.mark.parametrize("path", ABOUT_CODE, ids=name_of)
def test_every_module_that_is_named_exists(path: Path) -> None:
    names = set(re.findall(r"(?<![\w./])zoo(?:\.[A-Za-z_]\w*)+", path.read_text("utf-8")))
    assert [name for name in sorted(names - ENTRY_POINT_GROUPS) if not exists(name)] == []


@pytest.mark.parametrize("path", ABOUT_CODE, ids=name_of)
def test_every_file_that_is_named_exists(path: Path) -> None:
    named = re.findall(r"(?<![\w./-])(?:zoo|heads|recipes|plugins|tests|docs)/[\w./-]+\.\w+", path.read_text("utf-8"))
    files = sorted({file for file in named if "NAME" not in file})  # NAME stands for one of your own
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_every_link_between_documents_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", USED, ids=name_of)
def test_every_command_and_option_that_is_named_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"`zoo ([a-z][^`]*)`", text) + re.findall(r"^(?:.*&& )?zoo ([a-z].*)$", fenced, re.MULTILINE)
    assert {line: fault for line in lines if (fault := fault_of(line))} == {}
    assert lines or path != ROOT / "README.md"


@pytest.mark.parametrize("path", USED, ids=name_of)
def test_python_in_documents_can_be_read_and_calls_what_zoo_has(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        assert list(wrong_uses_of_zoo(block)) == [], block


def wrong_uses_of_zoo(block: str) -> Iterator[str]:
    """Names of `zoo` that do not exist, and arguments that its functions do not take."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zoo":
            if not exists(f"zoo.{node.attr}"):
                yield f"zoo.{node.attr}"
        elif isinstance(node, ast.Call) and (name := ast.unparse(node.func)).startswith("zoo.") and exists(name):
            taken = inspect.signature(getattr(zoo, name.removeprefix("zoo."))).parameters
            if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
                yield from (f"{name}({each.arg}=)" for each in node.keywords if each.arg and each.arg not in taken)


def test_a_name_and_an_argument_that_do_not_exist_would_be_found() -> None:
    wrong = "zoo.finetun('a')\nzoo.load('a', hed=1)\nzoo.load('a')"
    assert sorted(wrong_uses_of_zoo(wrong)) == ["zoo.finetun", "zoo.load(hed=)"]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_decision_has_context_decision_and_consequence(path: Path) -> None:
    assert re.findall(r"^## (.*)", path.read_text("utf-8"), re.MULTILINE) == ["Context", "Decision", "Consequence"]


def test_the_list_of_decisions_has_every_page_with_its_title_in_order() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.*) \|$", (DECISIONS / "README.md").read_text("utf-8"), re.MULTILINE)
    titles = [page.read_text("utf-8").splitlines()[0].removeprefix("# ") for page in PAGES]
    assert rows == [(page.name[:3], page.name, title) for page, title in zip(PAGES, titles, strict=True)]
    assert [number for number, _, _ in rows] == [f"{number:03d}" for number in range(1, len(PAGES) + 1)]


def test_the_map_shows_the_layers_that_are_enforced() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    contract = next(each for each in tools["importlinter"]["contracts"] if each["type"] == "layers")
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Map")[2].partition("\n## ")[0]
    rows = [re.findall(r"`zoo\.(\w+)`", row.split("|")[1]) for row in re.findall(r"^\| `zoo\..*", text, re.MULTILINE)]
    assert rows == [layer.split(" | ") for layer in contract["layers"]]


def test_the_table_of_knobs_names_every_knob_with_its_default() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text("utf-8").partition("## Knobs")[2]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert dict(rows) == {name: _default(rows, name) for name in Stage.model_fields}
    assert [key for key, _ in rows] == list(Stage.model_fields), "in the order of the code"


def _default(rows: list[tuple[str, str]], name: str) -> str:
    """How the table writes a knob's default: words in backticks, numbers in any notation, - for none."""
    field = Stage.model_fields[name]
    written = dict(rows).get(name, "")
    if field.is_required() or field.default is None or field.default == ():
        return "-"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, str):
        return f"`{field.default}`"
    try:
        return written if float(written) == field.default else repr(field.default)
    except ValueError:
        return repr(field.default)


def test_the_error_that_the_page_about_the_command_shows_is_what_is_printed(zoo_inside: Zoo) -> None:
    (shown,) = re.findall(
        r"^```\n(\{.*?)^```", (ROOT / "docs" / "command.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    printed = zoo_inside("finetune", "--backbone", "resnet81", "--json")
    assert json.loads(printed.stdout) == json.loads(shown)


@pytest.mark.long
def test_the_page_about_objects_runs_as_it_is_printed(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "objects.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "photos").symlink_to(few)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        # Random weights of a tiny backbone, for the pretrained ones need a network.
        exec(block.replace('"resnet18",', '"timm/test_resnet", weights="random", input_size=(32, 32),'), names)
    assert len(blocks) == 5 and names["logits"].shape == (2, 2) and names["result"].proof == "passed"
    assert names["classifier"].config.backbone.name == "session/Net"
