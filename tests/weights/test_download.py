"""Downloads that stumble, break and go on, and mirrors, against a real server on this machine."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save
from tests.file_host import FileHost, Served, file_host
from zoo.errors import Offline, OptionError, Unreachable, WeightsError
from zoo.specs.backbone import HubFile, UrlFile
from zoo.storage.in_use import Hold
from zoo.weights import download as downloading
from zoo.weights.fetch import cached, fetch
from zoo.weights.locations import store_folder

CONTENT = os.urandom(1 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "torchvision/tiny.V1"
HUB = HubFile(repo_id="org/tiny")
SHIPPED_PAUSES = downloading.RETRY_SECONDS


@pytest.fixture
def host() -> Iterator[FileHost]:
    with file_host() as host:
        yield host


@pytest.fixture(autouse=True)
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "zoo"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(downloading, "RETRY_SECONDS", (0.01, 0.02))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def source(host: FileHost) -> UrlFile:
    return UrlFile(url=f"{host.url}/tiny.pth", sha256_prefix=SHA256[:8])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


# --- Trying again -----------------------------------------------------------------------------------------------------


def test_a_host_that_stumbles_is_asked_again(host: FileHost, source: UrlFile, checkpoints: Path) -> None:
    host.files["/tiny.pth"] = Served(CONTENT, faults=[500, 429])
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    assert len(host.seen) == 3 and left(checkpoints) == ["tiny.pth"]


def test_one_that_goes_on_stumbling_is_given_up_after_few_tries(host: FileHost, source: UrlFile) -> None:
    host.files["/tiny.pth"] = Served(CONTENT, faults=[503] * 9)
    with pytest.raises(WeightsError, match="HTTP status 503"):
        fetch(source, name=NAME)
    assert len(host.seen) == 3


def test_what_will_not_pass_is_not_tried_again(host: FileHost, source: UrlFile) -> None:
    with pytest.raises(WeightsError, match="HTTP status 404"):
        fetch(source, name=NAME)
    host.files["/tiny.pth"] = Served(b"x" * len(CONTENT))
    with pytest.raises(WeightsError, match=f"expected SHA-256 {SHA256[:8]}"):
        fetch(source, name=NAME)
    assert len(host.seen) == 2


def test_the_pauses_that_ship() -> None:
    assert SHIPPED_PAUSES == (1.0, 3.0)


def test_a_slow_line_is_followed_and_no_failure(
    host: FileHost, source: UrlFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SILENCE_SECONDS", 0.3)
    host.files["/tiny.pth"] = Served(CONTENT, pause=0.04)  # 0.64 s in all, more than the silence that is borne
    steps: list[tuple[float, int]] = []
    fetch(source, name=NAME, progress=lambda done, total: steps.append((time.monotonic(), done)))
    assert len(steps) >= 8 and steps[-1][1] == len(CONTENT)
    assert steps[-1][0] - steps[0][0] > 0.4


# --- Going on ---------------------------------------------------------------------------------------------------------


def test_a_broken_line_goes_on_where_it_broke(host: FileHost, source: UrlFile, checkpoints: Path) -> None:
    host.files["/tiny.pth"] = Served(CONTENT, etag='"v1"', faults=["break 300000", "break 200000"])
    told: list[Any] = []
    path = fetch(source, name=NAME, announce=told.append, progress=lambda *step: told.append(step))
    assert path.read_bytes() == CONTENT and left(checkpoints) == ["tiny.pth"]
    assert host.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert [condition for *_, condition in host.seen] == [None, '"v1"', '"v1"']
    assert told[0].done == 0 and told[1:] == sorted(told[1:])


def test_the_next_command_goes_on_too(host: FileHost, source: UrlFile, checkpoints: Path) -> None:
    host.files["/tiny.pth"] = Served(CONTENT, faults=["break 300000", 500, 500])
    with pytest.raises(WeightsError, match="HTTP status 500"):
        fetch(source, name=NAME)
    told: list[Any] = []
    assert fetch(source, name=NAME, announce=told.append).read_bytes() == CONTENT
    assert host.ranges[-1] == "bytes=300000-" and told[0].done == 300_000
    # Without an entity tag, length and hash tell that it is the same file.
    assert {condition for *_, condition in host.seen} == {None}


def test_a_killed_command_s_bytes_are_gone_on_with(host: FileHost, source: UrlFile, checkpoints: Path) -> None:
    host.files["/tiny.pth"] = Served(CONTENT, pause=0.1)
    code = (
        "import sys\nfrom zoo.specs.backbone import UrlFile\nfrom zoo.weights.fetch import fetch\n"
        "fetch(UrlFile(url=sys.argv[1], sha256_prefix=sys.argv[2]), name='n', "
        "progress=lambda done, total: print(done, flush=True))"
    )
    words = [sys.executable, "-c", code, source.url, SHA256[:8]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ}) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 200_000:
                break
        child.send_signal(signal.SIGKILL)
    assert left(checkpoints) == ["tiny.pth.partial", "tiny.pth.partial.json", "tiny.pth.partial.lock"]
    host.files["/tiny.pth"] = Served(CONTENT)
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    assert host.ranges[-1] is not None and left(checkpoints) == ["tiny.pth"]


def test_a_file_that_was_replaced_upstream_comes_whole(host: FileHost, checkpoints: Path) -> None:
    source = UrlFile(url=f"{host.url}/tiny.pth")
    host.files["/tiny.pth"] = Served(b"x" * len(CONTENT), etag='"old"', faults=["break 300000", 500, 500])
    with pytest.raises(WeightsError):
        fetch(source, name=NAME)
    host.files["/tiny.pth"] = Served(CONTENT, etag='"new"')
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    assert host.seen[-1][2:] == ("bytes=300000-", '"old"')


def test_bytes_of_another_file_are_found_out_by_the_hash_and_dropped(
    host: FileHost, source: UrlFile, checkpoints: Path
) -> None:
    host.files["/tiny.pth"] = Served(b"x" * len(CONTENT), faults=["break 300000", 500, 500])
    with pytest.raises(WeightsError):
        fetch(source, name=NAME)
    host.files["/tiny.pth"] = Served(CONTENT)  # of the same length, and without an entity tag
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    assert host.ranges[-2:] == ["bytes=300000-", None] and left(checkpoints) == ["tiny.pth"]


@pytest.mark.parametrize("change", ["shorter", "longer", "no ranges"])
def test_a_host_that_cannot_go_on_is_asked_for_all(
    change: str, host: FileHost, source: UrlFile, checkpoints: Path
) -> None:
    host.files["/tiny.pth"] = Served(CONTENT * 2, faults=["break 1500000", 500, 500])
    with pytest.raises(WeightsError):
        fetch(source, name=NAME)
    content = {"shorter": CONTENT, "longer": CONTENT * 3, "no ranges": CONTENT * 2}[change]
    host.files["/tiny.pth"] = Served(content, ranges=change != "no ranges")
    again = UrlFile(url=source.url, sha256_prefix=SHA256[:8])
    if change != "shorter":
        with pytest.raises(WeightsError, match="expected SHA-256"):
            fetch(again, name=NAME)
        assert left(checkpoints) == []
    else:
        assert fetch(again, name=NAME).read_bytes() == content
    assert host.ranges[3] == "bytes=1500000-"


def test_two_at_a_time_do_not_write_one_another_s_file(host: FileHost, source: UrlFile, checkpoints: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    host.files["/tiny.pth"] = Served(CONTENT, pause=0.02)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(source, name=NAME), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT} and left(checkpoints) == ["tiny.pth"]


# --- A mirror ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tensors() -> bytes:
    import torch

    return save({"fc.weight": torch.arange(6.0).reshape(2, 3)}, metadata={"format": "pt"})


@pytest.fixture
def elsewhere() -> UrlFile:
    """On a host that does not exist: it must not be asked."""
    return UrlFile(url="https://no-such-host.invalid/models/tiny.pth", sha256_prefix=SHA256[:8])


def test_a_mirror_is_asked_by_the_checkpoint_s_name_and_nobody_else(
    host: FileHost, elsewhere: UrlFile, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", f"{host.url}/weights/")
    host.files["/weights/tiny.pth"] = Served(CONTENT)
    assert fetch(elsewhere, name=NAME) == checkpoints / "tiny.pth"
    assert [path for _, path, *_ in host.seen] == ["/weights/tiny.pth"]


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Served(b"x" * len(CONTENT)), f"expected SHA-256 {SHA256[:8]}"),
        (Served(CONTENT, faults=[403]), "whoever runs the mirror"),
        (None, "HTTP status 404"),
    ],
    ids=["wrong file", "refused", "missing"],
)
def test_a_mirror_with_a_wrong_file_or_none_is_an_error_that_names_it(
    served: Served | None, said: str, host: FileHost, elsewhere: UrlFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    if served is not None:
        host.files["/tiny.pth"] = served
    with pytest.raises(WeightsError) as caught:
        fetch(elsewhere, name=NAME)
    for part in (said, f"{host.url}/tiny.pth", "no other place was tried", "unset ZOO_WEIGHTS_MIRROR"):
        assert part in str(caught.value)
    assert cached(elsewhere) is None


def test_a_mirror_that_does_not_answer_is_unreachable(elsewhere: UrlFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_host() as gone:
        monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", gone.url)
    with pytest.raises(Unreachable, match="refused"):
        fetch(elsewhere, name=NAME)


@pytest.mark.parametrize("stated", [True, False])
def test_hub_files_come_from_a_plain_mirror_into_zoo_s_store(
    stated: bool, host: FileHost, tensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    digest = hashlib.sha256(tensors).hexdigest()
    headers = {"X-Linked-ETag": f'"{digest}"'} if stated else {}
    host.files["/org/tiny/resolve/main/model.safetensors"] = Served(tensors, headers=headers)
    path = fetch(HUB, name="timm/tiny.v1", licence="mit")
    assert path == store_folder() / f"{digest}.safetensors" and path.read_bytes() == tensors
    assert left(store_folder()) == [f"{digest}.json", f"{digest}.safetensors"]
    host.seen.clear()
    assert fetch(HUB, name="timm/tiny.v1", offline=True) == path and host.seen == []


def test_what_a_killed_fetch_left_in_the_store_is_removed_by_the_next(
    host: FileHost, tensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    host.files["/org/tiny/resolve/main/model.safetensors"] = Served(tensors)
    for name, held in (("killed", False), ("running", True)):
        folder = store_folder() / f".incoming-{name}"
        hold = Hold(folder)
        (folder / "model.safetensors").write_bytes(tensors)
        if not held:
            hold.release()
    fetch(HUB, name="timm/tiny.v1")
    assert [path.name for path in store_folder().iterdir() if path.is_dir()] == [".incoming-running"]
    hold.release()


def test_a_hub_file_that_is_not_what_the_mirror_states_is_not_taken(
    host: FileHost, tensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    path = "/org/tiny/resolve/main/model.safetensors"
    host.files[path] = Served(tensors, headers={"X-Linked-ETag": f'"{"0" * 64}"'})
    with pytest.raises(WeightsError, match="expected SHA-256 0000"):
        fetch(HUB, name="timm/tiny.v1")
    assert left(store_folder()) == []


def test_a_pickled_hub_file_becomes_safetensors(host: FileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    import torch

    state = {"a": torch.ones(2, 2), "b": torch.arange(3)}
    pickled = io.BytesIO()
    torch.save({"state_dict": state}, pickled)
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    host.files["/org/tiny/resolve/main/pytorch_model.bin"] = Served(pickled.getvalue())
    read = load_file(fetch(HUB, name="timm/tiny.v1"))
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items()) and len(read) == 2


TOGETHER = """
import sys
from zoo.specs.backbone import HubFile
from zoo.weights.fetch import fetch

