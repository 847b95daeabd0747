"""A real Ray of two workers: one is killed in the middle, and nothing is lost, nothing is twice. Buckets, too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zoo
from pyarrow import parquet
from tests.bulk.object_store import ObjectStore, object_store
from tests.conftest import Zoo
from tests.distributions import install
from zoo.bulk.addresses import address_of
from zoo.bulk.found_files import find_files
from zoo.data.sample import sample_image
from zoo.errors import DataError, Refused

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures that take a while to decode, one of which cannot be read."""
    root = tmp_path_factory.mktemp("many")
    for number in range(200):
        picture = sample_image(number % 3, 3, "train", number).resize((900, 900))
        picture.save(root / f"{number:03d}.jpg", quality=80)
    (root / "123.jpg").write_bytes(b"no picture")
    return root


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of Ray's workers below a process."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if "Worker" in " ".join(each.cmdline()) and each.cmdline()[0].startswith("ray::"):
                found.append(each)
        except psutil.Error:
            continue
    return found


def rows_by_file(out: Path) -> dict[str, dict[str, Any]]:
    rows = parquet.read_table(out).to_pylist()
    by_file = {row["file"]: row for row in rows}
    assert len(by_file) == len(rows), "a file has two rows"
    return by_file


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(
    artefact: Path, many: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "parts"
    command = [
        "predict",
        artefact,
        many,
        "--on",
        "ray",
        "--processes",
        "2",
        "--out",
        out,
        "--part-size",
        "10",
        "--json",
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "zoo", *map(str, command), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZOO_CACHE_DIR": str(cache)},
    )
    try:
        until = time.monotonic() + 120
        while not (there := list(out.glob("part-*.parquet"))) and time.monotonic() < until:
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        workers = workers_of(running)
        assert len(workers) == 2 and len(there) < 20, "too quick to be killed in the middle"
        os.kill(workers[0].pid, signal.SIGKILL)
        told, said = running.communicate(timeout=240)
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    assert running.returncode == 0, said
    made = json.loads(told)
    assert (made["images"], made["unreadable"], len(made["parts"]), made["computed"]) == (200, 1, 20, 20)
    assert len(list(out.glob("part-*"))) == 20 and not list(out.glob(".part-*"))
    classifier = zoo.load(artefact, verbose=False)
    rows = rows_by_file(out)
    faults: list[str] = []
    expected = classifier.predict(many, batch_size=10, on_error=lambda source, error: faults.append(source))
    assert len(rows) == 200 and faults == [str(many / "123.jpg")]
    for each in expected:
        row = rows[each.source]
        assert (row["label"], row["probability"], row["error"]) == (each.label, each.probability, None)
    assert rows[faults[0]]["label"] is None and rows[faults[0]]["error"]


BROKEN_HEAD = """
import os
import zoo
from torch import nn

class Head(nn.Linear):
    def forward(self, features):
        if "BROKEN" in os.environ:
            raise ValueError("the head of the plugin is broken")
        return super().forward(features)

@zoo.hookimpl
def zoo_heads():
    build = lambda shape, classes, options: Head(shape.pooled, classes)
    return [zoo.HeadSpec(name="breaks", summary="A head for the test.", build=build)]
"""


def test_an_error_of_a_plugin_is_told_as_its_own_and_not_as_one_of_ray(
    few: Path, tmp_path: Path, zoo_command: Zoo
) -> None:
    install(tmp_path, "zoo-breaks", BROKEN_HEAD)
    words = ("--backbone", "timm/test_resnet", "--weights", "random", "--head", "breaks", "--recipe", "head_only")
    with_plugin = {"PYTHONPATH": str(tmp_path)}
    made = zoo_command("finetune", *words, "--data", few, "--epochs", "1", "--out", "run", **with_plugin)
    assert made.returncode == 0, made.stderr
    for on in (("--on", "local"), ("--on", "ray", "--processes", "1")):
        parts = tmp_path / f"parts-{on[1]}"
        done = zoo_command("predict", "run", few, *on, "--out", parts, "--json", **with_plugin, BROKEN="1")
        assert done.returncode == 1
        told = json.loads(done.stdout)["error"]
        assert (told["kind"], told["message"]) == ("internal", "ValueError: the head of the plugin is broken")
        # For who mends the plugin.
        assert "in forward" in done.stderr and "was lost" not in done.stderr


def test_without_a_gpu_the_device_is_told_before_any_worker(
    artefact: Path, photos: Path, tmp_path: Path, zoo_command: Zoo
) -> None:
    words = ("--on", "ray", "--processes", "1", "--device", "cuda", "--out", "parts")
    done = zoo_command("predict", artefact, photos, *words)
    assert done.returncode == 1 and "Ray on this machine: 1 core, and no GPU.\nNext: --device cpu." in done.stderr


def test_what_ray_computed_is_resumed_in_this_process_and_has_the_same_rows(
    artefact: Path, photos: Path, tmp_path: Path, zoo_command: Zoo
) -> None:
    words = ("embed", artefact, photos, "--on", "ray", "--processes", "1", "--out", "ray", "--part-size", "20")
    done = zoo_command(*words, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "70 images in 4 parts; 2 could not be read" in done.stdout
    names = sorted(path.name for path in (tmp_path / "ray").glob("part-*"))
    (tmp_path / "ray" / names[2]).unlink()
    mended = zoo.embed_files(artefact, photos, out=tmp_path / "ray", part_size=20, verbose=False)
    assert mended.computed == 1
    zoo.embed_files(artefact, photos, out=tmp_path / "alone", part_size=20, verbose=False)
    assert rows_by_file(tmp_path / "ray") == rows_by_file(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "alone").glob("part-*")) == names


def test_ctrl_c_keeps_finished_parts_and_says_how_to_go_on(
    artefact: Path, many: Path, tmp_path: Path, cache: Path, short_folder: Path
) -> None:
    out = tmp_path / "parts"
    command = ["predict", artefact, many, "--on", "ray", "--processes", "1", "--out", out, "--part-size", "10"]
    words = [sys.executable, "-m", "zoo", *map(str, command)]
    surroundings = {**os.environ, "ZOO_CACHE_DIR": str(cache)}
    running = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**surroundings, "TMPDIR": str(short_folder)},
        start_new_session=True,
    )
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and not list(short_folder.glob("zoo-ray-*"))
    assert f"Interrupted. Finished parts are kept in {out}.\nNext: the same command goes on from there." in said
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 2 <= len(kept) < 20
    words[words.index("ray")] = "local"
    words[words.index("--processes") : words.index("--processes") + 2] = []
    done = subprocess.run(words, capture_output=True, text=True, env=surroundings, check=True)
    assert f"{len(kept)} parts of 20 were there already" in done.stderr
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept and len(rows_by_file(out)) == 200


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as each:
        yield each


