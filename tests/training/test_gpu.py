"""On a GPU, which is pretended: everything lies where it is used, and a step does not wait for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from tests.pretended_gpu import GPU, PretendedGpu, move
from torch import Tensor, nn
from zoo.distributed.group import ProcessGroup
from zoo.evaluation import inference
from zoo.evaluation.metrics import score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.events import Event, Progress, Report, silent
from zoo.frozen.inputs import CachedInputs, Inputs
from zoo.frozen.outputs import forward_of
from zoo.model import adapters
from zoo.model.model import ZooModel
from zoo.registry.registry import default_registry
from zoo.specs.plan import Plan, StagePlan
from zoo.storage.table import table_of
from zoo.training.objective import anchors_of, objective_for
from zoo.training.prepare import with_adapters
from zoo.training.shares import Shares
from zoo.training.stage_watch import FIRST_STEPS, StageWatch
from zoo.training.trainer import StageSetup, StageTrainer


def quick_if(quick: bool, *values: Any) -> Any:
    return pytest.param(*values, marks=() if quick else pytest.mark.long)


HEADS = [head.spec for head in default_registry().heads() if head.plugin.own]
TRAINED = [head for head in HEADS if head.fit is None]
COUNT, SIZE = 32, 4
NO_WAIT: list[dict[str, int]] = [{}, {}]
"""Who waits in each of two steps, and how often."""
ONE_READ = {"training/step_numbers.py:read": 1}
"""Who waits, and how often, where the losses and norms of many steps are read together."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    return PretendedGpu(monkeypatch)


def planned(few: Path, *settings: str, **arguments: Any) -> tuple[Plan, ZooModel]:
    """A plan, and its model in main memory."""
    usual: dict[str, Any] = {"backbone": "timm/test_resnet", "head": "linear", "recipe": "full", "epochs": 4}
    chosen = {**usual, **arguments}
    plan = zoo.plan(**chosen, weights="random", data=few, batch_size=SIZE, set=settings, tune=False)
    model = zoo.create_model(chosen["backbone"], head=chosen["head"], classes=len(plan.classes), weights="random")
    return plan, model


@dataclass
class Images:
    """Batches of images in main memory, as a store gives them."""

    size: tuple[int, ...]
    chunk: int = SIZE

    @property
    def stored(self) -> Sequence[int] | None:
        return None

    def train_batches(
        self,
        order: Sequence[Sequence[int]],
        key: str,
        epoch: int,
        begin: int = 0,
        positions: Sequence[Sequence[int]] | None = None,
    ) -> Iterator[Tensor]:
        return (torch.rand(len(indices), *self.size) for indices in (positions or order)[begin:])

    def features(self, model: ZooModel, batch: Tensor) -> Tensor:
        return model.features(batch)

    def val_logits(self, model: ZooModel) -> Tensor:
        return logits(model, [torch.rand(SIZE, *self.size)])


def logits(model: ZooModel, batches: Sequence[Tensor]) -> Tensor:
    count = sum(map(len, batches))
    return inference.logits_of_batches(model, batches, count, micro_batches=micro_batches(), progress=lambda done: None)


def micro_batches(size: int = SIZE) -> MicroBatches:
    return MicroBatches(size, work="a test", report=lambda event: None, retries=[])


def trainer(
    plan: Plan,
    stage: StagePlan,
    model: ZooModel,
    inputs: Inputs | None = None,
    *,
    at_a_time: int = SIZE,
    report: Report = silent,
) -> StageTrainer:
    """The trainer of a stage, whose model is on the GPU; adapters are in."""
    model.freeze_all_but(stage.trains, stage.tensors, stage.batch_norm)
    targets = torch.zeros(COUNT, dtype=torch.int64)
    anchors = anchors_of(model) if stage.settings.l2_sp else None
    return StageTrainer(
        StageSetup(
            model=model,
            stage=stage,
            inputs=inputs or Images(model.preprocessing.input_size),
            train_targets=targets,
            scored=lambda logits: score(logits, targets),
            seed=0,
            objective=objective_for(stage.settings, targets, len(plan.classes), anchors),
            watch=StageWatch(model, stage),
            micro_batches=micro_batches(at_a_time),
            report=report,
        )
    )


