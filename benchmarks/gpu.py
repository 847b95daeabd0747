"""How well a GPU is used: whole runs of three architectures there, their proof, and their rates in every kind of stage.

    python -m benchmarks.gpu [--images 2000] [--batch-size 128] [--device cuda]
    python -m benchmarks.gpu --device cpu --small        # whether it runs, on any machine

Weights are random and the images generated. `in the run` is what the run's own record says, images that are loaded and
augmented included; `fixed batch` the same work on a batch that stays in the device's memory. The share is that of the
latter in what this chip reached in a large bfloat16 matrix product: operations are counted by
`torch.utils.flop_counter`, two for a multiplication and an addition. The exit code is 1 without a GPU, and where a
run ends in an error or fails its proof.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import zoo
from zoo.specs.plan import Plan
from zoo.storage.cache import cache_folder

from benchmarks.fixed_batch import features_flops, features_rate, median_seconds, training_flops, training_rate
from benchmarks.photos import photos

BACKBONES = ("resnet50", "convnext_tiny", "timm/vit_small_patch16_224")
SMALL = ("timm/test_resnet", "timm/test_convnext", "timm/test_vit")
_RECIPE = Path(__file__).with_name("gpu.toml")
_COLUMNS = (
    *("backbone", "precision", "stage", "GFLOP an image"),
    *("images/s in the run", "fixed batch", "TFLOP/s", "share", "proof"),
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


def matmul_rate(device: str, size: Size) -> float:
    """Operations a second of a square bfloat16 matrix product."""
    left, right = (torch.randn(size.matrix, size.matrix, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        torch.matmul(left, right)
        if left.is_cuda:
            torch.cuda.synchronize(device)

    return 2.0 * size.matrix**3 / median_seconds(multiply, size.seconds)


def lines(backbone: str, data: Path, device: str, size: Size, best: float) -> Iterator[str]:
    """The backbone's rows of the table. Raises zoo.ZooError, CheckFailed where the proof found a fault."""
    with tempfile.TemporaryDirectory() as temporary:
        result = zoo.finetune(
            backbone=backbone,
            data=data,
            recipe=str(_RECIPE),
            weights="random",
            batch_size=size.batch,
            device=device,
            out=Path(temporary) / "run",
        )
        plan = Plan.model_validate_json((result.path / "plan.json").read_text())
        history = [json.loads(line) for line in (result.path / "history.jsonl").read_text().splitlines()]
    named = [backbone, f"{plan.compute}"]
    features = sum(map(sum, plan.data.images.values())) / result.content["seconds"]["features"]
    flops, fixed = features_flops(plan), features_rate(plan, size.seconds)
    yield _line([*named, "features"], features, fixed, flops, best, result.proof)
    for stage in plan.stages:
        name = stage.settings.name
        rate = statistics.median(epoch["images_per_second"] for epoch in history if epoch["stage"] == name)
        if stage.inputs == "features":  # next to no operations, and no images
            yield _joined([*named, name, "", f"{rate:,.0f}", "", "", "", result.proof])
            continue
        flops, fixed = training_flops(plan, stage), training_rate(plan, stage, size.seconds)
        yield _line([*named, name], rate, fixed, flops, best, result.proof)


def main() -> int:
    given = _arguments()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("No GPU: torch sees no CUDA device. Nothing was measured.\nNext: --device cpu --small", file=sys.stderr)
        return 1
    small = Size(backbones=SMALL, images=50, batch=8, seconds=0.1, matrix=512)
    large = Size(backbones=BACKBONES, images=given.images, batch=given.batch_size, seconds=5.0, matrix=8192)
    size = small if given.small else large
    data = photos(cache_folder() / "benchmarks", size.images)
    best = matmul_rate(given.device, size)
    name = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else given.device
    print(f"{name}, torch {torch.__version__}; bfloat16 product of {size.matrix} squared: {best / 1e12:.3g} TFLOP/s\n")
    print(_joined(_COLUMNS), "|" + "---|" * len(_COLUMNS), sep="\n")
    failed = 0
    for backbone in size.backbones:
        try:
            for line in lines(backbone, data, given.device, size, best):
                print(line, flush=True)
        except zoo.ZooError as error:
            failed += 1
            print(f"{backbone}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _line(named: list[str], rate: float, fixed: float, flops: float, best: float, proof: str) -> str:
    reached = fixed * flops
    numbers = [f"{flops / 1e9:.2f}", f"{rate:,.0f}", f"{fixed:,.0f}", f"{reached / 1e12:.3g}", f"{reached / best:.1%}"]
    return _joined([*named, *numbers, proof])


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
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
