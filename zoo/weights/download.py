"""Download a file over HTTP: retried, continued where an earlier attempt stopped, and checked; complete or not at all.

This uses urllib and not the session of `huggingface_hub`, which refuses every request while `HF_HUB_OFFLINE` is set.
Here that variable switches off the hub alone: torchvision's files and a mirror must still be downloaded. The session
also does not start under an `ALL_PROXY` that names a SOCKS proxy without a further package, and it sends to every host
what a program has set up for the hub (`set_client_factory`), a token included.
"""

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

from zoo import text
from zoo.errors import Unreachable, WeightsError
from zoo.events import Note, Progress, Report
from zoo.weights.partial import PartialFile, open_partial

OPENING_SECONDS = 12.0  # A host that has not answered by then is unreachable.
SILENCE_SECONDS = 30.0  # A download that receives nothing for so long has failed.
RETRY_SECONDS = (1.0, 3.0)  # Pauses before the second and the third attempt.
_CHUNK_BYTES = 1 << 18

OnBytes = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in total or None where the host does not say)."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Download:
    """A download that is about to start."""

    host: str
    filename: str
    bytes: int | None
    """Size of the complete file; None where the host does not say."""
    done: int = 0
    """Bytes already here from an earlier attempt."""


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What to download, whom to inform, and what to advise when it fails."""

    weights: str
    """Name of the weights, for messages."""
    address: str
    """URL or folder, for messages."""
    folder: Path
    """Where the file is to be saved."""
    variable: str
    """The environment variable that moves `folder`."""
    access: str
    """Next step for a host that refuses access."""
    next_steps: tuple[str, ...]
    """Next steps after any failure."""
    note: str = ""
    """Appended to every message."""
    announce: Callable[[Download], None] | None = None
    progress: OnBytes | None = None

    @property
    def host(self) -> str:
        """The address's host, without user and password."""
        return urlsplit(self.address).netloc.rpartition("@")[2]

    def failure(self, reason: str, *steps: str, kind: type[WeightsError] = WeightsError) -> WeightsError:
        """An error that says what was requested, why it failed, and the next steps, `steps` first."""
        lines = [f"The weights of {self.weights} could not be downloaded from {self.address}.", f"{reason}{self.note}"]
        return kind("\n".join([*lines, "Next, one of:", *(f"  - {step}" for step in (*steps, *self.next_steps))]))

    def damaged(self, how: str, *, kept: bool = False) -> WeightsError:
        """An error for a file that arrived `how`."""
        rest = (
            "What arrived is kept, and the next attempt continues from there if the host supports it."
            if kept
            else "None of it was kept."
        )
        return self.failure(f"The file arrived {how}. {rest}", "try again")

    def not_saved(self, reason: str) -> WeightsError:
        """An error for a disk that does not take the file."""
        step = f"fix that, or set {self.variable} to another folder"
        return self.failure(f"The file could not be saved in {self.folder}: {reason}.", step)

    def refused(self, status: int, detail: str | None = None) -> WeightsError:
        """An error for a host that answered with an HTTP status of failure."""
        answer = f"{self.host} answered with HTTP status {status}{f' ({_first_line(detail)})' if detail else ''}"
        if status in (401, 403):
            why = "you lack permission for the file, or it does not exist; hosts give the same answer to both"
            return self.failure(f"{answer}: {why}.", self.access)
        if status in (404, 410):
            return self.failure(f"{answer}: it no longer has the file.")
        return self.failure(f"{answer}.", "try again later")


@dataclass(frozen=True, slots=True)
class Response:
    """A host's answer, with the headers read and the body still to come."""

    filename: str
    length: int | None
    """Bytes of the complete file; None where the host does not say."""
    read: Callable[[], bytes]
    """The next bytes of the body; empty at its end."""
    close: Callable[[], None]
    etag: str = ""
    """A strong entity tag; empty where the host gives none."""
    start: int = 0
    """Position in the file of the body's first byte."""


Opener = Callable[[int, str], Response]
"""Called with (first byte wanted, entity tag of the bytes before it); the response may be the complete file."""


