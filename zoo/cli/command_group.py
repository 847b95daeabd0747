"""The group of all commands: zoo's own, then those of plugins."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from zoo.cli.exit_codes import INTERRUPTED
from zoo.errors import either, nearest


class Commands(TyperGroup):
    """zoo's commands, then those of plugins.

    Ctrl-C becomes a message and exit code 130, a closed pipe a quiet end, before click makes its own of them.
    """

    @functools.cached_property
    def _extra(self) -> dict[str, Any]:
        from zoo.cli.extra_commands import extra_commands

        return dict(extra_commands(self.commands))

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._extra]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Plugins are looked for only under names that zoo does not have.
        return super().get_command(ctx, cmd_name) or self._extra.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            close = nearest(name, self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}.{f' Did you mean {either(close)}?' if close else ''}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return self._invoke_attributed(ctx)
        except KeyboardInterrupt:
            print(
                "\nInterrupted. No artefact was written half; what was finished is in the run folder.", file=sys.stderr
            )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (`| head`) has enough: not an error. What is still buffered must not be flushed into it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None

    def _invoke_attributed(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            name = ctx.invoked_subcommand
            if name is not None and name not in self.commands and name in self._extra:
                self._extra[name].attribute(error)
            raise
