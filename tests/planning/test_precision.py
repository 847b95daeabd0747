"""Precision and memory layout: measured, kept, recorded, the same in training, prediction and the saved file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
import zoo.cli.options  # here, before the tests set a default of --no-tune
from safetensors.torch import load_file
from tests.conftest import Zoo
from torch.utils.flop_counter import FlopCounterMode
from zoo.events import Event, Note, Report, silent
from zoo.model.devices import LIMITS, machine_facts
from zoo.planning import precision as speed
from zoo.planning.network_kind import NetworkWork, Sort, network_work
from zoo.planning.pass_times import Measured, decide
from zoo.planning.precision_table import TABLE, Known, NetworkRow, lookup, processor_kind, read_table
from zoo.planning.request import Request
from zoo.planning.resolved_model import resolve_model
from zoo.registry.registry import default_registry
from zoo.reporting.command import command_of
from zoo.specs.plan import Compute

FLOAT, LAYOUT, HALF = Compute(), Compute("float32", "channels_last"), Compute("bfloat16", "channels_last")


HEAD_ONLY: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "recipe": "head_only"}
ALONE: dict[Sort, float] = dict.fromkeys(("attention", "depthwise", "grouped", "linear", "spatial", "pointwise"), 0.0)


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has no row about this machine's kind of processor."""
    monkeypatch.setattr("zoo.planning.precision.read_table", lambda: ())


def choose(
    name: str, *, trains: bool = False, precision: str = "auto", tune: bool = True, report: Report = silent
) -> speed.ComputeChoice:
    return speed.choose_compute(
        lambda: zoo.create_model(name, classes=2, weights="random"),
        lambda: outline(name),
        name=name,
        device="cpu",
        trains=trains,
        precision=precision,
        tune=tune,
        report=report,
    )


def outline(name: str) -> zoo.model.model.ZooModel:  # type: ignore[name-defined]
    return resolve_model(default_registry(), name, "linear", head_options={}).outline(("one", "other"))


@pytest.mark.parametrize(
    ("turns", "chosen", "certain"),
    [
        ([], FLOAT, True),  # nothing can be run
        ([(10, 7, 7)] * 7, LAYOUT, True),
        ([(10, 6, 4)] * 3, HALF, True),  # so clearly that three are enough
        ([(10, 7, 6.8)] * 3, FLOAT, False),  # not so clearly
        ([(10, 7, 6)] * 15, LAYOUT, True),  # bfloat16 is 1.17 times as fast as the layout
        ([(10, 9, 12)] * 15, FLOAT, True),
        ([(10, 9, 4)] * 2, FLOAT, False),
        ([(10, 8.2, 9)] * 7 + [(10, 8.6, 9)] * 8, FLOAT, False),  # 1.22 in some turns, 1.16 in others
        ([(10, 8, 9)] * 13 + [(10, 40, 9)] * 2, LAYOUT, True),  # a burst of something else in two turns
    ],
)
def test_a_simpler_one_stands_unless_another_is_surely_a_fifth_faster(
    turns: list[tuple[float, float, float]], chosen: Compute, certain: bool
) -> None:
    seconds = [dict(zip((FLOAT, LAYOUT, HALF), turn, strict=True)) for turn in turns]
    assert decide([FLOAT, LAYOUT, HALF], seconds) == (chosen, certain)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_efficientnet", "timm/test_convnext", "squeezenet1_1"])
def test_multiply_adds_are_those_that_torch_counts(name: str) -> None:
    work = network_work(outline(name))
    model = zoo.create_model(name, classes=2, head="linear", weights="random").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.features(torch.rand(1, *model.preprocessing.input_size))
    assert work.multiply_adds == counter.get_total_flops() // 2
    assert sum(work.shares.values()) == pytest.approx(1)


def test_kinds_of_networks_are_told_apart_whatever_mode_their_outline_is_in() -> None:
    kinds = {
        "timm/test_vit": "attention",
        "timm/tf_efficientnet_lite0": "depthwise",
        "timm/test_mambaout": "depthwise",
        "resnext50_32x4d": "grouped",
        "timm/resmlp_12_224": "matrices",
        "squeezenet1_1": "convolutions",
    }
    assert {name: network_work(outline(name)).kind for name in kinds} == kinds
    training = outline("timm/test_efficientnet").train()
    assert network_work(training) == network_work(outline("timm/test_efficientnet").eval()) and training.training


