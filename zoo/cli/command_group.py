"""The group of all commands: zoo's own, then those of plugins, which are imported only when one is invoked."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from zoo.cli.document import Misused
from zoo.cli.interrupt import Interrupted
from zoo.cli.unknown_option import about_unknown_option
from zoo.display.wrapping import say
from zoo.errors import INTERRUPTED, NameConflict, PluginError, Terminated, meant
from zoo.process import drop_stdout, prints_to_stderr
from zoo.registry.entry_points import COMMANDS, DISABLE, Load, Plugin, disabled_from_environment, find, one_line

_USAGE_ERRORS: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""The base of what click raises for a command line. typer may hold click inside, so it is found by way of typer."""
Function = TypeVar("Function", bound=Callable[..., Any])
_COMPLETION_OPTIONS = ("install_completion", "show_completion")


class Command(TyperCommand):
    """A command that refuses an option that is given twice where it takes one value, and an empty value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. Raises UsageError as typer does, for a repeated option and an empty value."""
        if not ctx.resilient_parsing:
            # The parser keeps the last value, so the first would be ignored without a word.
            parsed: Any = self.make_parser(ctx).parse_args(args=list(args))
            values, _, given = parsed
            for option in given:
                self._refuse_empty(ctx, option, values.get(option.name))
            times = Counter(map(id, given))
            for option in given:
                # An argument is there once, whatever it holds.
                several = times[id(option)] > 1 and option.param_type_name == "option"
                if several and not (option.multiple or option.is_flag or option.count):
                    ctx.fail(f"{option.opts[0]} is given more than once, and takes one value.")
        return list(super().parse_args(ctx, args))

    def _refuse_empty(self, ctx: Any, option: Any, given: Any) -> None:
        # As a path, an empty text would be the working folder. It comes from a variable of the shell that is not set.
        of_option = option.param_type_name == "option"
        if "" in (given if isinstance(given, (list, tuple)) else [given]) and (of_option or option.required):
            name = option.opts[0] if of_option else (option.metavar or option.name).upper()
            step = "give it a value" + (", or leave it out." if not option.required else ".")
            ctx.fail(f"{name} is empty.\nNext: {step}")


