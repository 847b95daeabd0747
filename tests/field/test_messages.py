"""Commands, options and paths in the texts of the product: what a message names exists, and can be pasted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands import COMMANDS, fault_of, options_of, product_files
from zoo.errors import ZooError
from zoo.training.stored_plan import refuse_finished


def sentences(tree: ast.AST) -> Iterator[str]:
    """Every text of the code; values that are filled in stand as VALUE."""
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named_commands(text: str) -> Iterator[tuple[str, bool]]:
    """(words after `zoo`, whether they must be a command) for every place of a text that may name one."""
    for found in re.finditer(r"(Next:|See:|next:|&&)?[ `(\"']*(?<![\w/.-])zoo ([a-z][^\n`]*)", text):
        line = re.split(r"(?<=[\w'}])[.,;:)](?:\s|$)| (?:or|and|says|shows|lists|to) ", found[2])[0]
        yield line.replace("VALUE|", ""), bool(found[1]) or " --" in line


def faults_of(text: str) -> list[str]:
    faults = []
    for line, is_command in named_commands(text):
        word = line.split()[0]
        if is_command or word in COMMANDS.commands:
            fault = fault_of(line)
            # "zoo data" and "zoo weights" may also be words of a sentence.
            faults += (
                [f"zoo {line}: {fault}"] if fault and not (not is_command and fault.startswith("no command")) else []
            )
    return faults


def test_every_command_and_option_that_a_message_names_exists() -> None:
    texts = {(path, text) for path in product_files() for text in sentences(ast.parse(path.read_text("utf-8")))}
    assert {f"{path.name}: {text}": faults for path, text in texts if (faults := faults_of(text))} == {}
    known = {option for each in all_commands(COMMANDS) for option in options_of(each)} | {"--help"}
    unknown = {
        (path.name, option)
        for path, text in texts
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+[a-z0-9]", text)
        if option not in known
    }
    assert {each for each in unknown if each[1] not in OF_OTHERS} == set()
    assert len([text for _, text in texts if list(named_commands(text))]) > 50


OF_OTHERS = {"--logdir", "--data-binary", "--nproc-per-node", "--no-python", "--multi", "--mixed", "--num"}
"""Options of other programs that messages name, up to their first underscore."""


def all_commands(group: Any) -> Iterator[Any]:
    yield group
    for each in getattr(group, "commands", {}).values():
        yield from all_commands(each)


@pytest.mark.parametrize(
    "text",
    ["Next: zoo lst heads", "Next: zoo list heads --srot name", "See: zoo weights ftech NAME", "zoo plan --dta X"],
)
def test_a_message_that_names_what_is_not_there_is_noticed(text: str) -> None:
    assert faults_of(text)
    assert faults_of("Next: zoo list heads --sort name. Or zoo reads it by itself.") == []


def unquoted_paths(tree: ast.AST) -> list[str]:
    """Commands in messages into which a path is filled that no shell would read as one word."""
    found = []
    for node in ast.walk(tree):
        text = ""
        for part in node.values if isinstance(node, ast.JoinedStr) else []:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            value = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""
            if re.search(r"(?<!\w)zoo [a-z]+[^\n,;.]*$", text) and value.rpartition(".")[2] in PATHS:
                found.append(f"{text}{{{value}}}")
            text += "VALUE"
    return found


PATHS = ("path", "run", "_run", "resumed", "out", "folder", "artefact", "file", "checkpoint")


def test_a_path_in_a_command_can_be_pasted(tmp_path: Path) -> None:
    found = {
        path.name: each for path in product_files() if (each := unquoted_paths(ast.parse(path.read_text("utf-8"))))
    }
    assert found == {}
    assert unquoted_paths(ast.parse('f"Next: zoo report {run}"')) == ["Next: zoo report {run}"]
    run = tmp_path / "my run"
    run.mkdir()
    (run / "result.json").write_text("{}")
    with pytest.raises(ZooError) as caught:
        refuse_finished(run)
    told = re.search(r"zoo report (.*?), or", str(caught.value))
    assert told and shlex.split(told[1]) == [str(run)]
