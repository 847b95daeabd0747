"""Ctrl-C and SIGTERM: one message, and an end within a second, whatever the process is doing.

Python raises KeyboardInterrupt in the main thread, between two of its steps, and what it unwinds may wait: for threads
that decode, for a long pass through a model. A thread of its own therefore hears signals as well. It ends the process
where the main thread has not done so in time: nothing is lost by it, for whatever zoo writes is whole or not there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from zoo.cli.document import Failure, failure_text
from zoo.errors import INTERRUPTED, TERMINATED, Terminated
from zoo.process import LISTENER, is_finishing
from zoo.text import shell_word

PATIENCE = 0.7
"""Seconds from a signal to the end that the main thread has."""
LONG_PATIENCE = 10.0
"""The same while an observer is told that the run stops: it may close a record on another machine."""
_STDERR = 2
# rich hides the cursor while it shows bars, and a process that ends here would leave it hidden.
_SHOW_CURSOR = b"\x1b[?25h\r\x1b[K"
_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


class Interrupted(SystemExit):
    """Ctrl-C, on its way through typer, which would end the process with a code alone."""


class _CurrentRun:
    """The run that the process carries out, for the message."""

    folder: Path | None = None
    is_finished = False
    parting = ""
    kept = ""
    gone: Callable[[], str] = staticmethod(lambda: "")
    """Which other process of the run has ended, in words; empty where none has."""
    stdout: int | None = None
    """Where programs read: inside of `prints_to_stderr`, descriptor 1 is no stdout. None where nobody watches."""
    is_first = True
    """Whether this process is the one that speaks for all."""


_run = _CurrentRun()
_said = threading.Lock()
_heard = threading.Event()


def run_started(folder: Path) -> None:
    """Remember the run folder: from now on there is something to resume."""
    _run.folder, _run.is_finished = folder, False


def run_finished() -> None:
    """Remember that only the run's report is missing."""
    _run.is_finished = True


def remember_parting(text: str) -> None:
    """Remember how to go on after the error that is raised next."""
    _run.parting = text


def remember_kept(text: str) -> None:
    """Remember what a signal leaves behind, and how to go on, for commands without a run folder."""
    _run.kept = text


def parting() -> str:
    """How to go on after an error, as the command that raises it has said, else nothing."""
    return _run.parting


def forget() -> None:
    """Begin anew, for a process that carries out several commands."""
    _run.folder, _run.parting, _run.kept = None, "", ""
    if _said.locked():
        _said.release()


def among_processes(gone: Callable[[], str], *, is_first: bool) -> None:
    """This process is one of several of a run: `gone` says in words which other one has ended, if any."""
    _run.gone, _run.is_first = gone, is_first


def end_with(kind: str, message: str, exit_code: int) -> None:
    """End the process with an error that its main thread cannot raise, for it hangs."""
    resume = f"\nTo resume: zoo finetune --resume {shell_word(_run.folder)}" if _run.folder is not None else ""
    _end_now(Failure(kind, f"{message}{resume}", exit_code), prefix="Error: ")


def claim() -> bool:
    """Whether the caller is the first that wants to say the message of a signal, and so says it.

    Of several processes of a run the first speaks; the others where one has ended, for it may be that one.
    """
    if not _run.is_first and not _run.gone():
        return False
    return _said.acquire(blocking=False)


def failure(number: int) -> Failure:
    """The end by a signal: what was kept, and how to go on."""
    kind, said = ("terminated", "Terminated.") if number == signal.SIGTERM else ("interrupted", "Interrupted.")
    if gone := _run.gone():
        said += f" {gone}"
    if _run.folder is not None and _run.is_finished:
        said += f" The run is finished, only its report is not.\nNext: zoo report {shell_word(_run.folder)}"
    elif _run.folder is not None:
        resume = f"To resume: zoo finetune --resume {shell_word(_run.folder)}"
        said += f" What was finished is kept in {_run.folder}.\n{resume}"
    elif _run.parting:
        said += f"\n{_run.parting}"
    elif _run.kept:
        said += f" {_run.kept}"
    return Failure(kind, said, _CODES[signal.Signals(number)])


def hear_sigterm() -> None:
    """Let SIGTERM, by which services and clusters stop programs, raise Terminated, as Ctrl-C raises an exception."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise_once)


def watch() -> None:
    """Start the thread that hears signals. For a process that carries out one command.

    Windows has no pipes that can be waited for; Python's own Ctrl-C does there. And where a standard stream is closed,
    a pipe would get its number.
    """
    if os.name == "nt" or None in (sys.stdin, sys.stdout, sys.stderr):
        return
    heard, told = os.pipe()
    # Python writes the number there in the signal itself, also while the main thread is in the middle of a long pass,
    # and asks for a descriptor that never blocks.
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in _CODES:
        # A shell starts what runs in its background deaf to Ctrl-C, and so it stays.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_once)
    _run.stdout = _duplicate(1)
    _hide_errors_of_the_end()
    threading.Thread(target=_listen, args=(heard,), name=LISTENER, daemon=True).start()


def ignore_signals() -> None:
    """The work is done. What hears signals still ends the process where the end itself takes long."""
    for number in _CODES:
        if signal.getsignal(number) is _raise_once:
            signal.signal(number, _ignore)


def _raise_once(number: int, _: object) -> None:
    """Raise what ends the command. The next signal must not interrupt that: the thread hears it, and ends at once."""
    _heard.set()
    ignore_signals()
    if number == signal.SIGTERM:
        raise Terminated(TERMINATED)
    raise KeyboardInterrupt


def _ignore(number: int, _: object) -> None:
    pass


def _listen(heard: int) -> None:
    numbers = {int(number) for number in _CODES}
    while (number := _next_signal(heard, None)) not in numbers:
        pass
    began = time.monotonic()
    while (passed := time.monotonic() - began) < (LONG_PATIENCE if is_finishing() else PATIENCE):
        # In short steps, for an observer may begin or end its last work meanwhile, and the time left with it.
        if _next_signal(heard, min(0.05, PATIENCE - passed if passed < PATIENCE else 0.05)) in numbers:
            break
    cursor = _SHOW_CURSOR if os.isatty(_STDERR) else b""
    _end_now(failure(number), before=cursor)


def _next_signal(heard: int, seconds: float | None) -> int:
    """The number of the next signal, or 0 if none comes in time."""
    ready, _, _ = select.select([heard], [], [], seconds)
    return os.read(heard, 1)[0] if ready else 0


def _end_now(ended: Failure, *, prefix: str = "", before: bytes = b"") -> None:
    """End the process now, with the message for people and for programs if it is not said yet."""
    if claim():
        _write(_STDERR, before + f"{prefix}{ended.message}\n".encode(errors="backslashreplace"))
        if _run.stdout is not None:
            _write(_run.stdout, failure_text(ended).encode(errors="backslashreplace"))
    os._exit(ended.exit_code)


def _write(descriptor: int, text: bytes) -> None:
    """Write, unless the reader takes nothing: the end does not wait for it."""
    with contextlib.suppress(OSError, ValueError):
        # Asked first: a full pipe that nobody reads would hold up the end for ever.
        if text and select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, text)


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:  # closed
        return None


def _hide_errors_of_the_end() -> None:
    """Hide, once a signal came, tracebacks of code in which nothing can be raised, and of threads that lost theirs."""
    unraisable, in_thread = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = lambda error: None if _heard.is_set() else unraisable(error)
    threading.excepthook = lambda error: None if _heard.is_set() else in_thread(error)