# The table

STABLE = {
    ("squeezenet1_1", "inference"): HALF,
    ("squeezenet1_1", "training"): HALF,
    ("resnet18", "inference"): HALF,
    ("resnet18", "training"): HALF,
    ("timm/tf_efficientnet_lite0", "inference"): HALF,
    ("timm/tf_efficientnet_lite0", "training"): LAYOUT,
    ("timm/test_resnet", "inference"): HALF,
    ("timm/test_resnet", "training"): HALF,
    ("timm/test_vit", "inference"): FLOAT,
    ("timm/test_vit", "training"): FLOAT,
}


def test_choices_that_were_stable_before_the_table_stay_on_amd_with_bfloat16() -> None:
    found = {
        (name, work): lookup(read_table(), "AMD avx512_bf16", network_work(outline(name)), work, [FLOAT, LAYOUT, HALF])
        for name, work in STABLE
    }
    assert {key: known and known.compute for key, known in found.items()} == STABLE


def row(network: str, times: tuple[float, float, float, float], intensity: int, **other: Any) -> NetworkRow:
    usual = {"processor": "P", "work": "training", "kind": "depthwise", "size": (224, 224)}
    named = dict(zip(map(str, (FLOAT, LAYOUT, Compute("bfloat16"), HALF)), times, strict=True))
    return NetworkRow(network=network, times=named, multiply_adds=intensity * 100, values=100, **{**usual, **other})


def test_the_table_knows_what_was_measured_and_what_those_around_it_agree_on() -> None:
    slow, fast = (1.0, 1.1, 0.7, 0.8), (1.0, 1.3, 1.3, 2.0)
    rows = [row("a", slow, 50), row("b", slow, 60), row("c", slow, 90), row("d", fast, 500)]
    all_three = [FLOAT, LAYOUT, HALF]

    def known(
        intensity: int, rows: list[NetworkRow] = rows, work: Any = "training", processor: str = "P"
    ) -> Compute | None:
        network = NetworkWork(intensity * 1000, 1000, {**ALONE, "depthwise": 0.1, "pointwise": 0.9})
        found = lookup(rows, processor, network, work, all_three)
        return found and found.compute

    assert known(70) == FLOAT
    assert known(70, work="inference") is None and known(70, processor="Q") is None
    assert known(500) is None  # one network near it
    assert known(70, [*rows, row("e", fast, 75)]) is None  # of those near it one disagrees
    assert known(70, [row("a", slow, 50), row("b", slow, 60)]) is None  # too few
    itself = NetworkWork(50_000, 1000, {**ALONE, "depthwise": 1.0})
    measured = NetworkRow(**{**row("f", fast, 50).to_dict(), "multiply_adds": 50_000, "values": 1000})
    found = lookup([*rows, measured], "P", itself, "training", all_three)
    assert found == Known(HALF, "f was measured on P")
    # Where the precision is asked for, the layout alone is chosen.
    assert lookup([measured], "P", itself, "training", [FLOAT, LAYOUT]) == Known(LAYOUT, "f was measured on P")
    assert lookup([measured], "P", itself, "training", [Compute("bfloat16"), HALF]) == Known(HALF, found.why)


def test_rows_name_what_measured_them_and_a_processor_that_may_not_use_all_it_has_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = json.loads(TABLE.read_text("utf-8"))["made"]
    assert {row.processor for row in read_table()} == set(made)
    assert all({"machine", "date", "torch", "command"} <= set(each) for each in made.values())
    for variable in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "avx2")
            assert processor_kind() == ""


# Measuring


