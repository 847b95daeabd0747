"""A pretrained-weights file onto this machine: from the cache, or downloaded whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from zoo.errors import Unreachable, WeightsError
from zoo.specs import HubFile, UrlFile

OPENING_SECONDS = 12.0  # A host that has not answered by then is unreachable.
SILENCE_SECONDS = 30.0  # A download that brings nothing for so long has failed.

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all or None where the host does not say)."""


@dataclass(frozen=True, slots=True)
class Download:
    """A download that is about to start; `bytes` is None where the host does not say."""

    host: str
    filename: str
    bytes: int | None


def fetch(
    source: HubFile | UrlFile,
    *,
    name: str,
    announce: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The weights file of `source`, downloaded where it is not already on this machine.

    Args:
        source: Where the file is published.
        name: The backbone's qualified name with its weights tag, for messages.
        announce: Called once, before the first byte of a download; not at all where nothing is downloaded.
        progress: Called as bytes arrive.

    Raises:
        Unreachable: The host cannot be reached, or fell silent.
        WeightsError: The host refuses or no longer has the file, it arrived damaged, or it cannot be kept here.
    """
    asked = replace(_asked(source, name), announce=announce, progress=progress)
    with _keeping(asked):
        present = cached(source)
    if present is not None:
        return present
    return _fetch_url(source, asked) if isinstance(source, UrlFile) else _fetch_hub(source, asked)


def cached(source: HubFile | UrlFile) -> Path | None:
    """The file of `source` where it is already on this machine and undamaged; the network is not touched."""
    if isinstance(source, UrlFile):
        path = _checkpoint(source)
        return path if path.is_file() and _is_whole(path, source.sha256_prefix) else None
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(source.repo_id, file, revision=source.revision) for file in source.filenames)
    return next((Path(path) for path in found if isinstance(path, str)), None)


@dataclass(frozen=True, slots=True)
class _Asked:
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
        return urlsplit(self.address).netloc.rpartition("@")[2]

    def failure(self, found: str, *steps: str, kind: type[WeightsError] = WeightsError) -> WeightsError:
        lines = [f"The weights of {self.what} could not be had from {self.address}.", f"{found}{self.note}"]
        return kind("\n".join([*lines, "Next, one of:", *(f"  - {step}" for step in (*steps, *self.ways_out))]))

    def damaged(self, found: str) -> WeightsError:
        return self.failure(f"The file arrived {found}. Nothing of it was kept.", "try again")

    def unkept(self, found: str) -> WeightsError:
        step = f"mend that, or set {self.variable} to a folder elsewhere"
        return self.failure(f"The folder {self.folder} cannot keep the file: {found}.", step)

    def refused(self, status: int, detail: str | None = None) -> WeightsError:
        answer = f"{self.host} answered with HTTP status {status}{f' ({_first_line(detail)})' if detail else ''}"
        if status in (401, 403):
            why = "the file asks for rights that you do not have, or is not there: hosts answer the same to both"
            return self.failure(f"{answer}: {why}.", self.access)
        if status in (404, 410):
            return self.failure(f"{answer}: it no longer has the file.")
        return self.failure(f"{answer}.", "try again later")


def _asked(source: HubFile | UrlFile, name: str) -> _Asked:
    by_hand, random = "pass a file with --weights FILE", "train from random weights with --weights random"
    if isinstance(source, UrlFile):
        path = _checkpoint(source)
        ways_out = (by_hand, f"put the file at {path}", random)
        return _Asked(name, source.url, path.parent, "TORCH_HOME", "ask whoever runs the host for access", ways_out)
    from huggingface_hub import constants

    # Where HF_HUB_CACHE is set, HF_HOME moves nothing.
    variable = "HF_HUB_CACHE" if "HF_HUB_CACHE" in os.environ else "HF_HOME"
    page, mirror = f"{constants.ENDPOINT}/{source.repo_id}", "for a mirror of the hub set HF_ENDPOINT"
    download = f"hf download {source.repo_id} {source.filenames[0]}"
    fill = f"fill the Hugging Face cache on a connected machine ({download}), bring it here, set {variable} to it"
    access = f"open {page}, accept the licence where it has one, then run `hf auth login` or set HF_TOKEN"
    what = f"{name} ({' or '.join(source.filenames)})"
    return _Asked(what, page, Path(constants.HF_HUB_CACHE), variable, access, (by_hand, fill, mirror, random))


@dataclass(frozen=True, slots=True)
class _Body:
    """An answer whose headers are read and whose bytes are not."""

    filename: str
    length: int | None
    read: Callable[[], bytes]
    close: Callable[[], None]
    etag: str = ""


def _fetch_url(source: UrlFile, asked: _Asked) -> Path:
    path = _checkpoint(source)
    if path.is_file():
        asked = replace(asked, note=f"\nThe file at {path} is damaged: its SHA-256 is not the published one.")
    with _network(asked):
        body = _within(OPENING_SECONDS, partial(_open_url, source.url))
    _save(body, path, source.sha256_prefix, asked)
    return path


def _open_url(url: str) -> _Body:
    request = urllib.request.Request(url, headers={"User-Agent": "zoo"})
    response = urllib.request.urlopen(request, timeout=SILENCE_SECONDS)
    length = response.headers.get("Content-Length", "")
    # read1 hands over what has arrived, so the progress moves on a slow line too.
    read = partial(response.read1, 1 << 18)
    return _Body(_basename(url), int(length) if length.isdecimal() else None, read, response.close)


def _fetch_hub(source: HubFile, asked: _Asked) -> Path:
    """The hub's library says which file it is and lays out its cache; the bytes come through `_save`.

    Its own download waits 66 s where the host of the bytes is silent, reports progress every 10 MB only, and does not
    compare the SHA-256.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    if constants.HF_HUB_OFFLINE:
        found = f"HF_HUB_OFFLINE is set, and the file is not in {asked.folder}."
        raise asked.failure(found, "unset HF_HUB_OFFLINE", kind=Unreachable)
    with _network(asked), _keeping(asked):
        body = _within(OPENING_SECONDS, partial(_open_hub, source))
    blob = asked.folder / repo_folder_name(repo_id=source.repo_id, repo_type="model") / "blobs" / body.etag
    if blob.is_file() and blob.stat().st_size == body.length:
        body.close()
    else:
        # Large files have their SHA-256 as etag, small ones a shorter hash of git's.
        _save(body, blob, body.etag if re.fullmatch("[0-9a-f]{64}", body.etag) else None, asked)
    # This finds the blob, and adds the names under which every library looks for it.
    with _network(asked), _keeping(asked):
        path = Path(hf_hub_download(source.repo_id, body.filename, revision=source.revision))
        if not path.is_symlink():  # Where links cannot be made it is a copy.
            blob.unlink(missing_ok=True)
    return path


def _open_hub(source: HubFile) -> _Body:
    from huggingface_hub import errors, get_hf_file_metadata, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    for filename in source.filenames:
        url = hf_hub_url(source.repo_id, filename, revision=source.revision)
        try:
            found = get_hf_file_metadata(url, timeout=OPENING_SECONDS)
            break
        except errors.HfHubHTTPError as error:
            if error.response.status_code != 404 or filename == source.filenames[-1]:
                raise
    # The etag becomes a file name: it must not lead elsewhere.
    if found.commit_hash is None or found.etag is None or not re.fullmatch(r"[0-9A-Za-z][\w.-]*", found.etag):
        raise ConnectionError("what answered is no Hugging Face hub; a log-in page, or a wrong HF_ENDPOINT?")
    headers = {**build_hf_headers(library_name="zoo"), "Accept-Encoding": "identity"}
    request = get_session().build_request("GET", url, headers=headers, timeout=SILENCE_SECONDS)
    response = get_session().send(request, stream=True, follow_redirects=True)
    try:
        hf_raise_for_status(response)
    except BaseException:
        response.close()
        raise
    return _Body(filename, found.size, partial(next, response.iter_bytes(), b""), response.close, found.etag)


def _within(seconds: float, opening: Callable[[], _Body]) -> _Body:
    """`opening()`, left behind where it takes longer: name look-ups and many addresses know no limit in all."""
    future: Future[_Body] = Future()

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
        future.add_done_callback(lambda late: None if late.exception() else late.result().close())
        raise


def _save(body: _Body, target: Path, sha256: str | None, asked: _Asked) -> None:
    """The body's bytes under `target`, which never holds a part of them."""
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    with closing(body):
        with _keeping(asked):
            target.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(target.parent).free
            file = unfinished.open("xb", buffering=0)
        try:
            with file:
                if body.length is not None and body.length > free:
                    raise asked.unkept(f"it needs {body.length:,} bytes, and {free:,} are free")
                if asked.announce is not None:
                    asked.announce(Download(asked.host, body.filename, body.length))
                digest = _copy(body, file, asked)
            if sha256 and not digest.startswith(sha256.lower()):
                raise asked.damaged(f"damaged: expected SHA-256 {sha256}, found {digest}")
            with _keeping(asked):
                unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def _copy(body: _Body, file: FileIO, asked: _Asked) -> str:
    digest, done = hashlib.sha256(), 0
    while chunk := _read(body, done, asked):
        with _keeping(asked):
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        digest.update(chunk)
        done += len(chunk)
        if asked.progress is not None:
            asked.progress(done, body.length)
    if body.length not in (None, done):
        raise asked.damaged(f"incomplete: expected {body.length:,} bytes, found {done:,}")
    with _keeping(asked):
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read(body: _Body, done: int, asked: _Asked) -> bytes:
    try:
        return body.read()
    except _troubles() as error:
        # The hub's client has time-outs of its own, which are no TimeoutError.
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            found = f"{asked.host} fell silent: nothing came for {SILENCE_SECONDS:.0f} s, after {done:,} bytes."
            raise asked.failure(found, "try again", kind=Unreachable) from None
        total = "more" if body.length is None else f"{body.length:,}"
        raise asked.damaged(f"incomplete: expected {total} bytes, found {done:,} ({_reason(error)})") from None


def _troubles() -> tuple[type[Exception], ...]:
    """What the standard library, the hub's client and the hub's library raise where an answer does not come."""
    from huggingface_hub import errors

    return (OSError, http.client.HTTPException, errors.HTTPError, errors.EntryNotFoundError)  # type: ignore[attr-defined]


@contextmanager
def _network(asked: _Asked) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise asked.refused(error.code) from None
    except HfHubHTTPError as error:
        raise asked.refused(error.response.status_code, error.server_message) from None
    except _troubles() as error:
        raise asked.failure(f"{asked.host} cannot be reached: {_reason(error)}.", kind=Unreachable) from None


@contextmanager
def _keeping(asked: _Asked) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # Not the disk's: the hub's errors are OSErrors too.
            raise
        raise asked.unkept(_reason(error)) from None


def _checkpoint(source: UrlFile) -> Path:
    """Where torchvision, too, looks for it."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / _basename(source.url)


def _is_whole(path: Path, sha256: str | None) -> bool:
    try:
        with path.open("rb") as file:
            return not sha256 or hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256.lower())
    except OSError:
        return False


def _basename(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name


def _reason(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return _first_line(str(reason)) or type(reason).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(".")
