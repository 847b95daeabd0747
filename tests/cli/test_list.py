"""`zoo list` and `zoo show` as a person or a program meets them: real processes, what they print, how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zoo
from tests.conftest import Zoo
from tests.distributions import head, install, provider
from zoo.cli import list as listing
from zoo.cli.main import main
from zoo.registry.registry import Registry, default_registry
from zoo.specs.recipe import recipe_from_toml

HEAVY = {"jinja2", "torch", "torchvision", "timm", "torchmetrics", "huggingface_hub", "safetensors", "numpy"}
WATCHED = """
import io, sys
from contextlib import redirect_stdout
from zoo.cli.main import main

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
    "data check --help",
    "list backbones",
    "list backbones --head gem --max-params 30M --sort gmacs",
    "list weights --licence mit",
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


def test_a_list_of_backbones_imports_nothing_of_runs_or_of_several_processes() -> None:
    program = (
        "import sys, zoo.cli.main as command\n"
        "sys.argv = ['zoo', 'list', 'backbones', 'resnet18']\n"
        "try:\n    command.main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "resnet18" in done.stdout and "zoo.registry.catalogue" in done.stderr.split()
    assert not {"zoo.events", "zoo.distributed.group", "zoo.distributed.pulse"} & set(done.stderr.split())


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
    assert lines[1:6] == [
        "heads      none",
        "recipes    none",
        "observers  mlflow, tensorboard",
        "sources    folder, table, tar, zip, hf",
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
    titles, row = plain.stdout.splitlines()
    assert titles.split() == ["name", "params", "GMACs", "features", "map", "input", "top-1", "weights", "licence"]
    assert row.split() == [
        *("torchvision/resnet18", "11.2M", "1.81", "512", "512x7x7", "224x224", "69.8", "IMAGENET1K_V1", "unstated")
    ]
    assert plain.stderr == "1 backbone. Next: zoo show torchvision/resnet18\n"
    every = json.loads(zoo_main("list", "backbones", "test_vit", "--json").stdout)
    pretrained = json.loads(zoo_main("list", "backbones", "test_vit", "--pretrained", "--json").stdout)
    assert [row for row in every if row["weights"]] == pretrained != every


def test_heads_and_recipes_are_listed_by_part_of_a_name_or_pattern(zoo_main: Zoo) -> None:
    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in json.loads(zoo_main("list", *arguments, "--json").stdout)]

    assert names("heads")[:3] == ["heads/linear", "heads/dropout_linear", "heads/mlp"]
    assert names("heads", "linear") == ["heads/linear", "heads/dropout_linear"]
    assert names("heads", "lin*") == ["heads/linear"]
    assert names("recipes", "*_only") == ["recipes/head_only"]
    assert names("plugins", "zoo-registry") == [
        "heads",
        "mlflow",
        "recipes",
        "sources",
        "tensorboard",
        "timm",
        "torchvision",
    ]


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
        (
            "list resnet",
            [
                "There are: backbones, weights, heads, recipes, observers, sources, plugins.",
                "Next: to look for a backbone: zoo list backbones resnet",
            ],
        ),
        ("list backbones resnet81", ["no backbone like 'resnet81'", "'resnet18'", "* and ?"]),
        ("list backbones vit_b_16 --provider timm", ["no backbone like 'vit_b_16'. Did you mean 'repvit_m1_1'"]),
        ("list backbones --provider tim", ["no provider of backbones 'tim'", "'timm'", "There are: torchvision, timm"]),
        ("list heads lineer", ["no head like 'lineer'", "'linear'"]),
        ("list recipes stagd", ["no recipe like 'stagd'", "'staged'"]),
        ("list plugins tim_m", ["no plugin like 'tim_m'", "'timm'"]),
        ("list heads --pretrained", ["--pretrained filters backbones only.\nNext: zoo list backbones --pretrained"]),
        ("list heads --provider timm", ["Next: zoo list backbones --provider timm"]),
        (
            "show resnet81",
            ["no backbone, head, recipe, observer or data source 'resnet81'", "'resnet18'", "Next: zoo list"],
        ),
        ("show torchvision/resnet81", ["'torchvision/resnet18'"]),
        ("show timn/resnet18", ["'timm/resnet18'"]),
        ("show resnet18.V7", ["no weights tag 'resnet18.V7'", "IMAGENET1K_V1", "a1_in1k"]),
        ("show lineer", ["Did you mean 'linear'"]),
        ("show heads/lineer", ["Did you mean 'heads/linear'"]),
        ("show recipes/stagd", ["Did you mean 'recipes/staged'"]),
        ("show nowhere.toml", ["recipe file 'nowhere.toml' cannot be read: No such file"]),
        ("show", ["Missing argument"]),
        ("list backbones --max-params lots", ["--max-params 'lots' is not a count.\nNext: write it as 25M"]),
        ("list backbones --max-params 0", ["--max-params must be above 0, got 0"]),
        ("list backbones --max-gmacs -1", ["--max-gmacs must be above 0, got -1"]),
        ("list backbones --max-gmacs few", ["--max-gmacs 'few' is not a number.\nNext: write it as 4 or 0.5"]),
        ("list backbones --licence apache", ["no licence of weights 'apache'. Did you mean 'apache-2.0'"]),
        (
            "list backbones --input-size big",
            ["--input-size 'big' is not a size from 8 to 8192 pixels.\nNext: write 384, or 384x512 for height x width"],
        ),
        ("list backbones --head jem", ["no head 'jem'. Did you mean 'gem'"]),
        (
            "list backbones --sort size",
            ["--sort 'size' is not a sort key.", "name, params, gmacs, features, input, top1"],
        ),
        ("list heads --max-params 3M", ["Next: zoo list backbones --max-params 3M"]),
        ("show timm/crossvit_9_240 --head gem", ["needs a map", "grids of different sizes", "linear, dropout_linear"]),
        ("show resnet18 --head linear --classes 1", ["--classes must be at least 2, got 1"]),
        ("show resnet18 --classes 3", ["need --head.\nNext: zoo show resnet18 --head linear"]),
        ("show mlp --head linear", ["go with a backbone; 'mlp' is a head"]),
        ("show vit_b_32 --head linear --input-size 300", ["does not take images of 300x300", "320x320", "224x224"]),
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
        assert len(done.stderr.splitlines()) == 2 and done.stderr.splitlines()[1].startswith("Next: zoo list")


def test_a_backbone_is_shown_with_its_weights_and_preprocessing(zoo_main: Zoo) -> None:
    plain = zoo_main("show", "resnet18").stdout
    for said in (
        "torchvision/resnet18  ResNet-18",
        "parameters  11,176,512 without the classifier",
        "compute     1.81 GMACs for an image of 224x224",
        "features    pooled[N, 512], map[N, 512, 7, 7] at stride 32",
        "heads       linear, dropout_linear, mlp, layers, concat_pool, gem, attention_pool, cosine, arcface, prototype",
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


@pytest.mark.parametrize(
    ("name", "size"), [("vgg16.IMAGENET1K_FEATURES", 224), ("vit_b_16.IMAGENET1K_SWAG_E2E_V1", 384)]
)
def test_what_was_measured_with_other_weights_than_those_named_is_not_said_of_these(
    name: str, size: int, zoo_main: Zoo
) -> None:
    # The features of VGG-16's second file are 25,088 wide, and the second file of this ViT is for images of 384.
    plain = zoo_main("show", name).stdout
    assert "measured    with the default weights IMAGENET1K_V1 at 224x224; with" in plain
    assert f"with {name.partition('.')[2]}: zoo show {name} --head linear" in plain
    assert f"input       {size}x{size} with these weights" in plain and "GMACs for an image of 224x224" in plain
    shown = json.loads(zoo_main("show", name, "--json").stdout)
    assert shown["input_size"] == [size, size]
    assert shown["measured_with"] == {"weights": "IMAGENET1K_V1", "input_size": [224, 224]}
    assert "measured    " not in zoo_main("show", f"{name.partition('.')[0]}.IMAGENET1K_V1").stdout


def test_a_head_is_shown_with_its_options(zoo_command: Zoo) -> None:
    plain = zoo_command("show", "mlp").stdout
    assert "option      hidden: int = 512" in plain and "option      p: float = 0.2" in plain
    assert "trained by  gradients; loss cross-entropy" in plain and "--head mlp --head-option hidden=512" in plain
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


def test_an_error_that_nobody_reads_is_still_told_to_programs() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "zoo", "list", "heads", "nothing", "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=writing, text=True, check=False)
    os.close(writing)
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["kind"] == "unknown_name"


def listed(zoo_main: Zoo, *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(zoo_main("list", "backbones", *arguments, "--json").stdout)
    return rows


def test_every_filter_keeps_exactly_what_passes_it(zoo_main: Zoo) -> None:
    every = listed(zoo_main)
    assert len(every) == 1451 and all(row["parameters"] and row["gmacs"] and row["groups"] for row in every)

    def expected(passes: Callable[[dict[str, Any]], bool]) -> set[str]:
        return {row["name"] for row in every if passes(row)}

    def found(*arguments: str) -> set[str]:
        return {row["name"] for row in listed(zoo_main, *arguments)}

    assert found("--max-params", "3.5M") == expected(lambda row: row["parameters"] <= 3_500_000)
    assert found("--max-params", "3500k", "--max-gmacs", "0.3") == expected(
        lambda row: row["parameters"] <= 3_500_000 and row["gmacs"] <= 0.3
    )
    assert found("--head", "gem") == expected(lambda row: row["map"] is not None) != found()
    assert found("--head", "linear") == found()
    assert found("--pretrained") == expected(lambda row: row["default"] is not None)
    assert found("--licence", "MIT") == expected(lambda row: "mit" in row["licences"])
    assert found("--licence", "unstated") >= {"torchvision/resnet18"}
    for row in listed(zoo_main, "--licence", "cc-by-nc-4.0", "--input-size", "384"):
        assert row["licences"] == ["cc-by-nc-4.0"] and row["input_size"] == [384, 384] and row["weights"]
    (sapiens, *_) = listed(zoo_main, "--input-size", "1024x768")
    assert sapiens["input_size"] == [1024, 768]


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("params", lambda row: row["parameters"]),
        ("gmacs", lambda row: row["gmacs"]),
        ("features", lambda row: row["features"]),
        ("input", lambda row: row["input_size"]),
        ("name", lambda row: row["name"]),
        ("top1", lambda row: -(row["top1"] or 0)),
    ],
)
def test_a_list_is_sorted(order: str, key: Callable[[dict[str, Any]], Any], zoo_main: Zoo) -> None:
    rows = listed(zoo_main, "*mobilenet*", "--sort", order)
    assert len(rows) > 40 and [key(row) for row in rows] == sorted(key(row) for row in rows)


def test_filters_that_leave_nothing_say_so_and_are_no_error(zoo_main: Zoo) -> None:
    done = zoo_main("list", "backbones", "vit_*", "--max-params", "1k")
    assert (done.returncode, done.stdout) == (0, "")
    assert "but none passes --max-params. Next: widen or drop a filter." in done.stderr
    assert zoo_main("list", "backbones", "--max-params", "1k", "--json").stdout == "[]\n"
    done = zoo_main("list", "backbones", "--provider", "timm", "--sort", "params", "--max-params", "1k")
    assert "but none passes --max-params. Next: widen or drop a filter." in done.stderr


def test_backbones_without_weights_are_said_to_have_none(zoo_command: Zoo, tmp_path: Path) -> None:
    install(tmp_path, "acme-nets", provider("acme", {"net": ()}))
    done = zoo_command("list", "weights", "--provider", "acme", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "1 backbone matches '*', but none has weights. Next: zoo list backbones." in done.stderr


def test_a_row_is_of_the_weights_that_it_names(zoo_main: Zoo) -> None:
    """Not the licence of one file beside the name that means another, nor numbers of another size."""
    plain = zoo_main("list", "backbones", "timm/resnext101_32x4d", "--licence", "apache-2.0").stdout.splitlines()
    assert plain[1].split()[0] == "timm/resnext101_32x4d.gluon_in1k"
    (row,) = listed(zoo_main, "timm/resnext101_32x4d", "--licence", "apache-2.0")
    assert row["default"] == "fb_ssl_yfcc100m_ft_in1k" and not row["bare_name"]
    (row,) = listed(zoo_main, "torchvision/vit_b_16")
    assert row["top1"] == 81.072 and row["default"] == "IMAGENET1K_V1"
    plain = zoo_main("list", "backbones", "torchvision/vit_b_16", "--input-size", "384").stdout.splitlines()
    assert plain[1].split()[:4] == ["torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1", "85.8M", "768", "384x384"]


def test_weights_are_found_by_their_tags(zoo_main: Zoo) -> None:
    plain = zoo_main("list", "weights", "*.fb_in22k").stdout.splitlines()[1:]
    assert plain and all(line.split()[0].endswith(".fb_in22k") for line in plain)
    done = zoo_main("list", "weights", "resnet18.a1_in2k")
    assert done.returncode == 2 and "Did you mean 'resnet18.a1_in1k'" in done.stderr


def test_weights_are_listed_one_a_line(zoo_main: Zoo) -> None:
    rows = json.loads(zoo_main("list", "weights", "resnet18", "--provider", "timm", "--json").stdout)
    assert "timm/resnet18.a1_in1k" in {row["name"] for row in rows}
    assert all(row["preprocessing"]["input_size"][1:] == row["input_size"] for row in rows)
    plain = zoo_main("list", "weights", "torchvision/resnet50").stdout.splitlines()
    assert [line.split() for line in plain[1:]] == [
        ["torchvision/resnet50.IMAGENET1K_V2", "unstated", "224x224", "80.9"],
        ["torchvision/resnet50.IMAGENET1K_V1", "unstated", "224x224", "76.1"],
    ]


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_a_list_fits_the_terminal(columns: int, zoo_main: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    done = zoo_main("list", "backbones", "torchvision/resnet*")
    lines = done.stdout.splitlines()
    assert (
        len(lines) == 6 and all(len(line) <= columns for line in lines) and lines[1].startswith("torchvision/resnet101")
    )
    assert ("Not shown, the terminal is too narrow" in done.stderr) == (columns < 100)


def test_shapes_and_parameters_from_image_to_logits_are_shown(zoo_main: Zoo) -> None:
    arguments = ("show", "squeezenet1_1", "--head", "attention_pool", "--classes", "3", "--input-size", "160x192")
    steps = json.loads(zoo_main(*arguments, "--json").stdout)["steps"]
    assert [(step["name"], step["shape"]) for step in steps if step["kind"] in ("images", "group", "features")] == [
        ("images", [1, 3, 160, 192]),
        ("stem", [1, 64, 79, 95]),
        ("stage1", [1, 128, 39, 47]),
        ("stage2", [1, 256, 19, 23]),
        ("stage3", [1, 512, 9, 11]),
        ("map", [1, 512, 9, 11]),
    ]
    assert steps[-1]["name"] == "logits" and steps[-1]["shape"] == [1, 3]
    model = zoo.create_model("squeezenet1_1", head="attention_pool", classes=3, weights="random")
    assert sum(step["parameters"] for step in steps) == sum(each.numel() for each in model.parameters())
    plain = zoo_main("show", "mobilenet_v3_small", "--head", "linear").stdout
    lines = [line.split() for line in plain.splitlines()]
    assert ["stem", "[1,", "16,", "112,", "112]", "float32", "464"] in lines and lines[-2][0] == "logits"


def test_observers_and_data_sources_are_shown_with_how_they_are_used(zoo_inside: Zoo) -> None:
    for name, used in (("tensorboard", "--observer tensorboard"), ("zip", "--data zip:PATH")):
        shown = zoo_inside("show", name).stdout
        assert "zoo-registry" in shown and used in shown
        assert json.loads(zoo_inside("show", name, "--json").stdout)["name"].endswith(f"/{name}")
    missed = zoo_inside("show", "tensorbord")
    assert missed.returncode == 2 and "Did you mean 'tensorboard'" in missed.stderr
