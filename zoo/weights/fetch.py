"""A pretrained-weights file onto this machine: from where it is already, or downloaded whole and checked, or not at
all.

In this order: torchvision's checkpoint folder or the hub's cache; zoo's store; the mirror where one is set, else the
publisher's host.
"""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zoo.errors import Offline, WeightsError
from zoo.specs import HubFile, UrlFile
from zoo.weights import download as downloading
from zoo.weights import mirror
from zoo.weights.download import (
    Asked,
    Body,
    Download,
    Progress,
    basename,
    download,
    extent,
    keeping,
    network,
    open_address,
    patiently,
    within,
)
from zoo.weights.manifest import Entry, Original, address_of, source_key
from zoo.weights.network import switched_off
from zoo.weights.places import checkpoint, has_digest, hub_folder, in_hub_cache
from zoo.weights.store import ENDING, in_store, put, store_folder


def fetch(
    source: HubFile | UrlFile,
    *,
    name: str,
    licence: str | None = None,
    offline: bool = False,
    announce: Callable[[Download], None] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The weights file of `source`, downloaded where it is not already on this machine.

    Args:
        source: Where the file is published.
        name: The backbone's qualified name with its weights tag, for messages.
        licence: Of the weights, to be noted where zoo keeps the file itself.
        offline: Do not touch the network. `ZOO_OFFLINE` and, for the hub, `HF_HUB_OFFLINE` say the same.
        announce: Called once, before the first byte of a download; not at all where nothing is downloaded.
        progress: Called as bytes arrive.

    Raises:
        Offline: It is not on this machine, and the network is switched off.
        Unreachable: The host cannot be reached, or fell silent.
        WeightsError: The host refuses or no longer has the file, it arrived damaged, or it cannot be kept here.
        OptionError: `ZOO_OFFLINE` or `ZOO_WEIGHTS_MIRROR` has a value that means nothing.
    """
    asked = replace(_asked(source, name), announce=announce, progress=progress)
    place = mirror.mirror()
    present = _without_network(source, name, asked, place, offline=offline)
    if present is not None:
        return present
    if isinstance(place, str):
        return _from_mirror(place, source, name, licence, asked)
    return _fetch_url(source, asked) if isinstance(source, UrlFile) else _fetch_hub(source, asked)


def require(source: HubFile | UrlFile, *, name: str, offline: bool = False) -> None:
    """Raise what `fetch` would raise without the network, where it is switched off; nothing is downloaded."""
    _without_network(source, name, _asked(source, name), mirror.mirror(), offline=offline)


def cached(source: HubFile | UrlFile) -> Path | None:
    """The file of `source` where it is already on this machine and undamaged; the network is not touched."""
    if isinstance(source, UrlFile):
        path = checkpoint(source)
        found = path if path.is_file() and has_digest(path, source.sha256_prefix) else None
    else:
        found = in_hub_cache(source)
    return found or in_store(source)


def _without_network(
    source: HubFile | UrlFile, name: str, asked: Asked, place: str | Path | None, *, offline: bool
) -> Path | None:
    """The file where it is on this machine or on a mirror that is a folder; None where the network has to be asked.

    Raises Offline where it must not be, WeightsError where the folder does not have it.
    """
    with keeping(asked):
        present = cached(source)
    if present is not None:
        return present
    if isinstance(place, Path):
        return _from_folder(place, source, name, asked)
    why = switched_off(offline, hub=place is None and isinstance(source, HubFile))
    if why is not None:
        raise _offline(why, asked)
    return None


def _asked(source: HubFile | UrlFile, name: str) -> Asked:
    by_hand, random = "pass a file with --weights FILE", "train from random weights with --weights random"
    carry = f"on a connected machine: zoo weights fetch {name} --out FOLDER; bring it here: zoo weights import FOLDER"
    nearer = f"for a mirror set {mirror.VARIABLE} to its address or folder"
    if isinstance(source, UrlFile):
        path = checkpoint(source)
        access = "ask whoever runs the host for access"
        steps = (carry, nearer, by_hand, f"put the file at {path}", random)
        return Asked(name, source.url, path.parent, "TORCH_HOME", access, steps)
    from huggingface_hub import constants

    # Where HF_HUB_CACHE is set, HF_HOME moves nothing.
    variable = "HF_HUB_CACHE" if "HF_HUB_CACHE" in os.environ else "HF_HOME"
    page, hub_mirror = f"{constants.ENDPOINT}/{source.repo_id}", "for a mirror of the hub set HF_ENDPOINT"
    download = f"hf download {source.repo_id} {source.filenames[0]}"
    fill = f"fill the Hugging Face cache on a connected machine ({download}), bring it here, set {variable} to it"
    access = f"open {page}, accept the licence where it has one, then run `hf auth login` or set HF_TOKEN"
    what = f"{name} ({' or '.join(source.filenames)})"
    ways_out = (carry, nearer, by_hand, fill, hub_mirror, random)
    return Asked(what, page, hub_folder(), variable, access, ways_out)


def _offline(why: str, asked: Asked) -> WeightsError:
    found = f"The network is switched off by {why}, and they are not on this machine: not in {asked.folder}, "
    found += f"not in {store_folder()}."
    step = "leave --offline out" if why == "--offline" else f"unset {why}"
    return asked.failure(found, f"where this machine has a network, {step}", kind=Offline)


def _fetch_url(source: UrlFile, asked: Asked) -> Path:
    path = checkpoint(source)
    if path.is_file():
        asked = replace(asked, note=f"\nThe file at {path} is damaged: its SHA-256 is not the published one.")
    download(partial(open_address, source.url), path, source.sha256_prefix, asked)
    return path


# --- A mirror ---------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, source: HubFile | UrlFile, name: str, asked: Asked) -> Path:
    asked = _at_mirror(folder, asked)
    found = mirror.in_folder(folder, source)
    if found is None:
        raise asked.failure(f"It holds neither {' nor '.join(mirror.names(source))}, nor a bundle with {name}.")
    path, sha256 = found
    if not has_digest(path, sha256):
        raise asked.failure(f"The file {path} is damaged or another one: its SHA-256 is not {sha256}.")
    return path


def _from_mirror(base: str, source: HubFile | UrlFile, name: str, licence: str | None, asked: Asked) -> Path:
    if isinstance(source, UrlFile):
        address = f"{base}/{basename(source.url)}"
        path = checkpoint(source)
        download(partial(open_address, address), path, source.sha256_prefix, _at_mirror(address, asked))
        return path
    return _hub_file_from_mirror(base, source, name, licence, asked)


def _hub_file_from_mirror(base: str, source: HubFile, name: str, licence: str | None, asked: Asked) -> Path:
    """Into zoo's store: a plain web server tells too little for the hub's cache."""
    filename, address, sha256 = _on_mirror(base, source, asked)
    asked = replace(_at_mirror(address, asked), folder=store_folder(), variable="ZOO_CACHE_DIR")
    # Named after the address, so that a next try finds what came of it.
    incoming = store_folder() / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{filename}"
    download(partial(open_address, address), incoming, sha256, asked)
    try:
        with keeping(asked):
            return _keep(incoming, source, filename, name, licence)
    finally:
        incoming.unlink(missing_ok=True)


def _on_mirror(base: str, source: HubFile, asked: Asked) -> tuple[str, str, str | None]:
    """(file name, address, stated SHA-256) of the first of the files that the mirror has."""
    for filename, path in zip(source.filenames, mirror.names(source), strict=True):
        address = f"{base}/{path}"
        here = _at_mirror(address, asked)
        try:
            return filename, address, patiently(partial(_ask_digest, address, here))
        except _Missing:
            continue
    raise _at_mirror(base, asked).failure(f"It has neither {' nor '.join(mirror.names(source))}.")


class _Missing(Exception):
    """The mirror has no such file."""


def _ask_digest(address: str, asked: Asked) -> str | None:
    with network(asked):
        try:
            stated = partial(mirror.stated_digest, address)
            return within(downloading.OPENING_SECONDS, stated, lambda late: None)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            error.close()
    raise _Missing


def _keep(incoming: Path, source: HubFile, filename: str, name: str, licence: str | None) -> Path:
    from zoo.weights.convert import write_safetensors

    draft = incoming.with_name(f"{incoming.stem}-draft{ENDING}")
    try:
        own = write_safetensors(incoming, draft)
        entry = Entry(
            name=name,
            tag=name.rpartition("/")[2].partition(".")[2],
            source=source_key(source),
            address=address_of(source, filename),
            file=draft.name,
            digest=_digest(draft),
            size=draft.stat().st_size,
            licence=licence,
            original=None if own else Original(file=filename, digest=_digest(incoming)),
        )
        return put(entry, draft)
    finally:
        draft.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at_mirror(place: str | Path, asked: Asked) -> Asked:
    """Only there: nothing is asked of the publisher."""
    note = f"\n{mirror.VARIABLE} is set, so nothing else was asked."
    steps = ("put the file there under the name that it has upstream", f"unset {mirror.VARIABLE}")
    access = "ask whoever runs the mirror for access"
    return replace(asked, address=str(place), access=access, note=note, ways_out=(*steps, *asked.ways_out))


# --- The hub ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _HubFound:
    """What the hub says of a file."""

    filename: str
    url: str
    etag: str
    length: int | None


def _fetch_hub(source: HubFile, asked: Asked) -> Path:
    """The hub's library says which file it is and lays out its cache; the bytes come through `download`.

    Its own download waits 66 s where the host of the bytes is silent, reports progress every 10 MB only, and does not
    compare the SHA-256.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.file_download import repo_folder_name

    found = patiently(partial(_ask_hub, source, asked))
    blob = asked.folder / repo_folder_name(repo_id=source.repo_id, repo_type="model") / "blobs" / found.etag
    if not (blob.is_file() and blob.stat().st_size == found.length):
        # Large files have their SHA-256 as etag, small ones a shorter hash of git's.
        sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag) else None
        download(partial(_open_hub, found), blob, sha256, asked)
    # This finds the blob, and adds the names under which every library looks for it.
    with network(asked), keeping(asked):
        path = Path(hf_hub_download(source.repo_id, found.filename, revision=source.revision))
        if not path.is_symlink():  # Where links cannot be made it is a copy.
            blob.unlink(missing_ok=True)
    return path


