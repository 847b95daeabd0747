"""The checks of a recipe: it is planned and run on a tiny image set, and the proof of the run is read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

import zoo
from zoo.errors import CheckFailed
from zoo.model.model import ZooModel
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.specs.recipe import RecipeSpec, Stage, recipe_from_toml
from zoo.storage.tensors import file_digest
from zoo.testing import compare
from zoo.testing.compare import require
from zoo.testing.conduct import Fault, Skip, Step
from zoo.testing.tiny import draw

_CLASSES = 2
# Names of the proof's checks that answer one check here.
_FREEZING_CHECKS = ("frozen_unchanged", "frozen_in_evaluation_mode", "optimizer_groups")
_GRADIENT_CHECKS = ("gradients", "finite_result")


class RecipeTrial:
    """A recipe under test. It is a context manager: its temporary folder is removed on exit."""

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
        """The plan for the tiny image set."""
        return zoo.plan(registry=self._registry, **self._request("auto", "cpu"))

    @cached_property
    def run(self) -> Path:
        """The folder of a finished run, whether or not its proof passed."""
        return self.finetune()

    @cached_property
    def proof(self) -> list[Mapping[str, Any]]:
        """The checks of that run's proof, as stored."""
        return _proof_of(self.run)

    def finetune(self, *, precision: str = "float32", device: str = "cpu") -> Path:
        """Run the recipe, scaled down to one epoch per stage, and return the run folder."""
        self._runs += 1
        out = Path(self._folder.name) / f"run{self._runs}"
        try:
            zoo.finetune(registry=self._registry, report=False, out=out, **self._request(precision, device))
        except CheckFailed:
            # A failed proof is for the checks below to read, which say what it means.
            require((out / "proof.json").is_file(), "its run ended without a proof")
        return out

    def model(self) -> ZooModel:
        """Load the classifier that the run saved."""
        return zoo.load(self.run, device="cpu", registry=self._registry).model

    def _request(self, precision: str, device: str) -> dict[str, Any]:
        return {
            "backbone": self._backbone,
            "head": "linear",
            "recipe": str(self._file),
            "weights": "random",
            "data": self._data,
            # A recipe without gradient steps has no epochs.
            "epochs": None if all(stage.solver == "lbfgs" for stage in self.spec.stages) else 1,
            "precision": precision,
            "device": device,
            "tune": False,
        }

    @cached_property
    def _file(self) -> Path:
        # As a file, so that the run also shows that the recipe can be written and read.
        file = Path(self._folder.name) / f"{self.spec.name}.toml"
        file.write_text(self.spec.to_toml(), encoding="utf-8")
        return file

    @cached_property
    def _data(self) -> Path:
        return draw(Path(self._folder.name) / "data", classes=_CLASSES, train=4, val=2)


def _proof_of(run: Path) -> list[Mapping[str, Any]]:
    checks: list[Mapping[str, Any]] = json.loads((run / "proof.json").read_text("utf-8"))["checks"]
    return checks


def _plans(trial: RecipeTrial) -> str:
    stages = [f"{stage.settings.name}: {', '.join(stage.rates) or 'head'}" for stage in trial.plan.stages]
    return f"trained in each stage: {'; '.join(stages)}"


def _options(trial: RecipeTrial) -> str:
    again = recipe_from_toml(trial.spec.to_toml(), name=trial.spec.name)
    same = again.model_dump() == trial.spec.model_dump()
    require(same, "written to a file and read back, it is a different recipe")
    return f"all {len(Stage.model_fields)} settings of a stage are read back from its file unchanged"


def _groups(trial: RecipeTrial) -> str:
    totals = {stage.trainable_parameters + stage.frozen_parameters for stage in trial.plan.stages}
    for stage in trial.plan.stages:
        both = set(stage.trains) & set(stage.freezes)
        require(not both, f"stage {stage.settings.name} both trains and freezes {', '.join(sorted(both))}")
        require(stage.trainable_parameters > 0, f"stage {stage.settings.name} trains nothing")
    # Adapters add parameters to the stages that train them.
    if not any(stage.adapters for stage in trial.plan.stages):
        require(len(totals) == 1, f"trainable and frozen parameters have different sums: {sorted(totals)}")
    return f"in every stage each parameter either trains or is frozen, {max(totals):,} in all"


def _trains(trial: RecipeTrial) -> str:
    lines = (trial.run / "history.jsonl").read_text("utf-8").splitlines()
    ran = {json.loads(line)["stage"] for line in lines}
    result = trial.run / "result.json"
    stages = json.loads(result.read_text("utf-8"))["stages"] if result.exists() else []
    # A stage that was given up before its first epoch did what its recipe says.
    ran |= {stage["name"] for stage in stages if stage.get("abandoned")}
    missing = [stage.settings.name for stage in trial.plan.stages if stage.settings.name not in ran]
    require(not missing, f"the stages {compare.listed(missing)} did not run")
    return f"the run finished; stages: {len(ran)}, epochs: {len(lines)}"


def _require_proved(trial: RecipeTrial, names: tuple[str, ...]) -> None:
    checks = [check for check in trial.proof if check["name"] in names]
    require(bool(checks), f"the proof of its run has none of {', '.join(names)}")
    _require_passed(checks)


def _require_passed(checks: list[Mapping[str, Any]]) -> None:
    failed = [
        check["name"] + (f" (stage {check['stage']})" if check["stage"] else "") + f": {check['summary']}"
        for check in checks
        if check["verdict"] == "failed"
    ]
    require(not failed, "; ".join(failed))


def _freezing(trial: RecipeTrial) -> str:
    _require_proved(trial, _FREEZING_CHECKS)
    return "frozen groups stay bit-identical and in evaluation mode"


def _gradients(trial: RecipeTrial) -> str:
    _require_proved(trial, _GRADIENT_CHECKS)
    return "every parameter that trains has a finite gradient"


def _state_round_trip(trial: RecipeTrial) -> str:
    _require_proved(trial, ("saved_file",))
    return "the saved classifier has the logits for which its stage was chosen"


def _proof(trial: RecipeTrial) -> str:
    _require_passed(trial.proof)
    return f"all {len(trial.proof)} checks of the run's proof hold"


def _determinism(trial: RecipeTrial) -> str:
    first, second = (file_digest(run / "model" / "model.safetensors") for run in (trial.run, trial.finetune()))
    require(first == second, "two runs with the same seed end with different weights")
    return "two runs with the same seed end with bit-identical weights"


def _bf16(trial: RecipeTrial) -> str:
    _require_passed(_proof_of(trial.finetune(precision="bfloat16")))
    return "the proof of a run in bfloat16 holds"


def _cuda(trial: RecipeTrial) -> str:
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    _require_passed(_proof_of(trial.finetune(device="cuda")))
    return "the proof of a run on the GPU holds"


def _export(trial: RecipeTrial) -> str:
    model = trial.model().eval().requires_grad_(False)
    images = torch.randn(3, *model.preprocessing.input_size, generator=torch.Generator().manual_seed(0))
    compare.require_exported(model, images[:2], [images[:1], images])
    return "torch.export accepts the classifier that the run saved"


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
