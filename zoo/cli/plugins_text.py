"""`zoo plugins new` and `zoo plugins check`, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from zoo.cli import console
from zoo.testing.report import Report

_TRY = {
    "head": "zoo finetune --backbone resnet18 --head {name}",
    "backbone": "zoo finetune --backbone {name} --weights random",
    "recipe": "zoo finetune --backbone resnet18 --recipe {name}",
}


def print_written(kind: str, name: str, folder: Path) -> None:
    """What was written, and what to do next."""
    print(f"{folder}: a package with the {kind} {name!r}")
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        print(f"  {file.relative_to(folder)}")
    target = str(folder) if folder.is_absolute() else f"./{folder}"
    print(f"\nNext: pip install {target}\n      zoo plugins check {name}\n      {_TRY[kind].format(name=name)}")


def print_reports(reports: Sequence[Report], *, as_json: bool) -> None:
    """Every check with its verdict; of each report the sum below it."""
    if as_json:
        print(json.dumps([report.to_dict() for report in reports], indent=2, ensure_ascii=False))
        return
    screen = console.out()
    for report in reports:
        rows = [[check.name, check.verdict, check.summary] for check in report.checks]
        screen.print(f"{report.kind} {report.name}", style="bold")
        console.show(screen, console.table(None, ["check", "verdict", "what was found"], rows))
        skipped = sum(check.verdict == "skipped" for check in report.checks)
        passed = len(rows) - len(report.failed) - skipped
        counts = f"{passed} passed, {len(report.failed)} failed, {skipped} skipped"
        screen.print(f"{'passed' if report.passed else 'failed'}: {console.count(len(rows), 'check')}, {counts}\n")
