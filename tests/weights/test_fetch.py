"""Fetching weights, against real servers on this machine: what arrives, what is kept, what is said when it fails."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from zoo.errors import Unreachable, WeightsError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.weights import download as downloading
from zoo.weights import fetch as fetching
from zoo.weights.fetch import Download, cached, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "torchvision/tiny.V1"
COMMIT = "0123456789" * 4
HUB = "/org/tiny/resolve/main"


class Answer(NamedTuple):
    """What the server sends for a path; `pause` waits, after half of the body, until the test is over."""

    status: int = 200
    body: bytes = CONTENT
    length: int | None = len(CONTENT)
    headers: dict[str, str] = {}  # noqa: RUF012
    pause: bool = False


class Host(ThreadingHTTPServer):
    """Answers from a table, and remembers who asked what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.seen: list[str] = []
        self.tokens: set[str | None] = set()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # A client that hangs up is part of the tests.


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, *, body: bool) -> None:
        if "/api/" not in self.path:  # The hub's library also asks, once a day, for a list that zoo has no use for.
            self.server.seen.append(self.command)
            self.server.tokens.add(self.headers.get("Authorization"))
        answer = self.server.answers.get(self.path, Answer(404, b"", 0))
        self.send_response(answer.status)
        if answer.length is not None:
            self.send_header("Content-Length", str(answer.length))
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        half = len(answer.body) // 2 if answer.pause else len(answer.body)
        self.wfile.write(answer.body[:half])
        if answer.pause:
            self.server.over.wait(30)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def start() -> Iterator[Callable[[], Host]]:
    hosts: list[Host] = []

    def start() -> Host:
        hosts.append(Host())
        threading.Thread(target=hosts[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return hosts[-1]

    yield start
    for host in hosts:
        host.over.set()
        host.shutdown()
        host.server_close()


@pytest.fixture
def host(start: Callable[[], Host]) -> Host:
    return start()


@pytest.fixture
def silent() -> Iterator[str]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "RETRY_SECONDS", (0.01, 0.02))


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


# --- An address -------------------------------------------------------------------------------------------------------


def test_a_download_is_announced_followed_and_kept_where_torchvision_looks(host: Host, checkpoints: Path) -> None:
    host.answers["/models/tiny.pth"] = Answer()
    source = UrlFile(url=f"{host.url}/models/tiny.pth?x=1", sha256_prefix=SHA256[:8])
    host.answers["/models/tiny.pth?x=1"] = Answer()
    events: list[Any] = []
    assert cached(source) is None
    path = fetch(source, name=NAME, announce=events.append, progress=lambda *step: events.append(step))
    assert path == checkpoints / "tiny.pth"
    assert path.read_bytes() == CONTENT
    assert files_below(checkpoints) == ["tiny.pth"]
    assert events[0] == Download(host.url.removeprefix("http://"), "tiny.pth", len(CONTENT))
    steps = events[1:]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert len(steps) > 1
    assert steps == sorted(steps)


def test_a_good_file_is_used_without_the_network(closed: str, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / "tiny.pth").write_bytes(CONTENT)
    told: list[Any] = []
    for prefix in (SHA256[:8], SHA256.upper(), None):
        source = UrlFile(url=f"http://{closed}/tiny.pth", sha256_prefix=prefix)
        assert fetch(source, name=NAME, announce=told.append) == cached(source) == checkpoints / "tiny.pth"
    assert told == []


def test_a_damaged_file_is_replaced(host: Host, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / "tiny.pth").write_bytes(CONTENT[:-1])
    host.answers["/tiny.pth"] = Answer()
    source = UrlFile(url=f"{host.url}/tiny.pth", sha256_prefix=SHA256[:8])
    assert cached(source) is None
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    assert files_below(checkpoints) == ["tiny.pth"]


def test_a_damaged_file_that_cannot_be_replaced_is_named_and_stays(closed: str, checkpoints: Path) -> None:
    checkpoints.mkdir(parents=True)
    (checkpoints / "tiny.pth").write_bytes(b"damaged")
    with pytest.raises(Unreachable, match=r"tiny\.pth is damaged"):
        fetch(UrlFile(url=f"http://{closed}/tiny.pth", sha256_prefix=SHA256[:8]), name=NAME)
    assert files_below(checkpoints) == ["tiny.pth"]


def test_a_body_of_unknown_length_is_kept(host: Host, checkpoints: Path) -> None:
    host.answers["/tiny.pth"] = Answer(length=None)
    told: list[Any] = []
    source = UrlFile(url=f"{host.url}/tiny.pth", sha256_prefix=SHA256[:8])
    path = fetch(source, name=NAME, announce=told.append, progress=lambda *step: told.append(step))
    assert path.read_bytes() == CONTENT
    assert told[0].bytes is None
    assert told[-1] == (len(CONTENT), None)


FAILURES = {
    "wrong hash": (Answer(body=b"x" * len(CONTENT)), [f"expected SHA-256 {SHA256[:8]}", "found ", "try again"]),
    "gone": (Answer(404, b"", 0), ["HTTP status 404", "no longer has the file"]),
    "broken": (Answer(500, b"", 0), ["HTTP status 500", "try again later"]),
    "refused": (Answer(401, b"", 0), ["HTTP status 401", "you lack permission", "ask whoever runs the host"]),
    "forbidden": (Answer(403, b"", 0), ["HTTP status 403", "or it does not exist"]),
    "too big": (Answer(length=10**17), ["100,000,000,000,000,000 bytes", "are free", "TORCH_HOME"]),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_be_had_leaves_nothing(failure: str, host: Host, checkpoints: Path) -> None:
    answer, parts = FAILURES[failure]
    host.answers["/tiny.pth"] = answer
    with pytest.raises(WeightsError) as caught:
        fetch(UrlFile(url=f"{host.url}/tiny.pth", sha256_prefix=SHA256[:8]), name=NAME)
    assert not isinstance(caught.value, Unreachable)
    for part in [NAME, f"{host.url}/tiny.pth", "--weights FILE", *parts]:
        assert part in str(caught.value)
    assert files_below(checkpoints) == []


def test_what_came_of_a_truncated_file_waits_for_the_next_try(host: Host, checkpoints: Path) -> None:
    host.answers["/tiny.pth"] = Answer(body=CONTENT[:1000])
    with pytest.raises(WeightsError, match="expected 1,048,576 bytes, found 1,000") as caught:
        fetch(UrlFile(url=f"{host.url}/tiny.pth", sha256_prefix=SHA256[:8]), name=NAME)
    assert "What arrived is kept" in str(caught.value)
    assert files_below(checkpoints) == ["tiny.pth.partial", "tiny.pth.partial.json"]
    assert host.seen == ["GET"] * 3


def test_without_a_published_hash_or_an_etag_nothing_of_a_truncated_file_is_kept(host: Host, checkpoints: Path) -> None:
    host.answers["/tiny.pth"] = Answer(body=CONTENT[:1000])
    with pytest.raises(WeightsError, match="None of it was kept"):
        fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME)
    assert files_below(checkpoints) == []


def test_a_refused_connection_shows_the_ways_out(closed: str, checkpoints: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        fetch(UrlFile(url=f"http://{closed}/tiny.pth"), name=NAME)
    for part in (
        NAME,
        f"{closed} cannot be reached",
        "refused",
        "pass a file with --weights FILE",
        f"put the file at {checkpoints / 'tiny.pth'}",
        "train from random weights with --weights random",
    ):
        assert part in str(caught.value)
    assert files_below(checkpoints.parent.parent.parent) == []


def test_the_limits_that_ship() -> None:
    assert downloading.OPENING_SECONDS <= 12
    assert downloading.SILENCE_SECONDS == 30


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_host_is_given_up(
    scheme: str, silent: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "OPENING_SECONDS", 0.4)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within"):
        fetch(UrlFile(url=f"{scheme}://{silent}/tiny.pth"), name=NAME)
    assert time.monotonic() - started < 3
    assert files_below(checkpoints) == []


def test_a_late_answer_is_hung_up_on(host: Host, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.answers["/tiny.pth"] = Answer()
    opened: list[Any] = []
    real = fetching.open_address

    def late(url: str, first: int, etag: str) -> Any:
        time.sleep(0.5)
        opened.append(real(url, first, etag))
        return opened[-1]

    monkeypatch.setattr(fetching, "open_address", late)
    monkeypatch.setattr(downloading, "OPENING_SECONDS", 0.1)
    with pytest.raises(Unreachable):
        fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME)
    deadline = time.monotonic() + 5
    while not (opened and opened[0].close.__self__.isclosed()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_name_that_does_not_resolve_is_unreachable(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "OPENING_SECONDS", 1.0)
    with pytest.raises(Unreachable, match=r"no-such-host\.invalid cannot be reached"):
        fetch(UrlFile(url="https://no-such-host.invalid/tiny.pth"), name=NAME)


def test_a_download_that_falls_silent_is_given_up(
    host: Host, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SILENCE_SECONDS", 0.4)
    host.answers["/tiny.pth"] = Answer(pause=True)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"stopped sending: no data .* after 524,288 bytes"):
        fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME)
    assert time.monotonic() - started < 3
    assert files_below(checkpoints) == []


def test_ctrl_c_during_the_download_leaves_nothing(host: Host, checkpoints: Path) -> None:
    host.answers["/tiny.pth"] = Answer()
    with pytest.raises(KeyboardInterrupt):
        fetch(
            UrlFile(url=f"{host.url}/tiny.pth"),
            name=NAME,
            progress=lambda done, total: signal.raise_signal(signal.SIGINT),
        )
    assert files_below(checkpoints) == []


@pytest.mark.skipif(os.name == "nt", reason="no signal to a single thread")
def test_ctrl_c_before_the_host_answers_is_heard_at_once(silent: str, checkpoints: Path) -> None:
    timer = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    started = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fetch(UrlFile(url=f"http://{silent}/tiny.pth"), name=NAME)
    assert time.monotonic() - started < 3


def test_what_a_listener_raises_is_not_taken_for_the_disk(host: Host, checkpoints: Path) -> None:
    host.answers["/tiny.pth"] = Answer()

    def broken(done: int, total: int | None) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME, progress=broken)
    assert files_below(checkpoints) == []


def test_a_folder_that_cannot_be_made_is_named(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.answers["/tiny.pth"] = Answer()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="could not be saved in") as caught:
        fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME)
    assert str(tmp_path / "file" / "hub" / "checkpoints") in str(caught.value)
    assert "TORCH_HOME" in str(caught.value)


