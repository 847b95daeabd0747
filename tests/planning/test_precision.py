"""Precision and memory layout: measured, kept, recorded, the same in training, prediction and the saved file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors.torch import load_file
from tests.conftest import Zoo
from zoo.events import Event, Note
from zoo.planning import precision as speed
from zoo.specs.plan import Compute

FLOAT, LAYOUT, HALF = Compute(), Compute("float32", "channels_last"), Compute("bfloat16", "channels_last")


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({}, FLOAT),
        ({FLOAT: 10, LAYOUT: 11.9, HALF: 11.9}, FLOAT),
        ({FLOAT: 10, LAYOUT: 12.1, HALF: 14}, LAYOUT),
        ({FLOAT: 10, LAYOUT: 11, HALF: 12.1}, HALF),
        ({FLOAT: 10, LAYOUT: 13, HALF: 30}, HALF),
        ({FLOAT: 10, HALF: 5}, FLOAT),
        ({LAYOUT: 10}, FLOAT),
    ],
)
def test_the_simpler_stands_unless_the_other_is_a_fifth_faster(rates: dict[Compute, float], chosen: Compute) -> None:
    assert speed._fastest([FLOAT, LAYOUT, HALF], {str(key): rate for key, rate in rates.items()}) == chosen


def test_what_cannot_be_run_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = zoo.model.model.ZooModel.features  # type: ignore[attr-defined]

    def no_half(self: Any, images: torch.Tensor) -> torch.Tensor:
        if self.compute.precision == "bfloat16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return torch.as_tensor(original(self, images))

    monkeypatch.setattr("zoo.model.model.ZooModel.features", no_half)
    choice = speed.choose_compute(
        lambda: zoo.create_model("timm/test_resnet", classes=2, weights="random"),
        name="unable",
        device="cpu",
        trains=True,
        precision="auto",
        tune=True,
        report=lambda event: None,
    )
    assert set(choice.speeds) == {str(FLOAT), str(LAYOUT)} and choice.compute in (FLOAT, LAYOUT)


def test_a_measurement_is_made_once_and_used_again(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    plans, said = [], []
    for _ in range(2):
        events: list[Event] = []
        plans.append(
            zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=True, on_event=events.append)
        )
        said.append(sum("Measuring" in each.text for each in events if isinstance(each, Note)))
    assert said == [1, 0]
    assert plans[0].speeds == plans[1].speeds and len(plans[0].speeds) == 3
    assert plans[0].compute == plans[1].compute
    without = zoo.plan(backbone="timm/test_resnet", weights="random", data=few, tune=False)
    assert without.speeds == {} and without.compute == FLOAT


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
