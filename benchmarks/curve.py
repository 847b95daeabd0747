"""How often the interval for twice and four times as many images holds what they bring: backtests on real sets.

    python -m benchmarks.curve SETS WEIGHTS [--data NAME,...] [--backbones NAME,...] [--seeds 100-104]

SETS is a folder of data sets, WEIGHTS one of `NAME.safetensors`, named by the architecture. All images of a set count,
whatever their split. For each seed half of them are hidden (three quarters, for four times as many), copies and
near-duplicates undivided. The statement is made of the rest alone. The truth is what the curve of all images says at
its end: the gain of the images that were not hidden, and the accuracy of all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo.advice.features import probe_features, similar_groups
from zoo.events import silent
from zoo.planning.request import make_request
from zoo.probes.curve_record import CurveRecord, record_of
from zoo.probes.folds import make_folds
from zoo.probes.learning_curve import LearningCurve, learning_curve
from zoo.registry.registry import default_registry

SETS = "flowers5,textures10,hymenoptera"
BACKBONES = "squeezenet1_1,timm/tf_efficientnet_lite0,timm/tf_efficientnet_lite1,timm/tf_efficientnet_lite2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Backtest:
    """One statement, made with a part of the images, and the truth."""

    data: str
    backbone: str
    times: int
    of: str
    """`gain`, `accuracy` or `class`."""
    said: bool
    """Whether a statement was made."""
    holds: bool = False
    half_width: float = 0.0
    miss: float = 0.0
    """The truth less the middle of the statement."""


def backtests(data: str, backbone: str, sets: Path, weights: Path, seeds: Sequence[int]) -> Iterator[Backtest]:
    """Yield the backtests of one set with one backbone."""
    file = weights / f"{backbone.rpartition('/')[2]}.safetensors"
    request = make_request(backbone=backbone, data=sets / data, weights=str(file), precision="float32", tune=False)
    found = probe_features(request, default_registry(), silent)
    groups = similar_groups(found.files, silent)
    labels, classes = found.targets.tolist(), len(found.classes)
    whole = learning_curve(found.features, found.targets, classes, groups=groups)
    truth = whole.right[:, -1].double().mean(0)
    for seed in seeds:
        quarters = torch.tensor(make_folds(labels, groups, most=4, seed=seed).of_rows)
        for index, (times, seen) in enumerate(((2, quarters <= 1), (4, quarters == 0))):
            kept = seen.nonzero()[:, 0]
            curve = learning_curve(
                found.features[kept],
                found.targets[kept],
                classes,
                groups=[groups[row] for row in kept.tolist()],
                seed=seed,
            )
            record = record_of(curve, found.classes)
            for of, said, half, miss, holds in _compared(record, curve, index, truth, kept):
                yield Backtest(
                    data=data, backbone=backbone, times=times, of=of, said=said, half_width=half, miss=miss, holds=holds
                )


def _compared(
    record: CurveRecord, curve: LearningCurve, index: int, truth: torch.Tensor, kept: torch.Tensor
) -> Iterator[tuple[str, bool, float, float, bool]]:
    """Yield (of what, whether it was said, half width, miss, whether it holds); truth[N], kept[M] of N images."""
    forecast = record.forecasts[index]
    gain = float(truth[kept].mean()) - curve.accuracies[-1]
    statements = [("gain", forecast.gain, gain), ("accuracy", forecast.accuracy, float(truth.mean()))]
    if index == 0:
        for label, each in enumerate(record.classes):
            images = curve.targets == label
            found = float(truth[kept][images].mean()) - float(curve.right[:, -1, images].double().mean())
            statements.append(("class", each.gain, found))
    for of, said, found in statements:
        if said is None:
            yield of, False, 0.0, 0.0, False
        else:
            half, holds = (said.high - said.low) / 2, said.low - 1e-12 <= found <= said.high + 1e-12
            yield of, True, half, found - said.value, holds


def table(found: Sequence[Backtest]) -> Iterator[str]:
    """Yield the lines of a Markdown table: for every kind of statement, over all sets and of each."""
    yield "| statement | images | backtests | said | holds | median half width | median miss |"
    yield "|---|---|---|---|---|---|---|"
    for times, of in ((2, "gain"), (2, "accuracy"), (2, "class"), (4, "gain"), (4, "accuracy")):
        for data in ["all", *dict.fromkeys(each.data for each in found)]:
            rows = [each for each in found if (each.times, each.of) == (times, of) and data in ("all", each.data)]
            said = [each for each in rows if each.said]
            numbers = [f"{times} x, {of}", data, str(len(rows)), f"{len(said) / len(rows):.0%}"]
            if said:
                numbers.append(f"{sum(each.holds for each in said) / len(said):.0%}")
                numbers.append(f"{100 * statistics.median(each.half_width for each in said):.1f} points")
                numbers.append(f"{100 * statistics.median(each.miss for each in said):+.1f} points")
            yield f"| {' | '.join(numbers)} |"


def main() -> None:
    """Make all backtests and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", default=SETS)
    parser.add_argument("--backbones", default=BACKBONES)
    parser.add_argument("--seeds", default="100-104", help="first-last; 0 to 7 chose the law and the interval")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    found: list[Backtest] = []
    for data in arguments.data.split(","):
        for backbone in arguments.backbones.split(","):
            print(f"{data}, {backbone}", file=sys.stderr)
            found += backtests(data, backbone, arguments.sets, arguments.weights, seeds)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
