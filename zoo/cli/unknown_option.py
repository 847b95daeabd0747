"""What to say of an option that a command does not have: where it belongs or which one was meant, and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import meant, nearest
from zoo.text import shell_word

_OVER = {
    "--weights": "weights=",
    "--epochs": "epochs=",
    "--batch-size": "batch_size=",
    "--input-size": "input_size=",
    "--head-option": "head_option.",
    "--set": "",
}
"""Options of `zoo finetune` that `zoo sweep` takes with `--over`, and what comes there before their value."""
_SWEEPS = ("One run has one of each; a sweep tries several.", "zoo sweep --help")
_TRIES = dict.fromkeys(("--seeds", "--trials", "--at-once"), _SWEEPS) | {
    "--over": ("--set takes one value, and zoo sweep --over tries several.", "zoo sweep --help")
}
_PAGE = ("What it shows is written as a page by --html.", "--html PAGE.html")
_SISTERS: dict[str, dict[str, tuple[str, str]]] = {
    "zoo finetune": {**_TRIES, "--estimate": ("zoo plan has it, which trains nothing.", "zoo plan --estimate")},
    "zoo plan": _TRIES,
    "zoo shortlist": {
        "--weights": ("A file of weights stands behind its backbone.", "--backbones NAME=FILE"),
        "--out": _PAGE,
    },
    "zoo similar": {"--out": _PAGE},
    "zoo data curve": {"--out": _PAGE},
    "zoo data labels": {"--html": ("The page is written into the folder that --out names.", "--out FOLDER")},
}
"""Command -> an option of a sister command -> how this command has the same, and what to give."""


def about_unknown_option(option: str, context: Any, words: Sequence[str]) -> str:
    """The message for an option that the command of a context does not have.

    Args:
        option: The option as the parser names it: of `-vq` it is `-v`.
        context: typer's context of the command.
        words: All words after `zoo`.
    """
    root, command = context.find_root(), context.command
    at = next((number for number, word in enumerate(words) if _names(word, option)), None)
    # One dash before a whole word is a long option that lost a dash.
    asked = option if at is None or option.startswith("--") else words[at].partition("=")[0]
    own, of_zoo = _options(command, context), _options(root.command, root)
    if at is not None:
        rest = [*words[:at], *words[at + 1 :]]
        if context is not root and _all_in(asked, of_zoo):
            return f"{asked} belongs before the command.\nNext: {_line([asked, *rest])}"
        if moved := _after_its_command(option, at, context, words):
            return f"{asked} belongs after the command.\nNext: {_line(moved)}"
        best = nearest(asked, [*own, *of_zoo], count=1)
        if best and best[0] not in own:
            return f"No such option: {asked}. {best[0]} belongs before the command.\nNext: {_line([*best, *rest])}"
    if told := _as_here(asked, at, context, words):
        return f"No such option: {asked}. {told}"
    return f"No such option: {asked}.{meant(asked, own)}\nNext: {_path(context)} --help lists the options."


def _names(word: str, option: str) -> bool:
    """Whether the parser takes the word for the option: `--epochs=3`, and `-vq` for `-v`."""
    if option.startswith("--"):
        return word.partition("=")[0] == option
    return word.startswith("-") and not word.startswith("--") and option[1:] in word


def _options(command: Any, context: Any) -> list[str]:
    """Every name of an option, without those that the help does not show."""
    shown = [each for each in command.get_params(context) if not getattr(each, "hidden", False)]
    return [name for each in shown for name in (*each.opts, *each.secondary_opts) if each.param_type_name == "option"]


def _all_in(asked: str, known: Sequence[str]) -> bool:
    """Whether it is one of these options, or letters that are each one of them."""
    several = [f"-{letter}" for letter in asked[1:]] if not asked.startswith("--") else []
    return asked in known or (bool(several) and all(each in known for each in several))


def _after_its_command(option: str, at: int, context: Any, words: Sequence[str]) -> list[str] | None:
    """The words with the option, which stands before the command that has it, moved behind it; None if none has it."""
    group = context.command
    for number in range(at + 1, len(words)):
        if not hasattr(group, "commands") or words[number].startswith("-"):
            continue
        found = group.get_command(context, words[number])
        parameters = found.params if found is not None else []
        parameter = next((each for each in parameters if option in (*each.opts, *each.secondary_opts)), None)
        if parameter is not None:
            end = at + 1 if parameter.is_flag or "=" in words[at] else at + 2
            return [*words[:at], *words[end : number + 1], *words[at:end], *words[number + 1 :]]
        group = found if hasattr(found, "commands") else group
    return None


def _as_here(asked: str, at: int | None, context: Any, words: Sequence[str]) -> str:
    """How the command takes what a sister command has this option for, with the next step; empty if it does not."""
    path = _path(context)
    if path == "zoo sweep" and asked in _OVER and at is not None:
        _, equals, value = words[at].partition("=")
        # Without a value it would be the next option's name.
        end = at + 1 if equals or words[at + 1 : at + 2] == [] else at + 2
        over = _OVER[asked] + (value if equals else "".join(words[at + 1 : end]) or "VALUE")
        line = _line([*words[:at], "--over", over, *words[end:]])
        backbone = " A file of weights may also stand behind its backbone: --backbone NAME=FILE." * (
            asked == "--weights"
        )
        return f"A sweep takes it with --over.{backbone}\nNext: {line}"
    name, parameters = asked.removeprefix("--"), context.command.get_params(context)
    given = [each for each in parameters if each.param_type_name == "argument"]
    usage = " ".join([path, *((each.metavar or each.name).upper() for each in given)])
    if any(name in (each.name, "data" if each.name == "path" else "") for each in given):
        needed = [each for each in parameters if each.required and each not in given]
        line = " ".join([usage, *(f"{each.opts[0]} {each.name.upper()}" for each in needed)])
        return f"{path} takes it without the name of an option.\nNext: {line}"
    said, step = _SISTERS.get(path, {}).get(asked, ("", ""))
    return said and f"{said}\nNext: {step if step.startswith('zoo ') else f'{usage} {step}'}"


def _path(context: Any) -> str:
    """`zoo data check`, however zoo was started."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["zoo", *names])


def _line(words: Sequence[str]) -> str:
    return " ".join(["zoo", *map(shell_word, words)])
