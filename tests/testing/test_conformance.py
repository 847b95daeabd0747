"""The conformance kit: zoo's own plugins pass it, and each check finds the fault that it is there for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests import faults
from tests.conftest import Zoo
from tests.distributions import install
from zoo.errors import Terminated, UnknownName
from zoo.registry.names import qualified_name
from zoo.registry.registry import default_registry
from zoo.specs.recipe import RecipeSpec
from zoo.testing import (
    ConformanceError,
    Report,
    backbones,
    check_backbone,
    check_head,
    check_recipe,
    examine,
    heads,
    recipes,
    tiny_backbone,
    tiny_images,
)
from zoo.testing.conduct import conduct
from zoo.testing.recipes import RecipeTrial

OWN_HEADS = [qualified_name(head) for head in default_registry().heads() if head.plugin.own]
OWN_RECIPES = [qualified_name(recipe) for recipe in default_registry().recipes() if recipe.plugin.own]
SAMPLE = ["squeezenet1_1", "resnet18", "timm/test_vit", "timm/test_convnext", "timm/test_resnet"]
NO_CUDA = set() if torch.cuda.is_available() else {"cuda"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def with_faults() -> zoo.Registry:
    point = EntryPoint(name="faults", value="tests.faults", group="zoo")
    return zoo.Registry([*entry_points(group="zoo"), point], strict=True)


def skipped(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.verdict == "skipped"}


def names_of(steps: Sequence[tuple[str, Any]]) -> set[str]:
    return {name for name, _ in steps}


def only(steps: Sequence[tuple[str, Any]], name: str) -> list[tuple[str, Any]]:
    """Return all checks except the slow ones; a slow one is included if it is the one of this name."""
    return [step for step in steps if step[0] == name or step[0] not in ("export", "device_move", "determinism")]


def test_importing_the_kit_imports_no_torch() -> None:
    code = "import sys, zoo.testing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_all_bundled_plugins_are_checked() -> None:
    assert (len(OWN_HEADS), len(OWN_RECIPES)) == (10, 11)
    assert (len(heads.STEPS), len(backbones.STEPS), len(recipes.STEPS)) == (18, 17, 13)


@pytest.mark.parametrize("name", OWN_HEADS)
def test_zoos_own_heads_pass(name: str) -> None:
    report = check_head(name)
    closed_form = {"gradients", "loss"} if name == "heads/prototype" else set()
    more = set() if name in ("heads/linear", "heads/dropout_linear", "heads/layers") else {"linear"}
    assert skipped(report) == NO_CUDA | closed_form | more and len(report.checks) == 18


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLE)
def test_backbones_of_both_providers_pass(name: str) -> None:
    report = check_backbone(name)
    assert skipped(report) == NO_CUDA and len(report.checks) == 17


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        name if name.endswith(("/staged", "/lora")) else pytest.param(name, marks=pytest.mark.long)
        for name in OWN_RECIPES
    ],
)
def test_zoos_own_recipes_pass(name: str) -> None:
    report = check_recipe(name)
    assert skipped(report) == NO_CUDA and len(report.checks) == 13


@pytest.mark.parametrize(("check", "spec", "message"), faults.HEADS, ids=[spec.name for _, spec, _ in faults.HEADS])
def test_a_head_with_a_fault_fails_the_check_for_it(check: str, spec: zoo.HeadSpec, message: str) -> None:
    report = conduct("head", spec.name, heads.HeadTrial(spec), only(heads.STEPS, check))
    failures = {failed.name: failed.summary for failed in report.failed}
    assert re.search(message, failures[check]), failures


def test_every_check_of_a_head_has_a_head_that_fails_it() -> None:
    assert {check for check, _, _ in faults.HEADS} == names_of(heads.STEPS) - {"cuda"}
    assert check_head(faults.GOOD_HEAD).passed


FAULTY_BACKBONES = [name for name, (check, _, _) in faults.BACKBONES.items() if check]


@pytest.mark.parametrize("name", FAULTY_BACKBONES)
def test_a_backbone_with_a_fault_fails_the_check_for_it(name: str) -> None:
    check, spec, message = faults.BACKBONES[name]
    report = conduct("backbone", name, backbones.BackboneTrial(spec, None), only(backbones.STEPS, check))
    failures = {failed.name: failed.summary for failed in report.failed}
    assert re.search(message, failures[check]), failures


def test_every_check_of_a_backbone_has_a_backbone_that_fails_it() -> None:
    assert {faults.BACKBONES[name][0] for name in FAULTY_BACKBONES} == names_of(backbones.STEPS) - {"cuda"}
    report = check_backbone(tiny_backbone())
    assert skipped(report) == {"facts", "preprocessing"} | NO_CUDA


def stages(*train: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "one", "train": train or ("head",), "epochs": 1, "lr": 1e-2, **more}]


class LosesASetting(RecipeSpec):
    def to_toml(self) -> str:
        return super().to_toml().replace('keep = "last"\n', "")


def recipe(kind: type[RecipeSpec] = RecipeSpec, summary: str = "For a test.", **more: Any) -> RecipeSpec:
    return kind.model_validate({"name": "wrong", "summary": summary, "stages": stages(), **more})


FAULTY_RECIPES = [
    ("plans", recipe(stages=stages("head", "group:nowhere")), "good", "matches no group"),
    ("described", recipe(summary="Two\nlines."), "good", "one line"),
    ("options", recipe(LosesASetting, keep="last"), "good", "a different recipe"),
    ("trains", recipe(stages=[*stages("all", lr=1e30), *stages("head", name="two")]), "good", "stages two did not run"),
    ("gradients", recipe(stages=stages("all", lr=1e30, optimizer="sgd")), "good", "finite_result"),
    ("freezing", recipe(stages=stages("head", "last:1")), "moves", "frozen_unchanged"),
    ("state_round_trip", recipe(stages=stages("all")), "counts", "saved_file"),
    ("proof", recipe(stages=stages("all")), "counts", "saved_file"),
    ("determinism", recipe(stages=stages("all")), "ignores_seed", "different weights"),
    ("bf16", recipe(stages=stages("all")), "float_only", "it raised RuntimeError: no bfloat16 here"),
    ("export", recipe(), "branches", "it raised"),
]


@pytest.mark.parametrize(
    ("check", "spec", "backbone", "message"), FAULTY_RECIPES, ids=[check for check, *_ in FAULTY_RECIPES]
)
def test_a_recipe_with_a_fault_fails_the_check_for_it(
    check: str, spec: RecipeSpec, backbone: str, message: str, with_faults: zoo.Registry
) -> None:
    steps = [step for step in recipes.STEPS if step[0] in ("plans", check)]
    with RecipeTrial(spec, f"faults/{backbone}", with_faults) as trial:
        report = conduct("recipe", spec.name, trial, steps)
    failures = {failed.name: failed.summary for failed in report.failed}
    assert re.search(message, failures[check]), failures


def test_every_check_of_a_recipe_has_a_run_that_fails_it() -> None:
    assert {check for check, *_ in FAULTY_RECIPES} == names_of(recipes.STEPS) - {"groups", "cuda"}


def test_a_group_that_both_trains_and_is_frozen_is_found() -> None:
    with RecipeTrial(recipe(), "timm/test_resnet", default_registry()) as trial:
        (stage,) = trial.plan.stages
        doubled = stage.model_copy(update={"freezes": (*stage.freezes, "head")})
        trial.__dict__["plan"] = trial.plan.model_copy(update={"stages": (doubled,)})
        report = conduct("recipe", "doubled", trial, [step for step in recipes.STEPS if step[0] == "groups"])
    assert [check.summary for check in report.failed] == ["stage one both trains and freezes head"]


def test_one_error_lists_all_failed_checks() -> None:
    with pytest.raises(ConformanceError, match="The head unused failed 1 of 18 checks:\n  gradients: ") as raised:
        check_head(next(spec for _, spec, _ in faults.HEADS if spec.name == "unused"))
    assert isinstance(raised.value, (zoo.ZooError, AssertionError)) and raised.value.exit_code == 3
    assert [check.name for check in raised.value.report.failed] == ["gradients"]


def test_random_generators_are_restored_afterwards() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    conduct("head", "good", heads.HeadTrial(faults.GOOD_HEAD), only(heads.STEPS, ""))
    assert torch.equal(torch.rand(3), expected)


def test_tiny_images_are_an_image_set(tmp_path: Path) -> None:
    data = tiny_images(tmp_path / "new" / "data", classes=3, train=2, val=1)
    assert len(list(data.glob("train/*/*.png"))) == 6 and len(list(data.glob("val/*/*.png"))) == 3
    assert zoo.check_data(data).passed or zoo.check_data(data).warnings
    with pytest.raises(FileExistsError):
        tiny_images(data)


def test_the_command_prints_every_check(zoo_inside: Zoo) -> None:
    done = zoo_inside("plugins", "check", "heads/linear")
    assert done.returncode == 0 and done.stdout.startswith("head heads/linear\n")
    assert "gradients" in done.stdout and "passed: 18 checks" in done.stdout
    unknown = zoo_inside("plugins", "check", "liner")
    assert unknown.returncode == 2 and "Did you mean 'linear'" in unknown.stderr


@pytest.mark.long
def test_the_command_exits_with_3_if_a_check_fails(zoo_command: Zoo, tmp_path: Path) -> None:
    install(tmp_path, "loud-head", EXITING_HEAD)
    done = zoo_command("plugins", "check", "loud", "--json", PYTHONPATH=path_with(tmp_path))
    assert done.returncode == 3 and "Traceback" not in done.stderr
    (report,) = json.loads(done.stdout)
    verdicts = {check["name"]: check for check in report["checks"]}
    assert report["verdict"] == "failed" and verdicts["builds"]["summary"] == "it raised SystemExit: no"
    assert verdicts["export"] == {"name": "export", "verdict": "skipped", "summary": "builds failed"}


def test_a_backbone_that_its_provider_cannot_resolve_is_a_failed_check(with_faults: zoo.Registry) -> None:
    (report,) = examine("faults/lost", registry=with_faults)
    assert [(check.name, "KeyError: 'lost'" in check.summary) for check in report.failed] == [("resolves", True)]


def test_checks_have_gradients_inside_no_grad_and_leave_it_on() -> None:
    with torch.no_grad():
        steps = [step for step in heads.STEPS if step[0] in ("builds", "gradients")]
        assert conduct("head", "good", heads.HeadTrial(faults.GOOD_HEAD), steps).passed
        assert not torch.is_grad_enabled()


def test_the_guide_names_every_check() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    rows = guide.partition("| check | head | backbone | recipe |")[2].partition("\n\n")[0].splitlines()
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")}
    assert documented == names_of(heads.STEPS) | names_of(backbones.STEPS) | names_of(recipes.STEPS)


def test_a_plugin_that_does_not_load_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken-head", "raise RuntimeError('no')")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = zoo.Registry(report=lambda _: None, strict=False)
    (report,) = examine("broken_head", registry=registry)
    assert [check.summary for check in report.failed] == ["import: RuntimeError: no"]
    with pytest.raises(UnknownName, match="There is no head, backbone or recipe 'brokn'"):
        examine("brokn", registry=registry)


EXITING_HEAD = """
import sys
import zoo

def build(shape, classes, options):
    print("this must not end in the JSON")
    sys.exit("no")

@zoo.hookimpl
def zoo_heads():
    return [zoo.HeadSpec(name="loud", summary="A head for the test.", build=build)]
"""


def path_with(folder: Path) -> str:
    return ":".join([str(folder), *(entry for entry in sys.path if entry)])


def test_termination_stops_the_checks() -> None:
    def build(shape: zoo.FeatureShape, classes: int, options: object) -> object:
        raise Terminated(143)

    with pytest.raises(Terminated):
        check_head(zoo.HeadSpec(name="ended", summary="A signal stops it.", build=build))  # type: ignore[arg-type]