class Waits:
    """Notes who waited in each step: to be given to a trainer as its `report`."""

    def __init__(self, gpu: PretendedGpu) -> None:
        self._gpu = gpu
        self._steps: list[dict[str, int]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._steps.append(dict(self._gpu.waits))
            self._gpu.waits.clear()

    def of_steps(self, training: StageTrainer) -> list[dict[str, int]]:
        """Train -> who waited in each of two steps after the first ones, whose weights the proof records."""
        training.run(stop_after=FIRST_STEPS)
        self._gpu.waits.clear()
        self._steps.clear()
        training.run(stop_after=FIRST_STEPS + 2)
        assert dict(self._gpu.waits) == ONE_READ  # at the stop
        return self._steps


@pytest.mark.long
@pytest.mark.parametrize("head", [quick_if(head.name in ("linear", "arcface"), head.name) for head in TRAINED])
def test_every_head_that_is_trained_trains_there_and_no_step_waits(head: str, few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few, head=head)
    with gpu:
        move(model)
        waits = Waits(gpu)
        assert waits.of_steps(trainer(plan, plan.stages[0], model, report=waits)) == NO_WAIT
        model.eval()
        assert model(torch.rand(2, *model.preprocessing.input_size, device=GPU)).device == GPU


@pytest.mark.parametrize("head", [head.name for head in HEADS if head.fit is not None])
def test_every_head_in_closed_form_is_fitted_there(head: str, few: Path, gpu: PretendedGpu) -> None:
    model = zoo.create_model("timm/test_resnet", head=head, classes=3, weights="random").eval()
    with gpu:
        move(model)
        features = model.features(torch.rand(COUNT, *model.preprocessing.input_size, device=GPU)).detach()
        model.fit_head(features, torch.zeros(COUNT, dtype=torch.int64, device=GPU))
        assert {tensor.device for tensor in model.state_dict().values()} == {GPU}
        assert model.head(features).device == GPU


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # copied by EMA
@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (["all.mixup=0.2", "all.cutmix=1"], {}),
        (["all.label_smoothing=0.1", "all.class_weights=balanced"], {}),
        (["all.ema=0.9"], {}),
        (["all.batch_norm=frozen"], {}),
        (["all.batch_norm=adapt", "all.clip=1"], {}),
        (["all.l2_sp=0.1"], {}),
        (["all.layer_decay=0.7"], {}),
        (["all.optimizer=sgd"], {}),
        (["all.gradient_checkpointing=true"], {"backbone": "timm/test_vit"}),
        ([], {"recipe": "lora", "backbone": "timm/test_vit"}),
        ([], {"recipe": "bias"}),
        ([], {"recipe": "norms"}),
    ],
    ids=lambda value: "-".join(value if isinstance(value, list) else map(str, value.values())) or "usual",
)
def test_every_mechanism_of_a_stage_works_there(
    settings: list[str], arguments: dict[str, Any], few: Path, gpu: PretendedGpu
) -> None:
    plan, model = planned(few, *settings, **arguments)
    stage = plan.stages[-1]
    # Adapters first: outside of pretence they go where their layer is, by `.to`, which pretended tensors do not have.
    with with_adapters(model, stage, 0), gpu:
        move(model)
        model.checkpoint_gradients(stage.settings.gradient_checkpointing)
        waits = Waits(gpu)
        training = trainer(plan, stage, model, report=waits)
        assert waits.of_steps(training) == NO_WAIT
        assert training.state_dict()
        if stage.adapters:
            adapters.merge(model)
        assert {parameter.device for parameter in model.parameters()} == {GPU}


class _OneOfTwo(ProcessGroup):
    """A process whose other one has nothing to add."""

    count = 2


def test_a_batch_that_processes_share_is_added_up_there(few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few, "all.batch_norm=frozen")
    with gpu:
        move(model)
        training = trainer(plan, plan.stages[0], model)
        training._work.shares = Shares(2, _OneOfTwo())
        assert training.run(stop_after=2) is None


@pytest.mark.long
def test_micro_batches_do_not_wait_for_each_other(few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few, "all.accumulate=2")
    with gpu:
        move(model)
        training = trainer(plan, plan.stages[0], model, at_a_time=2)
        training.run(stop_after=FIRST_STEPS)
        gpu.waits.clear()
        training.run(stop_after=FIRST_STEPS + 1)  # eight images, two at a time
        assert dict(gpu.waits) == ONE_READ


def test_predicting_and_evaluating_wait_once_for_many_chunks(few: Path, gpu: PretendedGpu) -> None:
    _, model = planned(few)
    with gpu:
        move(model)
        batches = [torch.rand(count, *model.preprocessing.input_size) for count in (SIZE, SIZE, 1)]
        found = logits(model, batches)
        assert found.device.type == "cpu" and len(found) == 2 * SIZE + 1
        assert sum(gpu.waits.values()) == 1
        gpu.waits.clear()
        rows = table_of(torch.rand(17 * SIZE, model.shape.pooled))
        assert len(inference.cached_logits(model, rows, None, micro_batches=micro_batches())) == len(rows)
        assert sum(gpu.waits.values()) == 2  # after 16 of them, and at the end


@pytest.mark.parametrize("cut", [False, True])
def test_kept_outputs_are_made_and_trained_on_there(cut: bool, few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few, recipe="staged" if cut else "head_only")
    stage, before = plan.stages[1 if cut else 0], model.groups.names[-1] if cut else ""
    assert stage.trains == ((before, "head") if cut else ("head",))
    with gpu:
        move(model)
        forward = forward_of(model, model.cut_before(before) if before else None)
        images = [torch.rand(SIZE, *model.preprocessing.input_size) for _ in range(COUNT // SIZE)]
        rows = torch.cat(list(inference.outputs(forward, model, images, micro_batches())))
        assert rows.device.type == "cpu" and sum(gpu.waits.values()) == len(images)
        inputs = CachedInputs((table_of(rows),), table_of(rows[:SIZE]), micro_batches(), before)
        waits = Waits(gpu)
        assert waits.of_steps(trainer(plan, stage, model, inputs, report=waits)) == NO_WAIT
        assert inputs.val_logits(model).device.type == "cpu"


class Careless(nn.Module):
    """A head that does what a GPU does not forgive."""

    def __init__(self, *, forgets: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(96, 2)
        self.scale = torch.ones(2)  # no buffer, so nobody moves it
        self._forgets = forgets

    def forward(self, features: Tensor) -> Tensor:
        """features[N, 96] -> logits[N, 2]."""
        found: Tensor = self.fc(features)
        return found * self.scale if self._forgets else found * float(found.detach().abs().max())


def test_a_tensor_that_stayed_behind_is_found(few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few)
    model.head = Careless(forgets=True)
    with gpu:
        move(model)
        with pytest.raises(RuntimeError, match=r"two different devices|two devices"):
            trainer(plan, plan.stages[0], model).run(stop_after=1)


def test_a_number_that_is_asked_for_is_counted(few: Path, gpu: PretendedGpu) -> None:
    plan, model = planned(few)
    model.head = Careless(forgets=False)
    with gpu:
        move(model)
        waits = Waits(gpu)
        for each in waits.of_steps(trainer(plan, plan.stages[0], model, report=waits)):
            assert sum(each.values()) == 1