class Application(typer.Typer):
    """A group of commands that are each a `Command`."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any
    ) -> Callable[[Function], Function]:
        """Register a function as a command, as `typer.Typer.command` does."""
        return super().command(name, cls=cls, **settings)


class Commands(TyperGroup):
    """The commands of zoo, then those of plugins. What ends one leaves typer as an exception for `zoo.cli.main`."""

    @functools.cached_property
    def _plugin_commands(self) -> dict[str, _PluginCommand]:
        return plugin_commands(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._plugin_commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Looking for plugins takes time: only for names that zoo does not have.
        return super().get_command(ctx, cmd_name) or self._plugin_commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        # While a shell completes a line, half a name is no error. A misspelt option has typer's own message.
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            claimed_twice = [each for each, command in self._plugin_commands.items() if not command.usable]
            known = [each for each in self.list_commands(ctx) if each not in claimed_twice]
            ctx.fail(f"No such command {name!r}.{meant(name, known)}")
        return super().resolve_command(ctx, args)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        # A message may say where a word belongs among all the others, and parsing uses them up.
        self._words = tuple(args)
        with _as_exceptions(self._words):
            return super().make_context(info_name, args, parent=parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _as_exceptions(self._words):
            return self._invoke_with_origin(ctx)

    def _invoke_with_origin(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            name = ctx.invoked_subcommand
            if name is not None and name not in self.commands and name in self._plugin_commands:
                self._plugin_commands[name].add_origin(error)
            raise


@contextlib.contextmanager
def _as_exceptions(words: Sequence[str]) -> Iterator[None]:
    """Turn what typer would end the process for, with a message of its own or none, into exceptions that leave it.

    `words`: all that stand after `zoo`.
    """
    try:
        yield
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None
    except KeyboardInterrupt:
        raise Interrupted(INTERRUPTED) from None
    except BrokenPipeError:
        drop_stdout()  # no error
        raise SystemExit(0) from None
    except (typer.Abort, EOFError):
        raise Misused("aborted", "Aborted.", 1, lambda: print("Aborted.", file=sys.stderr)) from None
    except _USAGE_ERRORS as error:
        # Only the error of an option that there is not has both.
        if hasattr(error, "option_name") and hasattr(error, "possibilities") and error.ctx is not None:
            message = about_unknown_option(error.option_name, error.ctx, words)
            show = functools.partial(say, f"Error: {message}", to_stderr=True)
            raise Misused("usage", message, error.exit_code, show) from None
        raise Misused("usage", error.format_message(), error.exit_code, error.show) from None


def plugin_commands(zoo_commands: Collection[str]) -> dict[str, _PluginCommand]:
    """Name -> command of a plugin, except for names that zoo itself has or that are disabled. Imports no plugin."""
    disabled = disabled_from_environment()
    claims: dict[str, list[_Claim]] = {}
    for plugin, load in find(group=COMMANDS):
        if plugin.name not in zoo_commands and plugin.name not in disabled:
            claims.setdefault(plugin.name, []).append(_Claim(plugin, load))
    return {name: _PluginCommand(name, claims[name]) for name in sorted(claims)}


def command_plugins(zoo_commands: Collection[str]) -> list[Plugin]:
    """Every entry point for a command with its state and notes, for `zoo list plugins`. Imports no plugin."""
    disabled = disabled_from_environment()
    plugins = [plugin for plugin, _ in find(group=COMMANDS)]
    for plugin in plugins:
        plugin.state = "disabled" if plugin.name in disabled else "on demand"
        plugin.brings = {"commands": [plugin.name]}
        rivals = [other.distribution for other in plugins if other.name == plugin.name and other is not plugin]
        if plugin.name in zoo_commands:
            plugin.notes.append(f"its claim on the command {plugin.name!r} is ignored: zoo has it")
        elif rivals:
            plugin.notes.append(f"the command {plugin.name!r} is also claimed by {', '.join(sorted(rivals))}")
    return plugins


@dataclass(frozen=True)
class _Claim:
    """An entry point that wants to be the command of its name."""

    plugin: Plugin
    load: Load

    @property
    def origin(self) -> str:
        """`distribution version`."""
        return f"{self.plugin.distribution} {self.plugin.version}"


class _PluginCommand(TyperCommand):
    """Stands for a plugin's command in the help, and imports the plugin when the command is invoked."""

    def __init__(self, name: str, claims: list[_Claim]) -> None:
        origins = " and ".join(claim.origin for claim in claims)
        help_text = f"From {origins}." if len(claims) == 1 else f"Unusable, claimed by {origins}."
        super().__init__(name, help=help_text, rich_markup_mode=None)
        self._claims = claims

    @property
    def usable(self) -> bool:
        """Whether one distribution alone claims the name."""
        return len(self._claims) == 1

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the plugin's command, imported now. Raises PluginError if it is broken, NameConflict."""
        return self._loaded().make_context(info_name, args, parent=parent, **extra)

    def add_origin(self, error: Exception) -> None:
        """Add a note below the traceback that names the distribution."""
        error.add_note(f"Raised in the command {self.name!r} of {self._claims[0].origin}, which is not part of zoo.")

    def _loaded(self) -> Any:
        if len(self._claims) > 1:
            targets = "\n".join(f"  {claim.origin}: {claim.plugin.target}" for claim in self._claims)
            raise NameConflict(
                f"The command {self.name!r} is claimed more than once:\n{targets}\nNext: uninstall one of them."
            )
        (claim,) = self._claims
        try:
            with prints_to_stderr():
                return _command(self.name or "", claim.load())
        except (KeyboardInterrupt, Terminated):
            raise
        except BaseException as error:  # a plugin that calls sys.exit while it is imported must not end zoo silently
            raise PluginError(
                f"The command {self.name!r} of {claim.origin} cannot be loaded: {one_line(error)}\n"
                f"Next: tell its authors, update or uninstall it; {DISABLE}={self.name} hides it."
            ) from error


def _command(name: str, target: object) -> Any:
    """The click command of a Typer app, or of a function, whose signature becomes the options. Raises TypeError."""
    if isinstance(target, typer.Typer):
        app = target
    # Not whatever can be called: a class can, too, and is no command.
    elif inspect.isroutine(target):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(target)
    else:
        raise TypeError(f"its entry point must name a typer.Typer or a function, got {type(target).__name__}")
    command = get_command(app)
    # Completion is installed once, by zoo itself.
    command.params = [parameter for parameter in command.params if parameter.name not in _COMPLETION_OPTIONS]
    # The name under which it was found, whatever the application calls itself.
    command.name = name
    return command
