"""Read files of a job that may lie across a network, and tell a file's own fault from one that may pass.

A fault of its own becomes a row, which is kept. One that may pass must not: the same command would not read that file
again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from zoo.bulk.addresses import Address, file_system, listed_address, read_bytes
from zoo.bulk.found_files import FoundFile
from zoo.errors import NoAnswer, first_line
from zoo.storage.passing_faults import WAITS, Pause, cause_of, patiently
from zoo.text import printable


def read_listed(file: FoundFile, *, waits: Sequence[float] = WAITS, pause: Pause = time.sleep) -> bytes:
    """The bytes of a file that was listed.

    Raises:
        OSError: The file itself is at fault.
        NoAnswer: It cannot be read now, which says nothing of the file.
    """
    address = listed_address(file.name)
    begin = time.monotonic()
    try:
        return patiently(partial(read_bytes, address), waits=waits, pause=pause)
    except OSError as error:
        # Among thousands of such rows, nobody would see that only the first of them is about a file.
        if told := _not_its_own(file, address, error, time.monotonic() - begin):
            name, why = printable(file.name), error.strerror or first_line(error)
            raise NoAnswer(f"{name} cannot be read now: {why}\n{told}") from error
        raise


def _not_its_own(file: FoundFile, address: Address, error: OSError, seconds: float) -> str:
    """Why a fault is not the file's own, and what to do; nothing where it is."""
    goes_on = "the same command goes on after the last finished part."
    cause = cause_of(error)
    if cause == "passing":
        step = "" if not address.is_local else " If a broken disk has lost this file, put an empty one in its place."
        return (
            f"This may pass, so it is not noted as a fault of the image; it was tried for {seconds:.0f} s.\n"
            f"Next: once it can be read, {goes_on}{step}"
        )
    if cause == "denied" and not address.is_local and not _answers(address):
        return (
            "The store refuses everything now, not this file alone: the credentials may have run out.\n"
            f"Next: renew the credentials (AWS_SESSION_TOKEN, or the login of your profile); {goes_on}"
        )
    was_there = address.is_local and file.size >= 0  # when it was listed
    if was_there and error.errno in (errno.ENOENT, errno.ENOTDIR) and _is_away(Path(address.path).parent):
        return (
            "Its folder is gone or empty since it was listed: a disk or a network folder may not be connected.\n"
            f"Next: connect it again; {goes_on}"
        )
    return ""


def _answers(address: Address) -> bool:
    """Whether a store still lets this process look at an object, or at what holds it."""
    from pyarrow import ArrowException

    folder = address.path.rpartition("/")[0].rstrip("/")
    for path in (address.path, folder):
        try:
            file_system(address.scheme).get_file_info([path])
        except (OSError, ArrowException):
            continue
        return True
    return False


def _is_away(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it is there
        return False
