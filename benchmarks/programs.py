"""zoo and its peers as processes of their own, and what a row keeps of each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.data.dataset import Dataset

from benchmarks import process
from benchmarks.peers.task import Task
from benchmarks.rows import Row
from benchmarks.splits import read_used

PEERS = {"plain": "benchmarks.peers.plain", "fastai": "benchmarks.peers.fastai_run"}
ROOT = Path(__file__).resolve().parent.parent
_DONE, _REFUSED, _PROOF_FAILED = 0, 2, 3
_TAIL = 2000


class Failed(Exception):
    """A run that ended without a result; the message is the end of what it wrote."""


def finetune(options: Sequence[str | Path], *, out: Path, cache: Path) -> Row:
    """`zoo finetune` into the run folder `out` -> its row; one of a refusal has the reason alone. Raises Failed."""
    ended = _zoo("finetune", [*options, "--out", out, "--json"], cache)
    result, plan = read_json(out / "result.json"), read_json(out / "plan.json")
    if ended.code == _REFUSED and not plan:
        return {"version": zoo_version(), "refused": ended.stderr.strip()}
    if ended.code not in (_DONE, _PROOF_FAILED) or not result:
        raise Failed(ended.stderr[-_TAIL:])
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return {"version": zoo_version(), **zoo_row(result, plan, history), **_measured(ended)}


def plan(options: Sequence[str | Path], *, cache: Path) -> dict[str, Any]:
    """What `zoo plan` says. Raises Failed."""
    ended = _zoo("plan", [*options, "--json"], cache)
    if ended.code != _DONE:
        raise Failed(ended.stderr[-_TAIL:])
    made: dict[str, Any] = json.loads(ended.stdout)
    return made


def used(folder: Path) -> Dataset:
    """The images of a data set that zoo's plan uses; the peers get the same. Raises Failed."""
    options: list[str | Path] = ["--backbone", "squeezenet1_1", "--weights", "random", "--data", folder]
    with tempfile.TemporaryDirectory() as temporary:
        made = plan([*options, "--recipe", "head_only", "--no-tune"], cache=Path(temporary) / "cache")
    return read_used(folder, [name for name, *_ in made["data"]["skipped"]])


def peer(name: str, task: Task, *, temporary: Path, python: str = sys.executable) -> Row:
    """One of PEERS given the task -> its row. Raises Failed."""
    given, result = temporary / "task.json", temporary / "result.json"
    task.write(given)
    ended = answered([python, "-m", PEERS[name], given, result])
    return {**read_json(result), **_measured(ended)}


def has_fastai(python: str) -> bool:
    """Whether this interpreter finds fastai."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('fastai') is None)"
    return process.run([python, "-c", look], folder=ROOT).code == _DONE


def answered(words: Sequence[str | Path]) -> process.Ended:
    """A process in the repository's folder that ended well. Raises Failed."""
    ended = process.run(words, folder=ROOT)
    if ended.code != _DONE:
        raise Failed(ended.stderr[-_TAIL:])
    return ended


def zoo_row(result: Mapping[str, Any], plan: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> Row:
    """What a row keeps of `result.json`, `plan.json` and `history.jsonl`.

    `accuracy` is that on `test`, or on `val` where there is no `test`; `selection_accuracy` that on `val`.
    """
    alone = {stage["settings"]["name"] for stage in plan["stages"] if _head_only(stage)}
    rates: dict[str, list[float]] = {}
    for epoch in history:
        rates.setdefault(epoch["stage"], []).append(epoch["images_per_second"])
    stages = [
        {
            "name": stage["name"],
            "accuracy": stage["metrics"].get("val", {}).get("accuracy"),
            "seconds": stage["seconds"],
            "head_only": stage["name"] in alone,
            **({"images_per_second": statistics.median(rates[stage["name"]])} if stage["name"] in rates else {}),
        }
        for stage in result["stages"]
    ]
    return {
        "accuracy": result["metrics"].get("test", result["metrics"]["val"])["accuracy"],
        "selection_accuracy": result["metrics"]["val"]["accuracy"],
        "kept": result["selection"]["kept"],
        "stages": stages,
        "proof": result["proof"],
        "seconds": result["seconds"]["total"],
        "parts": result["seconds"],
        "images": plan["data"]["images"],
        "recipe": plan["recipe"].rpartition("/")[2],
        "head": plan["head"]["name"].rpartition("/")[2],
        **{key: plan[key] for key in ("precision", "memory_format", "threads") if key in plan},
    }


def zoo_version() -> str:
    """The distribution's version and, in a checkout, the commit."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return " ".join(filter(None, [version("zoo-registry"), found.stdout.strip()]))


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def _zoo(command: str, options: Sequence[str | Path], cache: Path) -> process.Ended:
    words: list[str | Path] = [sys.executable, "-m", "zoo", command, *options]
    return process.run(words, folder=ROOT, variables={"ZOO_CACHE_DIR": str(cache)})


def _head_only(stage: Mapping[str, Any]) -> bool:
    return list(stage["trains"]) == ["head"] and not stage.get("tensors")


def _measured(ended: process.Ended) -> Row:
    return {"process_seconds": ended.seconds, "cpu_seconds": ended.cpu_seconds, "peak_mb": ended.peak_mb}
