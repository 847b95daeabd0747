"""The bytes of a file from a host: patiently, from where the last try stopped, checked, whole or not at all."""

from __future__ import annotations

import http.client
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlsplit

from zoo.errors import Unreachable, WeightsError
from zoo.weights.partial import Partial, claim

OPENING_SECONDS = 12.0  # A host that has not answered by then is unreachable.
SILENCE_SECONDS = 30.0  # A download that brings nothing for so long has failed.
RETRY_SECONDS = (1.0, 3.0)  # Pauses before the second and the third try, where what went wrong may pass.

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all or None where the host does not say)."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Download:
    """A download that is about to start; `bytes` is None where the host does not say."""

    host: str
    filename: str
    bytes: int | None
    done: int = 0
    """Bytes that an earlier try has left here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, whom to tell how it goes, and what to do where it cannot be had."""

    what: str
    address: str
    folder: Path
    variable: str
    """The environment variable that moves the folder."""
    access: str
    ways_out: tuple[str, ...]
    note: str = ""
    announce: Callable[[Download], None] | None = None
    progress: Progress | None = None

    @property
    def host(self) -> str:
        """Without user and password."""
        return urlsplit(self.address).netloc.rpartition("@")[2]

    def failure(self, found: str, *steps: str, kind: type[WeightsError] = WeightsError) -> WeightsError:
        """What was asked, `found`, and the next steps, `steps` first."""
        lines = [f"The weights of {self.what} could not be had from {self.address}.", f"{found}{self.note}"]
        return kind("\n".join([*lines, "Next, one of:", *(f"  - {step}" for step in (*steps, *self.ways_out))]))

    def damaged(self, found: str, *, kept: bool = False) -> WeightsError:
        """`found` says how."""
        rest = (
            "What came is kept: the next try goes on from there, where the host can."
            if kept
            else "Nothing of it was kept."
        )
        return self.failure(f"The file arrived {found}. {rest}", "try again")

    def unkept(self, found: str) -> WeightsError:
        """`found` says why the folder cannot keep the file."""
        step = f"mend that, or set {self.variable} to a folder elsewhere"
        return self.failure(f"The folder {self.folder} cannot keep the file: {found}.", step)

    def refused(self, status: int, detail: str | None = None) -> WeightsError:
        """The host answered with this HTTP status."""
        answer = f"{self.host} answered with HTTP status {status}{f' ({_first_line(detail)})' if detail else ''}"
        if status in (401, 403):
            why = "the file asks for rights that you do not have, or is not there: hosts answer the same to both"
            return self.failure(f"{answer}: {why}.", self.access)
        if status in (404, 410):
            return self.failure(f"{answer}: it no longer has the file.")
        return self.failure(f"{answer}.", "try again later")


@dataclass(frozen=True, slots=True)
class Body:
    """An answer whose headers are read and whose bytes are not."""

    filename: str
    length: int | None
    """Of the whole file."""
    read: Callable[[], bytes]
    close: Callable[[], None]
    etag: str = ""
    """A strong entity tag; empty where the host gives none."""
    start: int = 0
    """Which byte of the file comes first."""


Opening = Callable[[int, str], Body]
"""(the first byte that is wanted, the entity tag of those that are here) -> the answer, which may be the whole file."""


class _Passing(Exception):
    """What went wrong may pass; `error` is what people are told when it does not."""

    def __init__(self, error: WeightsError) -> None:
        self.error = error


class _OutOfRange(_Passing):
    """The host's file is shorter than what is here."""


def patiently(step: Callable[[], Result]) -> Result:
    """`step()`, tried again after pauses where the host is busy or broken, or the line breaks."""
    for pause in RETRY_SECONDS:
        try:
            return step()
        except _Passing:
            time.sleep(pause)
    try:
        return step()
    except _Passing as passing:
        raise passing.error from None


def download(opening: Opening, target: Path, sha256: str | None, asked: Asked) -> None:
    """The file to `target`, which never holds a part of it; a part that an earlier try has left is not asked for again.

    Args:
        opening: Asks the host.
        target: Where to.
        sha256: Hexadecimal, or its first digits; None where nobody has published one.
        asked: For messages, and whom to tell.

    Raises:
        Unreachable: The host cannot be reached, or fell silent.
        WeightsError: The host refuses, the file arrived damaged, or it cannot be kept.
    """
    told: list[Download] = []
    patiently(partial(_try, opening, target, sha256, asked, told))


def open_address(url: str, first: int = 0, etag: str = "") -> Body:
    """A GET of an http address, of all from byte `first` on, where the file still has this entity tag."""
    headers = {"User-Agent": "zoo"}
    if first:
        headers |= {"Range": f"bytes={first}-", **({"If-Range": f'"{etag}"'} if etag else {})}
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE_SECONDS)
    start, length = extent(response.status, response.headers)
    found = re.fullmatch(r'"(.+)"', response.headers.get("ETag", ""))  # a weak one says nothing about bytes
    # read1 hands over what has arrived, so the progress moves on a slow line too.
    read = partial(response.read1, 1 << 18)
    return Body(basename(url), length, read, response.close, found.group(1) if found else "", start)


def extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """(the first byte, the length of the whole file) of an answer."""
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "")) if status == 206 else None
    if ranged:
        return int(ranged.group(1)), int(ranged.group(2)) if ranged.group(2) != "*" else None
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def within(seconds: float, opening: Callable[[], Result], close: Callable[[Result], None]) -> Result:
    """`opening()`, left behind where it takes longer, its late result closed: name look-ups and many addresses know no
    limit in all. Raises TimeoutError."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(opening())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="zoo-fetch", daemon=True).start()
    try:
        if not wait([future], timeout=seconds).done:
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        return future.result()
    except BaseException:
        future.add_done_callback(lambda late: None if late.exception() else close(late.result()))
        raise


@contextmanager
def network(asked: Asked) -> Iterator[None]:
    """Turn what the network does into messages for people."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(asked, error.code) from None
    except HfHubHTTPError as error:
        raise _refusal(asked, error.response.status_code, error.server_message) from None
    except _troubles() as error:
        raise asked.failure(f"{asked.host} cannot be reached: {_reason(error)}.", kind=Unreachable) from None


@contextmanager
def keeping(asked: Asked) -> Iterator[None]:
    """Turn what the disk does into messages for people."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # Not the disk's: the hub's errors are OSErrors too.
            raise
        raise asked.unkept(_reason(error)) from None


def basename(url: str) -> str:
    """The file's name in an address."""
    return PurePosixPath(urlsplit(url).path).name


def _try(opening: Opening, target: Path, sha256: str | None, asked: Asked, told: list[Download]) -> None:
    with keeping(asked):
        unfinished = claim(target)
    with closing(unfinished):
        first = unfinished.done if unfinished.continues(sha256) else 0
        with closing(_answer(opening, unfinished, first, asked)) as body:
            with keeping(asked):
                _make_room(body, target, asked)
                if not body.start:
                    unfinished.begin(etag=body.etag, length=body.length, sha256=sha256)
            _announce(Download(asked.host, body.filename, body.length, body.start), asked, told)
            digest = _copy(body, unfinished, asked)
        if sha256 and not digest.startswith(sha256.lower()):
            unfinished.worthless = True
            error = asked.damaged(f"damaged: expected SHA-256 {sha256}, found {digest}")
            # What an earlier try left may be what is wrong.
            raise _Passing(error) if first else error
        with keeping(asked):
            unfinished.finish()


def _answer(opening: Opening, unfinished: Partial, first: int, asked: Asked) -> Body:
    try:
        with network(asked):
            body = within(OPENING_SECONDS, partial(opening, first, unfinished.etag), lambda late: late.close())
    except _OutOfRange:
        unfinished.worthless = True
        raise
    if body.start and (body.start != first or body.length != unfinished.length):
        body.close()
        unfinished.worthless = True
        raise _Passing(asked.damaged("as a part of another file"))
    return body


def _make_room(body: Body, target: Path, asked: Asked) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = (body.length or 0) - body.start
    if needed > free:
        raise asked.unkept(f"it needs {needed:,} bytes, and {free:,} are free")


def _announce(coming: Download, asked: Asked, told: list[Download]) -> None:
    """Once, however many tries it takes."""
    if asked.announce is not None and not told:
        asked.announce(coming)
    told.append(coming)


def _copy(body: Body, unfinished: Partial, asked: Asked) -> str:
    with keeping(asked):
        digest, done = unfinished.digest(), body.start
    while chunk := _read(body, done, unfinished, asked):
        with keeping(asked):
            unfinished.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        if asked.progress is not None:
            asked.progress(done, body.length)
    if body.length not in (None, done):
        found = f"incomplete: expected {body.length:,} bytes, found {done:,}"
        raise _Passing(asked.damaged(found, kept=unfinished.kept))
    return str(digest.hexdigest())


def _read(body: Body, done: int, unfinished: Partial, asked: Asked) -> bytes:
    try:
        return body.read()
    except _troubles() as error:
        # The hub's client has time-outs of its own, which are no TimeoutError.
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            found = f"{asked.host} fell silent: nothing came for {SILENCE_SECONDS:.0f} s, after {done:,} bytes."
            rest = " They are kept: the next try goes on from there, where the host can." if unfinished.kept else ""
            raise asked.failure(found + rest, "try again", kind=Unreachable) from None
        total = "more" if body.length is None else f"{body.length:,}"
        found = f"incomplete: expected {total} bytes, found {done:,} ({_reason(error)})"
        raise _Passing(asked.damaged(found, kept=unfinished.kept)) from None


def _refusal(asked: Asked, status: int, detail: str | None = None) -> Exception:
    error = asked.refused(status, detail)
    if status == 416:
        return _OutOfRange(error)
    return _Passing(error) if status >= 500 or status == 429 else error


def _troubles() -> tuple[type[Exception], ...]:
    """What the standard library, the hub's client and the hub's library raise where an answer does not come."""
    from huggingface_hub import errors

    return (OSError, http.client.HTTPException, errors.HTTPError, errors.EntryNotFoundError)  # type: ignore[attr-defined]


def _reason(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return _first_line(str(reason)) or type(reason).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(".")