def _ask_hub(source: HubFile, asked: Asked) -> _HubFound:
    with network(asked), keeping(asked):
        return within(downloading.OPENING_SECONDS, partial(_look_up, source), lambda late: None)


def _look_up(source: HubFile) -> _HubFound:
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    for filename in source.filenames:
        url = hf_hub_url(source.repo_id, filename, revision=source.revision)
        try:
            found = get_hf_file_metadata(url, timeout=downloading.OPENING_SECONDS)
            break
        except errors.HfHubHTTPError as error:
            if error.response.status_code != 404 or filename == source.filenames[-1]:
                raise
    # The etag becomes a file name: it must not lead elsewhere.
    if found.commit_hash is None or found.etag is None or not re.fullmatch(r"[0-9A-Za-z][\w.-]*", found.etag):
        raise ConnectionError("what answered is no Hugging Face hub; a log-in page, or a wrong HF_ENDPOINT?")
    return _HubFound(filename, url, found.etag, found.size)


def _open_hub(found: _HubFound, first: int, etag: str) -> Body:
    """`etag` is not sent: the hub passes on to hosts whose entity tags are others. Length and SHA-256 tell instead."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**build_hf_headers(library_name="zoo"), "Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    request = get_session().build_request("GET", found.url, headers=headers, timeout=downloading.SILENCE_SECONDS)
    response = get_session().send(request, stream=True, follow_redirects=True)
    try:
        hf_raise_for_status(response)
    except BaseException:
        response.close()
        raise
    start, length = extent(response.status_code, response.headers)
    # Of an answer without a range the hub's own word on the length counts.
    whole = length if start else found.length
    return Body(found.filename, whole, partial(next, response.iter_bytes(), b""), response.close, start=start)