def test_what_cannot_be_run_is_not_chosen(unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    original = zoo.model.model.ZooModel.features  # type: ignore[attr-defined]

    def no_half(self: Any, images: torch.Tensor) -> torch.Tensor:
        if self.compute.precision == "bfloat16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return torch.as_tensor(original(self, images))

    monkeypatch.setattr("zoo.model.model.ZooModel.features", no_half)
    choice = choose("timm/test_resnet")
    assert set(choice.speeds) == {str(FLOAT), str(LAYOUT)} and choice.compute in (FLOAT, LAYOUT)


@pytest.mark.parametrize("short", ["channels_last", "contiguous"])
def test_a_moment_without_memory_is_not_kept_as_the_choice_of_the_machine(
    short: str, unknown: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    original = zoo.model.model.ZooModel.features  # type: ignore[attr-defined]

    def no_memory(self: Any, images: torch.Tensor) -> torch.Tensor:
        if self.compute.memory_format == short:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return torch.as_tensor(original(self, images))

    events: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr("zoo.model.model.ZooModel.features", no_memory)
        choice = choose("timm/test_resnet", report=events.append)
    assert (choice.compute, choice.speeds) == (FLOAT, {}) and not list(tmp_path.rglob("precision-*"))
    assert choice.origin and choice.origin.by == "default" and "memory ran out" in choice.origin.why
    said = [each.text for each in events if isinstance(each, Note)]
    assert "can't allocate memory" in said[-1] and "This run computes in float32, contiguous; the next one" in said[-1]
    assert len(choose("timm/test_resnet").speeds) == 3 and list(tmp_path.rglob("precision-*"))


@pytest.mark.long
def test_a_measurement_is_made_once_and_used_again(
    unknown: None, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    plans, said = [], []
    for _ in range(2):
        events: list[Event] = []
        plans.append(zoo.plan(**HEAD_ONLY, data=few, tune=True, on_event=events.append))
        said.append(sum("Measuring" in each.text for each in events if isinstance(each, Note)))
    assert said == [1, 0]
    assert plans[0] == plans[1] and len(plans[0].speeds) == 3
    origin = plans[0].compute_origin
    assert origin and origin.by == "measured" and "turns on this machine" in origin.why
    without = zoo.plan(**HEAD_ONLY, data=few, tune=False)
    assert without.speeds == {} and without.compute == FLOAT
    assert without.compute_origin and without.compute_origin.by == "default"
    drawn = torch.random.get_rng_state()
    choose("timm/test_vit", trains=True)
    assert torch.equal(torch.random.get_rng_state(), drawn) and torch.get_num_threads() == plans[0].threads


@pytest.mark.long
def test_what_was_measured_of_a_module_is_not_taken_for_another_of_its_name(
    unknown: None, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    size = zoo.Preprocessing(input_size=(3, 16, 16), resize_size=(18, 18), mean=(0.5,) * 3, std=(0.5,) * 3)

    def module(width: int) -> zoo.BackboneSpec:
        layers = torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        return zoo.module_backbone(torch.nn.Sequential(*layers), preprocessing=size, name="mine")

    modules = {width: module(width) for width in (4, 8)}
    for width, each in modules.items():
        out = tmp_path / str(width)
        zoo.finetune(each, recipe="head_only", data=few, epochs=1, tune=False, report=False, out=out)

    monkeypatch.setitem(Request.__init__.__kwdefaults__, "tune", True)  # as it is for users, whom `embed` does not ask

    def measures(use: Callable[..., object], *given: Any, **named: Any) -> bool:
        events: list[Event] = []
        use(*given, **named, on_event=events.append)
        return any("Measuring once" in each.text for each in events if isinstance(each, Note))

    for again in (False, True):
        for width, each in modules.items():
            assert measures(zoo.load, tmp_path / str(width), backbone=each, precision="auto") is not again
            assert measures(zoo.embed, each, few) is not again


def test_a_plan_says_whence_its_choice_came(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo
) -> None:
    monkeypatch.setattr("zoo.planning.precision.processor_kind", lambda: "AMD avx512_bf16")
    words = ("plan", "--backbone=timm/test_resnet", "--weights", "random", "--data", few)
    shown = " ".join(zoo_inside(*words).stdout.split())
    assert "bfloat16, channels_last" in shown and "known from the table: timm/test_resnet was measured on AMD" in shown
    shown = zoo_inside(*words, "--precision", "float32", "--json").stdout
    plan = json.loads(shown)
    assert plan["compute_origin"]["by"] == "table" and plan["compute_origin"]["asked"] == "float32"
    assert (plan["precision"], plan["memory_format"], plan["speeds"]) == ("float32", "channels_last", {})
    plan = json.loads(zoo_inside(*words, "--precision", "bfloat16", "--no-tune", "--json").stdout)
    assert plan["compute_origin"]["by"] == "asked" and plan["memory_format"] == "contiguous"


def test_what_was_found_under_a_limit_of_the_kernels_is_for_that_limit(
    unknown: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo
) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    rates = {"float32": 1.0, "float32, channels_last": 1.0, "bfloat16, channels_last": 9.0}
    found = [Measured(LAYOUT, True, 7, rates), Measured(HALF, True, 7, rates)]
    monkeypatch.setattr("zoo.planning.precision.time_candidates", lambda *arguments, **named: found.pop())
    for variable in LIMITS:
        monkeypatch.delenv(variable, raising=False)
    before = machine_facts("cpu")
    assert choose("timm/test_resnet").compute == HALF
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert choose("timm/test_resnet").compute == LAYOUT
    # Names of what was kept without a limit stay.
    assert machine_facts("cpu") == [*before, "ATEN_CPU_CAPABILITY=avx2"] and len(before) == 5
    assert f"torch {torch.__version__}, ATEN_CPU_CAPABILITY=avx2, " in zoo_inside("cache", "show").stdout


@pytest.mark.parametrize("asked", ["auto", "bfloat16"])
def test_the_command_that_repeats_a_run_has_its_layout(
    asked: str, few: Path, monkeypatch: pytest.MonkeyPatch, zoo_inside: Zoo
) -> None:
    """Alone, 16 bits would stand in the simpler layout, which is nearly as fast."""
    monkeypatch.setattr("zoo.planning.precision.processor_kind", lambda: "AMD avx512_bf16")
    words = ("plan", "--backbone=timm/test_efficientnet", "--weights", "random", "--data", few)
    plan = zoo.Plan.model_validate_json(zoo_inside(*words, "--precision", asked, "--json").stdout)
    _, _, backbone, name, *rest = command_of(plan, default_registry())
    again = json.loads(zoo_inside("plan", f"{backbone}={name}", *rest, "--json").stdout)
    assert (plan.precision, again["memory_format"]) == ("bfloat16", plan.memory_format)
    assert plan.memory_format == ("channels_last" if asked == "auto" else "contiguous")


@pytest.mark.parametrize(
    ("name", "known"), [("timm/test_resnet", True), ("timm/test_vit", True), ("timm/test_resnet", False)]
)
@pytest.mark.long
def test_twenty_choices_on_a_busy_machine_are_one(
    name: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = "AMD avx512_bf16" if known else ""
    monkeypatch.setattr("zoo.planning.precision.processor_kind", lambda: processor)
    # As many as there are cores, each with pauses, so that the load changes all the time.
    code = "import time\nwhile True:\n    sum(range(3_000_000)); time.sleep(0.05)"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
    try:
        found = []
        for number in range(20):
            monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / str(number)))  # nothing is remembered
            found.append(choose(name).compute)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert len(found) == 20 and len(set(found)) == 1


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
@pytest.mark.parametrize("compute", [LAYOUT, HALF])
@pytest.mark.long
def test_the_saved_classifier_computes_as_the_run_did(
    backbone: str, compute: Compute, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = speed.ComputeChoice(compute, {})
    monkeypatch.setattr("zoo.planning.build_plan.choose_compute", lambda *arguments, **named: choice)
    result = zoo.finetune(backbone=backbone, weights="random", data=few, epochs=1, out=tmp_path / "run")
    assert result.proof == "passed"
    config = json.loads((result.artefact / "config.json").read_text("utf-8"))
    assert (config["precision"], config["memory_format"]) == (compute.precision, compute.memory_format)
    classifier = zoo.load(result.path)
    assert classifier.model.compute == compute
    assert zoo.evaluate(result.path, data=few / "val").scores.to_dict() == result.metrics["val"]
    # Weights are kept in float32 and plain layout, for whoever opens the file without zoo.
    for tensor in load_file(result.artefact / "model.safetensors").values():
        assert tensor.dtype in (torch.float32, torch.int64) and tensor.is_contiguous()


def test_bfloat16_is_used_in_the_backbone_alone() -> None:
    model = zoo.create_model("timm/test_vit", head="linear", classes=3, weights="random").eval()
    images = torch.rand(2, *model.preprocessing.input_size)
    full = model.features(images)
    half = model.compute_as(HALF).features(images)
    assert half.dtype == torch.float32 and not torch.equal(full, half)
    torch.testing.assert_close(half, full, atol=0.1, rtol=0.1)
    assert model(images).dtype == torch.float32


def test_an_unknown_precision_is_refused(zoo_inside: Zoo) -> None:
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--precision", "bf16")
    assert done.returncode == 2
    assert "--precision 'bf16' is not one of auto, float32, bfloat16. Did you mean 'bfloat16'?" in done.stderr