class Transient(Exception):
    """A failure that may go away; `error` is the message for when it does not."""

    def __init__(self, error: WeightsError) -> None:
        self.error = error


class _OutOfRange(Transient):
    """The host's file is shorter than what is already here."""


def retry(attempt: Callable[[], T]) -> T:
    """`attempt()`, repeated after pauses while it fails with Transient."""
    for pause in RETRY_SECONDS:
        try:
            return attempt()
        except Transient:
            time.sleep(pause)
    try:
        return attempt()
    except Transient as transient:
        raise transient.error from None


def with_timeout(seconds: float, opening: Callable[[], T], close: Callable[[T], None]) -> T:
    """`opening()`, abandoned after `seconds`, its late result closed. Raises TimeoutError.

    In a thread, because name look-ups and hosts with many addresses have no time limit of their own.
    """
    future: Future[T] = Future()

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


def download(
    opener: Opener, target: Path, sha256: str | None, request: DownloadRequest, *, name: Path | None = None
) -> None:
    """Download a file to `target`, which is complete or not there; continues what an earlier attempt has left.

    Args:
        opener: Asks the host.
        target: Path of the complete file.
        sha256: Hexadecimal SHA-256 of the file, or its first digits; None where nobody has published one.
        request: For messages and progress.
        name: Path by which every attempt finds the bytes of an earlier one. Default: `target`.

    Raises:
        Unreachable: The host cannot be reached, or stopped sending.
        WeightsError: The host refuses, the file arrived damaged, or it cannot be saved.
    """
    announced: list[Download] = []
    open_unfinished = partial(open_partial, target, name)
    retry(partial(_attempt, opener, open_unfinished, target, sha256, request, announced))


def open_address(url: str, first: int = 0, etag: str = "") -> Response:
    """Send a GET for an http address, from byte `first` on if the file there still has this entity tag."""
    headers = {"User-Agent": "zoo"}
    if first:
        headers |= {"Range": f"bytes={first}-", **({"If-Range": f'"{etag}"'} if etag else {})}
    answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SILENCE_SECONDS)
    start, length = content_range(answer.status, answer.headers)
    strong = re.fullmatch(r'"(.+)"', answer.headers.get("ETag", ""))  # A weak one promises nothing about bytes.
    # read1 returns what has arrived, so that progress is visible on a slow line too.
    read = partial(answer.read1, _CHUNK_BYTES)
    return Response(basename(url), length, read, answer.close, strong.group(1) if strong else "", start)


def content_range(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """(position of the body's first byte, length of the complete file) of an answer."""
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "")) if status == 206 else None
    if ranged:
        return int(ranged.group(1)), int(ranged.group(2)) if ranged.group(2) != "*" else None
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


@contextmanager
def network_errors(request: DownloadRequest) -> Iterator[None]:
    """Turn errors of the network into messages for people."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(request, error.code) from None
    except HfHubHTTPError as error:
        raise _refusal(request, error.response.status_code, error.server_message) from None
    except _network_exceptions() as error:
        raise request.failure(f"{request.host} cannot be reached: {_reason(error)}.", kind=Unreachable) from None


@contextmanager
def disk_errors(request: DownloadRequest) -> Iterator[None]:
    """Turn errors of the disk into messages for people."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # Not from the disk: the hub library's errors are OSErrors too.
            raise
        raise request.not_saved(_reason(error)) from None


def basename(url: str) -> str:
    """The file's name in an address."""
    return PurePosixPath(urlsplit(url).path).name


def on_start(report: Report) -> Callable[[Download], None]:
    """An `announce` that reports the download as a Note."""

    def announce(coming: Download) -> None:
        size = text.size(coming.bytes) if coming.bytes else "unknown size"
        here = f", {text.size(coming.done)} of it already here from an earlier attempt" if coming.done else ""
        report(Note(text=f"Downloading {coming.filename} ({size}{here}) from {coming.host}"))

    return announce


