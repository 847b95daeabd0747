"""Subcommands of plugins: named in the help without being imported, and each costs only itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Zoo


def test_help_names_them_with_their_distribution_and_imports_none(crowd: Path, among: Zoo) -> None:
    done = among("--help")
    assert done.returncode == 0 and done.stderr == ""
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "greet From zoo-commands 1.4.",
        "garden From zoo-commands 1.4.",
        "broken From zoo-broken-command 1.4.",
        "number From zoo-no-command 1.4.",
        "both Unusable, claimed by zoo-broken-command 1.4 and zoo-commands...",
    ):
        assert line in lines
    assert [line for line in lines if line.startswith("list ")] == [
        "list List backbones, weights, heads, recipes, observers, data..."
    ]
    code = (
        "import sys\nfrom zoo.cli.main import main\nsys.argv = ['zoo', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith(('zoo_', 'torch', 'pluggy'))], file=sys.stderr)"
    )
    path = os.pathsep.join([str(crowd), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    looked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert looked.stderr == "[]\n" and "From zoo-commands 1.4." in looked.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["greet", "Ada"], 0, "Hello Ada\n"),
        (["greet", "Ada", "--loud"], 0, "HELLO ADA\n"),
        (["garden", "water", "3"], 0, "3 litres\n"),
        (["garden", "harvest"], 3, ""),
    ],
)
def test_a_function_and_a_typer_app_are_commands(arguments: list[str], code: int, printed: str, among: Zoo) -> None:
    done = among(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (code, printed, "")


def test_they_have_help_of_their_own(among: Zoo) -> None:
    done = among("greet", "--help")
    assert "zoo greet [OPTIONS]" in done.stdout and "Greet somebody." in done.stdout and "In capitals." in done.stdout
    assert "--install-completion" not in among("garden", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["broken"],
            1,
            ["Error: The command 'broken' of zoo-broken-command 1.4 cannot be loaded: SystemExit: no terminal"],
        ),
        (["nothing"], 1, ["'nothing' of zoo-broken-command 1.4", "No module named 'zoo_nowhere'"]),
        (["number"], 1, ["'number' of zoo-no-command 1.4", "must name a typer.Typer or a function, got int"]),
        (["both"], 2, ["'both' is claimed more than once", "zoo-broken-command 1.4", "zoo-commands 1.4"]),
        (["stumble", "--politely"], 1, ["Error: The path is slippery.\nNext: walk slowly."]),
        (["gret", "Ada"], 2, ["No such command 'gret'. Did you mean 'greet'"]),
    ],
)
def test_a_command_that_cannot_be_is_refused_and_names_its_distribution(
    arguments: list[str], code: int, said: list[str], among: Zoo
) -> None:
    done = among(*arguments)
    assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


def test_an_error_while_one_runs_is_a_traceback_that_says_whose_it_is(among: Zoo) -> None:
    done = among("stumble")
    assert done.returncode == 1 and "ZeroDivisionError: over the own feet" in done.stderr
    assert done.stderr.endswith("Raised in the command 'stumble' of zoo-commands 1.4, which is not part of zoo.\n")


def test_a_command_of_zoo_cannot_be_taken_over_and_the_list_tells_all(among: Zoo) -> None:
    heads = among("list", "heads", ZOO_DISABLE_PLUGINS="greet")
    assert "heads/linear" in heads.stdout and "no such plugin" not in heads.stderr
    rows = json.loads(among("list", "plugins", "zoo-commands", "--json", ZOO_DISABLE_PLUGINS="greet").stdout)
    told = {row["name"]: row for row in rows}
    assert told["list"]["notes"] == ["its claim on the command 'list' is ignored: zoo has it"]
    assert told["both"]["notes"] == ["the command 'both' is also claimed by zoo-broken-command"]
    assert told["garden"]["state"] == "on demand" and told["garden"]["brings"] == {"commands": ["garden"]}
    assert told["greet"]["state"] == "disabled"
    assert among("greet", "Ada", ZOO_DISABLE_PLUGINS="greet").returncode == 2


@pytest.mark.long
def test_doctor_tells_of_commands_without_importing_them(among: Zoo) -> None:
    told = json.loads(among("doctor", "--json").stdout)["commands"]
    assert any("greet" in label and state == "on demand" for label, state in told.items())
    assert any("both" in label and "also claimed by" in state for label, state in told.items())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("plan", "--backbone", "resnet18", "--data", "a", "--data", "b"), "--data"),
        (("finetune", "--backbone", "resnet18", "--backbone=resnet34", "--data", "a"), "--backbone"),
        (("weights", "fetch", "resnet18", "--out", "a", "--out", "b"), "--out"),
    ],
)
def test_an_option_with_one_value_is_refused_twice(words: tuple[str, ...], option: str, zoo_inside: Zoo) -> None:
    """The last one would win, and the first be ignored without a word."""
    done = zoo_inside(*words)
    assert done.returncode == 2 and f"{option} is given more than once, and takes one value." in done.stderr
    # Flags say the same twice, and lists are meant to grow.
    done = zoo_inside(
        "plan", "--backbone", "resnet18", "--data", "nowhere", "--json", "--json", "--set", "a", "--set", "b"
    )
    assert "more than once" not in done.stderr


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["finetune", "--backbone", "timm/test_resnet", "--out", ""], "--out"),
        (["plan", "--backbone", "timm/test_resnet", "--data="], "--data"),
        (["plan", "--backbone", "timm/test_resnet", "--weights", ""], "--weights"),
        (["predict", "run", "image.jpg", "--csv", ""], "--csv"),
        (["shortlist", "--data", "x", "--html", ""], "--html"),
        (["data", "check", ""], "PATH"),
        (["predict", "run", "a.jpg", ""], "IMAGES"),
    ],
)
def test_an_empty_value_is_named_and_is_not_the_working_folder(line: list[str], name: str, zoo_inside: Zoo) -> None:
    done = zoo_inside(*line)
    assert done.returncode == 2 and f"{name} is empty.\nNext: give it a value" in done.stderr
