"""`zoo list` and `zoo show` as a person or a program meets them: real processes, what they print, how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Zoo
from tests.distributions import head, install
from zoo.cli import listing
from zoo.cli.app import main
from zoo.recipes import recipe_from_toml
from zoo.registry import Registry, default_registry

HEAVY = {"torch", "torchvision", "timm", "torchmetrics", "huggingface_hub", "safetensors", "numpy"}
WATCHED = """
import io, sys
from contextlib import redirect_stdout
from zoo.cli import listing
from zoo.cli.app import main

for line in sys.stdin.read().splitlines():
    sys.argv = ["zoo", *line.split()]
    with redirect_stdout(io.StringIO()) as printed:
        try:
            main()
        except SystemExit as done:
            assert done.code in (0, None), (line, done.code)
    assert printed.getvalue().strip(), line
    print(line, *sorted({name.partition(".")[0] for name in sys.modules}), sep=" | ")
"""
LOOKING = (
    "--help",
    "--version",
    "list",
    "finetune --help",
    "list backbones",
    "list plugins",
    "show resnet18",
    "show timm/resnet18",
    "show mlp",
    "show staged",
)


@pytest.fixture
def zoo_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Zoo:
    """Runs the command's entry point in this process: for tables of many cases."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as done:
            main()
        code = done.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def test_what_only_looks_does_not_import_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input="\n".join(LOOKING),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.split(" | ")[0]: set(line.split(" | ")[1:]) for line in done.stdout.splitlines()}
    assert tuple(loaded) == LOOKING and "zoo_torchvision" in loaded["show resnet18"]
    assert {command: names & HEAVY for command, names in loaded.items() if names & HEAVY} == {}


def test_import_zoo_imports_no_torch_and_no_plugin() -> None:
    program = "import sys, zoo; dir(zoo); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not (HEAVY | {"pluggy", "zoo_torchvision", "zoo_timm", "zoo_heads", "zoo_recipes"}) & set(loaded)


def test_the_overview_counts_everything(zoo_command: Zoo) -> None:
    found = json.loads(zoo_command("list", "--json").stdout)
    registry = default_registry()
    assert found["backbones"] == {held.spec.name: len(names) for held, names in registry.backbones().catalogue()}
    assert list(found["backbones"]) == ["torchvision", "timm"] and found["backbones"]["torchvision"] == 80
    assert {"linear", "dropout_linear", "mlp"} <= set(found["heads"])
    assert {"full", "head_only", "staged"} <= set(found["recipes"])
    assert {"name": "heads", "state": "loaded"} in found["plugins"]
    lines = zoo_command("list", ZOO_DISABLE_PLUGINS="heads,recipes").stdout.splitlines()
    assert f"{sum(found['backbones'].values()):,}: 80 of torchvision" in lines[0]
    assert lines[1:4] == [
        "heads      none",
        "recipes    none",
        f"plugins    {len(found['plugins'])}, disabled: heads, recipes",
    ]


def test_backbones_are_listed_by_part_of_a_name_by_pattern_by_provider_and_by_weights(zoo_main: Zoo) -> None:
    rows = json.loads(zoo_main("list", "backbones", "resnet1?", "--json").stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["torchvision/resnet18"]["bare_name"] and not by_name["timm/resnet18"]["bare_name"]
    assert by_name["torchvision/resnet18"]["weights"] == ["IMAGENET1K_V1"]
    assert by_name["timm/resnet18"]["default"] == by_name["timm/resnet18"]["weights"][0] == "a1_in1k"
    assert all(name.partition("/")[2].startswith("resnet1") for name in by_name)
    plain = zoo_main("list", "backbones", "resnet18", "--provider", "torchvision")
    assert plain.stdout == "torchvision/resnet18  IMAGENET1K_V1\n"
    assert plain.stderr == "1 backbone. Next: zoo show torchvision/resnet18\n"
    every = json.loads(zoo_main("list", "backbones", "test_vit", "--json").stdout)
    pretrained = json.loads(zoo_main("list", "backbones", "test_vit", "--pretrained", "--json").stdout)
    assert [row for row in every if row["weights"]] == pretrained != every


def test_heads_and_recipes_are_listed_by_part_of_a_name_or_pattern(zoo_main: Zoo) -> None:
    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in json.loads(zoo_main("list", *arguments, "--json").stdout)]

    assert names("heads") == ["heads/linear", "heads/dropout_linear", "heads/mlp"]
    assert names("heads", "linear") == ["heads/linear", "heads/dropout_linear"]
    assert names("heads", "lin*") == ["heads/linear"]
    assert names("recipes", "*_only") == ["recipes/head_only"]
    assert names("plugins", "zoo-registry") == ["heads", "recipes", "timm", "torchvision"]