print(fetch(HubFile(repo_id="org/tiny"), name="timm/tiny.v1", progress=lambda done, total: print(done, flush=True)))
"""


@pytest.mark.long
def test_processes_that_fetch_the_same_hub_file_from_a_mirror_leave_one_another_s_alone(
    host: FileHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    content = save({"fc.weight": torch.arange(1_500_000.0)}, metadata={"format": "pt"})
    digest = hashlib.sha256(content).hexdigest()
    host.files["/org/tiny/resolve/main/model.safetensors"] = Served(content, pause=0.02)
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    host.gate = threading.Barrier(2)  # all at once, however long each takes to start
    words = [sys.executable, "-c", TOGETHER]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in running]
    expected = store_folder() / f"{digest}.safetensors"
    assert [(out.splitlines()[-1:], err) for out, err in ended] == [([str(expected)], "")] * 2
    assert expected.read_bytes() == content
    assert left(store_folder()) == [f"{digest}.json", f"{digest}.safetensors"]


def test_a_folder_is_a_mirror_and_no_network(
    elsewhere: UrlFile, tensors: bytes, tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share"
    hub_file = folder / "org" / "tiny" / "resolve" / "main" / "model.safetensors"
    hub_file.parent.mkdir(parents=True)
    hub_file.write_bytes(tensors)
    (folder / "tiny.pth").write_bytes(CONTENT)
    for value in (str(folder), folder.as_uri()):
        monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", value)
        assert fetch(elsewhere, name=NAME, offline=True) == folder / "tiny.pth"
        assert fetch(HUB, name="timm/tiny.v1", offline=True) == hub_file
    (folder / "tiny.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"tiny\.pth is damaged or a different one"):
        fetch(elsewhere, name=NAME)
    (folder / "tiny.pth").unlink()
    with pytest.raises(WeightsError, match=r"neither tiny\.pth, nor a bundle"):
        fetch(elsewhere, name=NAME)
    assert left(checkpoints) == []


@pytest.mark.parametrize("value", ["/no/such/folder", "ftp://host/weights"])
def test_what_can_be_no_mirror_is_refused(value: str, elsewhere: UrlFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", value)
    with pytest.raises(OptionError, match="ZOO_WEIGHTS_MIRROR"):
        fetch(elsewhere, name=NAME)


# --- No network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["--offline", "ZOO_OFFLINE"])
def test_offline_no_host_and_no_mirror_is_asked(
    by: str, host: FileHost, source: UrlFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.files["/tiny.pth"] = Served(CONTENT)
    if by == "ZOO_OFFLINE":
        monkeypatch.setenv("ZOO_OFFLINE", "1")
    for mirrored in ("", host.url):
        monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", mirrored)
        for each in (source, HUB):
            with pytest.raises(Offline, match=f"switched off by {by}") as caught:
                fetch(each, name=NAME, offline=by == "--offline")
            for part in ("zoo weights fetch", "zoo weights import", "--weights FILE", "ZOO_WEIGHTS_MIRROR"):
                assert part in str(caught.value)
    assert host.seen == []


def test_the_hubs_own_switch_leaves_other_hosts_and_a_mirror_alone(
    host: FileHost, source: UrlFile, tensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Offline, match="switched off by HF_HUB_OFFLINE"):
        fetch(HUB, name="timm/tiny.v1")
    host.files["/tiny.pth"] = Served(CONTENT)
    assert fetch(source, name=NAME).read_bytes() == CONTENT
    monkeypatch.setenv("ZOO_WEIGHTS_MIRROR", host.url)
    host.files["/org/tiny/resolve/main/model.safetensors"] = Served(tensors)
    assert fetch(HUB, name="timm/tiny.v1").read_bytes() == tensors


def test_a_word_that_says_neither_yes_nor_no_is_refused(source: UrlFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "perhaps")
    with pytest.raises(OptionError, match="ZOO_OFFLINE='perhaps' means neither yes nor no"):
        fetch(source, name=NAME)
