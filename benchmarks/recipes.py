"""What zoo's recipes reach on real images, beside a hand-written loop and fastai: same images, weights and seeds.

    python -m benchmarks.recipes --results FILE.jsonl [--data ...] [--recipes ...] [--heads ...] [--seeds ...]
    python -m benchmarks.recipes --results FILE.jsonl --table

Images and weights come from the folder that ZOO_TEST_DATA names: `data/NAME` with train/ and val/, and
`weights/squeezenet1_1.safetensors`. Each seed halves val/ by class: zoo chooses its stage on one half, everybody is
compared on the other. Peers get the very files that zoo trains on, and report their last epoch; like most loops they
look at the comparison half after each epoch, which costs them that time and chooses nothing. What is scored, in any
program, was resized and cropped as torchvision's weights want it; fastai's accuracy with its own preprocessing
stands beside it, for it may differ by some points.

Every run is a process of its own, one at a time. `seconds` is what it does after its imports, up to its result; for zoo
that includes saving the classifier and the proof. Each zoo run has a new cache folder: nothing is left from the one
before. A run that has a row already is not run again; one that failed has none. Which code made a row is recorded, not
compared: take a new file, or `--label`, for other code.

fastai is in the extra `bench`, and may live in another environment (`--fastai-python`): its program imports no zoo.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import zoo
from zoo.data.dataset import Dataset

from benchmarks import programs
from benchmarks.programs import PEERS, Failed
from benchmarks.rows import Row, Run, append_row, missing, read_rows
from benchmarks.splits import Halved, halve
from benchmarks.table import tables

BACKBONE = "squeezenet1_1"


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the programs and what they work on are."""

    real: Path
    """The folder with `data/` and `weights/`."""
    fastai_python: str

    @property
    def weights(self) -> Path:
        return self.real / "weights" / f"{BACKBONE}.safetensors"

    def folder(self, data: str) -> Path:
        return self.real / "data" / data

    @property
    def backbone(self) -> list[str | Path]:
        return ["--backbone", BACKBONE, "--weights", self.weights]

    def carry_out(self, run: Run, dataset: Dataset) -> Row:
        """Run it -> its row. Raises Failed."""
        halved = halve(dataset, run.seed)
        with tempfile.TemporaryDirectory() as temporary:
            work = self._run_zoo if run.program == "zoo" else self._run_peer
            return work(run, halved, Path(temporary))

    def _run_zoo(self, run: Run, halved: Halved, temporary: Path) -> Row:
        data = halved.link(self.folder(run.data) / "train", temporary / "data")
        chosen = ["--recipe", run.recipe, "--head", run.head, "--seed", str(run.seed)]
        settings = [word for setting in run.settings for word in ("--set", setting)]
        options = [*self.backbone, "--data", data, *chosen, *settings]
        row = programs.finetune(options, out=temporary / "run", cache=temporary / "cache")
        if "refused" not in row and row["images"] != halved.counts():
            raise Failed(f"zoo used other images than the peers: {row['images']} for {halved.counts()}")
        return row

    def _run_peer(self, run: Run, halved: Halved, temporary: Path) -> Row:
        task = halved.task(weights=self.weights, seed=run.seed)
        python = self.fastai_python if run.program == "fastai" else sys.executable
        return programs.peer(run.program, task, temporary=temporary, python=python)


def runs(given: argparse.Namespace) -> list[Run]:
    """Everything that is asked for; the programs take turns, so that a machine that slows down slows all of them."""
    asked = []
    for data in given.data:
        for seed in given.seeds:
            asked += [Run(program=peer, data=data, seed=seed) for peer in given.peers]
            asked += [
                Run(
                    program="zoo",
                    data=data,
                    seed=seed,
                    recipe=recipe,
                    head=head,
                    settings=tuple(given.zoo_set),
                    label=given.label,
                )
                for head in given.heads
                for recipe in given.recipes
            ]
    return asked


def campaign(bench: Bench, asked: list[Run], results: Path) -> int:
    """Carry out what has no row yet -> how many failed."""
    left = missing(asked, read_rows(results))
    print(f"{len(asked)} runs, {len(asked) - len(left)} done already")
    datasets: dict[str, Dataset] = {}
    failed = 0
    for number, run in enumerate(left, start=1):
        dataset = datasets.get(run.data) or datasets.setdefault(run.data, programs.used(bench.folder(run.data)))
        try:
            row = bench.carry_out(run, dataset)
        except Failed as error:
            failed += 1
            print(f"[{number}/{len(left)}] {run}: failed\n{error}", file=sys.stderr, flush=True)
            continue
        append_row(results, run, row)
        ended = "refused" if "refused" in row else f"{row['accuracy']:.3f} in {row['seconds']:.0f} s"
        print(f"[{number}/{len(left)}] {run}: {ended}", flush=True)
    return failed


def main() -> int:
    given = _arguments()
    if given.table:
        print(tables(read_rows(given.results)))
        return 0
    bench = Bench(Path(os.environ["ZOO_TEST_DATA"]).resolve(), given.fastai_python)
    return 1 if campaign(bench, runs(given), given.results) else 0


def _arguments() -> argparse.Namespace:
    known = [recipe.name for recipe in zoo.list_recipes()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; appended to")
    parser.add_argument("--table", action="store_true", help="print tables of the results, run nothing")
    parser.add_argument("--data", type=_names, default="hymenoptera,flowers5")
    parser.add_argument("--recipes", type=_names, default=",".join(known), help="default: all that are registered")
    parser.add_argument("--heads", type=_names, default="dropout_linear,cosine")
    parser.add_argument("--seeds", type=_numbers, default="0,1,2,3,4")
    parser.add_argument("--peers", type=_names, default=",".join(PEERS), help="'' for none")
    parser.add_argument("--fastai-python", default=sys.executable, metavar="PATH", help="of an environment with fastai")
    parser.add_argument("--zoo-set", action="append", default=[], metavar="STAGE.K=V", help="repeatable; with --label")
    parser.add_argument("--label", default="", help="a name for zoo's rows of this call")
    given = parser.parse_args()
    for what, names, there in (("recipe", given.recipes, known), ("peer", given.peers, list(PEERS))):
        unknown = [name for name in names if name not in there]
        if unknown:
            parser.error(f"there is no {what} {unknown[0]!r}; there are: {', '.join(there)}")
    if given.zoo_set and not given.label:
        parser.error("--zoo-set needs --label, which names what was changed")
    if not given.table and not os.environ.get("ZOO_TEST_DATA"):
        parser.error("ZOO_TEST_DATA does not name the folder with data/ and weights/")
    return given


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(name) for name in _names(text)]


if __name__ == "__main__":
    sys.exit(main())
