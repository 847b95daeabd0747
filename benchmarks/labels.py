"""Exchange 5 % of the labels of a set by a seed, and see how many of them `zoo data labels` puts first.

    python -m benchmarks.labels [--backbones A,B] [--data A,B] [--seeds 5-9] [--draws 3]

An exchanged image gets one of the other classes, each as likely. All splits of a set are judged. `recall` is the share
of the exchanged labels among the first tenth of the ranking; `precision` the share of them among as many first ones as
were exchanged. Beside the ranking that zoo uses stand the difference of the two probabilities and, where cleanlab is
installed, its two scores on the same probabilities. `issues` are the labels that confident learning counts as wrong.
Rankings were chosen on the seeds 0 to 4. Features are computed once, and kept in zoo's cache folder.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from zoo.advice.features import probe_features, similar_groups
from zoo.advice.labels import DRAWS, out_of_fold
from zoo.events import silent
from zoo.planning.request import make_request
from zoo.probes.confident_learning import label_issues, label_margins
from zoo.registry.registry import default_registry

SHARE, FIRST = 0.05, 0.1
OWN = "ln ratio"
"""The ranking of `zoo data labels`."""
_BACKBONES = "timm/tf_efficientnet_lite0,squeezenet1_1,timm/tf_efficientnet_lite1,timm/tf_efficientnet_lite2"


@dataclass(frozen=True, slots=True)
class Found:
    """What a ranking finds of the exchanged labels."""

    recall: float
    precision: float


def exchanged(labels: Tensor, classes: int, seed: int, share: float = SHARE) -> tuple[Tensor, Tensor]:
    """labels[N] -> labels[N] of which a share is exchanged, and which, bool[N]."""
    drawn = random.Random(f"exchange/{seed}")
    rows = drawn.sample(range(len(labels)), round(share * len(labels)))
    given, wrong = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
    for row in rows:
        given[row] = drawn.choice([label for label in range(classes) if label != int(labels[row])])
        wrong[row] = True
    return given, wrong


def rankings(probabilities: Tensor, given: Tensor) -> dict[str, Tensor]:
    """probabilities[N, classes], given[N] -> by name, scores[N] of which the lowest are the likeliest wrong."""
    own = probabilities.gather(1, given[:, None])[:, 0]
    other = probabilities.scatter(1, given[:, None], -1.0).amax(1)
    found = {OWN: label_margins(probabilities, given), "difference": own - other}
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return found
    for name, method in (("cleanlab's self-confidence", "self_confidence"), ("cleanlab's margin", "normalized_margin")):
        scores = get_label_quality_scores(given.numpy(), probabilities.numpy(), method=method)
        found[name] = torch.from_numpy(scores)
    return found


def found_by(scores: Tensor, wrong: Tensor, first: float = FIRST) -> Found:
    """scores[N], wrong[N] -> what is found."""
    order = torch.sort(scores, stable=True).indices
    count = int(wrong.sum())
    in_first = int(wrong[order[: round(first * len(scores))]].sum())
    return Found(in_first / count, int(wrong[order[:count]].sum()) / count)


def measure(features: Tensor, labels: Tensor, classes: int, groups: tuple[int, ...], seed: int, draws: int) -> Measured:
    """features[N, F], labels[N] -> what rankings and issues find of the labels that this seed exchanges."""
    given, wrong = exchanged(labels, classes, seed)
    probabilities = out_of_fold(features, given, classes, groups, draws=draws)
    issues = label_issues(probabilities, given)
    hits = int((issues & wrong).sum())
    ranked = {name: found_by(scores, wrong) for name, scores in rankings(probabilities, given).items()}
    return Measured(ranked, hits / max(1, int(issues.sum())), hits / int(wrong.sum()))


@dataclass(frozen=True, slots=True)
class Measured:
    """One seed on one set."""

    ranked: Mapping[str, Found]
    issues_precision: float
    issues_recall: float


def rows(measured: list[Measured]) -> Iterator[str]:
    """Lines of a table: the means over seeds."""
    for name in measured[0].ranked:
        recall, precision = (
            statistics.fmean(getattr(each.ranked[name], kind) for each in measured) for kind in ("recall", "precision")
        )
        yield f"  {name:<28} recall {recall:.3f}  precision {precision:.3f}"
    recall, precision = (
        statistics.fmean(getattr(each, kind) for each in measured) for kind in ("issues_recall", "issues_precision")
    )
    yield f"  {'issues':<28} recall {recall:.3f}  precision {precision:.3f}"


def main() -> int:
    """Measure, and print a table for each backbone."""
    parser = argparse.ArgumentParser(prog="benchmarks.labels", description=__doc__.partition("\n")[0])
    parser.add_argument("--backbones", default=_BACKBONES)
    parser.add_argument("--data", default="flowers5,textures10,hymenoptera")
    parser.add_argument("--seeds", default="5-9", help="first-last")
    parser.add_argument("--draws", type=int, default=DRAWS)
    asked = parser.parse_args()
    shared = os.environ.get("ZOO_TEST_DATA")
    if not shared:
        print("ZOO_TEST_DATA must name the folder with data/ and weights/", file=sys.stderr)
        return 2
    first, _, last = asked.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    for backbone in asked.backbones.split(","):
        everything: list[Measured] = []
        for name in asked.data.split(","):
            weights = Path(shared, "weights", f"{backbone.rpartition('/')[2]}.safetensors")
            request = make_request(
                backbone=backbone, weights=str(weights), data=Path(shared, "data", name), tune=False, offline=True
            )
            found = probe_features(request, default_registry(), silent)
            groups = similar_groups(found.files, silent)
            arguments = (found.features, found.targets, len(found.classes), groups)
            measured = [measure(*arguments, seed, asked.draws) for seed in seeds]
            print("\n".join([f"{backbone} on {name}, {len(seeds)} seeds", *rows(measured)]), flush=True)
            everything += measured
        print("\n".join([f"{backbone}, mean over sets", *rows(everything)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
