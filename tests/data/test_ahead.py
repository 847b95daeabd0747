"""Decoding ahead: another process gives the pixels that this one would have decoded, or nothing."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from PIL import Image
from zoo.data.ahead import ImagesAhead, LookedAt
from zoo.data.dataset import ImageFile
from zoo.data.decoded import DecodedFiles
from zoo.data.store import ImageStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoding ahead forks, on Linux alone")

PREPROCESSING = zoo.Preprocessing(
    input_size=(3, 32, 32), resize_size=(40, 40), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic"
)
AHEAD = """
import os, pickle, sys, time
from zoo.data import ahead

files, preprocessing, seconds, first = pickle.load(sys.stdin.buffer)
exec(first)
ahead.begin(lambda: (files, preprocessing, 2))
time.sleep(seconds)
images = ahead.take_over(preprocessing)
found = {} if images is None else {
    str(file.path): (looked, None if looked.place is None else images.pixels(looked.place).copy())
    for file in files if (looked := images.get(file)) is not None
}
pickle.dump((found, "torch" in sys.modules), sys.stdout.buffer)
"""
Found = dict[str, tuple[LookedAt, Any]]


def decode_ahead(files: list[ImageFile], *, seconds: float = 0.6, first: str = "") -> Found:
    """What another process decodes ahead of a Python that runs `first`, and waits for so many seconds."""
    asked = pickle.dumps((files, PREPROCESSING, seconds, first))
    ended = subprocess.run([sys.executable, "-c", AHEAD], input=asked, capture_output=True, timeout=60, check=True)
    found, torch_imported = pickle.loads(ended.stdout)
    assert not ended.stderr
    assert torch_imported == ("torch" in first)
    return dict(found)


def in_memory(found: Found) -> ImagesAhead:
    pixels = mmap.mmap(-1, 1 << 20)
    placed, end = {}, 0
    for path, (looked, values) in found.items():
        if values is not None:
            pixels[end : end + values.nbytes] = values.tobytes()
            placed[path] = LookedAt(looked.digest, looked.stamp, (end, *values.shape[:2]))
            end += values.nbytes
        else:
            placed[path] = looked
    return ImagesAhead(pixels, placed)


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    """Pictures of every common kind, one that cannot be read, and one that needs a word beside its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 4), np.uint8)
    picture = Image.fromarray(noise[..., :3])
    exif = Image.Exif()
    exif[274] = 6  # orientation: on its side
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.png")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.convert("P").save(tmp_path / "palette.png")
    Image.fromarray(noise, "RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(np.full((50, 60), 3, np.uint16)).save(tmp_path / "dark16.png")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:200])
    return [ImageFile(path, f"a/{path.name}", 0) for path in sorted(tmp_path.iterdir())]


def examined(files: list[ImageFile], ahead: ImagesAhead | None) -> tuple[ImageStore, Any]:
    with contextlib.closing(ImageStore(PREPROCESSING, workers=2, ahead=ahead)) as store:
        return store, store.examine(files, progress=lambda done: None)


def test_pixels_digests_and_faults_are_those_of_decoding_here(files: list[ImageFile]) -> None:
    found = decode_ahead(files)
    there = {Path(path).name for path in found}
    assert {"turned.jpg", "plain.png", "grey.png", "cmyk.jpg", "palette.png", "alpha.png"} <= there
    assert "broken.jpg" not in there, "left to the process that can say what is wrong with it"
    ahead, (store, results) = in_memory(found), examined(files, in_memory(found))
    plain, expected = examined(files, None)
    assert len(ahead) == len(found)
    assert results == expected
    for file in files:
        if not expected[1].get(file.relative):
            assert torch.equal(store.resized(file), plain.resized(file)), file.relative
            assert store.losses().get(file.relative) == plain.losses().get(file.relative)


def test_an_image_decoded_ahead_is_not_decoded_again(files: list[ImageFile]) -> None:
    found = decode_ahead(files)
    path = str(next(file.path for file in files if file.path.name == "plain.png"))
    looked, pixels = found[path]
    # Other pixels than those of the file show which ones were taken.
    store, _ = examined(files, in_memory({path: (looked, 255 - pixels)}))
    file = next(file for file in files if str(file.path) == path)
    assert torch.equal(store.resized(file), torch.from_numpy(255 - pixels).permute(2, 0, 1))


def test_a_file_that_changed_since_is_decoded_here(files: list[ImageFile]) -> None:
    found = decode_ahead(files)
    (file,) = [file for file in files if file.path.name == "plain.png"]
    Image.fromarray(np.full((70, 70, 3), 200, np.uint8)).save(file.path)
    store, _ = examined([file], in_memory(found))
    assert int(store.resized(file).min()) == 200


def test_what_an_earlier_run_decoded_is_only_hashed(files: list[ImageFile]) -> None:
    known = DecodedFiles(PREPROCESSING)
    with contextlib.closing(ImageStore(PREPROCESSING, workers=2, known=known)) as store:
        _, faults = store.examine(files, progress=lambda done: None)
    found = decode_ahead(files)
    assert len(found) == len(files) - len(faults)
    assert all(pixels is None for _, pixels in found.values())
    with contextlib.closing(ImageStore(PREPROCESSING, workers=2, known=known, ahead=in_memory(found))) as again:
        assert again.examine(files, progress=lambda done: None)[1] == faults
        assert again.losses() == store.losses()


def test_what_was_prepared_otherwise_is_not_taken(files: list[ImageFile]) -> None:
    other = "import dataclasses\nwanted = ahead.take_over\n"
    other += "ahead.take_over = lambda asked: wanted(dataclasses.replace(asked, interpolation='bilinear'))"
    assert decode_ahead(files) and decode_ahead(files, first=other) == {}


@pytest.mark.parametrize(
    "first",
    [
        "sys.modules['torch'] = sys",
        "os.environ['WORLD_SIZE'] = '2'",
        "import threading; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "os.fork = lambda: (_ for _ in ()).throw(OSError('no memory'))",
    ],
    ids=["torch is there", "one of several processes", "threads", "no process can be had"],
)
def test_nothing_is_begun_where_it_could_not_help(files: list[ImageFile], first: str) -> None:
    assert decode_ahead(files, seconds=0, first=first) == {}


def test_whatever_fails_there_says_nothing(files: list[ImageFile]) -> None:
    assert decode_ahead(files, first="preprocessing = None") == {}
    missing = ImageFile(files[0].path.with_name("gone.png"), "a/gone.png", 0)
    assert str(missing.path) not in decode_ahead([missing, *files])


def test_images_of_a_killed_process_are_whole(files: list[ImageFile]) -> None:
    many = files * 200
    kill = "import threading, signal, subprocess\nfork = os.fork\ndef killed():\n    child = fork()\n"
    kill += "    if child: time.sleep(0.15); os.kill(child, signal.SIGKILL)\n    return child\nos.fork = killed"
    found = decode_ahead(many, seconds=0, first=kill)
    _, results = examined(files, in_memory(found))
    assert results == examined(files, None)[1]


@pytest.mark.long
def test_the_other_process_ends_with_this_one(files: list[ImageFile]) -> None:
    children = "open(f'/proc/self/task/{os.getpid()}/children').read()"
    script = AHEAD.replace("time.sleep(seconds)", f"print({children}, flush=True); time.sleep(60)")
    asked = pickle.dumps((files * 5000, PREPROCESSING, 60, ""))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdin.write(asked)
        parent.stdin.close()
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


RUN = """
import json, sys
from zoo.data import ahead
taken = ahead.take_over
def told(preprocessing):
    images = taken(preprocessing)
    print(json.dumps(len(images) if images else 0), file=sys.stderr)
    return images
ahead.take_over = told
from zoo.cli.main import main
sys.argv = ["zoo", *sys.argv[1:]]
main()
"""


@pytest.mark.long
def test_a_run_takes_what_was_decoded_while_torch_was_imported(tmp_path: Path) -> None:
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (80, 90, 3), np.uint8)
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    files: dict[str, bytes] = {}
    for name in ("ahead", "here"):
        words = [
            "-q",
            "finetune",
            "--backbone",
            "timm/test_resnet",
            "--weights",
            "random",
            "--data",
            str(tmp_path / "data"),
        ]
        words += ["--recipe", "head_only", "--out", str(tmp_path / name)]
        surroundings = {**os.environ, "ZOO_CACHE_DIR": str(tmp_path / f"{name} cache")}
        start = RUN if name == "ahead" else RUN.replace("taken = ", "ahead.begin = lambda work: None\ntaken = ")
        ended = subprocess.run([sys.executable, "-c", start, *words], env=surroundings, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stderr.splitlines()[0]) == (40 if name == "ahead" else 0)
        files[name] = (tmp_path / name / "model" / "model.safetensors").read_bytes()
    assert files["ahead"] == files["here"]