def on_bytes(report: Report, task: str = "download") -> OnBytes:
    """A `progress` that reports the bytes as Progress of `task`."""

    def progress(done: int, total: int | None) -> None:
        report(Progress(task=task, done=done, total=total, unit="bytes"))

    return progress


def _attempt(
    opener: Opener,
    open_unfinished: Callable[[], PartialFile],
    target: Path,
    sha256: str | None,
    request: DownloadRequest,
    announced: list[Download],
) -> None:
    with disk_errors(request):
        unfinished = open_unfinished()
    with closing(unfinished):
        first = unfinished.done if unfinished.continues(sha256) else 0
        with closing(_open(opener, unfinished, first, request)) as response:
            with disk_errors(request):
                _check_free_space(response, target, request)
                if not response.start:
                    unfinished.begin(etag=response.etag, length=response.length, sha256=sha256)
            coming = Download(request.host, response.filename, response.length, response.start)
            if request.announce is not None and not announced:  # Once, however many attempts it takes.
                request.announce(coming)
            announced.append(coming)
            digest = _copy(response, unfinished, request)
        if sha256 and not digest.startswith(sha256.lower()):
            unfinished.discard = True
            error = request.damaged(f"damaged: expected SHA-256 {sha256}, found {digest}")
            # The wrong bytes may be those of an earlier attempt.
            raise Transient(error) if first else error
        with disk_errors(request):
            unfinished.finish()


def _open(opener: Opener, unfinished: PartialFile, first: int, request: DownloadRequest) -> Response:
    try:
        with network_errors(request):
            opening = partial(opener, first, unfinished.etag)
            response = with_timeout(OPENING_SECONDS, opening, lambda late: late.close())
    except _OutOfRange:
        unfinished.discard = True
        raise
    if response.start and (response.start != first or response.length != unfinished.length):
        response.close()
        unfinished.discard = True
        raise Transient(request.damaged("as part of a different file"))
    return response


def _check_free_space(response: Response, target: Path, request: DownloadRequest) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = (response.length or 0) - response.start
    if needed > free:
        raise request.not_saved(f"it needs {needed:,} bytes, and {free:,} are free")


def _copy(response: Response, unfinished: PartialFile, request: DownloadRequest) -> str:
    """Append the body to the file -> SHA-256 of the complete file."""
    with disk_errors(request):
        digest, done = unfinished.digest(), response.start
    while chunk := _read(response, done, unfinished, request):
        with disk_errors(request):
            unfinished.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        if request.progress is not None:
            request.progress(done, response.length)
    if response.length not in (None, done):
        how = f"incomplete: expected {response.length:,} bytes, found {done:,}"
        raise Transient(request.damaged(how, kept=unfinished.resumable))
    return str(digest.hexdigest())


def _read(response: Response, done: int, unfinished: PartialFile, request: DownloadRequest) -> bytes:
    try:
        return response.read()
    except _network_exceptions() as error:
        # The time-outs of the hub's client are no TimeoutError.
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            reason = f"{request.host} stopped sending: no data for {SILENCE_SECONDS:.0f} s, after {done:,} bytes."
            if unfinished.resumable:
                reason += " They are kept, and the next attempt continues from there if the host supports it."
            raise request.failure(reason, "try again", kind=Unreachable) from None
        total = "more" if response.length is None else f"{response.length:,}"
        how = f"incomplete: expected {total} bytes, found {done:,} ({_reason(error)})"
        raise Transient(request.damaged(how, kept=unfinished.resumable)) from None


def _refusal(request: DownloadRequest, status: int, detail: str | None = None) -> Exception:
    error = request.refused(status, detail)
    if status == 416:
        return _OutOfRange(error)
    return Transient(error) if status >= 500 or status == 429 else error


def _network_exceptions() -> tuple[type[Exception], ...]:
    """What the standard library, the hub's client and the hub's library raise where no answer comes."""
    from huggingface_hub import errors

    return (OSError, http.client.HTTPException, errors.HTTPError, errors.EntryNotFoundError)  # type: ignore[attr-defined]


def _reason(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return _first_line(str(reason)) or type(reason).__name__


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0].rstrip(".")
