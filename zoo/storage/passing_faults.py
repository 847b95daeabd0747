"""Faults of reading and writing that may pass: told from those of the file itself, and tried again.

A network folder or a store that does not answer says nothing of a file. Whoever took that for a fault of the file would
go on without it.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

Done = TypeVar("Done")
Pause = Callable[[float], object]
"""Waits that many seconds. It returns true where what waits should give up."""
Cause = Literal["own", "denied", "passing"]

ANSWER_SECONDS = 60
"""Seconds for which what does not answer is asked again and again."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each further try. None follows after ANSWER_SECONDS, for clients of stores try again by themselves."""
# What a system says of one file. Everything else may be a network: a mounted store says "Input/output error" for that.
_OWN = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EILSEQ", "EFBIG", "EOVERFLOW"),
        *("EUCLEAN", "EBADMSG"),  # the file system is damaged there
        "ENXIO",  # a socket
    )
    if hasattr(errno, name)
)
# As pyarrow words an answer of S3: a name, a number of its own, or UNKNOWN with the status.
_ANSWER = re.compile(r"AWS Error (?:([A-Z_]+)|\[code \d+\])(?: \(HTTP status (\d+)\))? during ")
_DENIED = ("ACCESS_DENIED", "OBJECT_NOT_IN_ACTIVE_TIER")
_TRY_AGAIN = (408, 425, 429)
"""Statuses below 500 that mean: later."""


def patiently(work: Callable[[], Done], *, waits: Sequence[float] | None = None, pause: Pause = time.sleep) -> Done:
    """What `work` returns. Where it raises what may pass, it is tried again after each of the waits (default: WAITS).

    Raises OSError as `work` does.
    """
    begin = time.monotonic()
    for wait in WAITS if waits is None else waits:
        try:
            return work()
        except OSError as error:
            if cause_of(error) != "passing" or time.monotonic() - begin > ANSWER_SECONDS or pause(wait):
                raise
    return work()


def cause_of(error: OSError) -> Cause:
    """Why a file could not be read.

    `own`: the file is gone, or is none that could be read. `denied`: whoever holds it says no to this file, or to
    everything, such as after a login ran out. `passing`: no answer, or one that says that it may be given later.
    """
    # "Invalid" is what gs:// says to a key that cannot be, and to a login that ran out.
    if isinstance(error, PermissionError) or error.errno == errno.EINVAL:
        return "denied"
    if error.errno in _OWN:
        return "own"
    answer = _ANSWER.search(str(error))
    if answer is None:
        return "passing"
    name, status = answer[1], int(answer[2] or 0)
    if name in ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND"):
        return "own"
    # Without a name: a kind of answer that only S3 has, such as that of an object in an archive.
    says_no = name is None or name in _DENIED or (400 <= status < 500 and status not in _TRY_AGAIN)
    return "denied" if says_no else "passing"
