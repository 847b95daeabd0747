"""Arguments of the public functions that had another name, or never existed."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from zoo.api.arguments import checked_arguments
from zoo.errors import DataError, OptionError, RunError
from zoo.events import Event, PlanReady
from zoo.planning.request import make_request
from zoo.sweeping.knobs import parse_values

# Not `zoo.finetune` itself, which type checkers know not to take these.
finetune: Any = zoo.finetune


def public_functions() -> list[str]:
    functions = {name: getattr(zoo, name) for name in zoo.__all__}
    return [name for name, each in functions.items() if inspect.isfunction(each) and hasattr(each, "__wrapped__")]


@pytest.mark.long
def test_the_old_name_of_the_function_for_events_works_and_says_the_new_one(shapes: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    arguments = {"weights": "random", "data": shapes, "epochs": 1, "out": tmp_path / "run"}

    with pytest.warns(DeprecationWarning) as seen:
        result = finetune("timm/test_resnet", **arguments, report=told.append, page=False)

    assert any(isinstance(event, PlanReady) for event in told)
    assert not (result.path / "report.html").exists()  # the old `page`, which is `report` now
    assert [str(warning.message) for warning in seen] == [
        "zoo.finetune(report=...) is now zoo.finetune(on_event=...)",
        "zoo.finetune(page=...) is now zoo.finetune(report=...)",
    ]
    assert {Path(warning.filename).name for warning in seen} == {Path(__file__).name}  # the line of the caller


def test_resuming_through_finetune_goes_on_working_and_names_the_function(tmp_path: Path) -> None:
    with (
        pytest.warns(DeprecationWarning, match=r"zoo\.finetune\(resume=RUN\) is now zoo\.resume\(RUN\)"),
        pytest.raises(RunError, match="There is no run folder"),
    ):
        finetune(resume=tmp_path / "nowhere")
    with warnings.catch_warnings(), pytest.raises(TypeError, match=r"zoo\.resume\(\) got an unexpected keyword"):
        warnings.simplefilter("ignore")
        finetune(resume=tmp_path, epochs=3)


@pytest.mark.parametrize("name", public_functions())
def test_an_argument_that_does_not_exist_is_pythons_error_with_the_nearest_name(name: str) -> None:
    function = getattr(zoo, name)
    arguments = list(inspect.signature(function).parameters)
    near = max(arguments, key=len)

    with pytest.raises(TypeError, match=rf"^zoo\.{name}\(\) got an unexpected keyword argument '{near}x'. .*{near}"):
        function(**{f"{near}x": 1})
    with pytest.raises(TypeError, match=rf"'qqqqqqqq'\. There are: .*{arguments[-1]}"):
        function(qqqqqqqq=1)


def test_both_names_of_one_argument_are_refused(shapes: Path) -> None:
    plan: Any = zoo.plan

    with pytest.raises(TypeError, match="'report' and 'on_event', which are the old and the new name of one argument"):
        plan("timm/test_resnet", data=shapes, report=print, on_event=print)


def test_every_function_with_events_takes_them_by_one_name() -> None:
    for name in public_functions():
        parameters = inspect.signature(getattr(zoo, name)).parameters
        assert "report" not in parameters or parameters["report"].default is True, name


MODULE = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda data: zoo.shortlist(data, backbones=MODULE),
            "compares backbones by their names.*\nNext: zoo.learning_",
        ),
        (lambda data: zoo.shortlist(data, backbones=[MODULE]), "one of these is no text"),
        (
            lambda data: zoo.shortlist(data, backbones="timm/test_resnet", head=print),
            "The head is given by its name here",
        ),
        (
            lambda data: zoo.list_backbones(head=print),
            "The head is given by its name here, not as .*\nNext: zoo list heads",
        ),
        (lambda data: finetune("timm/test_resnet", data=data, observers=[print]), "The observer is given by its name"),
        (lambda data: zoo.plan("timm/test_resnet", data=data, weights={}), "'random' or the path of a file.* a dict"),
        (lambda data: zoo.plan("timm/test_resnet", data=data, precision=16), "precision 16 is not one of"),
    ],
)
def test_an_object_where_only_a_name_is_taken_is_refused(call: Any, said: str, few: Path) -> None:
    with pytest.raises(OptionError, match=f"(?s){said}"):
        call(few)


def test_a_device_of_torch_is_one() -> None:
    device: Any = torch.device("cpu")
    assert zoo.plan("timm/test_resnet", weights="random", device=device, tune=False).device == "cpu"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: zoo.serve("runs/a", port="a"), "port must be a whole number, got 'a'."),  # type: ignore[arg-type]
        (lambda: zoo.serve("runs/a", timeout="soon"), "timeout must be a number, got 'soon'."),  # type: ignore[arg-type]
        (lambda: zoo.serve(3), "path must be a path, got 3."),  # type: ignore[arg-type]
        (lambda: zoo.similar("resnet18", "a.jpg", "b", top=2.5), "top must be a whole number, got 2.5."),  # type: ignore[arg-type]
        (lambda: zoo.similar("resnet18", "a.jpg", "b", top=True), "top must be a whole number, got True."),
        (lambda: zoo.finetune("resnet18", tune="no"), "tune must be True or False, got 'no'."),  # type: ignore[arg-type]
        (lambda: zoo.embed("resnet18", "data", out=3), "out must be a path, got 3."),  # type: ignore[arg-type]
        (lambda: zoo.report(3), "run must be a path, got 3."),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_runs(call: Any, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        call()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": ""}, "data is empty.\nNext: give it a value."),
        ({"out": ""}, "out is empty.\nNext: give it a value."),
        ({"weights": ""}, "weights is empty.\nNext: give it a value."),
        ({"recipe": ""}, "recipe is empty.\nNext: give it a value."),
        ({"seed": -1}, "seed must be a whole number from 0 to 2^64 - 1, got -1."),
        ({"tune": "no"}, "tune must be True or False, got 'no'."),
        ({"classes": "three"}, "classes must be a whole number, got 'three'."),
    ],
)
def test_a_request_passes_the_checks_of_arguments(given: dict[str, Any], said: str) -> None:
    request = zoo.Request(backbone="timm/test_resnet", **given)
    for function in (zoo.plan, zoo.finetune):
        with pytest.raises(OptionError) as refused:
            function(request)
        assert said in str(refused.value), str(refused.value)
        with pytest.raises(OptionError) as as_arguments:
            function("timm/test_resnet", **given)
        assert str(refused.value) == str(as_arguments.value)


def test_numbers_of_numpy_are_numbers() -> None:
    with pytest.raises(DataError, match=r"There is no image 'a\.jpg'"):
        zoo.similar("timm/test_resnet", "a.jpg", "b", top=np.int64(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), 3])
def test_the_number_of_classes_may_be_of_numpy(number: Any) -> None:
    assert zoo.create_model("timm/test_resnet", classes=number, weights="random").classes == (
        "class0",
        "class1",
        "class2",
    )


def test_names_of_classes_are_texts() -> None:
    names = zoo.create_model("timm/test_resnet", classes=np.array(["b", "a"]), weights="random").classes  # type: ignore[arg-type]
    assert names == ("b", "a") and {type(name) for name in names} == {str}
    for wrong in (True, np.bool_(True), 3.0, None, [1, 2], np.array([3, 4])):
        with pytest.raises(OptionError, match=r"are neither names nor their number\.\nNext: classes=\['cat', 'dog'\]"):
            zoo.create_model("timm/test_resnet", classes=wrong, weights="random")  # type: ignore[arg-type]


def test_sizes_and_knobs_of_numpy_are_recorded_as_numbers() -> None:
    half, side = (np.float32(0.5),) * 3, np.int64(8)
    made = zoo.Preprocessing(input_size=(3, side, side), resize_size=(side, side), mean=half, std=half)  # type: ignore[arg-type]
    assert json.loads(json.dumps(made.at(np.int64(16), side).to_dict()))["input_size"] == [3, 16, 8]
    values = [np.float64(0.01), np.float32(0.5), 0.1, np.int64(3), True, "auto"]
    assert parse_values("head.lr", values) == ("0.01", "0.5", "0.1", "3", "true", "auto")


def test_truth_values_and_sizes_of_numpy_are_what_they_are_of_python() -> None:
    seen: dict[str, Any] = {}

    @checked_arguments()
    def public(*, tune: bool = True, seed: int = 0, timeout: float = 1) -> None:
        seen.update(tune=tune, seed=seed, timeout=timeout)

    public(tune=np.array([1, 2]).max() > 5, seed=np.int64(3), timeout=np.float32(0.5))  # type: ignore[arg-type]
    assert json.dumps(seen) == '{"tune": false, "seed": 3, "timeout": 0.5}'
    with pytest.raises(OptionError, match=re.escape("seed must be a whole number, got array([3])")):
        public(seed=np.array([3]))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=re.escape("seed must be a whole number, got ")):
        public(seed=np.bool_(True))  # type: ignore[arg-type]
    size, folds = np.arange(96, 98), np.int64(3)
    for given in (size[0], (size[0], np.uint16(96)), "96", [96, 96]):
        assert make_request(backbone="a", input_size=given).input_size == (96, 96)
    assert type(make_request(backbone="a", folds=folds).folds) is int


@pytest.mark.parametrize(
    "size", [7, True, (96, True), (96,), (96, 96, 96), 96.0, "9x", np.float32(96), (), ["96", "96"]]
)
def test_what_is_no_size_is_refused(size: Any) -> None:
    with pytest.raises(OptionError, match=r"--input-size .* is not a size from 8 to 8192 pixels.\nNext: write 384"):
        make_request(backbone="a", input_size=size)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**23])
@pytest.mark.parametrize(
    "name", [name for name in public_functions() if "seed" in inspect.signature(getattr(zoo, name)).parameters]
)
def test_a_seed_that_no_generator_takes_is_refused_wherever_there_is_one(name: str, seed: int) -> None:
    function: Any = getattr(zoo, name)
    needed = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    with pytest.raises(OptionError) as refused:
        function(**{each.name: "nowhere" for each in needed if each.kind is not each.VAR_POSITIONAL}, seed=seed)
    assert str(refused.value).startswith(f"zoo.{name}(): seed must be a whole number from 0 to 2^64 - 1, got {seed}.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0.\nNext: leave it out, for what the recipe says."),
        (
            {"workers": 0},
            "workers must be at least 1, got 0.\nNext: leave workers out, for one of each core up to 8.",
        ),
        (
            {"every_stage": True},
            "every_stage says that folds may repeat stages that train the backbone, and no folds are asked for.\n"
            "Next: leave every_stage out, or add folds=5.",
        ),
        (
            {"budget": 3},
            "budget is the time that choosing a backbone may take, and the backbone is named.\n"
            "Next: leave budget out, or let zoo choose: backbone='auto'",
        ),
        (
            {"precision": "bf16"},
            "precision 'bf16' is not one of auto, float32, bfloat16. Did you mean 'bfloat16'?\n"
            "Next: leave precision out, and zoo measures what is faster.",
        ),
    ],
)
def test_what_a_call_is_refused_for_has_the_names_of_its_arguments(arguments: dict[str, Any], message: str) -> None:
    plan: Any = zoo.plan
    with pytest.raises(OptionError) as refused:
        plan("timm/test_resnet", weights="random", **arguments)
    assert str(refused.value) == f"zoo.plan(): {message}"
    # The command line calls these functions as well, and has options.
    assert refused.value.on_command_line.startswith(f"--{next(iter(arguments)).replace('_', '-')} ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "pt2", "int8": True}, "int8 is for ONNX, and to says pt2.\nNext: to='onnx', or leave int8 out."),
        ({"to": "onnx", "max_loss": 2.0}, "max_loss says what int8 may lose, and int8 was not given.\nNext: add int8"),
    ],
)
def test_arguments_with_a_digit_in_their_names_are_named_too(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        zoo.export("nowhere", **arguments)
    assert str(refused.value) == f"zoo.export(): {message}"


@pytest.mark.parametrize("name", ["data", "out", "weights"])
def test_an_empty_path_is_not_the_working_folder(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^zoo\.finetune\(\): {name} is empty\.\nNext: give it a value\.$"):
        finetune("timm/test_resnet", **{name: ""})
