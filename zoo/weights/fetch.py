"""Fetch a file of pretrained weights: found on this machine, or downloaded and checked, complete or not at all.

The order: torchvision's checkpoint folder or the hub's cache; zoo's store; the mirror where one is set, otherwise the
publisher's host.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zoo.errors import Offline, WeightsError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.storage.atomic import existing_parent
from zoo.weights import download as downloading
from zoo.weights import mirror
from zoo.weights.download import (
    Download,
    DownloadRequest,
    OnBytes,
    Response,
    basename,
    content_range,
    disk_errors,
    download,
    network_errors,
    open_address,
    retry,
    with_timeout,
)
from zoo.weights.locations import (
    SUFFIX,
    checkpoint,
    has_digest,
    hub_folder,
    in_hub_cache,
    in_store,
    own_folder,
    put,
    store_folder,
)
from zoo.weights.manifest import ManifestEntry, Original, address_of, source_key
from zoo.weights.offline import switched_off


def fetch(
    source: HubFile | UrlFile,
    *,
    name: str,
    licence: str | None = None,
    offline: bool = False,
    announce: Callable[[Download], None] | None = None,
    progress: OnBytes | None = None,
) -> Path:
    """Path of the weights file of `source`, downloaded if it is not on this machine.

    Args:
        source: Where the file is published.
        name: The backbone's qualified name with its weights tag, for messages.
        licence: Licence of the weights, recorded if the file goes into zoo's own store.
        offline: Do not use the network. `ZOO_OFFLINE` and, for the hub, `HF_HUB_OFFLINE` mean the same.
        announce: Called once, before the first byte of a download; not at all if nothing is downloaded.
        progress: Called as bytes arrive.

    Raises:
        Offline: The file is not on this machine, and the network is switched off.
        Unreachable: The host cannot be reached, or stopped sending.
        WeightsError: The host refuses or no longer has the file, it arrived damaged, or it cannot be saved.
        OptionError: `ZOO_OFFLINE` or `ZOO_WEIGHTS_MIRROR` has a value that is not valid.
    """
    request = replace(_request(source, name), announce=announce, progress=progress)
    place = mirror.mirror()
    present = _without_network(source, name, request, place, offline=offline)
    if present is not None:
        return present
    if isinstance(place, str):
        return _fetch_from_mirror(place, source, name, licence, request)
    return _fetch_url(source, request) if isinstance(source, UrlFile) else _fetch_hub(source, request)


def available(source: HubFile | UrlFile, *, name: str, offline: bool = False) -> Path | str:
    """Path of the file if `fetch` would download nothing, otherwise the address that it would download from.

    The network is not used.

    Raises:
        Offline: The file is not on this machine, and the network is switched off.
        WeightsError: It could not be saved, or a mirror that is a folder does not have it.
    """
    place = mirror.mirror()
    present = _without_network(source, name, _request(source, name), place, offline=offline)
    if present is not None:
        return present
    request = _request(source, name)
    if isinstance(place, str) and isinstance(source, HubFile):
        request = replace(request, folder=store_folder(), variable="ZOO_CACHE_DIR")
    folder = existing_parent(request.folder / "file")
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise request.not_saved(f"nothing can be written in {folder}")
    return f"{place}/{mirror.names(source)[0]}" if isinstance(place, str) else address_of(source)


def cached(source: HubFile | UrlFile) -> Path | None:
    """The file of `source` if it is already on this machine and undamaged; the network is not used."""
    if isinstance(source, HubFile):
        return in_hub_cache(source) or in_store(source)
    path = checkpoint(source)
    return path if path.is_file() and has_digest(path, source.sha256_prefix) else in_store(source)


def _without_network(
    source: HubFile | UrlFile, name: str, request: DownloadRequest, place: str | Path | None, *, offline: bool
) -> Path | None:
    """The file if it is on this machine or in a mirror that is a folder; None if the network is needed.

    Raises Offline if the network is needed and switched off, WeightsError if that folder does not have the file.
    """
    with disk_errors(request):
        present = cached(source)
    if present is not None:
        return present
    if isinstance(place, Path):
        return _from_folder(place, source, name, request)
    switch = switched_off(offline, hub=place is None and isinstance(source, HubFile))
    if switch is not None:
        raise _offline(switch, replace(request, note=_damaged(source)))
    return None


def _damaged(source: HubFile | UrlFile) -> str:
    """What to add to a message where a file of this name is here and cannot be used."""
    if isinstance(source, HubFile) or not checkpoint(source).is_file():
        return ""
    return f"\nThe file at {checkpoint(source)} is damaged: its SHA-256 is not the published one."


def _request(source: HubFile | UrlFile, name: str) -> DownloadRequest:
    by_hand, random = "pass a file with --weights FILE", "train from random weights with --weights random"
    carry = f"on a connected machine: zoo weights fetch {name} --out FOLDER; copy it here: zoo weights import FOLDER"
    nearer = f"to use a mirror, set {mirror.VARIABLE} to its address or folder"
    if isinstance(source, UrlFile):
        path = checkpoint(source)
        access = "ask whoever runs the host for access"
        steps = (carry, nearer, by_hand, f"put the file at {path}", random)
        return DownloadRequest(name, source.url, path.parent, "TORCH_HOME", access, steps)
    from huggingface_hub import constants

    # Where HF_HUB_CACHE is set, HF_HOME moves nothing.
    variable = "HF_HUB_CACHE" if "HF_HUB_CACHE" in os.environ else "HF_HOME"
    page, hub_mirror = f"{constants.ENDPOINT}/{source.repo_id}", "to use a mirror of the hub, set HF_ENDPOINT"
    command = f"hf download {source.repo_id} {source.filenames[0]}"
    fill = f"fill the Hugging Face cache on a connected machine ({command}), copy it here, set {variable} to it"
    access = f"open {page}, accept the licence where it has one, then run `hf auth login` or set HF_TOKEN"
    weights = f"{name} ({' or '.join(source.filenames)})"
    hub_steps = (carry, nearer, by_hand, fill, hub_mirror, random)
    return DownloadRequest(weights, page, hub_folder(), variable, access, hub_steps)


def _offline(switch: str, request: DownloadRequest) -> WeightsError:
    reason = f"The network is switched off by {switch}, and the weights are not on this machine: not in "
    reason += f"{request.folder}, not in {store_folder()}."
    step = "leave --offline out" if switch == "--offline" else f"unset {switch}"
    return request.failure(reason, f"if this machine has network access, {step}", kind=Offline)


def _fetch_url(source: UrlFile, request: DownloadRequest) -> Path:
    path = checkpoint(source)
    download(partial(open_address, source.url), path, source.sha256_prefix, replace(request, note=_damaged(source)))
    return path


# --- A mirror ---------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, source: HubFile | UrlFile, name: str, request: DownloadRequest) -> Path:
    request = _at_mirror(folder, request)
    entry = mirror.in_folder(folder, source)
    if entry is None:
        raise request.failure(f"It contains neither {' nor '.join(mirror.names(source))}, nor a bundle with {name}.")
    path, sha256 = entry
    if not has_digest(path, sha256):
        raise request.failure(f"The file {path} is damaged or a different one: its SHA-256 is not {sha256}.")
    return path


def _fetch_from_mirror(
    base: str, source: HubFile | UrlFile, name: str, licence: str | None, request: DownloadRequest
) -> Path:
    if isinstance(source, UrlFile):
        address = f"{base}/{basename(source.url)}"
        path = checkpoint(source)
        download(partial(open_address, address), path, source.sha256_prefix, _at_mirror(address, request))
        return path
    return _fetch_hub_file_from_mirror(base, source, name, licence, request)


def _fetch_hub_file_from_mirror(
    base: str, source: HubFile, name: str, licence: str | None, request: DownloadRequest
) -> Path:
    # Into zoo's store: a plain web server does not send what the hub's cache is laid out by (commit, entity tag).
    filename, address, sha256 = _find_on_mirror(base, source, request)
    request = replace(_at_mirror(address, request), folder=store_folder(), variable="ZOO_CACHE_DIR")
    # Named after the address, so that the next attempt finds the bytes of this one.
    unfinished = store_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{filename}"
    with contextlib.ExitStack() as stack:
        # The complete file is this process's alone: another that fetches the same may end first, or later.
        with disk_errors(request):
            incoming = stack.enter_context(own_folder()) / filename
        download(partial(open_address, address), incoming, sha256, request, name=unfinished)
        with disk_errors(request):
            return _put_in_store(incoming, source, filename, name, licence)


def _find_on_mirror(base: str, source: HubFile, request: DownloadRequest) -> tuple[str, str, str | None]:
    """(file name, address, stated SHA-256) of the first of the source's files that the mirror has."""
    for filename, path in zip(source.filenames, mirror.names(source), strict=True):
        address = f"{base}/{path}"
        try:
            return filename, address, retry(partial(_ask_digest, address, _at_mirror(address, request)))
        except _Missing:
            continue
    raise _at_mirror(base, request).failure(f"It has neither {' nor '.join(mirror.names(source))}.")


