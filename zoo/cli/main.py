"""The `zoo` command as a process: signals, streams, exit codes, and a quick end."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.cli import document, interrupt, launched
from zoo.cli.document import Failure, Misused
from zoo.cli.interrupt import Interrupted
from zoo.display.console import escape_names, quiet_libraries
from zoo.display.wrapping import say
from zoo.errors import OptionError, Terminated, ZooError, first_line
from zoo.process import drop_stdout, gc_paused, open_closed_stderr, share_one_heap, survive_reader_of_stderr

if TYPE_CHECKING:
    import typer

_OF_PATHS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS})
"""What the operating system says of paths that a user gave, and not of what zoo does with them."""
_PATH_STEP = "check how the path is spelt, and who may read and write there."
_SHORT_COMMANDS = ("list", "show", "--help", "-h", "--version")
"""First words of commands that end before garbage collection could pay off."""


def run() -> None:
    """Entry point of the `zoo` command."""
    open_closed_stderr()
    survive_reader_of_stderr()
    quick_exit = _QuickExit()
    atexit.register(quick_exit)  # exit handlers run in reverse order: registered first, it runs last
    if "serve" in sys.argv:
        # A server computes in another thread than this one, and `watch` starts the first: it must find it done.
        share_one_heap()
    interrupt.watch()
    try:
        main()
    except SystemExit as ended:
        # A text in place of a number is printed by Python, which the quick end would forestall.
        if ended.code is None or isinstance(ended.code, int):
            quick_exit.status = ended.code or 0
        raise
    finally:
        interrupt.ignore_signals()
    quick_exit.status = 0


def main() -> None:
    """Run the command line: the one place where an error becomes a message, JSON where it is asked for, and a code."""
    with _errors_told():
        quiet_libraries()
        escape_names()
        interrupt.hear_sigterm()
        interrupt.forget()
        # Before anything that may fail: what ends the command is told in JSON where that is wanted.
        document.expect(sys.argv[1:])
        launched.begin(sys.argv[1:])
        short = len(sys.argv) < 2 or sys.argv[1] in _SHORT_COMMANDS
        with gc_paused() if short else contextlib.nullcontext():
            _app()()


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    """Tell people on stderr, and programs on stdout, of what ends the command, and exit with its code."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        _end_by(signal.SIGINT)
    except Terminated:
        _end_by(signal.SIGTERM)
    except Misused as misused:
        if not launched.said_by_first(misused.failure.message):
            misused.show()
        _end(misused.failure, said=True)
    except ZooError as error:
        message = error.on_command_line if isinstance(error, OptionError) else ""
        message = message or str(error)
        said = launched.said_by_first(message, error)
        _end(Failure(error.code, "\n".join(filter(None, [message, interrupt.parting()])), error.exit_code), said=said)
    except OSError as error:
        if error.errno not in _OF_PATHS or error.filename is None:
            _tell_fault(error)
            raise
        _end(Failure("path", f"{os.fsdecode(error.filename)!r}: {error.strerror}.\nNext: {_PATH_STEP}", 1))
    except Exception as error:
        # A fault of zoo or of a plugin. The traceback follows on purpose: a bug report needs it.
        _tell_fault(error)
        raise


def _tell_fault(error: Exception) -> None:
    _tell(Failure("internal", f"{type(error).__name__}: {first_line(error)}", 1))


def _end_by(number: signal.Signals) -> None:
    """End as a signal asked for, with the message unless it has been said already."""
    failure = interrupt.failure(number)
    _end(failure, prefix="", said=not interrupt.claim())


def _end(failure: Failure, *, prefix: str = "Error: ", said: bool = False) -> None:
    if not said:
        say(f"{prefix}{failure.message}", to_stderr=True)
    _tell(failure)
    sys.exit(failure.exit_code)


def _tell(failure: Failure) -> None:
    """Tell programs."""
    try:
        print(document.failure_text(failure), end="", flush=True)
    except BrokenPipeError:
        drop_stdout()


class _QuickExit:
    """An exit handler that ends the process without taking its objects apart.

    Python would destroy torch's objects one by one, which takes longer than many commands. Where the exit status is
    not known (an error without one) or output cannot be flushed, Python ends the process itself and reports why.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is None:
            return
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # closed from the start
                    stream.flush()
        except (OSError, ValueError):
            return
        os._exit(self.status)


def _app() -> typer.Typer:
    # Importing makes thousands of objects and no garbage; collecting would take a fifth of the time.
    with gc_paused():
        from zoo.cli.app import app
    return app
