"""Runs with objects in place of names: trained with every check, and loaded with the objects alone."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.conftest import Zoo
from torch import Tensor, nn
from zoo.errors import ArtefactError, OptionError, Refused
from zoo.events import Event, StageFinished
from zoo.registry.registry import default_registry
from zoo.reporting.command import as_python, command_of
from zoo.specs.plan import Plan

SIZE = zoo.Preprocessing(input_size=(3, 32, 32), resize_size=(36, 36), mean=(0.5,) * 3, std=(0.5,) * 3)
RECIPE = {
    "stages": [
        {"name": "head", "train": ["head"], "epochs": 2, "lr": 0.01},
        {"name": "all", "train": ["all"], "epochs": 2, "lr": 0.001},
    ]
}


class Net(nn.Module):
    """A chain of three parts, whose activation is chosen by the caller."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, 2)
        self.norm, self.activation = nn.BatchNorm2d(8), activation()

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.body(self.activation(self.stem(images)))).mean((2, 3))
        return pooled


def my_head(shape: zoo.FeatureShape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape.pooled, 8), nn.ReLU(), nn.Linear(8, classes))


def bent_head(shape: zoo.FeatureShape, classes: int) -> nn.Module:
    """The same tensors, and other logits."""
    return nn.Sequential(nn.Linear(shape.pooled, 8), nn.Tanh(), nn.Linear(8, classes))


def arguments(few: Path) -> dict[str, Any]:
    return {"head": my_head, "recipe": RECIPE, "data": few, "batch_size": 4}


@pytest.fixture(scope="module")
def run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a module, a function and a dictionary."""
    net = Net().train()
    before = copy.deepcopy(net.state_dict())
    backbone = zoo.module_backbone(net, preprocessing=SIZE)
    result = zoo.finetune(backbone, out=tmp_path_factory.mktemp("objects") / "run", **arguments(few))
    assert result.proof == "passed"
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    return result.path


def plan_of(run: Path) -> Plan:
    return Plan.model_validate_json((run / "plan.json").read_text("utf-8"))


def test_what_is_stored_names_the_session_and_says_that_loading_needs_the_objects(run: Path) -> None:
    plan, config = plan_of(run), json.loads((run / "model" / "config.json").read_text("utf-8"))

    assert (plan.backbone.name, plan.head.name, plan.recipe) == ("session/Net", "session/my_head", "session/recipe")
    assert plan.weights.kind == config["backbone"]["weights"] == "own" and plan.weights.digest
    assert (config["backbone"]["name"], config["head"]["name"]) == ("session/Net", "session/my_head")
    card = (run / "model" / "README.md").read_text("utf-8")
    assert "Its backbone `Net` and head `my_head` were objects, which no package provides" in card
    assert 'zoo.load(".", backbone=net, head=my_head)' in card and "base_model" not in card
    assert "looks untrained" in " ".join(plan.warnings)


def test_it_is_loaded_with_the_objects_alone(run: Path, few: Path) -> None:
    with pytest.raises(ArtefactError) as refused:
        zoo.load(run)
    assert str(refused.value) == (
        "This classifier's backbone `Net` and head `my_head` were objects, which no package provides.\n"
        "Next: zoo.load(PATH, backbone=net, head=my_head)"
    )
    with pytest.raises(ArtefactError, match=r"classifier's head `my_head` was an object.*\nNext: .*\(PATH, head=my_"):
        zoo.load(run, backbone=Net())

    # Other initial values, and no preprocessing: both are in the artefact.
    net = Net(seed=7)
    classifier = zoo.load(run, backbone=net, head=my_head)
    assert classifier.predict(next(few.rglob("*.*"))) and torch.equal(net.stem.weight, Net(seed=7).stem.weight)
    scored = zoo.evaluate(run, data=few, backbone=net, head=my_head)
    assert scored.scores.accuracy == zoo.load(run, backbone=net, head=my_head).config.metrics["val"]["accuracy"]
    assert zoo.verify(run, backbone=zoo.module_backbone(Net(), preprocessing=SIZE), head=my_head).passed


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"head": bent_head}, r"gives other logits with this backbone session/Net and head session/my_head than when"),
        ({"backbone": Net(nn.Tanh)}, r"gives other logits with this backbone session/Net"),
        ({"head": lambda shape, classes: nn.Linear(shape.pooled, classes)}, r"tensors differ, first head\.0\.bias"),
        ({"head": lambda shape, classes: nn.Linear(2, 2)}, r"cannot be built: The head lambda, built with .* raised"),
        ({"backbone": "timm/test_resnet"}, r"does not fit session/Net with head session/my_head"),
    ],
)
def test_other_objects_are_refused_by_shapes_or_golden_logits(run: Path, objects: dict[str, Any], said: str) -> None:
    given = {"backbone": Net(), "head": my_head, **objects}
    with pytest.raises(ArtefactError, match=said):
        zoo.load(run, **given)
    checks = zoo.verify(run / "model", **given).checks
    assert [check.name for check in checks if check.verdict == "failed"] == ["golden_logits"]


def test_an_object_for_what_is_found_by_name_is_refused(few: Path, tmp_path: Path) -> None:
    by_name = zoo.finetune(
        "timm/test_resnet", weights="random", head=my_head, data=few, epochs=1, recipe="head_only", out=tmp_path / "run"
    )
    with pytest.raises(
        OptionError, match=r"The backbone of this classifier is timm/test_resnet.*\nNext: leave backbone out"
    ):
        zoo.load(by_name.path, backbone=Net(), head=my_head)
    assert zoo.load(by_name.path, head=my_head).classes == by_name.classifier(head=my_head).classes


def test_the_commands_end_in_that_one_sentence(run: Path, few: Path, zoo_inside: Zoo) -> None:
    image = next(few.rglob("*.*"))
    for words in (["predict", run, image], ["evaluate", run, "--data", few], ["export", run, "--to", "pt2"]):
        done = zoo_inside(*words)
        assert done.returncode == 1 and "`my_head` were objects, which no package provides" in done.stderr
    done = zoo_inside("verify", run)
    assert done.returncode == 1 and "zoo.verify(PATH, backbone=net, head=my_head)" in done.stderr


class TiedNet(Net):
    """Its second and third convolution have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(8, 8, 3, 2)
        self.again.weight = self.body.weight

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.again(self.body(self.activation(self.stem(images))))).mean((2, 3))
        return pooled


