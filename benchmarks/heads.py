"""Solved heads on cached features of real networks, by how far columns are standardised, against AdamW.

    python -m benchmarks.heads [--backbones A,B] [--data A,B] [--images 5,10,25] [--draws 2]

Training and validation images of a set are taken together. So many of each class are drawn to train, and all others
judge, on which nobody chose. Features are computed once for each network and set, and kept in zoo's cache folder.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from zoo.evaluation.metrics import Scores, score
from zoo.frozen.outputs import FrozenOutputs
from zoo.planning.request import make_request
from zoo.probes.folds import make_folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import choose_strength
from zoo.registry.registry import default_registry
from zoo.training.prepare import prepare

SHARES = (1.0, 0.5, 0.0)
"""How far columns are standardised."""
_EPOCHS, _RATE, _DECAY, _DROPOUT, _BATCH, _WARMUP = 80, 3e-3, 1e-4, 0.2, 32, 0.1
"""The head stage of recipes before they had a solver."""


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features of all images of a set."""

    rows: Tensor
    """features[N, F]."""
    targets: Tensor
    """Class indices int64[N]."""
    classes: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images of a set, drawn to train, and all others."""

    train: Tensor
    """features[N, F]."""
    train_targets: Tensor
    test: Tensor
    """features[M, F]."""
    test_targets: Tensor
    classes: int


def features_of(backbone: str, data: Path, weights: Path) -> Features:
    """Compute the pooled features of a set, or read them from zoo's cache folder."""
    request = make_request(
        backbone=backbone, weights=str(weights), data=data, head="linear", recipe="head_only", offline=True
    )
    with prepare(request, default_registry(), lambda event: None) as prepared:
        context = prepared.context()
        inputs = FrozenOutputs(context).inputs(prepared.plan.stages[0])
        rows = [table.rows(range(len(table))) for table in (*inputs.views, inputs.val)]
        targets = torch.cat([context.train_targets, context.val_targets])
        return Features(torch.cat(rows), targets, len(prepared.plan.classes))


def draw(features: Features, images: int, seed: int) -> Drawn:
    """Draw so many images of each class; 0 for seven tenths of them."""
    generator = torch.Generator().manual_seed(seed)
    train = torch.zeros(len(features.targets), dtype=torch.bool)
    for label in range(features.classes):
        of_class = (features.targets == label).nonzero()[:, 0]
        of_class = of_class[torch.randperm(len(of_class), generator=generator)]
        train[of_class[: images or int(0.7 * len(of_class))]] = True
    rows, targets = features.rows, features.targets
    return Drawn(rows[train], targets[train], rows[~train], targets[~train], features.classes)


def solved(drawn: Drawn, share: float) -> Scores:
    """Solve the head as a run does."""
    problem = LogisticProblem(drawn.train, drawn.train_targets, drawn.classes, share=share)
    chosen = choose_strength(problem, make_folds(drawn.train_targets.tolist()))
    fit = problem.fit(chosen.strength, chosen.start)
    return score(drawn.test @ fit.weight.T + fit.bias, drawn.test_targets)


def trained(drawn: Drawn, seed: int) -> Scores:
    """Train the head by AdamW, with dropout, as recipes did before they had a solver."""
    torch.manual_seed(seed)
    layer, dropout = nn.Linear(drawn.train.shape[1], drawn.classes), nn.Dropout(_DROPOUT)
    decayed = [{"params": [layer.weight], "weight_decay": _DECAY}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decayed, lr=_RATE)
    steps = _EPOCHS * math.ceil(len(drawn.train) / _BATCH)
    warmup = math.ceil(_WARMUP * steps)

    def factor(step: int) -> float:
        done = (step - warmup) / max(1, steps - warmup)
        return (step + 1) / (warmup + 1) if step < warmup else 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(drawn.train)).split(_BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(layer(dropout(drawn.train[batch])), drawn.train_targets[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return score(layer(drawn.test), drawn.test_targets)


def sets(given: argparse.Namespace, real: Path) -> Iterator[Features]:
    for backbone in given.backbones.split(","):
        weights = real / "weights" / f"{backbone.rpartition('/')[2]}.safetensors"
        for data in given.data.split(","):
            print(f"features: {backbone}, {data}", file=sys.stderr, flush=True)
            yield features_of(backbone, real / "data" / data, weights)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lite = ",".join(f"timm/tf_efficientnet_lite{number}" for number in range(3))
    parser.add_argument("--backbones", default=f"squeezenet1_1,{lite}")
    parser.add_argument("--data", default="hymenoptera,flowers5,textures10")
    parser.add_argument("--images", default="5,10,25,0", help="images a class; 0: seven tenths")
    parser.add_argument("--draws", type=int, default=2)
    given = parser.parse_args()
    if "ZOO_TEST_DATA" not in os.environ:
        parser.error("ZOO_TEST_DATA does not name the folder with data/ and weights/")
    every = list(sets(given, Path(os.environ["ZOO_TEST_DATA"])))
    print("| images a class | AdamW | " + " | ".join(f"solved, share {share:g}" for share in SHARES) + " |")
    print("|---" * (2 + len(SHARES)) + "|")
    for images in map(int, given.images.split(",")):
        draws = [draw(features, images, seed) for features in every for seed in range(given.draws)]
        columns = [[trained(drawn, 0) for drawn in draws]]
        columns += [[solved(drawn, share) for drawn in draws] for share in SHARES]
        cells = [
            f"{100 * statistics.mean(each.accuracy for each in column):.1f}, "
            f"{statistics.mean(each.loss for each in column):.3f}"
            for column in columns
        ]
        print(f"| {images or 'seven tenths'} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
