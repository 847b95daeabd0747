"""What the tests share: real small image sets, real runs of the command, the folder with real data."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import zoo

if "PYTEST_XDIST_WORKER" in os.environ:
    # The tests run in as many processes as there are cores: threads of torch would only wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each of the many processes that the tests start would compile again what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

Zoo = Callable[..., subprocess.CompletedProcess[str]]
DISTS = Path(__file__).parent / "dists"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with slow tests come first: a core that is done early would wait for the other to end its last module.

    It looks before `-m` leaves tests out: what a module has of the slow ones tells of its others.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("long"))
    size = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -size[item.path]))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `data/` and `weights/` that ZOO_TEST_DATA names."""
    named = os.environ.get("ZOO_TEST_DATA")
    if not named:
        pytest.skip("ZOO_TEST_DATA does not name a folder with real images and weights")
    return Path(named).resolve()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and children inherit that; tests press it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(cache: Path) -> Iterator[None]:
    """For the whole session: fixtures that serve a module train before any test's own patches are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Runs compute in plain float32 unless a test asks for tuning: measuring which precision is fastest takes seconds
    for every model, and what it chooses differs between machines."""
    from zoo.planning.request import Request

    with pytest.MonkeyPatch.context() as patch:
        for function in (Request.__init__, *map(inspect.unwrap, (zoo.finetune, zoo.plan, zoo.shortlist))):
            patch.setitem(function.__kwdefaults__, "tune", False)
        yield


def _without_tuning(arguments: Sequence[str | Path]) -> list[str]:
    """The same words for the command line, where it takes the option."""
    words = [str(word) for word in arguments]
    takes_it = words[:1] in (["plan"], ["finetune"]) and "--backbone" in words and "--resume" not in words
    return [*words, "--no-tune"] if takes_it and "--no-tune" not in words else words


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="z", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def zoo_command(cache: Path, tmp_path: Path) -> Zoo:
    """Runs `zoo ARGUMENTS` as a process of its own in `tmp_path`."""

    def run(*arguments: str | Path, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "zoo", *_without_tuning(arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "ZOO_CACHE_DIR": str(cache), **variables},
            check=False,
        )

    return run


@pytest.fixture
def zoo_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zoo:
    """The same without the seconds that a new process takes to import torch: the command's own entry point."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        from zoo.cli.main import main

        words = ["zoo", *_without_tuning(arguments)]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", words)
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of generated pictures: 12 to train on, 6 to validate, 4 to test, of each."""
    from zoo.data.sample import sample_image

    root = tmp_path_factory.mktemp("shapes")
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for index, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                sample_image(index, 3, split, number).save(folder / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, four pictures of each to train on and two to validate: for runs that only have to hold."""
    from tests.numeric import draw_few

    return draw_few(tmp_path_factory.mktemp("few") / "data")


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed every distribution of tests/dists: on the path of commands that ask."""
    from hatchling.builders.wheel import WheelBuilder

    wheels = tmp_path_factory.mktemp("wheels")
    for folder in sorted(DISTS.iterdir()):
        list(WheelBuilder(str(folder)).build(directory=str(wheels)))
    target = tmp_path_factory.mktemp("crowd")
    alone = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *alone, "--target", str(target), *map(str, wheels.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def among(crowd: Path, zoo_command: Zoo) -> Zoo:
    """Runs `zoo ARGUMENTS` where they are all installed."""
    path = os.pathsep.join([str(crowd), *filter(None, [os.environ.get("PYTHONPATH")])])
    return partial(zoo_command, PYTHONPATH=path)
