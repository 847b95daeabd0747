"""What a peer is given (a JSON file) and what it gives back (another): the same images, weights and seed for all."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple


class Labelled(NamedTuple):
    """An image file and the index of its class."""

    path: str
    label: int


class Stage(NamedTuple):
    """Some epochs of training."""

    trains: str
    """`head`, on a frozen backbone, or `all`."""
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one peer."""

    classes: list[str]
    train: list[Labelled]
    """Exactly the files that zoo trains on."""
    test: list[Labelled]
    """Looked at after each epoch, never chosen by."""
    weights: str
    """A safetensors file of the backbone with upstream's keys; nothing: random weights."""
    seed: int
    backbone: str = "squeezenet1_1"
    """torchvision's name, or `timm/` and timm's."""
    stages: list[Stage] = field(default_factory=lambda: [Stage("head", 5), Stage("all", 5)])
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast and channels-last, for the hand-written loop."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Task:
        content = json.loads(path.read_text())
        for split in ("train", "test"):
            content[split] = [Labelled(*each) for each in content[split]]
        content["stages"] = [Stage(*each) for each in content["stages"]]
        return cls(**content)


def answer(run: Callable[[Task], dict[str, Any]]) -> None:
    """Read the task named on the command line, time `run` on it and write what it returns to the file named there.

    Called when everything has been imported: `seconds` holds no imports.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("result", type=Path)
    given = parser.parse_args()
    began = time.perf_counter()
    result = run(Task.read(given.task))
    given.result.write_text(json.dumps({**result, "seconds": round(time.perf_counter() - began, 3)}))
