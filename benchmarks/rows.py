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
    recipe: str = ""
    """zoo's; a peer has one of its own, which it names in its row."""
    head: str = ""
    settings: tuple[str, ...] = field(default=())
    """`STAGE.K=V` given to zoo."""
    label: str = ""

    def __str__(self) -> str:
        words = [self.data, f"seed {self.seed}:", self.program, self.recipe, self.head, self.label]
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


def run_of(row: Row) -> Run:
    """The run that a row is about."""
    return Run(**{**row["run"], "settings": tuple(row["run"]["settings"])})


def missing(asked: list[Run], rows: list[Row]) -> list[Run]:
    """Those that have no row yet, in their order."""
    done = {run_of(row) for row in rows}
    return [run for run in asked if run not in done]
