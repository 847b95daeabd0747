"""The Dockerfile: it parses, keeps what it promises, and its steps work where there is no Docker and no network."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from benchmarks import load
from tests.commands import fault_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
KNOWN = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


class Step(NamedTuple):
    word: str
    rest: str


def parse(text: str) -> list[Step]:
    """The instructions of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines()]


def faults(text: str, root: Path) -> list[str]:
    """What is wrong with a Dockerfile."""
    steps = parse(text)
    found = [f"no instruction {step.word}" for step in steps if step.word not in KNOWN]
    last = max(index for index, step in enumerate(steps) if step.word == "FROM")
    found += [f"not slim: {step.rest}" for step in steps if step.word == "FROM" and "-slim" not in step.rest]
    users = [step.rest for step in steps[last:] if step.word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        found.append("it runs as root")
    ignored = (root / ".dockerignore").read_text("utf-8").split()
    for step in steps:
        if step.word == "COPY" and not step.rest.startswith("--from="):
            sources = step.rest.split()[:-1]
            found += [f"nothing to copy: {each}" for each in sources if not (root / each).exists()]
            found += [f"left out of the context: {each}" for each in sources if f"!{each}" not in ignored]
        if step.word == "RUN":
            checked = subprocess.run(["sh", "-n", "-c", step.rest], capture_output=True, text=True, check=False)
            found += [f"no shell command: {checked.stderr}"] if checked.returncode else []
    words = entry_point(text)
    found += [] if words[:1] == ["zoo"] else [f"another program: {words}"]
    found += [fault] if (fault := fault_of(" ".join(words[1:]))) else []
    exposed = next(step.rest for step in steps if step.word == "EXPOSE")
    found += [] if words[words.index("--port") + 1] == exposed else ["it listens on another port than it says"]
    return found


def entry_point(text: str) -> list[str]:
    words: list[str] = json.loads(next(step.rest for step in parse(text) if step.word == "ENTRYPOINT"))
    return words


def health_check(text: str) -> list[str]:
    rest = next(step.rest for step in parse(text) if step.word == "HEALTHCHECK")
    words: list[str] = json.loads(rest.partition("CMD ")[2])
    return words


def test_it_parses_and_keeps_what_it_promises() -> None:
    assert faults(TEXT, ROOT) == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert re.findall(r'"\.\[(\w+)\]"', TEXT) == ["serve"] and "serve" in extras


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 10001:10001", "USER root", "it runs as root"),
        ("USER 10001:10001\n", "", "it runs as root"),
        ("FROM python:3.11-slim\n", "FROM python:3.11\n", "not slim: python:3.11"),
        ("COPY zoo zoo", "COPY zoo2 zoo", "nothing to copy: zoo2"),
        ("COPY zoo zoo", "COPY docs docs", "left out of the context: docs"),
        ("EXPOSE 8000", "EXPOSE 8001", "it listens on another port than it says"),
        ('"serve", "/model"', '"sevre", "/model"', "no command sevre"),
        ('"--host"', '"--hots"', "no option --hots"),
        ("RUN /opt", "RUN ( /opt", "no shell command"),
        ("WORKDIR", "WORKDIRS", "no instruction WORKDIRS"),
    ],
)
def test_what_breaks_it_is_noticed(old: str, new: str, fault: str) -> None:
    assert TEXT.count(old) >= 1
    assert any(found.startswith(fault) for found in faults(TEXT.replace(old, new), ROOT))


@pytest.mark.long
def test_its_steps_work_in_a_plain_environment(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    """What it copies, and nothing else, makes a wheel; the wheel serves; the check of its health sees that it does."""
    context = tmp_path / "src"
    context.mkdir()
    for step in parse(TEXT):
        if step.word == "COPY" and not step.rest.startswith("--from="):
            for source in step.rest.split()[:-1]:
                _copy(ROOT / source, context / source)
    alone = ["--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--disable-pip-version-check", "-q"]
    installed = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", *alone, "--target", str(installed), ".[serve]"]
    done = subprocess.run(command, cwd=context, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    instead: Callable[[str], str] = lambda word: {"/model": str(run / "model"), "8000": port}.get(word, word)  # noqa: E731
    words = [sys.executable, str(installed / "bin" / "zoo"), *map(instead, entry_point(TEXT)[1:])]
    others = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if not each.startswith(str(ROOT))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *others]), "HOME": str(tmp_path)}
    environment["ZOO_CACHE_DIR"] = str(tmp_path / "cache")
    server = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdout is not None and server.stderr is not None
    try:
        check = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in health_check(TEXT)[1:])]
        until = time.monotonic() + 60
        while (healthy := subprocess.run(check, capture_output=True, check=False)).returncode:
            assert server.poll() is None and time.monotonic() < until, (healthy.stderr, server.stderr.read())
            time.sleep(0.3)
        client = load.Client(int(port))
        assert client.ask(load.raw(pictures[0].read_bytes())).status == 200
        client.close()
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()
        server.stderr.close()
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0, "and that it does not"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_the_context_leaves_out_what_no_step_needs() -> None:
    patterns = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert patterns[0] == "*" and not any(fnmatch.fnmatch("runs", each.lstrip("!")) for each in patterns[1:])
