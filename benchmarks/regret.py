"""What taking the first of a shortlist loses against the best backbone after fine-tuning.

    python -m benchmarks.regret --results FILE.jsonl --data NAME,NAME [--seeds 0,1,2]

The file has rows of `python -m benchmarks.recipes --programs zoo` for every set, seed and network. For each set and
seed a shortlist ranks the same networks, with the same weights, on the training images. Its regret is the accuracy of
the best network after fine-tuning minus that of the network that it puts first: of the network that is best in the mean
over the seeds, and of the one that is best with each seed, which is flattered by the chance of few images. Beside it
stand the probe's and the fine-tuned accuracies, means over seeds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import zoo

from benchmarks.rows import Row, read_rows, run_of
from benchmarks.sets import named


@dataclass(frozen=True, slots=True)
class Ranking:
    """One set and seed: what the probe says of each network, and what fine-tuning made of it."""

    data: str
    seed: int
    probe: dict[str, float]
    tuned: dict[str, float]

    @property
    def first(self) -> str:
        """The network that the shortlist puts first."""
        return next(iter(self.probe))

    @property
    def regret(self) -> float:
        """Accuracy that is lost by taking it."""
        return max(self.tuned.values()) - self.tuned[self.first]


def against_best(of_set: Sequence[Ranking]) -> float:
    """Accuracy that is lost, in the mean over seeds, against the network that is best in that mean."""
    best = max(mean(each.tuned[name] for each in of_set) for name in of_set[0].tuned)
    return best - mean(each.tuned[each.first] for each in of_set)


def rankings(rows: Sequence[Row], names: Sequence[str], seeds: Sequence[int], recipe: str) -> list[Ranking]:
    """Make a shortlist for every set and seed that has rows of at least two networks."""
    found = []
    for data in names:
        for seed in seeds:
            tuned = {
                run.backbone: float(row["accuracy"])
                for row in rows
                for run in [run_of(row)]
                if (run.program, run.data, run.seed, run.recipe, run.label) == ("zoo", data, seed, recipe, "")
            }
            if len(tuned) > 1:
                found.append(Ranking(data, seed, _probe(data, seed, list(tuned)), tuned))
    return found


def _probe(data: str, seed: int, networks: Sequence[str]) -> dict[str, float]:
    """Network -> accuracy of its probe, the first of the shortlist first."""
    kept = Path(os.environ["ZOO_TEST_DATA"])
    files = {str(kept / "weights" / f"{name.rpartition('/')[2]}.safetensors"): name for name in networks}
    images = named(kept / "data", data).train.parent
    candidates = [f"{name}={file}" for file, name in files.items()]
    shortlist = zoo.shortlist(images, backbones=candidates, seed=seed, budget="30m", offline=True)
    return {files[each.candidate.weights]: each.accuracy.value for each in shortlist.ranked}


def table(found: Sequence[Ranking]) -> list[str]:
    """Lines of a Markdown table."""
    columns = ["set", "seeds", "put first", "regret, points", "against the best of each seed", "probe, then fine-tuned"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    regrets = []
    for data in dict.fromkeys(each.data for each in found):
        of_set = [each for each in found if each.data == data]
        networks = sorted({name for each in of_set for name in each.tuned})
        accuracies = [
            f"{name.rpartition('/')[2]} {mean(each.probe[name] for each in of_set):.3f}, "
            f"{mean(each.tuned[name] for each in of_set):.3f}"
            for name in networks
        ]
        first = ", ".join(sorted({each.first.rpartition("/")[2] for each in of_set}))
        regrets.append(100 * against_best(of_set))
        flattered = 100 * mean(each.regret for each in of_set)
        lines.append(
            f"| {data} | {len(of_set)} | {first} | {regrets[-1]:.1f} | {flattered:.1f} | {'; '.join(accuracies)} |"
        )
    whole = 100 * mean(each.regret for each in found)
    lines.append(f"| all | {len(found)} | | **{mean(regrets):.1f}** | {whole:.1f} | |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--data", default="flowers5,textures10,hymenoptera")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--recipe", default="default")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    print("\n".join(table(rankings(read_rows(given.results), given.data.split(","), seeds, given.recipe))))


if __name__ == "__main__":
    main()
