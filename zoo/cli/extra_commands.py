"""Subcommands of plugins: named without being imported, imported when one is invoked."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from zoo.entry_points import COMMANDS, DISABLE, Load, Plugin, disabled_from_environment, find, one_line
from zoo.errors import NameConflict, PluginError, Terminated
from zoo.streams import prints_to_stderr

_COMPLETION = ("install_completion", "show_completion")


@dataclass(frozen=True)
class _Claim:
    """An entry point that wants to be the command of its name."""

    plugin: Plugin
    load: Load

    @property
    def who(self) -> str:
        """`distribution version`."""
        return f"{self.plugin.distribution} {self.plugin.version}"


def extra_commands(zoo_commands: Collection[str]) -> dict[str, TyperCommand]:
    """Name -> command, for every name that zoo itself does not have and that is not switched off. Imports nothing."""
    disabled = disabled_from_environment()
    claims: dict[str, list[_Claim]] = {}
    for plugin, load in find(group=COMMANDS):
        if plugin.name not in zoo_commands and plugin.name not in disabled:
            claims.setdefault(plugin.name, []).append(_Claim(plugin, load))
    return {name: _OnDemand(name, claims[name]) for name in sorted(claims)}


def command_plugins(zoo_commands: Collection[str]) -> list[Plugin]:
    """Every entry point for a command, for `zoo list plugins`. Imports nothing."""
    disabled = disabled_from_environment()
    plugins = [plugin for plugin, _ in find(group=COMMANDS)]
    for plugin in plugins:
        plugin.state = "disabled" if plugin.name in disabled else "on demand"
        plugin.brings = {"commands": [plugin.name]}
        rivals = [each.distribution for each in plugins if each.name == plugin.name and each is not plugin]
        if plugin.name in zoo_commands:
            plugin.notes.append(f"its claim on the command {plugin.name!r} is not honoured: zoo has it")
        elif rivals:
            plugin.notes.append(f"the command {plugin.name!r} is also claimed by {', '.join(sorted(rivals))}")
    return plugins


class _OnDemand(TyperCommand):
    """Stands for a command until it is invoked."""

    def __init__(self, name: str, claims: list[_Claim]) -> None:
        parties = " and ".join(claim.who for claim in claims)
        what = f"From {parties}." if len(claims) == 1 else f"Not usable, claimed by {parties}."
        super().__init__(name, help=what, rich_markup_mode=None)
        self._claims = claims

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """That of the command itself, imported now. Raises PluginError where it is broken, NameConflict."""
        return self._loaded().make_context(info_name, args, parent=parent, **extra)

    def attribute(self, error: Exception) -> None:
        """Say whose fault it is, below the traceback."""
        error.add_note(f"Raised in the command {self.name!r} of {self._claims[0].who}, which is no part of zoo.")

    def _loaded(self) -> Any:
        if len(self._claims) > 1:
            who = "\n".join(f"  {claim.who}: {claim.plugin.target}" for claim in self._claims)
            raise NameConflict(
                f"The command {self.name!r} is claimed more than once:\n{who}\nNext: uninstall one of them."
            )
        (claim,) = self._claims
        try:
            with prints_to_stderr():
                return _command(self.name or "", claim.load())
        except (KeyboardInterrupt, Terminated):
            raise
        except BaseException as error:  # sys.exit while it is imported ends the command, and says why
            raise PluginError(
                f"The command {self.name!r} of {claim.who} cannot be loaded: {one_line(error)}\n"
                f"Next: tell its authors, update or uninstall it; {DISABLE}={self.name} hides it."
            ) from error


def _command(name: str, target: object) -> Any:
    """A Typer app as it is, a function as Typer makes a command of its signature."""
    if isinstance(target, typer.Typer):
        app = target
    elif inspect.isroutine(target):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(target)
    else:
        raise TypeError(f"its entry point must name a typer.Typer or a function, got {type(target).__name__}")
    command = get_command(app)
    # Completion is installed once, by zoo itself.
    command.params = [each for each in command.params if each.name not in _COMPLETION]
    command.name = name
    return command
