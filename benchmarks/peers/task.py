"""What a peer is given (a JSON file) and what it gives back (another): the same images, weights and seed for all."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Labelled(NamedTuple):
    """An image file and the index of its class."""

    path: str
    label: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of one peer."""

    classes: list[str]
    train: list[Labelled]
    """Exactly the files that zoo trains on."""
    test: list[Labelled]
    """The comparison half: looked at, never chosen by."""
    weights: str
    """A safetensors file of squeezenet1_1 with torchvision's keys."""
    seed: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Task:
        content = json.loads(path.read_text())
        for split in ("train", "test"):
            content[split] = [Labelled(*each) for each in content[split]]
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
