"""A small classifier, served by a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import zoo
from zoo.data.sample import sample_image


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    url: str
    run: Path
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(run: Path, *options: str) -> Iterator[Served]:
    words = [sys.executable, "-m", "zoo", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        url = next((line.strip() for line in process.stdout if line.startswith("http")), "")
        assert url, process.stderr.read()
        yield Served(url, run, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="session")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "shapes"
    made = zoo.finetune(
        "timm/test_resnet",
        weights="random",
        data=shapes,
        recipe="head_only",
        epochs=2,
        out=out,
        tune=False,
        report=False,
    )
    return made.path


@pytest.fixture(scope="session")
def served(run: Path) -> Iterator[Served]:
    with serving(run, "--max-images", "8", "--max-megabytes", "0.5", "--max-megapixels", "2", "--timeout", "8") as one:
        yield one


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real image files, each different."""
    folder = tmp_path_factory.mktemp("pictures")
    made = [folder / f"picture {number}.jpg" for number in range(12)]
    for number, path in enumerate(made):
        sample_image(number % 3, 3, "serving", number).save(path, quality=90)
    return made
