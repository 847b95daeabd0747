"""The public surface and the documents that describe it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import zoo
import zoo.plugin
from zoo import errors
from zoo.cli.app import app
from zoo.errors import OptionError
from zoo.planning.request import Request
from zoo.registry import hooks
from zoo.registry.registry import Registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "plugins.md").read_text("utf-8")


def test_the_public_names_are_these() -> None:
    assert set(zoo.__all__) == {
        *(
            "check_data",
            "compare",
            "create_model",
            "finetune",
            "plan",
            "evaluate",
            "export",
            "load",
            "learning_curve",
            "report",
            "resume",
            "serve",
            "shortlist",
            "soup",
            "sweep",
            "verify",
            "list_backbones",
            "list_class_folders",
            "list_data_sources",
            "list_heads",
            "list_recipes",
        ),
        *("embed", "similar", "Embedding", "Neighbour", "SimilarImages"),
        *("fetch_weights", "import_weights", "list_weights", "verify_weights", "pull", "push"),
        *(
            "Classifier",
            "Comparison",
            "Evaluation",
            "Exported",
            "Plan",
            "Request",
            "Verification",
            "DataReport",
            "Prediction",
            "Result",
            "Registry",
            "Shortlist",
            "Soup",
            "Sweep",
        ),
        *(name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, errors.ZooError)),
        *("hookimpl", "Backbone", "BackboneProvider", "BackboneSpec", "FeatureShape", "Group", "HeadSpec", "HubFile"),
        *(
            "Event",
            "Note",
            "ObserverSpec",
            "RunStarted",
            "StageStarted",
            "EpochStarted",
            "BatchFinished",
            "EpochFinished",
        ),
        *("CheckpointSaved", "StageFinished", "RunFinished", "RunStopped"),
        *("BulkResult", "embed_files", "predict_files"),
        *("CurveReport", "LabelCheck", "Relabelled", "Suspect", "apply_suspects", "check_labels"),
        *("DataSourceSpec", "Skipped", "SourceImage", "SourceListing", "TableData", "is_image_name", "split_named"),
        *("ClassFolders", "EmptyClass", "FolderFile", "passed_over"),
        *("module_backbone", "OwnWeights"),
        *("BackboneFacts", "cached_json", "draw_confusion", "kept_json", "measure", "skip_init", "undrawn"),
        *("NoOptions", "Preprocessing", "RecipeSpec", "UrlFile", "WeightsSpec", "load_weights", "recipe_from_toml"),
    }
    for name in zoo.__all__:
        documented = inspect.getdoc(getattr(zoo, name))
        assert documented or name == "hookimpl", name


@pytest.mark.parametrize("function", [zoo.finetune, zoo.plan])
def test_every_field_of_a_request_is_an_argument_with_the_same_default(function: Callable[..., object]) -> None:
    arguments = inspect.signature(function).parameters
    fields = inspect.signature(Request).parameters
    assert set(fields) <= set(arguments)
    assert next(iter(arguments)) == "backbone" and arguments["backbone"].default is inspect.Parameter.empty
    for name in fields.keys() - {"backbone", "head_options"}:
        assert arguments[name].default == fields[name].default, name
    assert dict(arguments["head_options"].default) == {}


def test_a_request_beside_other_arguments_is_refused_and_so_is_none_at_all() -> None:
    request = Request(backbone="timm/test_resnet", weights="random")
    for name, value in (("seed", 1), ("tune", True), ("epochs", 0), ("workers", 0), ("set", ["head.lr=1"])):
        with pytest.raises(OptionError, match=rf"also given: {name}\."):
            zoo.plan(request, **{name: value})
    with pytest.raises(OptionError, match=r"A backbone is needed"):
        zoo.plan("")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"input_size": (4, 4)}, "is not a size"),
        ({"seed": "a"}, "must be a whole number"),
        ({"decode": "quick"}, "is not exact or fast"),
        ({"folds": 1}, r"zoo.plan\(\): folds must be a whole number from 2 on"),
        ({"backbone": ""}, "A backbone is needed"),
    ],
)
def test_a_request_is_checked_as_arguments_are(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        zoo.plan(Request(**{"backbone": "timm/test_resnet", "weights": "random", **given}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": "5"}, ": epochs must be a whole number, got '5'"),
        ({"seed": "a"}, ": seed must be a whole number, got 'a'"),
        ({"batch_size": 8.0}, ": batch_size must be a whole number, got 8.0"),
        ({"workers": True}, ": workers must be a whole number, got True"),
        ({"classes": ["cat", "dog"]}, r": classes must be a whole number, got \['cat', 'dog'\]"),
        ({"head_options": ["p"]}, r"head_options=\['p'\] has no names.\nNext: head_options={'p': 0.3}"),
    ],
)
def test_what_is_no_number_is_refused_before_anything_is_read(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        zoo.plan("timm/test_resnet", data="no such folder", **given)


def test_numbers_of_numpy_are_numbers() -> None:
    plan = zoo.plan("timm/test_resnet", weights="random", classes=np.int64(3), seed=np.int64(2))  # type: ignore[arg-type]
    assert plan.seed == 2 and len(plan.classes) == 3


def test_a_text_is_no_list_of_class_names() -> None:
    with pytest.raises(OptionError, match=r"classes='cat' is one text.\nNext: classes=\[\.\.\.\]"):
        zoo.create_model("timm/test_resnet", classes="cat", weights="random")


def test_plan_and_finetune_say_the_same_of_the_arguments_that_they_share() -> None:
    def described(function: Callable[..., object]) -> dict[str, str]:
        text = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\nRaises:")[0]
        return {
            name: " ".join(words.split())
            for name, words in re.findall(r"^    (\w+): ((?:.*\n(?!    \w))*.*)", text, re.M)
        }

    plan, finetune = described(zoo.plan), described(zoo.finetune)
    shared = {name for name in plan.keys() & finetune.keys() if plan[name] != "As for `finetune`."}
    assert len(shared) > 20 and {name: plan[name] for name in shared} == {name: finetune[name] for name in shared}


def test_the_command_lines_options_are_the_arguments_of_the_library() -> None:
    """What one of them lacks is lacking for a reason, which stands here."""
    command = typer.main.get_command(app).commands["finetune"]  # type: ignore[attr-defined]
    # Objects, and the columns of one. For `verbose`, `zoo -q` and `zoo -v` stand before the command.
    of_the_library = {"registry", "on_event", "image", "label", "split", "verbose"}
    of_the_command = {"help", "as_json", "resume"}  # `zoo.resume` is a function of its own
    spelled = {"head_option": "head_options", "set_": "set", "no_tune": "tune", "no_report": "report"}
    spelled["observer"] = "observers"
    options = {spelled.get(option.name, option.name) for option in command.params} - of_the_command
    assert options == set(inspect.signature(zoo.finetune).parameters) - of_the_library


def test_what_authors_of_plugins_need_stands_in_one_module_and_still_in_zoo() -> None:
    assert set(zoo.plugin.__all__) < set(zoo.__all__)
    for name in zoo.plugin.__all__:
        assert getattr(zoo.plugin, name) is getattr(zoo, name)
    hooks_return = {"BackboneProvider", "HeadSpec", "RecipeSpec", "ObserverSpec", "DataSourceSpec", "hookimpl"}
    assert hooks_return <= set(zoo.plugin.__all__)


def test_the_names_are_listed_with_the_version() -> None:
    assert set(dir(zoo)) >= {*zoo.__all__, "__version__"}


def test_import_zoo_imports_neither_torch_nor_a_plugin() -> None:
    heavy = ("torch", "timm", "zoo_timm", "pandas", "IPython", "rich")
    found = "print([m for m in sys.modules if m.split('.')[0] in {}])"
    code = f"import sys, zoo; {found.format((*heavy, 'pluggy'))}; zoo.finetune; {found.format(heavy)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def test_every_hook_is_documented_and_nothing_else() -> None:
    specified = {name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")}
    assert specified == set(re.findall(r"^\| `(zoo_\w+)\(\)`", GUIDE, re.MULTILINE))


def test_the_guides_head_works_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml, python = (
        re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL),
        re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL),
    )
    assert toml and python
    declared = tomllib.loads(toml.group(1))["project"]["entry-points"]["zoo"]
    (tmp_path / "my_heads.py").write_text(python.group(1))
    info = tmp_path / "my_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-heads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo]\n" + "".join(f"{key} = {value}\n" for key, value in declared.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry(strict=True)
    model = zoo.create_model(
        "timm/test_resnet", head="normed", head_options={"p": 0.3}, classes=3, weights="random", registry=registry
    )
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert [each.p for each in model.head.modules() if isinstance(each, torch.nn.Dropout)] == [0.3]


def test_readmes_two_commands_are_those_that_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    install, run = ["pip install -e .", "zoo finetune --backbone resnet18 --head dropout_linear --classes 5"]
    assert f"{install} && {run}" in README and "pip install -e '.[test]' && pytest" in README
    assert install in script.replace("pip install -q", "pip install") and run in script


def test_the_version_in_the_changelog_is_that_of_the_package_or_unreleased() -> None:
    heading = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert heading and heading.group(1) in ("Unreleased", version)