class TiedHead(nn.Module):
    def __init__(self, shape: zoo.FeatureShape, classes: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(shape.pooled, classes), nn.Linear(shape.pooled, classes)
        self.other.weight = self.one.weight

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.one(features) + self.other(features)
        return logits


LAST = {"name": "last", "train": ["head", "last:1"], "epochs": 1, "lr": 0.01}
LORA = {"name": "lora", "train": ["head", "adapters"], "adapter_rank": 2, "epochs": 1, "lr": 0.01}


@pytest.mark.long
@pytest.mark.parametrize("stage", [RECIPE["stages"][1], LAST, LORA], ids=["all", "last", "lora"])
def test_layers_that_share_a_tensor_are_trained_resumed_and_exported_as_one(
    stage: dict[str, Any], few: Path, tmp_path: Path
) -> None:
    recipe = {"keep": "last", "stages": [RECIPE["stages"][0], stage]}
    usual: dict[str, Any] = {**arguments(few), "head": TiedHead, "recipe": recipe, "report": False}
    usual |= {"precision": "float32", "tune": False}
    backbone = zoo.module_backbone(TiedNet(), preprocessing=SIZE)
    result = zoo.finetune(backbone, out=tmp_path / "run", **usual)
    assert result.proof == "passed"
    objects: dict[str, Any] = {"backbone": TiedNet(), "head": TiedHead}
    model: Any = zoo.load(result.path, **objects).model
    assert model.backbone.again.weight is model.backbone.body.weight
    assert model.head.one.weight is model.head.other.weight
    assert zoo.verify(result.path, **objects).passed
    exported = zoo.export(result.path, to="pt2", out=tmp_path / "net.pt2", **objects)
    assert exported.largest_difference <= exported.tolerance * exported.largest_logit

    def stop(event: Event) -> None:
        if isinstance(event, StageFinished):
            raise Stopped

    with pytest.raises(Stopped):
        zoo.finetune(backbone, out=tmp_path / "stopped", on_event=stop, **usual)
    assert zoo.resume(tmp_path / "stopped", report=False, **objects).proof == "passed"
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_is_exported_reported_and_compared(run: Path, few: Path, tmp_path: Path) -> None:
    exported = zoo.export(run, to="pt2", out=tmp_path / "net.pt2", backbone=Net(), head=my_head)
    assert exported.largest_difference <= exported.tolerance * exported.largest_logit

    written = (run / "report.html").read_text("utf-8")
    assert zoo.report(run, backbone=Net(), head=my_head).read_text("utf-8") == written
    of_another = zoo.report(run, backbone=Net(), head=bent_head).read_text("utf-8")
    assert "No overlays: the classifier cannot be opened" in of_another and "gives other logits" in of_another
    page = zoo.report(run).read_text("utf-8")
    assert page.partition('id="repeat"')[2] == written.partition('id="repeat"')[2]
    assert "zoo.finetune(\n    net,\n    head=my_head" in page.replace("&#39;", "'")

    def renamed(shape: zoo.FeatureShape, classes: int) -> nn.Module:
        return bent_head(shape, classes)

    # As in a notebook, where a cell is changed and run again: the same name for another function.
    renamed.__name__ = "my_head"
    backbone = zoo.module_backbone(Net(), preprocessing=SIZE)
    other = zoo.finetune(backbone, out=tmp_path / "other", report=False, **{**arguments(few), "head": renamed})
    assert zoo.compare(run, other.path).against[0].differences.choices == ("head",)
    with pytest.raises(Refused, match=r"was passed as an object, session/Net: whether"):
        zoo.soup([run, other.path], out=tmp_path / "soup")
    with pytest.raises(Refused, match=r"The backbone of .* was passed as an object"):
        zoo.check_labels(few, run)


def test_the_call_in_the_report_makes_the_same_plan(run: Path, few: Path) -> None:
    plan = plan_of(run)
    text = as_python(command_of(plan, default_registry()), plan).replace("'recipe.toml'", "RECIPE")
    net = zoo.module_backbone(Net(), preprocessing=SIZE)
    again = eval(
        text.replace("zoo.finetune", "zoo.plan"),
        {"zoo": zoo, "net": net, "my_head": my_head, "RECIPE": plan.recipe_spec()},
    )
    assert again.stages == plan.stages and again.backbone == plan.backbone and again.head == plan.head


def test_what_was_an_object_is_opened_by_the_name_of_its_plugin_later(few: Path, tmp_path: Path) -> None:
    changed = replace(default_registry().head("linear").spec, summary="As I had it in my notebook.")
    backbone = zoo.module_backbone(Net(), preprocessing=SIZE)
    result = zoo.finetune(backbone, head=changed, data=few, recipe="head_only", out=tmp_path / "run", report=False)

    assert result.content["head"] == "session/linear"
    assert zoo.load(result.path, backbone=Net(), head="heads/linear").classes == ("a", "b")


class Stopped(Exception):
    """Ends a run from within, as a crash does."""


def test_it_is_resumed_with_the_objects_to_the_same_bytes(run: Path, few: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StageFinished):
            raise Stopped

    notes: list[str] = []
    backbone = zoo.module_backbone(Net(), preprocessing=SIZE)
    folder = tmp_path / "stopped"

    def watch(event: Event) -> None:
        notes.append(str(getattr(event, "text", "")))
        stop(event)

    with pytest.raises(Stopped):
        zoo.finetune(backbone, out=folder, on_event=watch, **arguments(few))
    assert any(f"zoo.resume({str(folder)!r}, backbone=net, head=my_head)" in note for note in notes)
    with pytest.raises(Refused, match=r"This run's backbone `Net` and head `my_head` were objects.*\nNext: zoo.resume"):
        zoo.resume(folder)
    with pytest.raises(Refused, match=r'head\.version: "object-\w+" then, "object-\w+" now'):
        zoo.resume(folder, backbone=backbone, head=bent_head)
    with pytest.raises(Refused, match=r"weights\.digest: "):
        zoo.resume(folder, backbone=Net(seed=1), head=my_head)

    result = zoo.resume(folder, backbone=Net(), head=my_head)

    assert result.proof == "passed"
    for name in ("model/model.safetensors", "predictions.csv"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_cached_features_are_never_those_of_another_module_with_the_same_tensors(few: Path, tmp_path: Path) -> None:
    scores = []
    for number, activation in enumerate((nn.ReLU, nn.Tanh, nn.ReLU)):
        backbone = zoo.module_backbone(Net(activation), preprocessing=SIZE)
        notes: list[Event] = []
        result = zoo.finetune(
            backbone, data=few, recipe="head_only", out=tmp_path / str(number), on_event=notes.append, report=False
        )
        assert not any("differ from what this machine computes" in str(getattr(note, "text", "")) for note in notes)
        scores.append((result.path / "predictions.csv").read_bytes())
    assert scores[0] == scores[2] != scores[1]


def test_weights_of_a_file_go_into_a_module(few: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trained = Net(seed=3)
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    model = zoo.create_model(
        zoo.module_backbone(Net(), preprocessing=SIZE), classes=2, weights=str(tmp_path / "net.safetensors")
    )
    assert torch.equal(model.backbone.get_parameter("stem.weight"), trained.stem.weight)
    plan = zoo.plan(zoo.module_backbone(Net(), preprocessing=SIZE), data=few, weights=str(tmp_path / "net.safetensors"))
    assert plan.weights.kind == "file" and "looks untrained" not in " ".join(plan.warnings)
