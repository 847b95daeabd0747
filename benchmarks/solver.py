"""Seconds of a solved head on many images, beside 80 epochs of AdamW on the same features.

    python -m benchmarks.solver [--images 10000] [--columns 2048] [--classes 10,100]

The features are made: no set of that size is needed. They are as pooled features are, never negative and far from
independent. Cross-validation of the penalty is part of the seconds, as in a run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch
from torch import Tensor
from zoo.evaluation.metrics import score
from zoo.probes.folds import make_folds
from zoo.probes.logistic import LogisticProblem
from zoo.probes.strength import choose_strength

from benchmarks.heads import Drawn, trained

_FACTORS = 128
"""Numbers that each made image has, of which all of its features are mixtures."""
_APART = 0.35
"""How far the means of classes are from one another, in standard deviations of a factor."""
_JUDGED = 2_000


def made(images: int, columns: int, classes: int, seed: int = 0) -> Drawn:
    """Make features[N, columns] to train, and of others that judge."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means, mixture = _APART * normal(classes, _FACTORS), normal(_FACTORS, columns) / _FACTORS**0.5
    targets = torch.arange(images + _JUDGED) % classes
    factors = means[targets] + normal(len(targets), _FACTORS)
    rows = torch.relu(factors @ mixture + 0.3 * normal(len(targets), columns))
    return Drawn(rows[:images], targets[:images], rows[images:], targets[images:], classes)


def measured(drawn: Drawn) -> str:
    """A row of the table."""
    began = time.perf_counter()
    problem = LogisticProblem(drawn.train, drawn.train_targets, drawn.classes, share=0.5)
    chosen = choose_strength(problem, make_folds(drawn.train_targets.tolist()))
    fit = [problem.fit(chosen.strength, chosen.start) for _ in range(2)][-1]  # twice, as a run does for its proof
    seconds = time.perf_counter() - began
    solved = score(drawn.test @ fit.weight.T + fit.bias, drawn.test_targets)
    began = time.perf_counter()
    stepped = trained(drawn, seed=0)
    of_steps = time.perf_counter() - began
    images, columns = drawn.train.shape
    of_solved = f"{seconds:.1f} s, {100 * solved.accuracy:.1f}, {solved.loss:.3f}"
    of_stepped = f"{of_steps:.1f} s, {100 * stepped.accuracy:.1f}, {stepped.loss:.3f}"
    ratio = of_steps / seconds
    return f"| {images:,} x {columns:,}, {drawn.classes} | {of_solved} | {of_stepped} | {ratio:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=2_048)
    parser.add_argument("--classes", default="10,100")
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; top-1 in percent and nats on {_JUDGED:,} other images")
    print("| images x columns, classes | solved | AdamW, 80 epochs | times |\n|---|---|---|---|")
    for classes in map(int, given.classes.split(",")):
        print(measured(made(given.images, given.columns, classes)), flush=True)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
