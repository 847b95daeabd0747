"""What zoo relies on in a recipe, one check each: planned, carried out on a tiny image set, its proof read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from zoo import api
from zoo.errors import CheckFailed
from zoo.model.build import file_digest
from zoo.model.model import ZooModel
from zoo.planning.plan import Plan
from zoo.recipes import RecipeSpec, Stage, recipe_from_toml
from zoo.registry import Registry
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import Fault, Skip, Step
from zoo.testing.images import draw

_CLASSES = 2
_OF_FREEZING = ("frozen_unchanged", "frozen_in_evaluation_mode", "optimizer_groups")
_OF_GRADIENTS = ("gradients", "finite_result")


class RecipeTrial:
    """A recipe under test, in a folder of its own while it is entered."""

    def __init__(self, spec: RecipeSpec, backbone: str, registry: Registry) -> None:
        self.spec = spec
        self._backbone = backbone
        self._registry = registry
        self._folder = tempfile.TemporaryDirectory()
        self._runs = 0

    def __enter__(self) -> RecipeTrial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @cached_property
    def plan(self) -> Plan:
        return api.plan(registry=self._registry, **self._request("auto", "cpu"))

    @cached_property
    def run(self) -> Path:
        """The folder of its run, whatever its proof says."""
        return self.carry_out()

    @cached_property
    def proof(self) -> list[Mapping[str, Any]]:
        """The checks of its run's proof."""
        content = json.loads((self.run / "proof.json").read_text("utf-8"))
        checks: list[Mapping[str, Any]] = content["checks"]
        return checks

    def carry_out(self, *, precision: str = "float32", device: str = "cpu") -> Path:
        """A run of one epoch a stage, or what that makes of longer ones -> its folder."""
        self._runs += 1
        out = Path(self._folder.name) / f"run{self._runs}"
        try:
            api.finetune(registry=self._registry, page=False, out=out, **self._request(precision, device))
        except CheckFailed:
            require((out / "proof.json").is_file(), "its run ended without a proof")
        return out

    def model(self) -> ZooModel:
        """The classifier of its run."""
        return api.load(self.run, device="cpu", registry=self._registry).model

    def _request(self, precision: str, device: str) -> dict[str, Any]:
        return {
            "backbone": self._backbone,
            "head": "linear",
            "recipe": str(self._file),
            "weights": "random",
            "data": self._data,
            "epochs": 1,
            "precision": precision,
            "device": device,
            "tune": False,
        }

    @cached_property
    def _file(self) -> Path:
        file = Path(self._folder.name) / f"{self.spec.name}.toml"
        file.write_text(self.spec.to_toml(), encoding="utf-8")
        return file

    @cached_property
    def _data(self) -> Path:
        return draw(Path(self._folder.name) / "data", classes=_CLASSES, train=4, val=2)


def _plans(trial: RecipeTrial) -> str:
    stages = [f"{each.settings.name}: {', '.join(each.rates) or 'head'}" for each in trial.plan.stages]
    return f"what trains in each stage: {'; '.join(stages)}"


def _options(trial: RecipeTrial) -> str:
    again = recipe_from_toml(trial.spec.to_toml(), name=trial.spec.name)
    require(again.model_dump() == trial.spec.model_dump(), "written to a file and read back, it is another recipe")
    return f"every one of {len(Stage.model_fields)} settings of a stage comes back from its file"


def _groups(trial: RecipeTrial) -> str:
    totals = {each.trainable_parameters + each.frozen_parameters for each in trial.plan.stages}
    for each in trial.plan.stages:
        twice = set(each.trains) & set(each.freezes)
        require(not twice, f"stage {each.settings.name} both trains and freezes {', '.join(sorted(twice))}")
        require(each.trainable_parameters > 0, f"stage {each.settings.name} trains nothing")
    if not any(each.adapters for each in trial.plan.stages):
        require(len(totals) == 1, f"what trains and what is frozen add up differently: {sorted(totals)}")
    return f"in every stage each parameter either trains or is frozen, {max(totals):,} in all"


def _trains(trial: RecipeTrial) -> str:
    lines = (trial.run / "history.jsonl").read_text("utf-8").splitlines()
    ran = {json.loads(line)["stage"] for line in lines}
    left_out = [each.settings.name for each in trial.plan.stages if each.settings.name not in ran]
    require(not left_out, f"the stages {compare.named(left_out)} did not run")
    return f"carried out to its end; stages: {len(ran)}, epochs: {len(lines)}"


def _proved(trial: RecipeTrial, names: tuple[str, ...], found: str) -> str:
    checks = [each for each in trial.proof if each["name"] in names]
    require(bool(checks), f"the proof of its run has none of {', '.join(names)}")
    _require_passed(checks)
    return found


def _require_passed(checks: list[Mapping[str, Any]]) -> None:
    failed = [
        each["name"] + (f" (stage {each['stage']})" if each["stage"] else "") + f": {each['summary']}"
        for each in checks
        if each["verdict"] == "failed"
    ]
    require(not failed, "; ".join(failed))


def _freezing(trial: RecipeTrial) -> str:
    return _proved(trial, _OF_FREEZING, "what a stage freezes is bit for bit what it was, and rests")


def _gradients(trial: RecipeTrial) -> str:
    return _proved(trial, _OF_GRADIENTS, "every parameter that trains has a finite gradient")


def _state_round_trip(trial: RecipeTrial) -> str:
    return _proved(trial, ("saved_file",), "the saved classifier has the logits by which its stage was chosen")


def _proof(trial: RecipeTrial) -> str:
    _require_passed(trial.proof)
    return f"all {len(trial.proof)} checks of its run's proof hold"


def _determinism(trial: RecipeTrial) -> str:
    first, second = (file_digest(run / "model" / "model.safetensors") for run in (trial.run, trial.carry_out()))
    require(first == second, "two runs of one seed end with other weights")
    return "two runs of one seed end with the same bytes"


def _bf16(trial: RecipeTrial) -> str:
    run = trial.carry_out(precision="bfloat16")
    content = json.loads((run / "proof.json").read_text("utf-8"))
    _require_passed(content["checks"])
    return "carried out in bfloat16, its proof holds"


def _cuda(trial: RecipeTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    run = trial.carry_out(device="cuda")
    _require_passed(json.loads((run / "proof.json").read_text("utf-8"))["checks"])
    return "carried out on the GPU, its proof holds"


def _export(trial: RecipeTrial) -> str:
    model = trial.model().eval().requires_grad_(False)
    images = torch.randn(3, *model.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    compare.require_exported(model, images[:2], [images[:1], images])
    return "torch.export takes the classifier that its run saves"


def _described(trial: RecipeTrial) -> str:
    summary = trial.spec.summary
    if "\n" in summary or not summary.strip():
        raise Fault("its summary must be one line")
    return "its summary is one line"


STEPS: tuple[Step[RecipeTrial], ...] = (
    ("plans", _plans),
    ("described", _described),
    ("options", _options),
    ("groups", _groups),
    ("trains", _trains),
    ("freezing", _freezing),
    ("gradients", _gradients),
    ("state_round_trip", _state_round_trip),
    ("proof", _proof),
    ("determinism", _determinism),
    ("bf16", _bf16),
    ("cuda", _cuda),
    ("export", _export),
)