def test_images_of_a_bucket_become_parts_in_a_bucket(
    store: ObjectStore, artefact: Path, photos: Path, tmp_path: Path, zoo_command: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in store.put(photos, "some photos") if not name.endswith(".gif")]
    words = ("predict", artefact, "s3://bucket/some photos", "--out", "s3://bucket/out", "--part-size", "32")
    done = zoo_command(*words, "--on", "ray", "--processes", "2", timeout=240, **store.variables)
    assert done.returncode == 0, done.stderr
    assert "70 images in 3 parts; 2 could not be read" in done.stdout and "s3://bucket/out" in done.stdout
    rows = parquet.read_table("bucket/out", filesystem=store.system).to_pylist()
    assert [row["file"] for row in rows] == names
    zoo.predict_files(artefact, photos, out=tmp_path / "here", part_size=32, verbose=False)
    here = parquet.read_table(tmp_path / "here").to_pylist()
    assert [{**row, "file": ""} for row in rows] == [{**row, "file": ""} for row in here]
    for name, value in store.variables.items():
        monkeypatch.setenv(name, value)
    again = zoo.predict_files(artefact, "s3://bucket/some photos", out="s3://bucket/out", part_size=32, verbose=False)
    assert again.computed == 0
    with pytest.raises(Refused, match="holds parts of another job"):
        zoo.predict_files(artefact, "s3://bucket/some photos", out="s3://bucket/out", part_size=16, verbose=False)


def test_patterns_in_a_bucket_and_what_is_not_there(
    store: ObjectStore, artefact: Path, few: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in store.variables.items():
        monkeypatch.setenv(name, value)
    store.put(few, "few")
    zoo.predict_files(artefact, "s3://bucket/few/train/*/[0-1]*", out="s3://bucket/matched", verbose=False)
    expected = sorted(path for path in few.glob("train/*/[0-1]*"))
    rows = parquet.read_table("bucket/matched", filesystem=store.system).to_pylist()
    assert [row["file"] for row in rows] == [f"s3://bucket/few/{path.relative_to(few).as_posix()}" for path in expected]
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("shot[1].jpg", "shot1.jpg", "a^.jpg", "a1.jpg"):
        shutil.copy(few / "train" / "a" / "0.jpg", odd / name)
    store.put(odd, "odd")

    def found(pattern: str) -> list[str]:
        address = address_of(f"s3://bucket/odd/{pattern}")
        return [each.name.removeprefix("s3://bucket/odd/") for each in find_files([address])]

    assert found("shot[1].jpg") == ["shot[1].jpg"], "a file may have a name like a pattern"
    assert found("shot[0-1].jpg") == ["shot1.jpg"]
    assert found("a[^x].jpg") == ["a^.jpg"] and found("a[!x].jpg") == ["a1.jpg", "a^.jpg"]
    with pytest.raises(DataError, match=r"There is no image at s3://bucket/odd/a\[z-a\]\.jpg"):
        found("a[z-a].jpg")
    with pytest.raises(DataError, match="name of the bucket"):
        list(find_files([address_of("s3://buck*/odd/a1.jpg")]))
    with pytest.raises(DataError, match="s3://nobody/here") as told:
        zoo.predict_files(artefact, "s3://nobody/here", out=tmp_path / "x", verbose=False)
    assert "Next:" in str(told.value)