class _Missing(Exception):
    """The mirror has no such file."""


def _ask_digest(address: str, request: DownloadRequest) -> str | None:
    with network_errors(request):
        try:
            asking = partial(mirror.stated_digest, address)
            return with_timeout(downloading.OPENING_SECONDS, asking, lambda late: None)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            error.close()
    raise _Missing


def _put_in_store(incoming: Path, source: HubFile, filename: str, name: str, licence: str | None) -> Path:
    from zoo.weights.state import write_safetensors

    draft = incoming.with_name(f"{incoming.stem}-draft{SUFFIX}")
    unchanged = write_safetensors(incoming, draft)
    entry = ManifestEntry(
        name=name,
        tag=name.rpartition("/")[2].partition(".")[2],
        source=source_key(source),
        address=address_of(source, filename),
        file=draft.name,
        digest=_digest(draft),
        size=draft.stat().st_size,
        licence=licence,
        original=None if unchanged else Original(file=filename, digest=_digest(incoming)),
    )
    return put(entry, draft)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at_mirror(place: str | Path, request: DownloadRequest) -> DownloadRequest:
    note = f"\n{mirror.VARIABLE} is set, so no other place was tried."
    steps = ("put the file there under its upstream name", f"unset {mirror.VARIABLE}")
    access = "ask whoever runs the mirror for access"
    return replace(request, address=str(place), access=access, note=note, next_steps=(*steps, *request.next_steps))


