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
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zoo
from zoo.data.dataset import Dataset

from benchmarks import process
from benchmarks.rows import Row, Run, append_row, missing, read_rows
from benchmarks.splits import Halved, halve, read_used
from benchmarks.table import tables

PEERS = {"plain": "benchmarks.peers.plain", "fastai": "benchmarks.peers.fastai_run"}
BACKBONE = "squeezenet1_1"
ROOT = Path(__file__).resolve().parent.parent
_DONE, _REFUSED, _PROOF_FAILED = 0, 2, 3
_TAIL = 2000


class Failed(Exception):
    """A run that ended without a result; the message is the end of what it wrote."""


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

    def used(self, data: str) -> Dataset:
        """The images that zoo's plan uses."""
        with tempfile.TemporaryDirectory() as temporary:
            ended = self.zoo("plan", self.folder(data), "--recipe", "head_only", "--json", temporary=Path(temporary))
        if ended.code != _DONE:
            raise Failed(ended.stderr[-_TAIL:])
        return read_used(self.folder(data), [name for name, *_ in json.loads(ended.stdout)["data"]["skipped"]])

    def carry_out(self, run: Run, dataset: Dataset) -> Row:
        """Run it -> its row. Raises Failed."""
        halved = halve(dataset, run.seed)
        with tempfile.TemporaryDirectory() as temporary:
            work = self._run_zoo if run.program == "zoo" else self._run_peer
            return work(run, halved, Path(temporary))

    def zoo(self, command: str, data: Path, *more: str | Path, temporary: Path) -> process.Ended:
        """`zoo COMMAND` with the backbone and its weights, and nothing in its cache folder."""
        words: list[str | Path] = [sys.executable, "-m", "zoo", command, "--backbone", BACKBONE]
        words += ["--weights", self.weights, "--data", data, *more]
        return process.run(words, folder=ROOT, variables={"ZOO_CACHE_DIR": str(temporary / "cache")})

    def _run_zoo(self, run: Run, halved: Halved, temporary: Path) -> Row:
        data = halved.link(self.folder(run.data) / "train", temporary / "data")
        out = temporary / "run"
        chosen = ["--recipe", run.recipe, "--head", run.head, "--seed", str(run.seed), "--out", str(out)]
        settings = [word for setting in run.settings for word in ("--set", setting)]
        ended = self.zoo("finetune", data, *chosen, *settings, "--json", temporary=temporary)
        result, plan = _read(out / "result.json"), _read(out / "plan.json")
        if ended.code == _REFUSED and not plan:
            return {"version": zoo_version(), "refused": ended.stderr.strip()}
        if ended.code not in (_DONE, _PROOF_FAILED) or not result:
            raise Failed(ended.stderr[-_TAIL:])
        if plan["data"]["images"] != halved.counts():
            raise Failed(f"zoo used other images than the peers: {plan['data']['images']} for {halved.counts()}")
        return {"version": zoo_version(), **zoo_row(result, plan), **_measured(ended)}

    def _run_peer(self, run: Run, halved: Halved, temporary: Path) -> Row:
        task, result = temporary / "task.json", temporary / "result.json"
        halved.task(weights=self.weights, seed=run.seed).write(task)
        python = self.fastai_python if run.program == "fastai" else sys.executable
        ended = process.run([python, "-m", PEERS[run.program], task, result], folder=ROOT)
        if ended.code != _DONE:
            raise Failed(ended.stderr[-_TAIL:])
        return {**_read(result), **_measured(ended)}


def zoo_row(result: Mapping[str, Any], plan: Mapping[str, Any]) -> Row:
    """What a row keeps of `result.json` and `plan.json`."""
    alone = {stage["settings"]["name"] for stage in plan["stages"] if _head_only(stage)}
    stages = [
        {
            "name": stage["name"],
            "accuracy": stage["metrics"]["val"]["accuracy"],
            "seconds": stage["seconds"],
            "head_only": stage["name"] in alone,
        }
        for stage in result["stages"]
    ]
    return {
        "accuracy": result["metrics"]["test"]["accuracy"],
        "selection_accuracy": result["metrics"]["val"]["accuracy"],
        "kept": result["selection"]["kept"],
        "stages": stages,
        "proof": result["proof"],
        "seconds": result["seconds"]["total"],
        "parts": result["seconds"],
        **{key: plan[key] for key in ("precision", "memory_format", "threads") if key in plan},
    }


def zoo_version() -> str:
    """The distribution's version and, in a checkout, the commit."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return " ".join(filter(None, [version("zoo-registry"), found.stdout.strip()]))


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
        dataset = datasets.get(run.data) or datasets.setdefault(run.data, bench.used(run.data))
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


def _head_only(stage: Mapping[str, Any]) -> bool:
    return list(stage["trains"]) == ["head"] and not stage.get("tensors")


def _measured(ended: process.Ended) -> Row:
    return {"process_seconds": ended.seconds, "peak_mb": ended.peak_mb}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
