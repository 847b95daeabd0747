"""`zoo plugins new`: the package that it writes installs, passes its own tests and trains without any change."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import Zoo
from zoo.errors import Refused, RunError, UnknownName
from zoo.scaffold.new_plugin import KINDS, check_name, write_plugin

ALONE = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
NAMES = {"head": "sharp_linear", "backbone": "small_net", "recipe": "two_step"}
ROOT = Path(__file__).parents[2]
SECONDS = 240


class Environment:
    """A virtual environment with the packages of this one, and those that a test installs into it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        site = next((folder / "venv").glob("**/site-packages"))
        # zoo itself may be an editable install, which site-packages of another environment does not pass on.
        modules = ("torch", "zoo", "zoo_heads", "zoo_recipes", "zoo_timm", "zoo_torchvision")
        roots = [str(Path(str(importlib.import_module(name).__file__)).parents[1]) for name in modules]
        (site / "packages.pth").write_text("\n".join(dict.fromkeys(roots)) + "\n")
        self._variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._variables["ZOO_CACHE_DIR"] = str(cache)

    def run(self, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            cwd=cwd or self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def install(self, package: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.python, "install", *ALONE, package],
            env=self._variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), cache)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("written")
    return {kind: write_plugin(kind, name, out=folder / f"zoo-{kind}") for kind, name in NAMES.items()}


def test_the_guide_describes_every_file_that_is_written(written: dict[str, Path]) -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text("utf-8").partition("## The conformance kit")[0]
    files = {str(path.relative_to(written["head"])) for path in written["head"].rglob("*") if path.is_file()}
    assert set(re.findall(r"^\| `([^`]+)` \|", guide, re.MULTILINE)) - {
        "zoo_backbones()",
        "zoo_heads()",
        "zoo_recipes()",
        "zoo_observers()",
        "zoo_data_sources()",
    } == (files - {"README.md", ".gitignore"})


def test_every_kind_has_templates() -> None:
    assert tuple(NAMES) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_package_is_complete_and_has_no_placeholder_left(kind: str, written: dict[str, Path]) -> None:
    name = NAMES[kind]
    files = {str(path.relative_to(written[kind])) for path in written[kind].rglob("*") if path.is_file()}
    assert files >= {
        *("pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml"),
        *(f"zoo_{name}/__init__.py", f"zoo_{name}/py.typed", f"tests/test_{name}.py"),
    }
    for file in files:
        text = (written[kind] / file).read_text("utf-8")
        assert not any(f"@{word}@" in text + file for word in ("name", "module", "distribution", "class", "kind"))


@pytest.mark.long
def test_the_packages_install_and_pass_their_own_tests(written: dict[str, Path], environment: Environment) -> None:
    for package in written.values():
        environment.install(package)
    listed = json.loads(environment.run("-m", "zoo", "list", "plugins", "--json").stdout)
    plugins = {plugin["name"]: (plugin["distribution"], plugin["state"], plugin["notes"]) for plugin in listed}
    for name in NAMES.values():
        assert plugins[name] == (f"zoo-{name.replace('_', '-')}", "loaded", [])
    # From another folder, so that the installed package is tested; in one process, because importing torch is slow.
    folders = [package / "tests" for package in written.values()]
    tested = environment.run("-m", "pytest", "-v", "-W", "error", "-p", "no:cacheprovider", *folders)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    for name in NAMES.values():
        assert f"test_{name}.py::test_it_conforms PASSED" in tested.stdout
    assert "SKIPPED" not in tested.stdout


@pytest.mark.long
def test_a_written_package_passes_ruff_and_strict_mypy(written: dict[str, Path]) -> None:
    if not all(importlib.util.find_spec(tool) for tool in ("ruff", "mypy")):
        pytest.skip("ruff and mypy come with the extra `dev`")
    folders = list(written.values())
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *folders], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    code = [path for folder in folders for path in [*folder.glob("zoo_*"), *folder.glob("tests/*.py")]]
    done = subprocess.run(
        # With the settings and the cache of the repository's own run, which is strict too: checking torch anew takes
        # half a minute.
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--strict", *code],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(map(str, [ROOT, *folders]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "in 8 source files" in done.stdout, done.stdout + done.stderr


@pytest.mark.long
def test_three_commands_lead_from_an_empty_folder_to_a_trained_head(
    cache: Path, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    environment = Environment(tmp_path, cache)
    began = time.monotonic()
    made = environment.run("-m", "zoo", "plugins", "new", "head", "my_head")
    assert made.returncode == 0, made.stderr
    assert "Next: pip install ./zoo-my-head" in made.stdout
    seconds = {"zoo plugins new": time.monotonic() - began}
    began = time.monotonic()
    environment.install(tmp_path / "zoo-my-head")
    seconds["pip install"] = time.monotonic() - began
    began = time.monotonic()
    choice = ["--backbone", "timm/test_resnet", "--weights", "random", "--classes", "2", "--epochs", "1", "--no-tune"]
    trained = environment.run("-m", "zoo", "finetune", "--head", "my_head", *choice, "--out", "run")
    assert trained.returncode == 0, trained.stderr
    seconds["zoo finetune"] = time.monotonic() - began
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text("utf-8"))
    assert config["head"] == {
        "name": "my_head/my_head", "options": {"p": 0.2}, "distribution": "zoo-my-head", "version": "0.1.0",
        "installed_from": "a folder",
    }  # fmt: skip
    record_property("seconds", seconds)
    print(
        ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()), f"in all {sum(seconds.values()):.1f} s"
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("My-Head", "my_head"),
        ("sharpLinear", "sharp_linear"),
        ("2fast", "fast"),
        ("tête à tête", "tete_a_tete"),
        ("__x__", "x"),
        ("123", "my_head"),
        ("", "my_head"),
        ("../up", "up"),
        ("a" * 50, "a" * 40),
    ],
)
def test_an_invalid_name_is_refused_with_the_nearest_valid_one(name: str, nearest: str) -> None:
    with pytest.raises(Refused, match=f"Next: zoo plugins new head {nearest}$"):
        check_name("head", name)
    assert check_name("head", nearest).name == nearest


@pytest.mark.parametrize(
    ("kind", "name"), [("head", "linear"), ("recipe", "staged"), ("backbone", "resnet18"), ("backbone", "timm")]
)
def test_a_name_that_is_taken_is_refused(kind: str, name: str) -> None:
    with pytest.raises(Refused, match=rf"already.*\nNext: zoo plugins new {kind} my_{name}$"):
        check_name(kind, name)


def test_an_existing_folder_is_never_touched(tmp_path: Path, zoo_inside: Zoo) -> None:
    (tmp_path / "zoo-my-head").mkdir()
    (tmp_path / "zoo-my-head" / "mine.txt").write_text("mine")
    done = zoo_inside("plugins", "new", "head", "my_head")
    assert done.returncode == 2 and "'zoo-my-head' already exists, and nothing is overwritten" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["zoo-my-head", "mine.txt"]
    again = zoo_inside("plugins", "new", "head", "my_head", "--out", "elsewhere/it")
    assert again.returncode == 0 and (tmp_path / "elsewhere" / "it" / "zoo_my_head" / "__init__.py").is_file()


def test_an_unwritable_folder_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="The plugin cannot be written to"):
        write_plugin("head", "my_head", out=tmp_path / "file" / "under")
    with pytest.raises(UnknownName, match="Did you mean 'recipe'"):
        write_plugin("recipes", "mine", out=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['zoo', 'plugins', 'new', 'head', 'my_head']\n"
        "from zoo.cli.main import main\n"
        "try: main()\nfinally: print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
