"""A command that a launcher started several times: which commands take that, and who says what there is to say."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from zoo.cli import interrupt
from zoo.distributed.launch import launch
from zoo.errors import Refused
from zoo.process import drop_stdout

# What processes say to one another is imported where there are several: a command that is alone is to answer at once.

_SHARED = "finetune"
"""The command whose work several processes share."""
_FIRST_SPEAKS = 5.0
"""Seconds in which process 0 comes to an error that all of them meet."""
_SPOKEN = 1.0
"""Seconds that it has to say so, before a launcher that sees another process end would end it."""


def begin(words: Sequence[str]) -> None:
    """Join the processes that a launcher started with this one, if any; all but the first print nothing on stdout.

    Raises Refused for a command whose work they could not share: each would do all of it.
    """
    found = launch()
    if found is None:
        return
    command = next((word for word in words if not word.startswith("-")), "")
    # Before they join: a signal may come while they still wait for one another.
    interrupt.among_processes(lambda: "", is_first=found.is_main)
    if not found.is_main:
        drop_stdout()
    if command != _SHARED:
        if not found.is_main:
            time.sleep(_SPOKEN)  # meanwhile the first says why, below
            raise SystemExit(Refused.exit_code)
        said = " ".join(["zoo", *words])
        raise Refused(
            f"{found.count} processes were started for {said}, and each would do all of its work: a launcher is for "
            f"zoo {_SHARED}.\nNext: {said}, without the launcher."
        )
    from zoo.process import start_computing

    # They meet in a store of torch's, so that torch comes first, and is imported in the quick way.
    start_computing("torch")
    from zoo.distributed.group import join, joined
    from zoo.distributed.pulse import ProcessLost

    join()
    group = joined()
    assert group is not None, "what a launcher started joins"
    interrupt.among_processes(group.pulse.gone, is_first=found.is_main)
    group.pulse.when_lost(lambda message: interrupt.end_with(ProcessLost.code, message, ProcessLost.exit_code))


def said_by_first(message: str, error: BaseException | None = None) -> bool:
    """Tell the other processes of an error that ends this one -> whether the first has said the same to people."""
    from zoo.distributed.group import joined
    from zoo.distributed.pulse import ProcessLost

    group = joined()
    if group is None:
        return False
    group.pulse.tell("failed", message)
    if group.is_main:
        return False
    spoken = group.pulse.failure_of_main(_FIRST_SPEAKS)
    time.sleep(_SPOKEN)
    # One may say more than the other. That a process is lost, each says in words of its own.
    if spoken is not None and (spoken in message or message in spoken or isinstance(error, ProcessLost)):
        return True
    print(f"{group.launch.name.capitalize()}:", file=sys.stderr)
    return False
