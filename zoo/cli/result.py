"""Results of commands, for people and for programs: runs, evaluations, exports, verifications."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.cli.document import print_document
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.display.wrapping import say
from zoo.specs.run_result import (
    OUT_OF_FOLD,
    judged_on,
    kept_in_words,
    named_in_words,
    optimism_in_words,
    trained_before_in_words,
)
from zoo.storage.atomic import json_line, json_text
from zoo.text import as_sentences, counted, points, shell_word

if TYPE_CHECKING:
    from zoo.reporting.page import WrittenReport
    from zoo.training.result import Result
    from zoo.training.verify import Verification


def print_result(result: Result, verbosity: Verbosity, *, as_json: bool) -> None:
    """Print scores by stage and split, the proof, where the artefact is, and what to do next."""
    if as_json:
        print_document(json_text({**result.content, "path": str(result.path)}))
        return
    screen = console.out()
    rows = _candidates(result.content, every_blend=verbosity.verbose)
    folds, judged = result.content.get("folds"), "out-of-fold" if "folds" in result.content else "val"
    columns = ["stage", f"{judged} accuracy", "macro F1", f"{judged} loss", "gain", "time"]
    screen.print()
    console.show(screen, console.table("Result", columns, rows, right=columns[1:]))
    screen.print()
    for stage in result.content["stages"]:
        if stage.get("abandoned"):
            after = counted(stage["epochs"], "epoch")
            screen.print(f"{stage['name']} was given up after {after}: {stage['abandoned_why']}")
    for split, metrics in result.metrics.items():
        name = judged if split == OUT_OF_FOLD else split
        screen.print(split_line(name, metrics), style="bold")
    if before := trained_before_in_words(result.content.get("weights_trained_on", {})):
        screen.print(f"{before[0].upper()}{before[1:]}.", style="bold yellow")
    if folds is not None and not verbosity.quiet:
        screen.print(_folds(folds))
    flattery = optimism_in_words(result.content["selection"])
    if flattery and not verbosity.quiet:
        screen.print(f"{flattery[0].upper()}{flattery[1:]} ({judged} accuracy).")
    screen.print(proof_lines(result, verbosity))
    seconds = result.content["seconds"]
    parts = ", ".join(f"{name} {console.seconds(value)}" for name, value in seconds.items() if name != "total")
    screen.print(f"time: {console.seconds(seconds['total'])} ({parts})")
    artefact = result.path / result.content["artefact"]  # as the user wrote it
    screen.print(f"classifier: {artefact}")
    # It may be switched off, or have failed, which costs the run nothing.
    if (result.path / "report.html").exists():
        screen.print(f"report: {result.path / 'report.html'}")
    if not verbosity.quiet:
        screen.print(f"next: zoo predict {shell_word(artefact)} IMAGE")


def split_line(name: str, metrics: Mapping[str, float]) -> str:
    """The scores of a split in a line: of a run that chose by it, the balanced accuracy, too."""
    balanced = metrics.get("balanced_accuracy")
    also = "" if balanced is None else f", balanced accuracy {balanced:.3f}"
    return f"{name} accuracy {metrics['accuracy']:.3f}{also}, macro F1 {metrics['macro_f1']:.3f}"


def _folds(folds: Sequence[Mapping[str, Any]]) -> str:
    of_folds = ", ".join(f"{fold['accuracy']:.3f}" for fold in folds)
    images = sum(fold["images"] for fold in folds)
    return (
        f"Each of {images:,} images was predicted by a fit to the other folds, without copies of it; accuracy of the "
        f"folds: {of_folds}. The classifier is fitted to all of them."
    )


def _candidates(content: Mapping[str, Any], *, every_blend: bool) -> list[list[str]]:
    """Rows of the table of stages: their ends, and of their blends the kept one or all."""
    kept, rows = kept_in_words(content["selection"]), []
    for stage in content["stages"]:
        for blend in stage.get("blends", ()):
            name = named_in_words(stage["name"], blend["share"], blend["from"])
            if every_blend or name == kept:
                rows.append([name + (" (kept)" if name == kept else ""), *_scores(blend), "", ""])
        rows.append(_stage_row(stage, kept))
    return rows


def _stage_row(stage: Mapping[str, Any], kept: str) -> list[str]:
    """Scores of a stage; none of one that was given up before its first epoch ended."""
    # Of a kept blend it is the blend's row that is marked: `kept` has its name then.
    mark = " (kept)" if stage["name"] == kept else " (given up)" if stage.get("abandoned") else ""
    scores = [*_scores(stage), points(stage.get("gain"))] if stage["epochs"] else ["-"] * 4
    return [stage["name"] + mark, *scores, console.seconds(stage["seconds"])]


def _scores(scored: Mapping[str, Any]) -> list[str]:
    val = scored["metrics"][judged_on(scored["metrics"])]
    return [f"{val['accuracy']:.3f}", f"{val['macro_f1']:.3f}", f"{val['loss']:.4f}"]


def proof_lines(result: Result, verbosity: Verbosity) -> str:
    """The verdict of the proof, and the checks that warned; with `-v` all checks."""
    checks = json.loads((result.path / "proof.json").read_text("utf-8"))["checks"]
    warned = [check for check in checks if check["verdict"] == "warning"]
    lines = [f"proof: {result.proof}, {console.count(len(checks), 'check')}, {console.count(len(warned), 'warning')}"]
    for check in checks if verbosity.verbose else warned:
        where = f" (stage {check['stage']})" if check["stage"] else ""
        lines.append(f"  {check['verdict']}: {check['name']}{where}: {check['summary']}")
    return "\n".join(lines)


def print_report(written: WrittenReport, *, as_json: bool) -> None:
    """Print where the report is, and what became of its images."""
    if as_json:
        counts = {"shown": written.shown, "changed": written.changed, "missing": written.missing}
        print_document(json_line({"report": str(written.path), "images": counts}))
    else:
        print(f"report: {written.path}")
    for text in written.remarks():
        say(text, to_stderr=as_json)


def print_verification(verification: Verification, verbosity: Verbosity, *, as_json: bool) -> None:
    """Print every check with its verdict, with `-q` those that did not pass, and the verdict of all."""
    if as_json:
        content = {
            "run": str(verification.run),
            "verdict": "passed" if verification.passed else "failed",
            "checks": [check.to_dict() for check in verification.checks],
        }
        print_document(json_text(content))
        return
    screen = console.out()
    checks = [check for check in verification.checks if check.verdict != "passed" or not verbosity.quiet]
    if not verbosity.quiet:
        screen.print()
    if checks:
        rows = [[check.name, check.verdict, as_sentences(check.summary)] for check in checks]
        console.show(screen, console.table(None, ["check", "verdict", "what was found"], rows))
    verdict = "passed" if verification.passed else "failed"
    screen.print(f"{verdict}: {console.count(len(verification.checks), 'check')}", style="bold")
