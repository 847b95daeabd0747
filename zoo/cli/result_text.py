"""What came out of a run or an evaluation, for people and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zoo.cli import console
from zoo.cli.console import Verbosity

if TYPE_CHECKING:
    from zoo.exporting.export import Exported
    from zoo.training.evaluation import Evaluation
    from zoo.training.result import Result
    from zoo.training.verify import Verification


def print_result(result: Result, verbosity: Verbosity, *, as_json: bool) -> None:
    """The result table, the proof, where the artefact is, and what to do next."""
    if as_json:
        print(json.dumps({**result.content, "path": str(result.path)}, indent=2, ensure_ascii=False))
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
    screen.print(f"next: zoo predict {result.artefact} IMAGE")


def print_evaluation(found: Evaluation, *, as_json: bool) -> None:
    """Scores over the split, and per class."""
    if as_json:
        content = {
            "split": found.split,
            "images": found.images,
            "metrics": found.scores.to_dict(),
            "per_class": {
                name: {"correct": right, "images": total} for name, (right, total) in found.per_class.items()
            },
            "unreadable": found.unreadable,
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    screen = console.out()
    rows = [[name, f"{right / total:.3f}", str(right), str(total)] for name, (right, total) in found.per_class.items()]
    columns = ["class", "recall", "correct", "images"]
    console.show(screen, console.table(None, columns, rows, right=columns[1:]))
    scores = found.scores
    screen.print(
        f"\n{found.split}: accuracy {scores.accuracy:.3f}, macro F1 {scores.macro_f1:.3f}, loss {scores.loss:.4f} "
        f"on {console.count(found.images, 'image')}",
        style="bold",
    )


def print_verification(found: Verification, *, as_json: bool) -> None:
    """Every check with its verdict."""
    if as_json:
        content = {
            "run": str(found.run),
            "verdict": "passed" if found.passed else "failed",
            "checks": [check.to_dict() for check in found.checks],
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    screen = console.out()
    rows = [[check.name, check.verdict, check.summary] for check in found.checks]
    screen.print()
    console.show(screen, console.table(None, ["check", "verdict", "what was found"], rows))


def print_export(made: Exported, *, as_json: bool) -> None:
    """Where it is, how far its logits are from the original's, how it is loaded."""
    if as_json:
        print(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
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
