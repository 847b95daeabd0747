"""How well a GPU is used: whole runs of three architectures there, their proof, and their rates in every kind of stage.

    python -m benchmarks.gpu [--images 2000] [--batch-size 128] [--device cuda] [--budget 450] [--compile]
    python -m benchmarks.gpu --device cpu --small        # whether it runs and counts right, on any machine

Weights are random and the images generated. `in the run` is what the run's own record says, images that are loaded and
augmented included; `fixed batch` the same work on a batch that stays in the device's memory, and `of fixed` the share
of the former in the latter. `of matrix` is the share of the fixed batch in what this chip reached in a large matrix
product: operations are counted by `torch.utils.flop_counter`, two for a multiplication and an addition. `waits` is how
often a step waits for the device. With --compile, the step on the fixed batch is also compiled by torch, as CUDA graphs
on a GPU. What does not fit into the budget of seconds is left out, and named.

The exit code is 1 without a GPU, where a run ends in an error or fails its proof, and where the numbers cannot be true.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import zoo
from zoo.specs.plan import Plan, StagePlan
from zoo.storage.cache import cache_folder

from benchmarks import flops, jpeg_rates
from benchmarks.fixed_batch import (
    compiled_rate,
    features_flops,
    features_rate,
    head_rate,
    median_seconds,
    training_flops,
    training_rate,
)
from benchmarks.host_waits import StepWaits
from benchmarks.photos import photos

BACKBONES = ("resnet50", "convnext_tiny", "timm/vit_small_patch16_224")
SMALL = ("timm/test_resnet", "timm/test_convnext", "timm/test_vit")
MOST = 1.1
"""More than this share of what was measured as possible is a fault of the measurement."""
_RECIPE = Path(__file__).with_name("gpu.toml")
_COLUMNS = (
    *("backbone", "precision", "stage", "GFLOP an image", "images/s in the run", "fixed batch", "of fixed"),
    *("TFLOP/s", "of matrix", "waits", "proof"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is done."""

    backbones: tuple[str, ...]
    images: int
    batch: int
    seconds: float
    """Of every measurement on a fixed batch."""
    matrix: int
    """Rows and columns of the matrices whose product is timed."""
    most: float
    """The largest share of a fixed batch that a run can have. Short measurements on a CPU that others use, too, differ
    by more than a few percent: there only a fault of the arithmetic would show."""


@dataclass(slots=True)
class Budget:
    """The seconds that there are, and what they went to."""

    seconds: float
    began: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of each kind of work."""
    left_out: list[str] = field(default_factory=list)
    _longest: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return time.perf_counter() - self.began

    def allows(self, kind: str, name: str) -> bool:
        """Whether there is time for work that takes as long as the longest of its kind so far; else it is left out."""
        if self.total + self._longest.get(kind, 0.0) < self.seconds:
            return True
        self.left_out.append(f"{name}: {kind}")
        return False

    @contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.spent[kind] = self.spent.get(kind, 0.0) + took
            self._longest[kind] = max(took, self._longest.get(kind, 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One row of the table."""

    named: tuple[str, str, str]
    """Backbone, precision, stage."""
    run: float
    """Images a second in the run."""
    fixed: float
    """Images a second on the fixed batch."""
    flops: float = 0.0
    """Operations an image; 0: next to none."""
    waits: float | None = None
    """Waits a step."""
    proof: str = ""

    def line(self, best: float) -> str:
        of_chip = ["", "", ""]
        if self.flops:
            reached = self.fixed * self.flops
            of_chip = [f"{self.flops / 1e9:.2f}", f"{reached / 1e12:.3g}", f"{reached / best:.1%}"]
        rates = [f"{self.run:,.0f}", f"{self.fixed:,.0f}", f"{self.run / self.fixed:.2f}"]
        waits = "" if self.waits is None else f"{self.waits:.2f}"
        return _joined([*self.named, of_chip[0], *rates, *of_chip[1:], waits, self.proof])

    def faults(self, size: Size, best: float) -> Iterator[str]:
        """Why these numbers cannot be true."""
        name = " ".join(self.named)
        if self.run > size.most * self.fixed:
            yield f"{name}: {self.run / self.fixed:.2f} of the same step on a fixed batch is more than all of it"
        if self.fixed * self.flops > MOST * best:
            share = self.fixed * self.flops / best
            yield f"{name}: {share:.2f} of the chip's matrix rate is more than all of it"


def matmul_rate(device: str, size: Size) -> float:
    """Operations a second of a square matrix product: in bfloat16 on a GPU, in the faster precision on a CPU."""
    rates = []
    for dtype in (torch.bfloat16,) if device.startswith("cuda") else (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size.matrix, size.matrix, device=device, dtype=dtype) for _ in range(2))

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right) -> None:
            torch.matmul(left, right)
            if left.is_cuda:
                torch.cuda.synchronize(device)

        rates.append(2.0 * size.matrix**3 / median_seconds(multiply, size.seconds))
    return max(rates)


