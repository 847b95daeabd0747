"""The one JSON document that `--json` puts on stdout: the result, or what went wrong.

A document that is complete stays the only one: a failed check that has printed its report, say, adds nothing but its
exit code. A list that is written item by item (`zoo predict`) and breaks off ends with the error as its last item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

OPTION = "--json"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a command ends without a result."""

    kind: str
    """A name for programs: the `code` of a ZooError, `usage`, `interrupted`, `terminated`, `aborted` or `internal`."""
    message: str
    """The same sentences that people read on stderr."""
    exit_code: int


class Misused(Exception):
    """A command line that cannot be understood, or that was given up at a question. `show` says so to people."""

    def __init__(self, kind: str, message: str, exit_code: int, show: Callable[[], object]) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message, exit_code)
        self.show = show


class _Output:
    """How much of the document is written. One a process, as stdout is."""

    wanted = False
    state: Literal["nothing", "list", "complete"] = "nothing"


_output = _Output()


def expect(words: Sequence[str]) -> None:
    """Prepare for a command line. Its words tell whether JSON is wanted, for they may be ones that cannot be parsed."""
    # Behind -- a word is a value, whatever it looks like.
    options = words[: words.index("--")] if "--" in words else words
    _output.wanted = any(word.partition("=")[0] == OPTION for word in options)
    _output.state = "nothing"


def print_document(text: str) -> None:
    """Print a whole document."""
    _output.state = "complete"
    print(text.rstrip("\n"))


def print_items(items: Sequence[str]) -> None:
    """Print items of the list that is the document; the first ones open it."""
    opened, _output.state = _output.state == "list", "list"
    print(",\n" if opened else "[\n", end="")
    # Flushed, so that a program that reads along has each item when it is made.
    print(",\n".join(items), end="", flush=True)


def close_list() -> None:
    """Close the list that is the document. Without items, it is empty."""
    opened, _output.state = _output.state == "list", "complete"
    print("\n]" if opened else "[]")


def failure_text(failure: Failure) -> str:
    """What stdout still lacks for the document to tell of the failure: nothing where no JSON is wanted."""
    from zoo.storage.atomic import json_text

    before, _output.state = _output.state, "complete"
    if not _output.wanted or before == "complete":
        return ""
    error = {"kind": failure.kind, "message": failure.message, "exit_code": failure.exit_code}
    content = json_text({"error": error}).rstrip()
    if before == "nothing":
        return f"{content}\n"
    indented = content.replace("\n", "\n  ")
    return f",\n  {indented}\n]\n"