# --- The hub ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _HubMetadata:
    """What the hub says about a file."""

    filename: str
    url: str
    etag: str
    length: int | None


def _fetch_hub(source: HubFile, request: DownloadRequest) -> Path:
    """The hub's library says which file it is and lays out its cache; the bytes come through `download`.

    The library's own download waits 66 s for a silent host, reports progress every 10 MB only, and does not compare
    the SHA-256.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    metadata = retry(partial(_ask_hub, source, request))
    blob = request.folder / repo_folder_name(repo_id=source.repo_id, repo_type="model") / "blobs" / metadata.etag
    if _size(blob) != metadata.length:
        # The etag of a large file is its SHA-256, that of a small one git's shorter hash.
        sha256 = metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag) else None
        download(partial(_open_hub, metadata), blob, sha256, request)
    # This finds the blob, and adds the names under which every library looks for it.
    with network_errors(request), disk_errors(request):
        path = Path(hf_hub_download(source.repo_id, metadata.filename, revision=source.revision))
        if not path.is_symlink():  # A copy, where links cannot be made.
            blob.unlink(missing_ok=True)
    return path


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none, as when another process has just removed it."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _ask_hub(source: HubFile, request: DownloadRequest) -> _HubMetadata:
    with network_errors(request), disk_errors(request):
        return with_timeout(downloading.OPENING_SECONDS, partial(_look_up, source), lambda late: None)


def _look_up(source: HubFile) -> _HubMetadata:
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    for filename in source.filenames:
        url = hf_hub_url(source.repo_id, filename, revision=source.revision)
        try:
            metadata = get_hf_file_metadata(url, timeout=downloading.OPENING_SECONDS)
            break
        except errors.HfHubHTTPError as error:
            if error.response.status_code != 404 or filename == source.filenames[-1]:
                raise
    # The etag becomes a file name, so it must not contain a path.
    if metadata.commit_hash is None or metadata.etag is None or not re.fullmatch(r"[0-9A-Za-z][\w.-]*", metadata.etag):
        raise ConnectionError("what answered is not a Hugging Face hub; a login page, or a wrong HF_ENDPOINT?")
    return _HubMetadata(filename, url, metadata.etag, metadata.size)


def _open_hub(metadata: _HubMetadata, first: int, etag: str) -> Response:
    """An Opener that does not send `etag`: the hub redirects to hosts whose entity tags differ from its own.

    Length and SHA-256 tell whether the file is the same.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**build_hf_headers(library_name="zoo"), "Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    request = get_session().build_request("GET", metadata.url, headers=headers, timeout=downloading.SILENCE_SECONDS)
    answer = get_session().send(request, stream=True, follow_redirects=True)
    try:
        hf_raise_for_status(answer)
    except BaseException:
        answer.close()
        raise
    start, length = content_range(answer.status_code, answer.headers)
    # Of an answer without a range, the length that the hub stated counts.
    whole = length if start else metadata.length
    return Response(metadata.filename, whole, partial(next, answer.iter_bytes(), b""), answer.close, start=start)
