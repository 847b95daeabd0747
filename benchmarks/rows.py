"""The file of results: one JSON object a line, one line a run, appended as soon as the run has ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a row is about: two rows with the same are the same run."""

    program: str
    """`zoo`, or a peer."""
    data: str
    seed: int
    backbone: str = ""
    """Nothing in rows of `python -m benchmarks`, whose label says it, and in those from before it was kept."""
    weights: str = ""
    """`random`, or a file other than the one that is kept for the backbone."""
    per_class: int = 0
    """Images of each class that were drawn for training; 0: all."""
    recipe: str = ""
    """zoo's; a peer has one of its own, which it names in its row."""
    head: str = ""
    settings: tuple[str, ...] = field(default=())
    """`STAGE.K=V` given to zoo."""
    label: str = ""

    def __str__(self) -> str:
        few = f"{self.per_class} a class" if self.per_class else ""
        about = ", ".join(filter(None, [self.backbone, self.weights, self.data, few, f"seed {self.seed}"]))
        words = [f"{about}:", self.program, self.recipe, self.head, *self.settings, self.label]
        return " ".join(filter(None, words))


def read_rows(path: Path) -> list[Row]:
    """Every row of the file; none where there is no file. A last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def append_row(path: Path, run: Run, found: Row) -> None:
    """Add a row; what was cut off before it is removed."""
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(json.dumps({"run": asdict(run), **found}) + "\n")


def run_of(row: Row, *, backbone: str = "") -> Run:
    """The run that a row is about; `backbone`: that of rows from before they named it."""
    named = {name: value for name, value in row["run"].items() if value or name != "backbone"}
    return Run(**{"backbone": backbone, **named, "settings": tuple(named["settings"])})


def missing(asked: list[Run], rows: list[Row], *, backbone: str = "") -> list[Run]:
    """Those that have no row yet, in their order; `backbone`: that of rows from before they named it."""
    done = {run_of(row, backbone=backbone) for row in rows}
    return [run for run in asked if run not in done]
