"""The product's files, its commands and options, and what is wrong with a line of text that names some."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.main import get_command
from zoo.cli.app import app

COMMANDS: Any = get_command(app)
ROOT = Path(__file__).parents[1]
PRODUCT = ("zoo", "plugins", "heads", "recipes")


def fault_of(line: str) -> str:
    """What is wrong with the words after `zoo`; several commands may stand in one line, two spaces apart."""
    command = COMMANDS
    if line == "greet":  # the command of the guide's own plugin
        return ""
    words = re.split(r"\s{2,}(?!\\)| #", line.replace("\\\n", " "))[0].split()
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")
        if unknown := [name for name in names if name not in command.commands]:
            return f"no command {', '.join(unknown)}"
        command = command.commands[names[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    options = [word.strip("[],.;") for word in words if word.strip("[").startswith("--")]
    return ", ".join(f"no option {option}" for option in options if option not in known)


def options_of(of_command: Any) -> list[str]:
    """The long options of a command, without `--help`."""
    return [
        name for parameter in of_command.params for name in parameter.opts if name.startswith("--") and name != "--help"
    ]


def product_files() -> list[Path]:
    """Every Python file of zoo and of the bundled plugins."""
    return [path for part in PRODUCT for path in sorted((ROOT / part).rglob("*.py"))]