@pytest.mark.parametrize("kind", ["backbones", "heads", "recipes"])
def test_a_list_that_is_empty_because_all_is_switched_off_is_no_error(
    kind: str, zoo_main: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        listing, "default_registry", lambda: Registry(disabled=["heads", "recipes", "torchvision", "timm"])
    )
    plain, as_json = zoo_main("list", kind), zoo_main("list", kind, "--json")
    assert (plain.returncode, plain.stdout, as_json.returncode, as_json.stdout) == (0, "", 0, "[]\n")
    assert plain.stderr == f"There are no {kind}. See: zoo list plugins\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("list head", ["does not know 'head'. Did you mean 'heads'?"]),
        ("list resnet", ["There are: backbones, heads, recipes, plugins.", "zoo list backbones 'resnet'"]),
        ("list backbones resnet81", ["no backbone like 'resnet81'", "'resnet18'", "* and ?"]),
        ("list backbones vit_b_16 --provider timm", ["no backbone like 'vit_b_16'. Did you mean 'repvit_m1_1'"]),
        ("list backbones --provider tim", ["no provider of backbones 'tim'", "'timm'", "There are: torchvision, timm"]),
        ("list heads lineer", ["no head like 'lineer'", "'linear'"]),
        ("list recipes stagd", ["no recipe like 'stagd'", "'staged'"]),
        ("list plugins tim_m", ["no plugin like 'tim_m'", "'timm'"]),
        ("list heads --pretrained", ["--pretrained chooses among backbones. Next: zoo list backbones --pretrained"]),
        ("list heads --provider timm", ["Next: zoo list backbones --provider timm"]),
        ("show resnet81", ["no backbone, head or recipe 'resnet81'", "'resnet18'", "See: zoo list"]),
        ("show torchvision/resnet81", ["'torchvision/resnet18'"]),
        ("show timn/resnet18", ["'timm/resnet18'"]),
        ("show resnet18.V7", ["no weights tag 'resnet18.V7'", "IMAGENET1K_V1", "a1_in1k"]),
        ("show lineer", ["Did you mean 'linear'"]),
        ("show heads/lineer", ["Did you mean 'heads/linear'"]),
        ("show recipes/stagd", ["Did you mean 'recipes/staged'"]),
        ("show nowhere.toml", ["recipe file 'nowhere.toml' cannot be read: No such file"]),
        ("show", ["Missing argument"]),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest(arguments: str, said: list[str], zoo_main: Zoo) -> None:
    done = zoo_main(*arguments.split())
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


def test_the_process_exits_with_2_and_one_message(zoo_command: Zoo) -> None:
    for arguments in ("list backbones resnet81", "show resnet81"):
        done = zoo_command(*arguments.split())
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("Error: There is no backbone")
        assert done.stderr.count("\n") == 1


def test_a_backbone_is_shown_with_its_weights_and_preprocessing(zoo_main: Zoo) -> None:
    plain = zoo_main("show", "resnet18").stdout
    for said in (
        "torchvision/resnet18  ResNet-18",
        "parameters  11,176,512 without the classifier",
        "resnet18 means torchvision/resnet18.IMAGENET1K_V1; it could also mean timm/resnet18",
        "weights     IMAGENET1K_V1 (default): licence not stated, ImageNet top-1 69.76 %",
        "resize shorter to 256 (bilinear), centre crop 224x224",
        "Next: zoo plan --backbone resnet18 --data PATH",
    ):
        assert said in plain
    shown = json.loads(zoo_main("show", "timm/resnet18.a1_in1k", "--json").stdout)
    assert shown["name"] == "timm/resnet18.a1_in1k" and shown["also"] == []
    assert shown["weights"][0]["licence"] == "apache-2.0" and shown["preprocessing"]["input_size"] == [3, 224, 224]
    assert "none published: --weights FILE or --weights random" in zoo_main("show", "timm/test_vit_relpos").stdout


def test_a_head_is_shown_with_its_options(zoo_command: Zoo) -> None:
    plain = zoo_command("show", "mlp").stdout
    assert "option      hidden: int = 512" in plain and "option      p: float = 0.2" in plain
    assert "loss        cross-entropy" in plain and "--head mlp --head-option hidden=512" in plain
    shown = json.loads(zoo_command("show", "heads/mlp", "--json").stdout)
    assert shown["options"][0] == {"name": "hidden", "type": "int", "default": 512} and not shown["own_loss"]


def test_options_of_any_type_are_shown_as_the_command_line_takes_them(zoo_command: Zoo, tmp_path: Path) -> None:
    source = head("wide").replace("import zoo\n", "import zoo\nfrom dataclasses import dataclass\n", 1)
    options = "@dataclass(frozen=True)\nclass O:\n    sizes: tuple[int, ...] = (64, 32)\n    cap: int | None = None\n"
    source = source.replace("\ndef build", f"\n{options}\ndef build").replace("build=build", "build=build, options=O")
    install(tmp_path, "wide-heads", source)
    shown = zoo_command("show", "wide", PYTHONPATH=str(tmp_path)).stdout
    assert "option      sizes: tuple[int, ...] = [64,32]" in shown and "option      cap: int | None = null" in shown
    assert "--head-option 'sizes=[64,32]'" in shown
    as_json = json.loads(zoo_command("show", "wide", "--json", PYTHONPATH=str(tmp_path)).stdout)
    assert [each["default"] for each in as_json["options"]] == [[64, 32], None]


def test_the_next_step_names_a_head_so_that_it_is_the_one_meant(zoo_command: Zoo, tmp_path: Path) -> None:
    install(tmp_path, "acme-heads", head("linear"), plugin="acme")
    shown = zoo_command("show", "acme/linear", PYTHONPATH=str(tmp_path)).stdout
    assert "acme/linear  A head for the test." in shown and "--head acme/linear" in shown


@pytest.mark.parametrize("name", ["staged", "head_only", "full"])
def test_a_recipe_is_shown_as_a_file_that_can_be_copied(name: str, zoo_main: Zoo, tmp_path: Path) -> None:
    shown = zoo_main("show", name).stdout
    assert shown.startswith(f"# recipes/{name} of zoo-registry")
    assert recipe_from_toml(shown, name) == default_registry().recipe(name).spec
    (tmp_path / "my.toml").write_text(shown)
    again = zoo_main("show", "my.toml")
    assert again.stdout.splitlines()[1:] == shown.splitlines()[1:]
    assert json.loads(zoo_main("show", "my.toml", "--json").stdout)["name"] == "my"


@pytest.mark.parametrize("arguments", ["list backbones", "list heads", "show staged"])
def test_a_reader_that_went_away_is_quiet(arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *arguments.split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr and "Exception" not in done.stderr
