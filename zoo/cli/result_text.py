"""What came out of a run or an evaluation, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.files import json_line, json_text, write_text

if TYPE_CHECKING:
    from zoo.evaluation.intervals import Share
    from zoo.exporting.export import Exported
    from zoo.training.evaluation import Evaluation
    from zoo.training.result import Result
    from zoo.training.verify import Verification


def print_result(result: Result, verbosity: Verbosity, *, as_json: bool) -> None:
    """The result table, the proof, where the artefact is, and what to do next."""
    if as_json:
        print(json_text({**result.content, "path": str(result.path)}), end="")
        return
    screen = console.out()
    kept = result.content["selection"]["kept"]
    rows = [
        [
            stage["name"] + (" (kept)" if stage["name"] == kept else ""),
            f"{stage['metrics']['val']['accuracy']:.3f}",
            f"{stage['metrics']['val']['macro_f1']:.3f}",
            f"{stage['metrics']['val']['loss']:.4f}",
            console.seconds(stage["seconds"]),
        ]
        for stage in result.content["stages"]
    ]
    columns = ["stage", "val accuracy", "macro F1", "val loss", "time"]
    screen.print()
    console.show(screen, console.table("Result", columns, rows, right=columns[1:]))
    screen.print()
    for split, metrics in result.metrics.items():
        screen.print(f"{split} accuracy {metrics['accuracy']:.3f}, macro F1 {metrics['macro_f1']:.3f}", style="bold")
    screen.print(_proof(result, verbosity))
    seconds = result.content["seconds"]
    parts = ", ".join(f"{name} {console.seconds(value)}" for name, value in seconds.items() if name != "total")
    screen.print(f"time: {console.seconds(seconds['total'])} ({parts})")
    screen.print(f"classifier: {result.artefact}")
    if (result.path / "report.html").exists():
        screen.print(f"report: {result.path / 'report.html'}")
    screen.print(f"next: zoo predict {result.artefact} IMAGE")


def print_evaluation(found: Evaluation, *, as_json: bool) -> None:
    """Scores over the split, and per class."""
    if as_json:
        content = {
            "split": found.split,
            "images": found.images,
            "metrics": found.scores.to_dict(),
            "assessment": found.assessment.to_dict(),
            "per_class": {
                name: {"correct": right, "images": total} for name, (right, total) in found.per_class.items()
            },
            "predictions": [asdict(each) for each in found.predictions],
            "unreadable": found.unreadable,
        }
        print(json_text(content), end="")
        return
    screen = console.out()
    shown = [each for each in found.assessment.classes if each.images or each.predicted]
    rows = [
        [
            each.name,
            *_share(each.recall),
            *_share(each.precision),
            f"{each.f1:.3f}",
            str(each.correct),
            str(each.images),
        ]
        for each in shown
    ]
    columns = ["class", "recall", "95 %", "precision", "95 % ", "F1", "correct", "images"]
    console.show(screen, console.table(None, columns, rows, right=columns[1:]))
    scores, assessed = found.scores, found.assessment
    top5 = f", top-5 {assessed.top5.value:.3f}" if assessed.top5 else ""
    screen.print(
        f"\n{found.split}: accuracy {scores.accuracy:.3f}{top5}, macro F1 {scores.macro_f1:.3f}, "
        f"loss {scores.loss:.4f} on {console.count(found.images, 'image')}",
        style="bold",
    )
    low, high = assessed.accuracy.low, assessed.accuracy.high
    screen.print(
        f"95 % interval of the accuracy {low:.3f} to {high:.3f}; calibration error {assessed.calibration_error:.3f}"
    )


def write_predictions(path: Path, found: Evaluation) -> None:
    """One line for every image. Raises RunError where it cannot be written."""
    from zoo.evaluation.predictions import to_csv

    write_text(path, to_csv(found.predictions))


def print_report(page: Path, *, as_json: bool) -> None:
    """Where the page is."""
    print(json_line({"report": str(page)}) if as_json else f"report: {page}")


def print_verification(found: Verification, *, as_json: bool) -> None:
    """Every check with its verdict."""
    if as_json:
        content = {
            "run": str(found.run),
            "verdict": "passed" if found.passed else "failed",
            "checks": [check.to_dict() for check in found.checks],
        }
        print(json_text(content), end="")
        return
    screen = console.out()
    rows = [[check.name, check.verdict, check.summary] for check in found.checks]
    screen.print()
    console.show(screen, console.table(None, ["check", "verdict", "what was found"], rows))


def _share(share: Share | None) -> tuple[str, str]:
    """A share and its interval; two dashes where nothing was counted."""
    return (f"{share.value:.3f}", f"{share.low:.2f} to {share.high:.2f}") if share else ("-", "-")


def print_export(made: Exported, *, as_json: bool) -> None:
    """Where it is, how far its logits are from the original's, how it is loaded."""
    if as_json:
        print(json_text(made.to_dict()), end="")
        return
    sizes = ", ".join(map(str, made.batches))
    print(f"written: {made.path}")
    print(
        f"compared: batches of {sizes} images give the original's logits within {made.largest_difference:.2g} "
        f"(they go up to {made.largest_logit:.3g}; {made.tolerance:g} of that is allowed)"
    )
    print(f"load: {made.how}")


def _proof(result: Result, verbosity: Verbosity) -> str:
    checks = json.loads((result.path / "proof.json").read_text("utf-8"))["checks"]
    warned = [check for check in checks if check["verdict"] == "warning"]
    lines = [f"proof: {result.proof}, {console.count(len(checks), 'check')}, {console.count(len(warned), 'warning')}"]
    for check in checks if verbosity.verbose else warned:
        where = f" (stage {check['stage']})" if check["stage"] else ""
        lines.append(f"  {check['verdict']}: {check['name']}{where}: {check['summary']}")
    return "\n".join(lines)
