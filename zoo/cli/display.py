"""What a command shows of a run: the display of every terminal, the plan before it, and what Ctrl-C has to know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from zoo.cli import interrupt
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.plan import print_plan
from zoo.display.terminal import TerminalDisplay
from zoo.events import Event, Note, PlanReady, RunFinished, RunStarted
from zoo.process import prints_to_stderr
from zoo.specs.plan import Plan


class RunDisplay(TerminalDisplay):
    """A context manager whose `report` shows every event of a run.

    With `as_json`, everything goes to stderr, including what libraries and plugins print.
    """

    def __init__(self, verbosity: Verbosity, *, as_json: bool) -> None:
        super().__init__(verbosity, console.err() if as_json else console.out())
        self._as_json = as_json
        self._redirected = contextlib.ExitStack()

    def __enter__(self) -> RunDisplay:
        self._redirect_stdout()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._redirected.close()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars and give stdout back, so that something else can be printed."""
        with super().paused():
            self._redirected.close()
            try:
                yield
            finally:
                self._redirect_stdout()

    def report(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note) and event.parting:
            interrupt.remember_parting(event.text)  # said once, together with the error
            return
        if isinstance(event, RunStarted):
            interrupt.run_started(event.run)
        elif isinstance(event, RunFinished):
            interrupt.run_finished()
        elif isinstance(event, PlanReady) and isinstance(event.plan, Plan) and not self.verbosity.quiet:
            print_plan(event.plan, self.verbosity, to=self.screen)
            self.screen.print()
        super().report(event)

    def _redirect_stdout(self) -> None:
        # Heads, losses and observers of plugins run inside, and some print; with --json stdout must stay JSON.
        if self._as_json:
            self._redirected.enter_context(prints_to_stderr())