def test_a_write_that_fails_names_the_folder(host: Host, checkpoints: Path) -> None:
    resource = pytest.importorskip("resource")
    host.answers["/tiny.pth"] = Answer()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(WeightsError, match=r"could not be saved in .*File too large") as caught:
            fetch(UrlFile(url=f"{host.url}/tiny.pth"), name=NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(checkpoints) in str(caught.value)
    assert files_below(checkpoints) == []


# --- The hub ----------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, time
from zoo.errors import ZooError
from zoo.weights import download as downloading, fetch as fetching
from zoo.specs.backbone import HubFile

for key, value in {"RETRY_SECONDS": [0.01, 0.01], **json.loads(sys.argv[1])}.items():
    setattr(downloading, key, value)
source, told, report = HubFile(repo_id="org/tiny"), [], {}
started = time.monotonic()
try:
    report["path"] = str(fetching.fetch(
        source, name="timm/tiny.v1", announce=lambda d: told.append([d.host, d.filename, d.bytes]),
        progress=lambda *step: told.append(step),
    ))
except ZooError as error:
    report["error"], report["message"] = type(error).__name__, str(error)
report |= {"seconds": time.monotonic() - started, "told": told, "torch": "torch" in sys.modules}
report["cached"] = str(fetching.cached(source))
print(json.dumps(report))
"""


def fetch_from_hub(endpoint: str, home: Path, *, limits: dict[str, float] | None = None, **env: str) -> dict[str, Any]:
    """`fetch` in a process of its own, because the hub's library reads its variables once."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(limits or {})],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def hub_answer(**changes: Any) -> Answer:
    headers = {"ETag": f'"{SHA256}"', "X-Repo-Commit": COMMIT, **changes.pop("headers", {})}
    return Answer(**{"headers": headers, **changes})


def left_behind(home: Path) -> list[str]:
    return [name for name in files_below(home) if name.endswith((".partial", ".incomplete"))]


def test_the_hub_s_file_is_downloaded_once(host: Host, tmp_path: Path) -> None:
    host.answers[f"{HUB}/model.safetensors"] = hub_answer()
    first = fetch_from_hub(host.url, tmp_path)
    path = Path(first["path"])
    assert path.name == "model.safetensors"
    assert path.parent == tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    assert path.read_bytes() == CONTENT
    assert first["told"][0] == [host.url.removeprefix("http://"), "model.safetensors", len(CONTENT)]
    assert first["told"][-1] == [len(CONTENT), len(CONTENT)]
    assert first["torch"] is False
    # One GET: the hub's library took what was already there, so its cache is laid out as it expects.
    assert host.seen == ["HEAD", "GET", "HEAD"]
    host.seen.clear()
    second = fetch_from_hub(host.url, tmp_path, HF_HUB_OFFLINE="1")
    assert second["path"] == second["cached"] == first["path"]
    assert second["told"] == []
    assert host.seen == []
    assert left_behind(tmp_path) == []


def test_where_links_cannot_be_made_one_copy_is_kept(host: Host, tmp_path: Path) -> None:
    host.answers[f"{HUB}/model.safetensors"] = hub_answer()
    path = Path(fetch_from_hub(host.url, tmp_path, HF_HUB_DISABLE_SYMLINKS="1")["path"])
    assert path.read_bytes() == CONTENT
    files = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len([file for file in files if file.stat().st_size == len(CONTENT)]) == 1


def test_the_next_filename_is_taken_where_the_first_is_missing(host: Host, tmp_path: Path) -> None:
    missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    host.answers[f"{HUB}/model.safetensors"] = Answer(404, b"", 0, missing)
    host.answers[f"{HUB}/pytorch_model.bin"] = hub_answer()
    report = fetch_from_hub(host.url, tmp_path)
    assert Path(report["path"]).name == "pytorch_model.bin"
    assert report["cached"] == report["path"]


def test_bytes_from_another_host_are_fetched_without_the_token(
    host: Host, start: Callable[[], Host], tmp_path: Path
) -> None:
    store = start()
    store.answers["/bytes"] = Answer()
    headers = {"Location": f"{store.url}/bytes", "X-Linked-Etag": f'"{SHA256}"', "X-Linked-Size": str(len(CONTENT))}
    # As the hub does for files in its newer store, whose own protocol is not used.
    headers |= {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": f"{host.url}/xet", "ETag": '"other"'}
    host.answers[f"{HUB}/model.safetensors"] = hub_answer(status=302, body=b"", length=0, headers=headers)
    report = fetch_from_hub(host.url, tmp_path, HF_TOKEN="hf_secret")
    assert Path(report["path"]).read_bytes() == CONTENT
    assert host.tokens == {"Bearer hf_secret"}
    assert store.tokens == {None}


HUB_FAILURES = {
    "gated": (Answer(403, b"", 0, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Restricted."}), ["(Restricted)"]),
    "gated, no token": (Answer(401, b"", 0, {"X-Error-Code": "GatedRepo"}), ["HTTP status 401"]),
    "private or missing": (Answer(401, b"", 0, {"X-Error-Code": "RepoNotFound"}), ["or it does not exist"]),
}


@pytest.mark.long
@pytest.mark.parametrize("failure", HUB_FAILURES)
def test_a_repository_that_asks_for_rights_says_how_to_get_them(failure: str, host: Host, tmp_path: Path) -> None:
    host.answers[f"{HUB}/model.safetensors"], parts = HUB_FAILURES[failure]
    report = fetch_from_hub(host.url, tmp_path)
    assert report["error"] == "WeightsError"
    for part in [f"open {host.url}/org/tiny", "accept the licence", "hf auth login", "HF_TOKEN", "timm/tiny", *parts]:
        assert part in report["message"]
    assert host.seen == ["HEAD"]


def test_what_the_hub_no_longer_has_is_said(host: Host, tmp_path: Path) -> None:
    report = fetch_from_hub(host.url, tmp_path)
    assert report["error"] == "WeightsError"
    for part in ("no longer has the file", "404", "model.safetensors or pytorch_model.bin", f"{host.url}/org/tiny"):
        assert part in report["message"]


@pytest.mark.parametrize(
    ("answer", "kind", "parts", "left"),
    [
        (hub_answer(body=b"x" * len(CONTENT)), "WeightsError", [f"expected SHA-256 {SHA256}"], 0),
        (hub_answer(body=CONTENT[:1000]), "WeightsError", ["expected 1,048,576 bytes, found 1,000", "is kept"], 1000),
        (hub_answer(pause=True), "Unreachable", ["stopped sending", "524,288 bytes", "are kept"], 524_288),
        (hub_answer(headers={"ETag": '"../../escaped"'}), "Unreachable", ["not a Hugging Face hub"], 0),
        (Answer(200, b"<html>Log in", 12), "Unreachable", ["not a Hugging Face hub", "HF_ENDPOINT"], 0),
        (Answer(503, b"", 0), "WeightsError", ["HTTP status 503", "try again later"], 0),
    ],
    ids=["wrong hash", "truncated", "falls silent", "etag that climbs", "log-in page", "broken"],
)
def test_what_the_hub_sends_wrong_is_not_taken(
    answer: Answer, kind: str, parts: list[str], left: int, host: Host, tmp_path: Path
) -> None:
    host.answers[f"{HUB}/model.safetensors"] = answer
    report = fetch_from_hub(host.url, tmp_path, limits={"SILENCE_SECONDS": 0.5})
    assert report["error"] == kind, report["message"]
    assert report["seconds"] < 8
    for part in parts:
        assert part in report["message"]
    assert report["cached"] == "None"
    partial = [f"{SHA256}.partial", f"{SHA256}.partial.json"]
    assert files_below(tmp_path) == (partial if left else [])
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.partial")) == left


def test_an_unreachable_hub_shows_the_ways_out(closed: str, tmp_path: Path) -> None:
    report = fetch_from_hub(f"http://{closed}", tmp_path)
    assert report["error"] == "Unreachable"
    assert report["seconds"] < 5
    for part in (
        f"{closed} cannot be reached",
        "pass a file with --weights FILE",
        "fill the Hugging Face cache on a connected machine (hf download org/tiny model.safetensors)",
        "set HF_HOME",
        "to use a mirror of the hub, set HF_ENDPOINT",
        "train from random weights with --weights random",
    ):
        assert part in report["message"]


def test_an_unreachable_host_of_the_bytes_is_given_up(host: Host, closed: str, tmp_path: Path) -> None:
    headers = {"Location": f"http://{closed}/bytes", "X-Linked-Size": str(len(CONTENT))}
    host.answers[f"{HUB}/model.safetensors"] = hub_answer(status=302, body=b"", length=0, headers=headers)
    report = fetch_from_hub(host.url, tmp_path)
    assert report["error"] == "Unreachable"
    assert report["seconds"] < 5


def test_a_silent_hub_is_given_up_and_the_process_can_end(silent: str, tmp_path: Path) -> None:
    started = time.monotonic()
    report = fetch_from_hub(f"http://{silent}", tmp_path, limits={"OPENING_SECONDS": 0.5})
    assert report["error"] == "Unreachable"
    assert time.monotonic() - started < 8


def test_offline_nothing_is_asked(host: Host, tmp_path: Path) -> None:
    report = fetch_from_hub(host.url, tmp_path, HF_HUB_OFFLINE="1")
    assert report["error"] == "Offline"
    assert "switched off by HF_HUB_OFFLINE" in report["message"]
    assert report["seconds"] < 2
    assert host.seen == []


def test_a_cache_of_the_hub_that_cannot_be_made_is_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    host.answers[f"{HUB}/model.safetensors"] = hub_answer()
    report = fetch_from_hub(host.url, tmp_path / "file")
    assert report["error"] == "WeightsError"
    for part in (str(tmp_path / "file" / "hub"), "could not be saved in", "set HF_HOME"):
        assert part in report["message"]


def test_a_hub_file_in_the_cache_of_this_process_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").write_bytes(CONTENT)
    source = HubFile(repo_id="org/tiny", revision=COMMIT)
    assert fetch(source, name="timm/tiny.v1") == cached(source) == snapshot / "pytorch_model.bin"
    assert cached(HubFile(repo_id="org/other")) is None