def measure(backbone: str, data: Path, device: str, size: Size, budget: Budget, compiles: bool) -> Iterator[Measured]:
    """The backbone's rows of the table. Raises zoo.ZooError, CheckFailed where the proof found a fault."""
    waits = StepWaits()
    with budget.spend("run"), tempfile.TemporaryDirectory() as temporary, waits.counted(device):
        result = zoo.finetune(
            backbone=backbone,
            data=data,
            recipe=str(_RECIPE),
            weights="random",
            batch_size=size.batch,
            device=device,
            out=Path(temporary) / "run",
            on_event=waits,
        )
        plan = Plan.model_validate_json((result.path / "plan.json").read_text())
        history = [json.loads(line) for line in (result.path / "history.jsonl").read_text().splitlines()]

    def rate(stage: str) -> float:
        return statistics.median(epoch["images_per_second"] for epoch in history if epoch["stage"] == stage)

    def named(stage: str) -> tuple[str, str, str]:
        return backbone, str(plan.compute), stage

    with budget.spend("fixed batch"):
        images = sum(map(sum, plan.data.images.values())) / result.content["seconds"]["features"]
        fixed = features_rate(plan, size.seconds)
        yield Measured(named=named("features"), run=images, fixed=fixed, flops=features_flops(plan))
    for stage in plan.stages:
        name = stage.settings.name
        if not budget.allows("fixed batch", f"{backbone} {name}"):
            continue
        with budget.spend("fixed batch"):
            fixed, operations = _fixed(plan, stage, size.seconds)
        yield Measured(
            named=named(name),
            run=rate(name),
            fixed=fixed,
            flops=operations,
            waits=waits.of(name),
            proof=result.proof,
        )
    last = plan.stages[-1]
    if compiles and budget.allows("compiled", f"{backbone} {last.settings.name}"):
        with budget.spend("compiled"):
            fixed, operations = compiled_rate(plan, last, size.seconds), training_flops(plan, last)
        name = last.settings.name
        yield Measured(named=named(f"{name}, compiled"), run=rate(name), fixed=fixed, flops=operations)


def _fixed(plan: Plan, stage: StagePlan, seconds: float) -> tuple[float, float]:
    """Images a second of the stage on a fixed batch, operations an image."""
    if stage.inputs == "features":
        return head_rate(plan, stage, seconds), 0.0  # next to no operations
    return training_rate(plan, stage, seconds), training_flops(plan, stage)


def decoding(data: Path, device: str, size: Size) -> Iterator[str]:
    """How many photographs a second are decoded on the CPU, and on the GPU where it can."""
    files = sorted(data.rglob("*.jpg"))[: size.batch]
    on_cpu = jpeg_rates.cpu_rate(files, size.seconds)
    yield f"decoding on all cores: {on_cpu:,.0f} images/s"
    if not device.startswith("cuda"):
        yield "decoding on the GPU: not measured, there is none"
        return
    try:
        on_gpu = jpeg_rates.gpu_rate(files, size.seconds, device)
    except (RuntimeError, ImportError) as error:
        yield f"decoding on the GPU: not there ({str(error).splitlines()[0]})"
        return
    yield f"decoding on the GPU (nvJPEG): {on_gpu:,.0f} images/s, {on_gpu / on_cpu:.1f} times the CPU"


def miscounted(backbones: Sequence[str]) -> Iterator[str]:
    """Backbones whose operations torch counts otherwise than by the formulas of their layers."""
    for name in backbones:
        with torch.device("meta"):
            model = zoo.create_model(name, head="linear", classes=2, weights="random").eval()
            images = torch.empty(2, *model.preprocessing.input_size)
        found, expected = flops.counted(model, images), flops.by_formula(model, images)
        if abs(found / expected - 1) > 1e-3:
            yield f"{name}: {found:.4g} operations are counted, by formula there are {expected:.4g}"


def main() -> int:
    given = _arguments()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU: torch sees no CUDA device. Nothing was measured.\nNext: --device cpu --small", file=sys.stderr)
        return 1
    small = Size(backbones=SMALL, images=50, batch=8, seconds=0.1, matrix=512, most=10.0)
    large = Size(backbones=BACKBONES, images=given.images, batch=given.batch_size, seconds=3.0, matrix=8192, most=MOST)
    size, budget = small if given.small else large, Budget(given.budget)
    with budget.spend("photographs, matrix product"):
        data = photos(cache_folder() / "benchmarks", size.images)
        best = matmul_rate(given.device, size)
    with budget.spend("counting"):
        faults = [*miscounted(size.backbones)]
    name = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device
    print(f"{name}, torch {torch.__version__}; product of {size.matrix} squared: {best / 1e12:.3g} TFLOP/s")
    with budget.spend("decoding"):
        print(*decoding(data, given.device, size), sep="\n")
    print("", _joined(_COLUMNS), "|" + "---|" * len(_COLUMNS), sep="\n")
    for backbone in size.backbones:
        if not budget.allows("run", backbone):
            continue
        try:
            for row in measure(backbone, data, given.device, size, budget, given.compile):
                print(row.line(best), flush=True)
                faults += row.faults(size, best)
        except zoo.ZooError as error:
            faults.append(f"{backbone}: {error}")
    return end(budget, faults)


def end(budget: Budget, faults: list[str]) -> int:
    """Print what the seconds went to, what was left out and what is wrong -> the exit code."""
    total, spent = budget.total, sum(budget.spent.values())
    parts = ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in budget.spent.items())
    print(f"\n{total:.0f} s of {budget.seconds:.0f}: {parts}")
    if budget.left_out:
        print("Left out for want of time: " + "; ".join(budget.left_out))
    if not 0.9 * total - 1 <= spent <= total:
        faults.append(f"the parts take {spent:.1f} s, and the whole {total:.1f} s")
    for fault in faults:
        print(f"Wrong: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--images", type=int, default=2000, help="a multiple of 25")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--small", action="store_true", help="tiny architectures on 50 images: whether it runs")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds after which nothing more is begun")
    parser.add_argument("--compile", action="store_true", help="measure a compiled step, too")
    given = parser.parse_args()
    if given.images % 25 or given.images < 25:
        parser.error(f"--images must be a multiple of 25, got {given.images}")
    if given.batch_size < 2 or not given.budget > 0:
        parser.error("--batch-size must be at least 2, and --budget more than 0")
    return given


if __name__ == "__main__":
    sys.exit(main())
